"""The known trap of each data set, on its miniature."""

from __future__ import annotations

import json
import logging
import pickle
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest

from spectradino_core.data.images import read_colour
from spectradino_core.data.paired_folder import PairedFolder
from spectradino_core.data.scene_sets import FIRST_TEST_SEED
from spectradino_core.datasets import BENCHMARKS, BenchmarkError, open_benchmark
from spectradino_core.datasets.benchmark import NIGHT_BELOW, LabelledPairs, time_of
from tests.core.datasets.miniatures import MINIATURES, voc_xml, write_image


@pytest.fixture
def root(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """Miniature that the test's name begins with."""
    name = request.node.name.removeprefix("test_").split("_")[0]
    MINIATURES[name].write(tmp_path / "set")
    return tmp_path / "set"


def subset_counts(pairs: LabelledPairs) -> dict[str, int]:
    counts = {name: len(pairs.subset(name)) for name in pairs.subsets}
    return {name: count for name, count in counts.items() if count}


# ---------------------------------------------------------------------------------------------------------------- FLIR


def test_flir_leaves_dogs_out_and_takes_corners_as_stored(root: Path) -> None:
    pairs = open_benchmark("flir", root, "train")
    sample = pairs.load(pairs[2])
    assert pairs[2].name == "FLIR_01059"
    assert [pairs.box_classes[label] for label in sample.labels] == ["person", "car"]
    np.testing.assert_array_equal(sample.boxes, [[2, 3, 8, 20], [10, 5, 30, 20]])
    assert pairs.boxes(pairs[2], sample.size).unknown == {"dog": 1}


@pytest.mark.parametrize("ending", ["", "_PreviewData", "_PreviewData.jpeg", "_RGB.jpg", "_PreviewData.xml"])
@pytest.mark.parametrize("folder", ["", "ImageSets/Main/"])
def test_flir_lists_come_in_several_forms(root: Path, ending: str, folder: str) -> None:
    names = MINIATURES["flir"].pairs["val"]
    (root / "align_validation.txt").unlink()
    (root / folder).mkdir(parents=True, exist_ok=True)
    (root / f"{folder}align_validation.txt").write_text("\r\n".join(f"{name}{ending}" for name in names) + "\r\n")
    assert [item.name for item in open_benchmark("flir", root, "val")] == names


def test_flir_reports_the_missing_pair_of_its_list_and_continues(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Papers count one training pair more than its authors: one in 100 may be missing, two may not."""
    names = [f"FLIR_{i:05d}" for i in range(10_000, 10_099)]
    for name in names:
        (root / f"JPEGImages/{name}_RGB.jpg").hardlink_to(root / "JPEGImages/FLIR_00002_RGB.jpg")
        (root / f"JPEGImages/{name}_PreviewData.jpeg").hardlink_to(root / "JPEGImages/FLIR_00002_PreviewData.jpeg")
        (root / f"Annotations/{name}_PreviewData.xml").write_text(voc_xml([]))
    (root / "align_train.txt").write_text("\n".join([*names, "FLIR_99999"]))
    with caplog.at_level(logging.WARNING):
        pairs = open_benchmark("flir", root, "train")
    assert len(pairs) == 99
    assert "1 of 100 pairs of flir train lack a file, such as JPEGImages/FLIR_99999_RGB" in caplog.text
    assert pairs.load(pairs[0]).boxes.shape == (0, 4)  # nothing there is something known
    (root / "Annotations/FLIR_10000_PreviewData.xml").unlink()
    with pytest.raises(BenchmarkError, match="2 of 100 pairs .*Annotations/FLIR_10000_PreviewData"):
        open_benchmark("flir", root, "train")


def test_flir_does_not_read_the_annotated_images(root: Path) -> None:
    (root / "JPEGImages").rename(root / "AnnotatedImages")
    with pytest.raises(BenchmarkError, match="lacks JPEGImages; there is AnnotatedImages"):
        open_benchmark("flir", root, "val")


def test_flir_night_is_by_luminance_or_lists(root: Path) -> None:
    pairs = open_benchmark("flir", root, "train")
    assert subset_counts(pairs) == {"day": 2, "night": 1}
    assert [item.name for item in pairs.subset("night")] == ["FLIR_00006"]
    assert [pairs.load(item).subsets for item in pairs] == [("day",), ("night",), ("day",)]
    assert pairs.subset("night").name == "flir train night"
    (root / "align_train_day.txt").write_text("FLIR_00006\n")
    (root / "align_train_night.txt").write_text("FLIR_00002\n")
    assert [open_benchmark("flir", root, "train").load(item).subsets for item in pairs] == [
        ("day",),
        ("night",),
        ("day",),
    ]
    relisted = open_benchmark("flir", root, "train")
    assert [relisted.load(item).subsets for item in relisted] == [("night",), ("day",), ("day",)]
    assert [item.name for item in relisted.subset("night")] == ["FLIR_00002"]


# --------------------------------------------------------------------------------------------------------------- LLVIP


def test_llvip_uses_the_images_size_and_clips(root: Path) -> None:
    pairs = open_benchmark("llvip", root, "test")
    sample = pairs.load(pairs[0])
    assert sample.size == (32, 24)
    np.testing.assert_array_equal(sample.boxes, [[1, 2, 11, 22], [25, 2, 32, 23]])
    assert pairs.boxes(pairs[0], sample.size).notes == {"clipped": 1}
    assert pairs.notes == {"clipped": 1}
    assert sample.infrared.ndim == 2
    assert pairs.subsets == ()


def test_llvip_images_of_another_view_are_refused_and_smaller_ones_resampled(root: Path) -> None:
    path = root / "infrared/test/190001.jpg"
    write_image(path, np.full((12, 16), 77, np.uint8))
    pairs = open_benchmark("llvip", root, "test")
    assert pairs.load(pairs[0]).infrared.shape == (24, 32)
    write_image(path, np.full((24, 24), 77, np.uint8))
    with pytest.raises(BenchmarkError, match="190001.jpg: 24x24 pixels, its RGB image has 32x24"):
        pairs.load(pairs[0])


# --------------------------------------------------------------------------------------------------------------- RASMD


def test_rasmd_frames_pair_by_number_and_crowds_are_ignored(root: Path) -> None:
    pairs = open_benchmark("rasmd", root, "test")
    assert pairs[1].infrared.name == "swir_original_000007.jpg"
    sample = pairs.load(pairs[1])
    assert [pairs.box_classes[label] for label in sample.labels] == ["car"]
    np.testing.assert_array_equal(sample.boxes, [[4, 5, 14, 13]])
    np.testing.assert_array_equal(sample.ignored, [[0, 0, 20, 20]])
    assert [pairs.box_classes[label] for label in sample.ignored_labels] == ["person"]
    assert sample.subsets == ("rainy",)
    assert len(pairs.subset("snow")) == 2
    assert pairs.benchmark.assumed


def test_rasmd_annotations_may_not_lead_out_of_the_root(root: Path) -> None:
    path = root / "annotations/instances_test.json"
    data = json.loads(path.read_text())
    for text, message in (
        ("../../outside/rgb/rgb_aligned_000000.jpg", "lies outside"),
        ("/etc/rgb/passwd", "lies outside"),
        ("C:\\rgb\\x.jpg", "lies outside"),
        ("rgb\\..\\..\\x.jpg", "lies outside"),
        ("a\0b/rgb/x.jpg", "is not a path"),
        ("x" * 5000, "is not a path"),
    ):
        data["images"][0]["file_name"] = text
        path.write_text(json.dumps(data))
        with pytest.raises(BenchmarkError, match=message):
            open_benchmark("rasmd", root, "test")
    path.write_text("[" * 100_000)
    with pytest.raises(BenchmarkError, match="can't be read as JSON"):
        open_benchmark("rasmd", root, "test")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.pop("categories"), "not COCO annotations"),
        (lambda d: d["annotations"][1].update(bbox=[1, 2, 3]), "annotation 1 has no bbox"),
        (
            lambda d: d["annotations"][1].update(bbox=[1, 2, float("nan"), 3]),
            "annotation 1 has a bbox that is not finite",
        ),
        (lambda d: d["annotations"][0].update(category_id=99), "annotation 0 has category_id 99"),
        (lambda d: d["annotations"][0].update(image_id=99), "annotation 0 has image_id 99"),
        (lambda d: d["images"].append(d["images"][0]), "two entries of kind image have the id 0"),
        (lambda d: d["images"].append(d["images"][0] | {"id": 77}), "lists the image .* twice"),
        (lambda d: d.update(images=7), "not COCO annotations"),
    ],
)
def test_rasmd_damaged_annotations_are_named(root: Path, change, message: str) -> None:
    path = root / "annotations/instances_test.json"
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))
    with pytest.raises(BenchmarkError, match=message) as failed:
        open_benchmark("rasmd", root, "test")
    assert "instances_test.json" in str(failed.value)


# --------------------------------------------------------------------------------------------------------------- MFNet


def test_mfnet_takes_the_thermal_frame_from_the_fourth_channel(root: Path) -> None:
    pairs = open_benchmark("mfnet", root, "test")
    sample = pairs.load(pairs[0])
    assert tuple(sample.rgb[0, 31]) == (100, 50, 25)  # red first
    assert tuple(sample.rgb[0, 0]) == (120, 70, 45)
    assert sample.infrared[0, 3] == 83
    assert [pairs.load(item).subsets for item in pairs] == [("day",), ("night",)]
    assert [item.name for item in pairs.subset("night")] == ["01606N"]


def test_mfnet_counts_unlabelled_as_class_0(root: Path) -> None:
    pairs = open_benchmark("mfnet", root, "test")
    mask = pairs.load(pairs[0]).mask
    assert pairs.mask_classes[0] == "unlabelled"
    assert {pairs.mask_classes[value]: int((mask == value).sum()) for value in np.unique(mask)} == {
        "unlabelled": 24 * 32 - 36 - 64,
        "car": 36,
        "bump": 64,
    }


def test_mfnet_leaves_flipped_copies_out(root: Path) -> None:
    assert "00001D_flip" in (root / "train.txt").read_text()
    for folder in ("images", "labels"):
        (root / folder / "00001D_flip.png").hardlink_to(root / folder / "00001D.png")
    assert [item.name for item in open_benchmark("mfnet", root, "train")] == ["00001D", "00002N"]


def test_mfnet_images_without_fourth_channel_are_refused(root: Path) -> None:
    pairs = open_benchmark("mfnet", root, "test")
    write_image(pairs[0].rgb, np.zeros((24, 32, 3), np.uint8))
    with pytest.raises(BenchmarkError, match="01499D.png: 24x32x3 uint8, .* fourth channel"):
        pairs.load(pairs[0])


def test_mfnet_masks_of_another_size_or_value_are_refused(root: Path) -> None:
    pairs = open_benchmark("mfnet", root, "test")
    write_image(pairs[0].mask, np.full((24, 32), 9, np.uint8))
    with pytest.raises(BenchmarkError, match="01499D.png: holds 9, which the class table lacks"):
        pairs.load(pairs[0])
    write_image(pairs[0].mask, np.zeros((12, 16), np.uint8))
    with pytest.raises(BenchmarkError, match="01499D.png: 16x12 pixels, its images have 32x24"):
        pairs.load(pairs[0])


# ---------------------------------------------------------------------------------------------------- SemanticRT, FMB


def test_semanticrt_subsets_are_those_of_its_lists(root: Path) -> None:
    pairs = open_benchmark("semanticrt", root, "test")
    assert subset_counts(pairs) == {"day": 1, "night": 1, "hard": 1}
    assert [item.name for item in pairs.subset("hard")] == ["img_00005"]
    assert pairs.load(pairs[1]).subsets == ("night", "hard")
    assert subset_counts(open_benchmark("semanticrt", root, "train")) == {}
    mask = pairs.load(pairs[0]).mask
    assert {pairs.mask_classes[value] for value in np.unique(mask)} == {"background", "car", "person"}


def test_fmb_counts_from_1_and_ignores_0_and_255(root: Path) -> None:
    pairs = open_benchmark("fmb", root, "test")
    mask = pairs.load(pairs[0]).mask
    assert [pairs.mask_classes[v] if v < 255 else None for v in mask[5, ::8]] == [None, "road", "pole", None]
    write_image(pairs[0].mask, np.full((24, 32), 15, np.uint8))
    with pytest.raises(BenchmarkError, match="holds 15, which the class table lacks"):
        pairs.load(pairs[0])


def test_fmb_coloured_labels_are_refused(root: Path) -> None:
    pairs = open_benchmark("fmb", root, "test")
    coloured = np.zeros((24, 32, 3), np.uint8)
    coloured[:] = (179, 228, 228)
    write_image(pairs[0].mask, coloured)
    with pytest.raises(BenchmarkError, match="holds colours.*plain labels"):
        pairs.load(pairs[0])


# -------------------------------------------------------------------------------------------------------------- MCubeS


def test_mcubes_cuts_what_nir_does_not_see(root: Path) -> None:
    train, test = (open_benchmark("mcubes", root, split) for split in ("train", "test"))
    seen, scored = train.load(train[0]), test.load(test[0])
    assert seen.size == (1224 - 192, 12)
    assert seen.infrared.dtype == np.uint16
    assert seen.infrared[0, 0] == 192 * 50  # a column's number times 50
    assert scored.size == (1024, 12)
    assert scored.infrared[0, 0] == 196 * 50
    assert scored.infrared[0, -1] == 1219 * 50
    assert tuple(seen.rgb[0, 10]) == (round(40000 / 257), round(202 * 50 / 257), 0)  # 16 bits to 8


def test_mcubes_pixels_without_nir_are_ignored_in_training_only(root: Path) -> None:
    train, test = (open_benchmark("mcubes", root, split) for split in ("train", "test"))
    seen, scored = train.load(train[0]).mask, test.load(test[0]).mask
    assert (seen[:, : 400 - 192] == 255).all()
    assert (seen[:, 400 - 192 : 600 - 192] == train.mask_classes.index("sky")).all()
    assert (scored[:, : 600 - 196] == test.mask_classes.index("sky")).all()
    assert (scored[:, 600 - 196 : 1000 - 196] == test.mask_classes.index("asphalt")).all()
    assert (scored[:, 1000 - 196 :] == 255).all()


def test_mcubes_narrow_images_are_refused(root: Path) -> None:
    pairs = open_benchmark("mcubes", root, "test")
    write_image(pairs[0].rgb, np.zeros((12, 100, 3), np.uint8))
    with pytest.raises(BenchmarkError, match="100 pixels wide"):
        pairs.load(pairs[0])


# ----------------------------------------------------------------------------------------------- RoadScene and scenes


def test_roadscene_night_and_day_are_apart(root: Path) -> None:
    train, test = (open_benchmark("roadscene_night", root, split) for split in ("train", "test"))
    assert [item.name for item in train] == ["FLIR_00122", "FLIR_00300"]
    assert [test.load(item).subsets for item in test] == [("night",), ("day",)]
    night = test.subset("night")
    sample = night.load(night[0])
    assert [night.box_classes[label] for label in sample.labels] == ["bicycle"]  # "bike" in the file
    np.testing.assert_array_equal(sample.boxes, [[4, 5, 14, 13]])


def test_the_real_roadscene(shared_data: Path) -> None:
    counts = {}
    for name in ("roadscene", "roadscene_night"):
        for split, published in BENCHMARKS[name].splits.items():
            pairs = open_benchmark(name, shared_data, split)
            assert len(pairs) == published
            counts[f"{name} {split}"] = subset_counts(pairs)
    assert counts == {
        "roadscene train": {"day": 41, "night": 14},
        "roadscene val": {"day": 23},
        "roadscene_night train": {"day": 41},
        "roadscene_night test": {"day": 23, "night": 14},
    }


def test_luminance_finds_roadscenes_nights(shared_data: Path) -> None:
    """Figures beside `benchmark.NIGHT_BELOW`."""
    times = [
        (item.subsets[0], time_of(read_colour(item.rgb)))
        for split in ("train", "val")
        for item in open_benchmark("roadscene", shared_data, split)
    ]
    assert sum(a == b == "night" for a, b in times) == 11
    assert [a for a, _ in times].count("night") == 14
    assert all(b == "day" for a, b in times if a == "day")
    root = shared_data / "roadscene_rgb_lwir"
    counts = {
        split: Counter(time_of(item.load_rgb()) for item in PairedFolder(root, split)) for split in ("train", "val")
    }
    assert counts == {"train": {"day": 87, "night": 43}, "val": {"day": 28, "night": 3}}


def test_luminance_is_rec_601() -> None:
    level = np.zeros((8, 8, 3), np.uint8)
    level[..., 1] = 255  # 0.587 of 255 is 150: day; red alone, 76, is night
    assert time_of(level) == "day"
    assert time_of(level[..., [1, 0, 2]]) == "night"
    assert time_of(np.full((8, 8, 3), int(NIGHT_BELOW), np.uint8)) == "day"
    assert time_of(np.full((8, 8, 3), int(NIGHT_BELOW) - 1, np.uint8)) == "night"


def test_scenes_come_in_turn_and_test_seeds_are_never_trained_on() -> None:
    splits = {split: open_benchmark("scenes", None, split) for split in ("train", "val", "test")}
    seeds = {split: {item.seed for item in pairs} for split, pairs in splits.items()}
    assert max(seeds["train"]) < FIRST_TEST_SEED <= min(seeds["val"] | seeds["test"])
    assert not seeds["val"] & seeds["test"]
    assert subset_counts(splits["test"]) == {"day": 50, "dusk": 50, "night": 50}
    night = splits["test"].subset("night")
    sample = night.load(night[0])
    assert sample.subsets == ("night",)
    assert sample.size == (640, 512)
    assert sample.infrared.dtype == np.uint16
    again = night.load(night[0])
    np.testing.assert_array_equal(sample.rgb, again.rgb)
    assert open_benchmark("scenes_swir", None, "test").infrared.key == "swir"


@pytest.mark.parametrize("name", sorted(MINIATURES))
def test_pairs_travel_to_other_processes(name: str, tmp_path: Path) -> None:
    """Spawned workers get the set by pickle."""
    MINIATURES[name].write(tmp_path)
    pairs = open_benchmark(name, tmp_path, BENCHMARKS[name].report_split)[:1]
    again = pickle.loads(pickle.dumps(pairs))  # noqa: S301 - our own bytes
    assert [item.name for item in again] == [item.name for item in pairs]
    assert again.name == pairs.name
    assert again.benchmark == BENCHMARKS[name]
    np.testing.assert_array_equal(again.load(again[0]).infrared, pairs.load(pairs[0]).infrared)


def test_scenes_of_a_subset_travel_too() -> None:
    night = open_benchmark("scenes_nir", None, "val", subset="night")
    again = pickle.loads(pickle.dumps(night))  # noqa: S301
    assert again.name == "scenes_nir val night"
    assert list(again) == list(night)


def test_colour_survives_the_round_trip(tmp_path: Path) -> None:
    """The miniatures themselves are written in the right channel order."""
    write_image(tmp_path / "a.png", np.full((2, 2, 3), (200, 100, 50), np.uint8))
    assert tuple(cv2.imread(str(tmp_path / "a.png"))[0, 0]) == (50, 100, 200)
