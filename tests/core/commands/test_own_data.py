"""From a folder of images to a running model: the commands of `docs/own_data.md`, as printed."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from spectradino_core.cli import main
from spectradino_core.models.perception import Perception
from spectradino_core.models.perception_checkpoint import (
    describe_checkpoint,
    load_perception,
    save_perception,
    warm_start,
)
from spectradino_core.scenes import BOX_CLASSES
from spectradino_core.training.recipes import smoke
from tests.conftest import REPOSITORY
from tests.core.datasets.miniatures import write_image
from tests.core.datasets.own.folders import NAMES, Layout, colour, write_own

PAGE = REPOSITORY / "docs/own_data.md"
QUICK = {"finetune": ["--steps", "2", "--batch", "4", "--workers", "0", "--device", "cpu"]}
SPLITS = {
    "train": [("0001", "both"), ("0002", "both"), ("0003", "rgb"), ("0004", "thermal")],
    "val": [("0101", "both"), ("0102", "both"), ("0103", "both"), ("0104", "thermal")],
}
LAYOUT = Layout("rgb/{split}/{name}", "thermal/{split}/{name}", "labels/{split}/{name}")


def commands() -> list[list[str]]:
    """Return the commands in the page's shell blocks."""
    blocks = re.findall(r"^```sh\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return [shlex.split(line)[1:] for block in blocks for line in block.splitlines() if line.strip()]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_own(tmp_path / "my_data", LAYOUT, "YOLO", SPLITS)
    return tmp_path


@pytest.fixture
def start(here: Path) -> Path:
    """Save a small model with the classes of the bundled ones."""
    path = here / "start.safetensors"
    save_perception(path, Perception(smoke().architecture), smoke().info())
    return path


@pytest.mark.slow
def test_documented_commands_run(here: Path, start: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "models").mkdir()
    start.rename(here / "models/lwir_box.safetensors")  # replaces the bundled model, which takes ten times as long
    typed = commands()
    assert [words[0] for words in typed] == ["data", "finetune", "export", "evaluate", "bag", "bag"]
    for words in typed:
        assert main([*words, *QUICK.get(words[0], [])]) == 0, shlex.join(words)
    printed = capsys.readouterr().out
    assert "| all (4) | RGB only |" in printed
    for made in ("sheet.png", "runs/mine/losses.png", "mine.onnx", "report/report.html", "bag_report/report.html"):
        assert (here / made).stat().st_size > 0
    info = load_perception(here / "runs/mine/model.safetensors")[1]
    assert info.box_classes == NAMES
    assert (info.provenance["start"], info.provenance["dataset"]) == ("lwir_smoke", "my_data")
    assert info.provenance["start_fresh"] == ["class forklift"]
    assert info.provenance["data"] == {
        "name": "my_data",
        "kind": "own data",
        "formats": ["YOLO"],
        "classes": list(NAMES),
        "images": {
            "train": {"infrared only": 1, "pairs": 2, "rgb only": 1},
            "val": {"infrared only": 1, "pairs": 3},
        },
    }
    assert str(here) not in json.dumps(info.provenance)
    scored = json.loads((here / "bag_report/result.json").read_text())["bags"][0]
    assert (scored["truth"]["frames"], scored["pairing"]["captures"]) == (3, 3)
    assert scored["truth"]["classes"] == list(NAMES)


def test_bundled_model_can_start_training_on_own_data() -> None:
    bundled = REPOSITORY / "models/lwir_box.safetensors"
    info, architecture = describe_checkpoint(bundled)
    model = Perception(replace(architecture, box_classes=len(NAMES), mask_classes=0))
    started = warm_start(model, bundled, NAMES)
    assert started.taken == ["backbone", "fusion", "pyramid", "detection head (person, car)"]
    assert started.fresh == ["class forklift"]
    assert started.dropped == ["segmentation head", "class bicycle"]
    assert info.box_classes == BOX_CLASSES


@pytest.mark.slow
@pytest.mark.usefixtures("undrawn_curves")
@pytest.mark.parametrize("form", ["COCO", "VOC", "YOLO"])
def test_every_label_format_trains(
    here: Path, start: Path, form: str, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "spectradino_core")
    layout = Layout(LAYOUT.rgb, LAYOUT.thermal, "instances_{split}" if form == "COCO" else LAYOUT.label)
    write_own(here / "other", layout, form, SPLITS)
    assert main(["finetune", "--data", "other", "--start", str(start), "--out", "run", *QUICK["finetune"]]) == 0
    printed = capsys.readouterr().out
    assert f"own data 'other': {form} labels" in printed
    assert "on held-out pairs, from step 0 to" in caplog.text
    assert "train: 1 infrared only, 2 pairs, 1 rgb only" in printed
    model, info = load_perception(here / "run/model.safetensors")
    assert set(info.box_classes) == set(NAMES)
    assert model.architecture.box_classes == 3
    assert info.input_size == smoke().input_size
    weights = model.state_dict()
    assert all(bool(np.isfinite(weights[name].numpy()).all()) for name in weights)
    losses = [json.loads(line) for line in (here / "run/log.jsonl").read_text().splitlines()]
    scored = [line["step"] for line in losses if "val_map50" in line]
    assert scored[0] == 0  # the model that it starts from
    assert len(scored) > 1


@pytest.mark.slow
def test_classes_unknown_to_the_model_are_reported(here: Path, start: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = here / "m.safetensors"
    made = smoke().architecture
    info = smoke().info().with_(provenance={"architecture": made.to_dict()})
    save_perception(model, Perception(made), info)  # person, bicycle, car: no forklift
    assert "forklift" not in BOX_CLASSES
    assert main(["evaluate", "--model", str(model), "--data", "my_data", "--out", "report", "--device", "cpu"]) == 0
    printed = capsys.readouterr().out
    assert "Classes that the model does not have, excluded: forklift." in printed
    assert (
        "finetune --data my_data --baseline --variant test --backbone TEACHER --task detection --head dense" in printed
    )
    found = json.loads((here / "report/result.json").read_text())["sets"][0]
    assert found["left_out_classes"] == ["forklift"]
    rows = found["subsets"]["all"]["rows"]
    assert found["subsets"]["all"]["images"] == 4
    assert rows["RGB only"]["seeds"]  # of three images: one has no RGB counterpart
    write_own(here / "strange", LAYOUT, "YOLO", SPLITS)
    (here / "strange/data.yaml").write_text("names: [tram, forklift, crane]")
    assert main(["evaluate", "--model", str(model), "--data", "strange", "--device", "cpu"]) == 1
    assert "it labels boxes of tram, forklift, crane, the model knows boxes of person" in capsys.readouterr().err


def test_check_names_problems(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "check", "--data", "my_data", "--out", "sheet.png"]) == 0
    printed = capsys.readouterr().out
    assert "train: 1 infrared only, 2 pairs, 1 rgb only" in printed
    assert "classes: person, forklift, car" in printed
    assert "\ntrain: 2 pairs, 2 images of one camera\n" in printed
    assert "RGB only: 1 image;" in printed
    assert (here / "sheet.png").stat().st_size > 0
    (here / "my_data/labels/train/0001.txt").write_text("0 0.5 0.5 0 0.1\n1 2.5 0.5 0.1 0.1\n0 0.5 0.5 0.5 0.5\n")
    (here / "my_data/labels/train/0002.txt").unlink()
    assert main(["data", "check", "--data", "my_data"]) == 0
    printed = capsys.readouterr().out
    assert "1 boxes have no width or height and are skipped, such as in 0001.txt" in printed
    assert "1 boxes lie outside their image and are skipped" in printed
    assert "1 of 8 images have no labels and are skipped, such as rgb/train/0002.png" in printed
    (here / "my_data/labels/train/0001.txt").write_text("nine\n")
    assert main(["data", "check", "--data", "my_data"]) == 1
    assert "0001.txt, line 1: 'nine' is not an object" in capsys.readouterr().err
    (here / "my_data/rgb/val/0101.png").write_bytes(b"\x89PNG cut")
    (here / "my_data/labels/train/0001.txt").write_text("")
    assert main(["data", "check", "--data", "my_data"]) == 1
    assert "0101.png" in capsys.readouterr().out


def test_own_data_options_are_refused_elsewhere(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (
        ["data", "check", "--dataset", "flir", "--data", ".", "--rgb", "a"],
        ["bag", "make", "--out", "x", "--classes", "car"],
        ["finetune", "--dataset", "scenes", "--ir", "a"],
    ):
        assert main(words) == 1
        assert "is for own data" in capsys.readouterr().err


def test_bag_of_pairs_skips_images_without_counterpart(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["bag", "make", "--data", "my_data", "--split", "train", "--rgb-rate", "4", "--ir-rate", "4"]
    assert main([*words, "--out", "t.mcap"]) == 0
    assert "not in the bag: 2 images without a counterpart" in capsys.readouterr().err
    truth = json.loads((here / "t.coco.json").read_text())
    assert [one["name"] for one in truth["categories"]] == list(NAMES)
    assert len(truth["images"]) == 2
    assert main([*words, "--out", "u.mcap", "--classes", "forklift"]) == 0
    assert len(json.loads((here / "u.coco.json").read_text())["annotations"]) == 1
    for path in (here / "my_data/thermal/train").iterdir():
        path.unlink()
    capsys.readouterr()
    assert main([*words, "--out", "v.mcap"]) != 0
    assert "my_data has no pairs in its split 'train': give a folder or --split with" in capsys.readouterr().err


def test_bag_of_the_reported_split_and_remarks(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = here / "my_data"
    for folder in ("rgb", "thermal", "labels"):
        (root / folder / "val").rename(root / folder / "test")
    for path in (root / "thermal").rglob("*.png"):
        write_image(path, colour(90))  # false colour
    assert main(["bag", "make", "--data", "my_data", "--out", "t.mcap"]) == 0
    printed = capsys.readouterr()
    assert "3 RGB and 3 IR frames" in printed.out
    assert "If they are in false colour (a palette such as ironbow), export them in grey" in printed.err
    assert main(["data", "check", "--data", "my_data"]) == 1
    assert "are the two folders swapped? If they are in false colour" in capsys.readouterr().out
