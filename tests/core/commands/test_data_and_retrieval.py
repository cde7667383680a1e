"""Commands for data, Omnivorous pretraining and retrieval end to end."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from spectradino_core.cli import main
from spectradino_core.data.manifest import ManifestSource, read_manifest, write_manifest
from spectradino_core.data.scene_sets import SceneImages
from spectradino_core.data.sources import MAPS
from spectradino_core.models.checkpoints import save_spectradino
from spectradino_core.models.spectradino import SpectraDINO


@pytest.fixture(scope="module")
def scenes(tmp_path_factory) -> Path:
    """Write a manifest of six scenes."""
    folder = tmp_path_factory.mktemp("scenes")
    assert main(["data", "make-manifest", "--scenes", "6", "--out", str(folder)]) == 0
    return folder / "manifest.jsonl"


@pytest.fixture(scope="module")
def backbone(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("backbone") / "backbone.safetensors"
    save_spectradino(SpectraDINO("test"), path)
    return path


def test_manifest_of_scenes(scenes):
    items = read_manifest(scenes)
    assert len(items) == 6
    assert set(items[0].paths) == {"rgb", "nir", "swir", "lwir", "depth", "segmentation"}
    assert all((scenes.parent / path).is_file() for item in items for path in item.paths.values())


def test_manifest_of_a_real_data_set(shared_data, tmp_path, capsys):
    out = tmp_path / "epfl.jsonl"
    root = shared_data / "epfl_rgb_nir"
    assert main(["data", "make-manifest", "--data", str(root), "--split", "val", "--out", str(out)]) == 0
    assert "29 items (nir 29)" in capsys.readouterr().out
    assert {item.label for item in read_manifest(out)} > {"country", "indoor"}


def test_wrong_root_exits_1(tmp_path, capsys):
    assert main(["data", "make-manifest", "--data", str(tmp_path), "--layout", "ms2"]) == 1
    assert "looked for sync_data" in capsys.readouterr().err


@pytest.mark.slow
def test_omnivorous_and_retrieval(scenes, backbone, tmp_path, capsys):
    words = ["pretrain", "--system", "omnivorous", "--variant", "test", "--base", "both", "--start", str(backbone)]
    words += [
        "--manifest",
        str(scenes),
        "--steps",
        "3",
        "--workers",
        "0",
        "--device",
        "cpu",
        "--out",
        str(tmp_path / "run"),
        *[
            "--val-scenes",
            "4",
            "--alpha-max",
            "0.2",
            "--tokens",
            "3",
            "--no-dense",
            "--no-palette",
            "--depth-range",
            "0.5,10",
        ],
    ]
    assert main(words) == 0
    recipe = json.loads((tmp_path / "run/recipe.json").read_text())
    rows = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    (scored,) = [row for row in rows if "val_retention" in row]
    assert set(scored) == {"step", "val_retention", *(f"val_r1_{key}" for key in ("nir", "swir", "lwir", *MAPS))}
    assert 0.9 < scored["val_retention"] <= 1
    changed = {name: recipe["recipe"][name] for name in ("alpha_max", "tokens", "dense", "colourise", "depth_range_m")}
    assert changed == {"alpha_max": 0.2, "tokens": 3, "dense": 0, "colourise": False, "depth_range_m": [0.5, 10]}
    assert (recipe["system"], recipe["steps"], recipe["sources"]) == ("omnivorous", 3, {str(scenes): 6})
    out = tmp_path / "found"
    words = ["evaluate", "retrieval", "--model", f"after={tmp_path / 'run/last.safetensors'}", f"before={backbone}"]
    words += [
        "--teacher",
        str(backbone),
        "--scenes",
        "4",
        "--maps",
        "--probe-scenes",
        "4",
        "--crop",
        "56",
        "--out",
        str(out),
    ]
    capsys.readouterr()
    assert main(words) == 0
    table = capsys.readouterr().out
    assert table.strip() == (out / "retrieval.md").read_text().strip()
    found = json.loads((out / "retrieval.json").read_text())
    assert set(found["pairs"]) == {"baseline (teacher, infrared as grey)", "after", "before"}
    for sets in found["pairs"].values():
        assert [pair.rsplit(" ", 1)[1] for pair in sets] == ["nir", "swir", "lwir", "depth", "segmentation"]
    assert found["pairs"]["before"]["4 scenes, lwir"]["retention_cls"] == pytest.approx(1, abs=1e-6)
    assert found["pairs"]["after"]["4 scenes, lwir"]["retention_cls"] < 1
    assert "rgb to depth" in found["probes"]["after"]
    assert (out / "pairs.png").stat().st_size > 5000


@pytest.mark.slow  # training/test_omnivorous.py covers bands and maps
@pytest.mark.usefixtures("undrawn_curves")
def test_bands_and_maps_of_training_are_those_of_validation(scenes, tmp_path):
    words = ["pretrain", "--system", "omnivorous", "--variant", "test", "--scenes", "4", "--val-scenes", "2"]
    words += ["--bands", "lwir", "--steps", "1", "--workers", "0", "--device", "cpu"]
    given = {"a": ["--no-maps"], "b": ["--no-maps", "--val-manifest", str(scenes)], "c": []}
    for name, more in given.items():
        assert main([*words, *more, "--out", str(tmp_path / name)]) == 0
        rows = [json.loads(line) for line in (tmp_path / name / "log.jsonl").read_text().splitlines()]
        (scored,) = [row for row in rows if "val_retention" in row]
        maps = set() if name == "a" else {f"val_r1_{key}" for key in MAPS}
        assert {key for key in scored if key.startswith("val_r1_")} == {"val_r1_lwir", *maps}


@pytest.mark.usefixtures("undrawn_curves")
def test_multiple_views_are_averaged_and_reported(backbone, tmp_path, capsys):
    words = ["evaluate", "retrieval", "--model", str(backbone), "--scenes", "4", "--crop", "56", "--out", str(tmp_path)]
    assert main(words) == 0
    one = json.loads((tmp_path / "retrieval.json").read_text())
    assert "Means over" not in capsys.readouterr().out
    assert main([*words, "--views", "3", "--workers", "2"]) == 0
    three = json.loads((tmp_path / "retrieval.json").read_text())
    assert "Means over 3 views" in capsys.readouterr().out
    assert (one["views"], three["views"]) == (1, 3)
    (model,) = one["pairs"]
    a, b = (found["pairs"][model]["4 scenes, lwir"] for found in (one, three))
    assert a["items"] == b["items"] == 4
    assert a["cosine"] != b["cosine"]


@pytest.mark.usefixtures("undrawn_curves")
def test_bands_are_compared_on_the_items_that_have_both(scenes, backbone, tmp_path):
    """Items of one band each, as in a manifest of several data sets, have none to compare."""
    items = read_manifest(scenes)
    bands = ("nir", "swir", "lwir")
    words = ["evaluate", "retrieval", "--model", f"m={backbone}", "--crop", "56", "--compare-bands"]
    found = {}
    for name, of_item in (
        ("one", [("nir",), ("nir",), ("swir",), ("swir",), ("lwir",), ("lwir",)]),
        ("two", [("nir", "swir")] * 3 + [("swir", "lwir")] * 2 + [("nir", "lwir")]),
        ("all", [bands] * 3 + [("nir",)] * 3),
    ):
        path, out = scenes.with_name(f"{name}.jsonl"), tmp_path / name
        write_manifest([item.with_bands(keys) for item, keys in zip(items, of_item, strict=True)], path)
        assert main([*words, "--manifest", str(path), "--out", str(out)]) == 0
        pairs = json.loads((out / "retrieval.json").read_text())["pairs"]["m"]
        found[name] = {pair.partition(", ")[2]: row["items"] for pair, row in pairs.items() if " to " in pair}
    assert found == {
        "one": {},
        "two": {"nir to swir": 3, "swir to lwir": 2},
        "all": {"nir to swir": 3, "nir to lwir": 3, "swir to lwir": 3},
    }


def test_tsne_without_scikit_learn_names_the_extra_before_anything_is_evaluated(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "sklearn.manifold", None)
    monkeypatch.setitem(sys.modules, "sklearn", None)
    words = ["evaluate", "retrieval", "--model", "none", "--scenes", "4", "--tsne"]
    assert main([*words, "--out", str(tmp_path)]) == 1
    assert "sklearn" in (error := capsys.readouterr().err)
    assert "pip install 'spectradino_ros[tsne]'" in error
    assert main(words) == 1
    assert "--tsne has no effect without --out" in capsys.readouterr().err


def test_incompatible_options_are_refused(backbone, capsys):
    assert main(["evaluate", "retrieval", "--model", str(backbone)]) == 1
    assert "nothing to evaluate on" in capsys.readouterr().err
    assert main(["pretrain", "--system", "omnivorous", "--variant", "test", "--stages", "1", "--scenes", "8"]) == 1
    assert "--stages is for SpectraDINO's stages, not for --system omnivorous" in capsys.readouterr().err
    for option in ("--maps", "--no-maps"):
        assert main(["pretrain", "--variant", "test", "--scenes", "8", option, "--teacher", "none"]) == 1
        assert f"{option} is for --system omnivorous" in capsys.readouterr().err


def _indoor(root: Path, count: int, first: int = 0) -> None:
    """Scenes in the official layouts of NYUv2, ADE20k and ImageNet: maps, and two classes that differ by colour."""
    source = SceneImages(count, (84, 70), first=first, misregistration_px=0.0)
    for item in range(count):
        images = source.load(item, ("depth", "segmentation")).images
        mask = np.where(images["segmentation"] == 255, 0, images["segmentation"] + 1).astype(np.uint8)
        tint = np.array([1.0, 0.3, 0.3] if item % 2 else [0.3, 0.3, 1.0])
        files = {
            f"nyu/train/kitchen_0001/rgb_{item:05d}.jpg": images["rgb"][..., ::-1],
            f"nyu/train/kitchen_0001/sync_depth_{item:05d}.png": np.clip(images["depth"] * 1e3, 0, 65535).astype("u2"),
            f"ade/ADEChallengeData2016/images/training/ADE_train_{item:08d}.jpg": images["rgb"][..., ::-1],
            f"ade/ADEChallengeData2016/annotations/training/ADE_train_{item:08d}.png": mask,
            f"imagenet/train/n0000{item % 2}/{item}.JPEG": (images["rgb"] * tint).astype(np.uint8)[..., ::-1],
        }
        for name, image in files.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            coded = cv2.imencode(Path(name).suffix, image)[1]
            (root / name).write_bytes(coded.tobytes())


@pytest.fixture(scope="module")
def published(tmp_path_factory) -> dict[str, tuple[Path, Path]]:
    """Write manifests of training and test items by layout; more items of each class than k-NN's 20 neighbours."""
    root = tmp_path_factory.mktemp("published")
    _indoor(root / "fit", 44)
    _indoor(root / "test", 8, first=44)
    made: dict[str, tuple[Path, Path]] = {}
    for layout, folder in (("nyuv2", "nyu"), ("ade20k", "ade"), ("imagenet", "imagenet")):
        made[layout] = (root / f"fit/{layout}.jsonl", root / f"test/{layout}.jsonl")
        for path in made[layout]:
            words = ["data", "make-manifest", "--data", str(path.parent / folder), "--layout", layout]
            assert main([*words, "--out", str(path)]) == 0
    return made


@pytest.mark.slow  # data/test_layouts.py covers the layouts
def test_manifests_of_published_layouts(published):
    nyu, ade, imagenet = (read_manifest(fit) for fit, _ in published.values())
    assert [len(nyu), len(ade), len(imagenet)] == [44, 44, 44]
    assert (nyu[0].depth_per_metre, ade[0].unlabelled, imagenet[0].label) == (1000.0, 0, "n00000")
    masks = ManifestSource(published["ade20k"][0]).load(0, ("segmentation",)).images["segmentation"]
    assert 255 in masks
    assert 0 not in masks


@pytest.mark.slow  # evaluation/test_representations.py covers the probes
@pytest.mark.usefixtures("undrawn_curves")
def test_probes_on_published_sets(published, backbone, tmp_path, capsys):
    """Features of a map, even those of a random backbone, predict its own values; RGB's do not where maps are seen."""
    for layout, figure, least in (("nyuv2", "depth_delta1", 0.5), ("ade20k", "miou", 0.15)):
        fit, tested = map(str, published[layout])
        words = ["evaluate", "retrieval", "--model", str(backbone), "--manifest", tested, "--crop", "56"]
        assert main([*words, "--probe-manifest", fit, "--device", "cpu", "--out", str(tmp_path / layout)]) == 0
        (probes,) = json.loads((tmp_path / layout / "retrieval.json").read_text())["manifest_probes"].values()
        (key,) = _maps(layout)
        assert set(probes) == {"rgb", key, f"rgb to {key}"}
        assert probes[key][figure] > least
        assert probes[key][figure] > probes["rgb"][figure] > probes[f"rgb to {key}"][figure]
    words[words.index("--manifest") + 1] = str(published["nyuv2"][1])
    assert main([*words, "--probe-manifest", str(published["ade20k"][0]), "--device", "cpu"]) == 1
    assert "depth or segmentation maps of one kind" in capsys.readouterr().err


@pytest.mark.slow  # evaluation/test_representations.py covers the classifier
@pytest.mark.usefixtures("undrawn_curves")
def test_neighbours_on_published_sets(published, backbone, tmp_path):
    fit, tested = map(str, published["imagenet"])
    words = ["evaluate", "retrieval", "--model", str(backbone), "--manifest", tested, "--crop", "56"]
    assert main([*words, "--knn-manifest", fit, "--device", "cpu", "--out", str(tmp_path)]) == 0
    (neighbours,) = json.loads((tmp_path / "retrieval.json").read_text())["neighbours"].values()
    assert set(neighbours) == {"rgb", "rgb (GAP)"}
    assert min(neighbours.values()) > 0.8, "the classes differ by colour; half is chance"


def _maps(layout: str) -> tuple[str, ...]:
    return ("depth",) if layout == "nyuv2" else ("segmentation",)
