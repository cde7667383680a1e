"""MS2 with its true geometry: registration by calibration, the published split, manifests and a pretraining step."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from spectradino_core.cli import main
from spectradino_core.data.layouts import LayoutError, find_pairs
from spectradino_core.data.make_manifest import make_manifest
from spectradino_core.data.manifest import ManifestSource, read_manifest
from spectradino_core.data.ms2 import SPLITS, MS2Error, homography
from spectradino_core.data.sources import FramePosition, ItemError
from tests.core.data.ms2_miniature import CALIBRATION, SEQUENCES, poses, write_ms2


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return write_ms2(tmp_path_factory.mktemp("ms2"))


def correlations(images: dict[str, np.ndarray]) -> dict[str, float]:
    grey = images["rgb"][..., 0].ravel()
    return {key: float(np.corrcoef(grey, image.ravel())[0, 1]) for key, image in images.items() if key != "rgb"}


def test_images_are_registered_on_the_plane(root, tmp_path):
    make_manifest("ms2", root, tmp_path / "m.jsonl", base=root)
    images = ManifestSource(tmp_path / "m.jsonl", root).load(0, ("nir", "lwir")).images
    shape = images["rgb"].shape[:2]
    assert shape[0] > 375
    assert shape[1] > 1200  # the cameras share nearly all of the RGB image
    assert images["nir"].shape == images["lwir"].shape == shape
    assert images["lwir"].dtype == np.uint16
    assert min(correlations(images).values()) > 0.995


@pytest.mark.parametrize(
    ("scene_m", "plane_m", "aligned"), [(np.inf, np.inf, True), (8.0, 8.0, True), (8.0, 80, False)]
)
def test_the_plane_is_where_the_images_coincide(tmp_path, scene_m, plane_m, aligned):
    root = write_ms2(tmp_path, 1, SEQUENCES[:1], scene_m)
    make_manifest("ms2", root, tmp_path / "m.jsonl", plane_m=plane_m)
    found = correlations(ManifestSource(tmp_path / "m.jsonl").load(0, ("nir", "lwir")).images)
    assert (found["lwir"] > 0.99) is aligned  # NIR's baseline is 5 cm, the thermal camera's 0.6 m
    assert found["nir"] > 0.9


def test_homography_maps_points_of_the_plane():
    for camera in ("nir", "thr"):
        turned, moved = poses()[camera]
        point = np.array([1.5, -0.7, 12.0])  # in the RGB camera's frame
        there = turned.T @ (point - moved)
        distance = float(turned[2] @ there)
        pixel, rgb = (k @ x for k, x in ((CALIBRATION[f"K_{camera}L"], there), (CALIBRATION["K_rgbL"], point)))
        mapped = homography(CALIBRATION, camera, distance) @ (pixel / pixel[2])
        np.testing.assert_allclose(mapped[:2] / mapped[2], rgb[:2] / rgb[2], atol=1e-6)


def test_rgb_is_the_same_with_every_band(root, tmp_path):
    make_manifest("ms2", root, tmp_path / "m.jsonl", base=root)
    source = ManifestSource(tmp_path / "m.jsonl", root)
    alone, both = (source.load(0, keys).images["rgb"] for keys in (("nir",), ("nir", "lwir")))
    np.testing.assert_array_equal(alone, both)


def test_published_split(root, tmp_path, caplog):
    assert {name: len(SPLITS[name]) for name in SPLITS} == {
        "train": 8, "val": 3, "test_day": 3, "test_night": 3, "test_rainy": 3, "test": 9
    }  # fmt: skip
    assert len({name for split, names in SPLITS.items() if split != "test" for name in names}) == 20
    assert {item.position.sequence for item in find_pairs("ms2", root, "train")} == {SEQUENCES[0]}
    assert "lacks 7 of 8 sequences of train: _2021-08-06-11-37-46" in caplog.text
    assert {item.position.sequence for item in find_pairs("ms2", root)} == set(SEQUENCES)
    (own := write_ms2(tmp_path, 1)).joinpath("train_list.txt").write_text("\n".join(SEQUENCES))
    assert len(find_pairs("ms2", own, "train")) == 2
    with pytest.raises(MS2Error, match="no split 'day'.*test_day"):
        find_pairs("ms2", root, "day")


def test_bands_limit_and_held_out_sequences(root, tmp_path, capsys):
    words = ["data", "make-manifest", "--data", str(root), "--layout", "ms2", "--data-root", str(root)]
    assert main([*words, "--bands", "nir", "--limit", "2", "--seed", "5", "--out", str(tmp_path / "a.jsonl")]) == 0
    assert "2 items (nir 2)" in capsys.readouterr().out
    items = read_manifest(tmp_path / "a.jsonl")
    assert all(set(item.paths) == {"rgb", "nir"} == {"rgb", *item.to_rgb} for item in items)
    for hold_out in (SEQUENCES[1], "1"):
        out = tmp_path / f"b{hold_out}.jsonl"
        assert main([*words, "--hold-out-sequences", hold_out, "--out", str(out)]) == 0
        parts = [read_manifest(path) for path in (out, out.with_name(f"b{hold_out}_val.jsonl"))]
        assert [len(part) for part in parts] == [3, 3]
        train, val = ({item.position.sequence for item in part} for part in parts)
        assert train | val == set(SEQUENCES)
        assert not train & val
    draws = [make_manifest_items(root, tmp_path / f"{n}.jsonl", limit=3, seed=seed) for n, seed in enumerate((0, 0, 1))]
    assert draws[0] == draws[1] != draws[2]
    for wrong, message in (
        ("2", "2 sequences can't be held out of 2"),
        ("x", "no sequence x to hold out.*_2021-08-06"),
        ("0", "0 sequences can't be held out: give at least 1"),
        (",".join(SEQUENCES), "sequences to hold out are all 2, with all 6 items: hold out fewer"),
    ):
        capsys.readouterr()
        assert main([*words, "--hold-out-sequences", wrong, "--out", str(tmp_path / "c.jsonl")]) == 1
        assert re.search(message, capsys.readouterr().err)
        assert not (tmp_path / "c.jsonl").exists()
    assert main([*words, "--bands", "red", "--out", str(tmp_path / "d.jsonl")]) == 1
    assert "'red' is no infrared band: choose from nir, swir, lwir" in capsys.readouterr().err
    with pytest.raises(LayoutError, match="no item has swir"):
        make_manifest("ms2", root, tmp_path / "d.jsonl", bands=("swir",))


def make_manifest_items(root: Path, out: Path, **options) -> list[FramePosition]:
    make_manifest("ms2", root, out, base=root, **options)
    return [item.position for item in read_manifest(out)]


def test_a_folder_names_all_its_sequences(tmp_path):
    for place in ("1_sunny/data_1", "1_sunny/data_2", "2_rainy/data_1"):
        for band in ("rgb", "swir"):
            (tmp_path / place / band).mkdir(parents=True)
            (tmp_path / place / band / "000000.png").write_bytes(b"")
    text = make_manifest("rasmd", tmp_path, tmp_path / "m.jsonl", hold_out=("1_sunny",))
    assert "m.jsonl: 1 item (" in text
    assert "m_val.jsonl: 2 items (swir 2), 2 sequences" in text


def test_an_unusable_calibration_is_refused_with_the_remedy(tmp_path):
    root = write_ms2(tmp_path, 1, SEQUENCES[:1], calibrated=False)
    folder, out = root / "sync_data" / SEQUENCES[0], tmp_path / "m.jsonl"
    with pytest.raises(MS2Error, match=r"calib\.npy does not exist.*extract it"):
        make_manifest("ms2", root, out)
    np.save(folder / "calib.npy", {name: value for name, value in CALIBRATION.items() if name != "K_thrL"})
    with pytest.raises(MS2Error, match=r"calib\.npy: K_thrL is missing or no matrix of intrinsics"):
        make_manifest("ms2", root, out)
    np.save(folder / "calib.npy", CALIBRATION | {"K_rgbL": CALIBRATION["K_rgbL"] / [[4], [4], [1]]})
    with pytest.raises(MS2Error, match=r"hardly see the same \(rgb 1224x384, .*original sizes"):
        make_manifest("ms2", root, out)
    np.save(folder / "calib.npy", CALIBRATION | {"note": "text"})
    with pytest.raises(MS2Error, match="not a dictionary of number arrays.*convert it once: python -c ") as refused:
        make_manifest("ms2", root, out)
    code = str(refused.value).partition('python -c "')[2].rpartition('"')[0]
    np.save(folder / "calib.npy", CALIBRATION)
    subprocess.run([sys.executable, "-c", code], check=True)
    (folder / "calib.npy").unlink()
    assert "1 item (" in make_manifest("ms2", root, out)
    whole = (folder / "calib.npz").read_bytes()
    flags = whole.index(b"PK\x01\x02") + 8  # of the first matrix in the archive's directory
    encrypted = whole[:flags] + b"\x01" + whole[flags + 1 :]
    for damaged in (b"", whole[: len(whole) // 2], whole[:100] + bytes(100) + whole[200:], encrypted):
        (folder / "calib.npz").write_bytes(damaged)
        with pytest.raises(MS2Error, match=r"calib\.npz: .*; write or extract it again"):
            make_manifest("ms2", root, out)
    with (folder / "calib.npz").open("wb") as file:
        np.save(file, np.eye(3))
    with pytest.raises(MS2Error, match=r"calib\.npz is a single array, not an archive of the matrices"):
        make_manifest("ms2", root, out)
    (folder / "calib.npz").write_bytes(whole)
    with pytest.raises(MS2Error, match="in front of the cameras, not at -1 m"):
        make_manifest("ms2", root, out, plane_m=-1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"to_rgb": {"nir": [1, 2]}}, "to_rgb of nir must be nine numbers"),
        ({"to_rgb": {"nir": [0] * 9}}, "no homography"),
        ({"to_rgb": {"lwir": [1, 0, 0, 0, 1, 0, 0, 0, 1]}}, "bands of the item"),
        ({"view": [0, 0, 10]}, "four whole numbers"),
        ({"view": [5, 0, 5, 9]}, "has no area"),
    ],
)
def test_wrong_registrations_in_a_manifest_are_refused(tmp_path, changes, message):
    (tmp_path / "m.jsonl").write_text(json.dumps({"rgb": "a.png", "nir": "b.png"} | changes))
    with pytest.raises(ValueError, match=f"line 1: .*{message}"):
        read_manifest(tmp_path / "m.jsonl")


def test_images_that_are_not_registered_name_the_remedy(root, tmp_path):
    make_manifest("ms2", root, tmp_path / "m.jsonl", base=root)
    lines = [json.loads(line) for line in (tmp_path / "m.jsonl").read_text().splitlines()]
    small = {"view": [0, 0, 2000, 384]}
    for changed, message in (
        ({"to_rgb": {}, "view": None}, "--layout ms2"),
        (small, "exceeds: make the manifest again"),
    ):
        line = {key: value for key, value in (lines[0] | changed).items() if value}
        (tmp_path / "n.jsonl").write_text(json.dumps(line))
        with pytest.raises(ItemError, match=message):
            ManifestSource(tmp_path / "n.jsonl", root).load(0, ("nir", "lwir"))


def test_bands_of_a_source(root, tmp_path):
    make_manifest("ms2", root, tmp_path / "m.jsonl", base=root)
    every, nir = (ManifestSource(tmp_path / "m.jsonl", root, bands=bands) for bands in (None, ("nir",)))
    assert every.modalities(0) == ("nir", "lwir")
    assert nir.modalities(0) == ("nir",)
    assert len({every.fingerprint(), nir.fingerprint()}) == 2
    with pytest.raises(ValueError, match="no item has swir"):
        ManifestSource(tmp_path / "m.jsonl", root, bands=("swir",))


@pytest.mark.slow  # it trains; the tests above cover the data
@pytest.mark.usefixtures("undrawn_curves")
def test_pretraining_runs_on_all_bands_of_it(tmp_path, capsys):
    root = write_ms2(tmp_path, 8)
    words = ["data", "make-manifest", "--data", str(root), "--layout", "ms2", "--split"]
    assert main([*words, "train", "--out", str(root / "train.jsonl")]) == 0
    assert main([*words, "val", "--out", str(root / "val.jsonl")]) == 0
    words = ["pretrain", "--variant", "test", "--manifest", str(root / "train.jsonl"), "--val-manifest"]
    words += [str(root / "val.jsonl"), "--stages", "1", "--steps", "2", "--batch", "2", "--workers", "0", "--device"]
    words += ["cpu", "--amp", "fp32", "--log-every", "1", "--out"]
    assert main([*words, str(tmp_path / "run")]) == 0
    rows = [json.loads(line) for line in (tmp_path / "run/stage1/log.jsonl").read_text().splitlines()]
    assert {key for row in rows for key in row} >= {"total_nir", "total_lwir", "val_total"}
    assert main([*words, str(tmp_path / "nir"), "--bands", "nir"]) == 0
    rows = [json.loads(line) for line in (tmp_path / "nir/stage1/log.jsonl").read_text().splitlines()]
    assert "total_lwir" not in {key for row in rows for key in row}
