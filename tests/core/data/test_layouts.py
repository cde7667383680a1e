"""Manifests from published layouts: miniatures of each, complete, wrong and partly extracted."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from spectradino_core.data.layouts import LayoutError, find_pairs
from spectradino_core.data.make_manifest import make_manifest, write_scenes
from spectradino_core.data.manifest import ManifestSource
from spectradino_core.data.sources import FramePosition
from tests.core.data.ms2_miniature import write_ms2

PNG = cv2.imencode(".png", np.zeros((8, 10), np.uint8))[1].tobytes()


def fill(root: Path, *paths: str) -> Path:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(PNG)
    return root


def ms2(root: Path, frames: int = 4) -> Path:
    for sequence in ("_2021-08-06-10-59-33", "_2021-08-13-16-08-46"):
        for camera in ("rgb", "nir", "thr"):
            for side in ("img_left", "img_right"):
                fill(root, *(f"sync_data/{sequence}/{camera}/{side}/{k:06d}.png" for k in range(frames)))
        fill(root, f"sync_data/{sequence}/lidar/left/000000.png")
    return root


def test_ms2(tmp_path):
    items = find_pairs("ms2", ms2(tmp_path))
    assert len(items) == 8
    assert items[1].paths == {
        "rgb": "sync_data/_2021-08-06-10-59-33/rgb/img_left/000001.png",
        "nir": "sync_data/_2021-08-06-10-59-33/nir/img_left/000001.png",
        "lwir": "sync_data/_2021-08-06-10-59-33/thr/img_left/000001.png",
    }
    assert items[1].position == FramePosition("_2021-08-06-10-59-33", 1)
    assert items[7].position == FramePosition("_2021-08-13-16-08-46", 3)


def test_ms2_without_its_infrared_archives_is_refused(tmp_path):
    root = fill(tmp_path, "sync_data/_2021-08-06-10-59-33/rgb/img_left/000000.png")
    with pytest.raises(LayoutError, match=r"lacks .*nir/img_left.*extract all"):
        find_pairs("ms2", root)


def test_half_extracted_folders_are_refused(tmp_path):
    ms2(tmp_path, frames=40)
    for path in sorted((tmp_path / "sync_data/_2021-08-06-10-59-33/nir/img_left").iterdir())[20:]:
        path.unlink()
    with pytest.raises(LayoutError, match=r"20 of 40 items lack .*nir/img_left/000020.*partly extracted"):
        find_pairs("ms2", tmp_path)


def test_a_few_incomplete_items_are_skipped(tmp_path):
    ms2(tmp_path, frames=40)
    (tmp_path / "sync_data/_2021-08-06-10-59-33/rgb/img_left/000007.png").unlink()
    items = find_pairs("ms2", tmp_path)
    assert len(items) == 79
    assert FramePosition("_2021-08-06-10-59-33", 7) not in [item.position for item in items]


@pytest.mark.parametrize(
    ("layout", "colour", "infrared", "key"),
    [("rasmd", "rgb", "swir", "swir"), ("rasmd", "RGB", "SWIR", "swir"), ("ir500k", "RGB", "TIR", "lwir"),
     ("ir500k", "visible", "infrared", "lwir")],
)  # fmt: skip
def test_sibling_folders(tmp_path, layout, colour, infrared, key):
    for sequence in ("day/a", "night/b"):
        fill(tmp_path, *(f"{sequence}/{band}/{k:05d}.jpg" for band in (colour, infrared) for k in range(3)))
    items = find_pairs(layout, tmp_path)
    assert len(items) == 6
    assert items[4].paths == {"rgb": f"night/b/{colour}/00001.jpg", key: f"night/b/{infrared}/00001.jpg"}
    assert items[4].position == FramePosition("night/b", 1)


def test_rasmds_own_names(tmp_path):
    where = "1_sunny/data_3_urban/croped_data"
    fill(tmp_path, *(f"{where}/rgb/rgb_aligned_{k:06d}.jpg" for k in (0, 7)))
    fill(tmp_path, *(f"{where}/swir/swir_original_{k:06d}.jpg" for k in (0, 7)))
    first, second = find_pairs("rasmd", tmp_path)
    assert first.paths["swir"] == f"{where}/swir/swir_original_000000.jpg"
    assert second.paths == {
        "rgb": f"{where}/rgb/rgb_aligned_000007.jpg",
        "swir": f"{where}/swir/swir_original_000007.jpg",
    }
    assert second.position == FramePosition(where, 7)


@pytest.mark.parametrize("layout", ["folder", "ms2", "rasmd", "ir500k", "nyuv2", "ade20k", "imagenet"])
def test_wrong_root_error_names_the_expected_files(tmp_path, layout):
    fill(tmp_path, "something/else.png")
    with pytest.raises(LayoutError, match=r"looked for .*something"):
        find_pairs(layout, tmp_path)
    with pytest.raises(LayoutError, match="no such folder"):
        find_pairs(layout, tmp_path / "nowhere")


def test_folder_by_index(tmp_path):
    fill(tmp_path, "train/vis/a.png", "train/swir1/a.png", "train/swir2/a.png", "train/nir/a.png")
    entry = {"id": "a", "vis": "train/vis/a.png", "nir": "train/nir/a.png", "swir1": "train/swir1/a.png"}
    entry |= {"swir2": "train/swir2/a.png", "scene": "field", "label": None, "width": 10, "height": 8}
    (tmp_path / "index_train.json").write_text(json.dumps({"set": "mini", "items": [entry]}))
    (item,) = find_pairs("folder", tmp_path)
    assert item.paths == {"rgb": "train/vis/a.png", "nir": "train/nir/a.png", "swir": "train/swir1/a.png"}
    assert (item.source, item.label, item.position) == ("mini", "field", None)


def test_folder_without_index(tmp_path):
    fill(tmp_path, *(f"train/{band}/{name}.png" for band in ("rgb", "thermal") for name in "abc"))
    items = find_pairs("folder", tmp_path)
    assert [item.paths["lwir"] for item in items] == [f"train/thermal/{name}.png" for name in "abc"]
    assert all(item.position is None for item in items)  # unrelated images have no neighbours


def test_pattern_gives_the_sequence(tmp_path):
    fill(tmp_path, *(f"train/{band}/drive_{k:04d}.png" for band in ("rgb", "lwir") for k in (3, 50)))
    items = find_pairs("folder", tmp_path, pattern=r"(?P<sequence>drive)_(?P<frame>\d+)")
    assert [item.position for item in items] == [FramePosition("drive", 3), FramePosition("drive", 50)]
    for wrong, message in (
        ("(", "not a regular expression"),
        ("x", "lacks a group"),
        ("(?P<sequence>walk)", "not match"),
    ):
        with pytest.raises(LayoutError, match=message):
            find_pairs("folder", tmp_path, pattern=wrong)


def test_a_manifest_above_the_root_names_the_way_down(tmp_path):
    fill(tmp_path / "sets/ir500k", *(f"{band}/{k:05d}.png" for band in ("RGB", "TIR") for k in range(8)))
    text = make_manifest("ir500k", tmp_path / "sets/ir500k", tmp_path / "all.jsonl")
    assert "8 items (lwir 8), 1 sequence" in text
    source = ManifestSource(tmp_path / "all.jsonl")
    assert source.load(0, ("lwir",)).images["lwir"].shape == (8, 10)


def test_a_manifest_elsewhere_wants_a_root(tmp_path):
    root, out = write_ms2(tmp_path / "sets/ms2", 1), tmp_path / "elsewhere/all.jsonl"
    assert f"relative to {root}" in make_manifest("ms2", root, out)
    assert ManifestSource(out, root).load(0, ("nir",)).images["nir"].shape[0] > 350
    assert f"relative to {tmp_path / 'sets'}" in make_manifest("ms2", root, out, base=tmp_path / "sets")
    assert ManifestSource(out, tmp_path / "sets").items[0].paths["rgb"].startswith("ms2/sync_data/")
    with pytest.raises(ValueError, match="neither .* nor above it"):
        make_manifest("ms2", root, out, base=tmp_path / "elsewhere")


def test_scenes_on_disk_are_the_scenes(tmp_path):
    from spectradino_core.data.scene_sets import SceneImages

    source = ManifestSource(write_scenes(tmp_path, 2, (64, 48), first=5))
    rendered = SceneImages(2, (64, 48), first=5)
    for item in range(2):
        keys = rendered.modalities(item)
        assert sorted(source.modalities(item)) == sorted(keys)
        stored, fresh = source.load(item, keys).images, rendered.load(item, keys).images
        for key in ("rgb", "nir", "swir", "lwir", "segmentation"):
            np.testing.assert_array_equal(stored[key], fresh[key])
            assert stored[key].dtype == fresh[key].dtype
        np.testing.assert_allclose(stored["depth"], fresh["depth"], atol=0.5 / 63 + 1e-4)


@pytest.mark.parametrize(
    ("name", "bands"),
    [("roadscene_rgb_lwir", {"lwir"}), ("tno_vis_lwir_masks", {"lwir"}), ("epfl_rgb_nir", {"nir"}),
     ("s2_rgb_nir_swir", {"nir", "swir"}), ("landsat_rgb_nir_swir_lwir", {"nir", "swir", "lwir"})],
)  # fmt: skip
def test_the_real_sets(shared_data, name, bands):
    for split in ("train", "val"):
        items = find_pairs("folder", shared_data / name, split)
        count = json.loads((shared_data / name / f"index_{split}.json").read_text())["n"]
        assert len(items) == count
        assert all(set(item.paths) == {"rgb", *bands} for item in items)
