"""Manifests: valid lines, refusals, and loading of items."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from spectradino_core.data.manifest import ManifestError, ManifestItem, ManifestSource, read_manifest, write_manifest
from spectradino_core.data.sources import FramePosition, ItemError


def put(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """One item of every kind of image."""
    put(tmp_path / "rgb/0.png", np.dstack([np.full((20, 30), v, np.uint8) for v in (30, 20, 10)]))  # B G R
    put(tmp_path / "lwir/0.png", np.full((20, 30), 30_000, np.uint16))
    put(tmp_path / "nir/0.png", np.full((10, 15), 7, np.uint8))
    put(tmp_path / "depth/0.png", np.full((20, 30), 512, np.uint16))
    return tmp_path


ITEM = {"rgb": "rgb/0.png", "lwir": "lwir/0.png", "nir": "nir/0.png", "depth": "depth/0.png"}


def write_lines(root: Path, *lines: object) -> Path:
    path = root / "manifest.jsonl"
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines), encoding="utf-8")
    return path


def test_what_is_written_is_read(tmp_path):
    items = [
        ManifestItem({"rgb": "a.png", "nir": "b.png"}, FramePosition("seq", 7), "ms2", "street"),
        ManifestItem({"rgb": "ü.png", "depth": "d.png"}, None, "", None, 64.0),
    ]
    assert write_manifest(items, tmp_path / "m.jsonl") == 2
    assert read_manifest(tmp_path / "m.jsonl") == items


def test_an_item_loads_in_its_own_depth_and_units(root):
    source = ManifestSource(write_lines(root, ITEM | {"source": "mine"}))
    assert source.modalities(0) == ("nir", "lwir", "depth")
    images = source.load(0, ("nir", "lwir", "depth"))
    assert images.images["rgb"][0, 0].tolist() == [10, 20, 30]  # RGB order
    assert images.images["lwir"].dtype == np.uint16
    assert images.images["lwir"][0, 0] == 30_000
    assert images.images["nir"].shape == (10, 15)
    assert images.images["depth"][0, 0] == 2.0  # 512 / 256 metres
    assert images.name == "mine/rgb/0.png"


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ("{", "line 1"),
        ({"rgb": "a.png"}, "at least one of nir"),
        ({"nir": "a.png"}, "needs rgb"),
        ({"rgb": "a.png", "lwr": "b.png"}, "unknown key lwr"),
        ({"rgb": "../a.png", "nir": "b.png"}, "may not leave"),
        ({"rgb": "/etc/a.png", "nir": "b.png"}, "may not leave"),
        ({"rgb": "a/../../b.png", "nir": "b.png"}, "may not leave"),
        ({"rgb": "c:\\a.png", "nir": "b.png"}, "may not leave"),
        ({"rgb": 3, "nir": "b.png"}, "rgb is not a path"),
        ({"rgb": "a.png", "nir": "b.png", "frame": 3}, "needs a sequence"),
        ({"rgb": "a.png", "nir": "b.png", "sequence": "s", "frame": "3"}, "frame must be an integer"),
        ([1], "not a JSON object"),
    ],
)
def test_a_wrong_line_is_named(tmp_path, line, wrong):
    with pytest.raises(ManifestError, match=wrong):
        read_manifest(write_lines(tmp_path, line))


def test_the_line_number_is_the_files(tmp_path):
    with pytest.raises(ManifestError, match="line 3"):
        read_manifest(write_lines(tmp_path, ITEM, "", "nonsense"))


def test_an_empty_or_missing_manifest_is_refused(tmp_path):
    with pytest.raises(ManifestError, match="no items"):
        read_manifest(write_lines(tmp_path))
    with pytest.raises(ManifestError, match=r"gone\.jsonl"):
        read_manifest(tmp_path / "gone.jsonl")


def test_a_link_out_of_the_root_is_refused(root, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside") / "secret.png"
    put(outside, np.zeros((20, 30), np.uint8))
    (root / "lwir/0.png").unlink()
    (root / "lwir/0.png").symlink_to(outside)
    source = ManifestSource(write_lines(root, ITEM))
    with pytest.raises(ManifestError, match="leads out of"):
        source.load(0, ("lwir",))


@pytest.mark.parametrize("damage", ["missing", "cut", "text", "empty", "shape"])
def test_a_damaged_image_is_named(root, damage):
    path = root / "lwir/0.png"
    data = path.read_bytes()
    if damage == "missing":
        path.unlink()
    elif damage == "shape":
        put(path, np.zeros((30, 20), np.uint8))
    else:
        path.write_bytes({"cut": data[: len(data) // 2], "text": b"hello", "empty": b""}[damage])
    with pytest.raises(ItemError, match=r"lwir/0\.png"):
        ManifestSource(write_lines(root, ITEM)).load(0, ("lwir",))
