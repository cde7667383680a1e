"""Requirements of all readers: pairs of each split, labels within the class tables, errors that help if files lack."""

from __future__ import annotations

import shutil
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from spectradino_core.data.images import ImageFileError
from spectradino_core.data.paired_folder import PairedFolderError
from spectradino_core.datasets import BENCHMARKS, BenchmarkError, find_benchmark, open_benchmark
from tests.core.datasets.miniatures import MINIATURES

NAMES = sorted(MINIATURES)


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def root(name: str, tmp_path: Path) -> Path:
    MINIATURES[name].write(tmp_path / "root")
    return tmp_path / "root"


def test_every_published_set_has_a_miniature() -> None:
    assert set(NAMES) == {one.name for one in BENCHMARKS.values() if one.needs_root}


def test_tables_are_whole() -> None:
    for one in BENCHMARKS.values():
        assert one.tasks
        assert len(one.palette) == len(one.mask_classes) == len(set(one.palette))
        assert len(set(one.box_classes)) == len(one.box_classes)
        assert len(set(one.mask_classes)) == len(one.mask_classes)
        assert all(0 <= value <= 255 for colour in one.palette for value in colour)
        assert {one.train_split, one.report_split} <= set(one.splits)
        assert one.train_split != one.report_split
        assert all([one.title, one.layout, one.source, one.licence, one.ignore])
        assert all(text == text.strip() for text in (one.layout, one.source, one.licence, one.ignore, *one.notes))


@pytest.mark.parametrize(
    ("name", "boxes", "masks"),
    [("flir", 3, 0), ("llvip", 1, 0), ("rasmd", 6, 0), ("mfnet", 0, 9), ("semanticrt", 0, 13), ("fmb", 0, 14)]
    + [("mcubes", 0, 20), ("roadscene", 3, 0), ("roadscene_night", 3, 0)],
)
def test_numbers_of_classes(name: str, boxes: int, masks: int) -> None:
    one = find_benchmark(name)
    assert (len(one.box_classes), len(one.mask_classes)) == (boxes, masks)


def test_every_split_gives_its_pairs(name: str, root: Path) -> None:
    one, miniature = BENCHMARKS[name], MINIATURES[name]
    assert set(one.splits) == set(miniature.pairs)
    for split, names in miniature.pairs.items():
        pairs = open_benchmark(name, root, split)
        assert [item.name for item in pairs] == names
        assert len(pairs) == len(names)
        assert pairs.missing == ()
        assert pairs[:1].name == pairs.name
        assert [item.name for item in pairs[1:]] == names[1:]
        for item in pairs:
            sample = pairs.load(item)
            assert sample.name == f"{name}/{item.name}"
            assert sample.rgb.dtype == np.uint8
            assert sample.rgb.shape[2] == 3
            assert sample.infrared.shape == sample.rgb.shape[:2]
            assert sample.infrared.dtype in (np.uint8, np.uint16)
            if split == one.report_split:
                assert sample.size == miniature.size
            assert (sample.boxes is not None) == bool(one.box_classes)
            assert (sample.mask is not None) == bool(one.mask_classes)
            if sample.boxes is not None:
                assert sample.labels is not None
                assert sample.boxes.shape == (len(sample.labels), 4)
                assert sample.boxes.dtype == np.float32
                assert (sample.boxes >= 0).all()
                assert (sample.boxes <= np.array([*sample.size, *sample.size])).all()
                assert (sample.boxes[:, 2:] > sample.boxes[:, :2]).all()
                assert set(sample.labels) <= set(range(len(one.box_classes)))
            if sample.mask is not None:
                assert sample.mask.shape == sample.rgb.shape[:2]
                assert set(np.unique(sample.mask)) <= {*range(len(one.mask_classes)), 255}


def test_official_splits_are_disjoint(name: str, root: Path) -> None:
    official = [split for split in ("train", "val", "test") if split in BENCHMARKS[name].splits]
    names = [{item.name for item in open_benchmark(name, root, split)} for split in official]
    assert all(not one & other for one, other in combinations(names, 2))


def test_the_archives_own_folder_is_found(name: str, tmp_path: Path) -> None:
    miniature = MINIATURES[name]
    miniature.write(tmp_path / miniature.nested)
    report = BENCHMARKS[name].report_split
    assert len(open_benchmark(name, tmp_path, report)) == len(miniature.pairs[report])


def test_the_sets_name_may_be_in_any_case(name: str, root: Path) -> None:
    assert open_benchmark(name.upper(), root, "train").benchmark.name == name


def test_partly_extracted_roots_are_reported(name: str, root: Path, tmp_path: Path) -> None:
    one = BENCHMARKS[name]
    for part in MINIATURES[name].parts:
        copy = tmp_path / part.replace("/", "_")
        shutil.copytree(root, copy)
        gone = copy / part
        shutil.rmtree(gone) if gone.is_dir() else gone.unlink()
        with pytest.raises(BenchmarkError) as failed:
            open_benchmark(name, copy, one.report_split)
        message = str(failed.value)
        assert part in message
        assert one.layout in message
        assert one.source in message


def test_a_root_without_most_images_is_only_partly_extracted(name: str, root: Path) -> None:
    pairs = open_benchmark(name, root, "train")
    gone = [item.infrared for item in pairs][1:]
    for path in gone:
        path.unlink()
    with pytest.raises(BenchmarkError, match="partly extracted") as failed:
        open_benchmark(name, root, "train")
    assert gone[0].stem in str(failed.value)
    kept = open_benchmark(name, root, "train", allow_missing=True)
    assert len(kept) == 1
    assert len(kept.missing) == len(gone)


def test_wrong_roots_say_what_was_looked_for(name: str, tmp_path: Path) -> None:
    (tmp_path / "holiday.jpg").write_bytes(b"")
    for root, part in ((tmp_path, "holiday.jpg"), (tmp_path / "nowhere", "no such folder")):
        with pytest.raises(BenchmarkError, match=part) as failed:
            open_benchmark(name, root, "train")
        assert "Looked for: " in str(failed.value)
        assert "Get it: " in str(failed.value)
    with pytest.raises(BenchmarkError, match="needs --data"):
        open_benchmark(name, None, "train")


def test_lists_may_not_name_paths(name: str, root: Path) -> None:
    for text in MINIATURES[name].lists:
        path = root / text
        split = "train" if "train" in text else BENCHMARKS[name].report_split
        before = path.read_text()
        for line in ("../../secret", "/etc/passwd", "a/b", "..", "x\\..\\y"):
            path.write_text(f"{before}\n{line}\n")
            with pytest.raises(BenchmarkError, match="is no plain file name") as failed:
                open_benchmark(name, root, split)
            assert str(path) in str(failed.value)
        path.write_text("\n \n")
        with pytest.raises(BenchmarkError, match="is empty"):
            open_benchmark(name, root, split)
        path.write_bytes(b"\xff\xfe\x00 \xd8")
        with pytest.raises(BenchmarkError, match="can't be read as text .* expected a list of names"):
            open_benchmark(name, root, split)
        path.write_text(before)


def test_damaged_files_are_named(name: str, root: Path) -> None:
    pairs = open_benchmark(name, root, "train")
    item = pairs[0]
    for path in item.files:
        whole = path.read_bytes()
        for broken in (whole[: len(whole) // 2], b"", b"GIF89a not a picture"):
            path.write_bytes(broken)
            with pytest.raises((BenchmarkError, ImageFileError, PairedFolderError)) as failed:
                pairs.load(item)
            assert path.name in str(failed.value)
        path.write_bytes(whole)
    pairs.load(item)


def test_unknown_names_list_what_there_is(root: Path, name: str) -> None:
    with pytest.raises(BenchmarkError, match="choose one of flir, llvip"):
        open_benchmark("cityscapes", root, "train")
    with pytest.raises(BenchmarkError, match="choose one of train"):
        open_benchmark(name, root, "holdout")
    with pytest.raises(BenchmarkError, match="has no subset 'noon'"):
        open_benchmark(name, root, "train", subset="noon")
