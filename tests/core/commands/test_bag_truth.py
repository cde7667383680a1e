"""Ground truth from `bag make` to `bag evaluate`: recorded labels are found, missing ones are not invented."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from spectradino_core.bags.reader import BagReader
from spectradino_core.cli import main
from spectradino_core.streams.pairing import Pairer
from tests.blob_model import make_blob_model
from tests.core.bags.recordings import SIZE, Recording
from tests.core.datasets.own.folders import Layout, write_own

BOXES, MASKS = "/ground_truth/detections", "/ground_truth/segmentation/mask"

pytestmark = pytest.mark.usefixtures("undrawn")


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return make_blob_model(tmp_path_factory.mktemp("model") / "blob.onnx", SIZE)


def evaluated(model: Path, out: Path, *words: str) -> tuple[int, dict[str, Any]]:
    status = main(["bag", "evaluate", *words, "--model", str(model), "--out", str(out)])
    path = out / "result.json"
    return status, json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def test_ground_truth_topics_are_found_by_default(model, tmp_path):
    bag = str(Recording(4).write(tmp_path / "drive", truth_topic=BOXES, mask_topic=MASKS))
    status, result = evaluated(model, tmp_path / "a", bag)
    assert status == 0
    assert result["bags"][0]["truth"]["source"] == f"{BOXES} and {MASKS}"
    assert result["total"]["scores"]["all"]["map"] == 1.0
    assert result["total"]["scores"]["all"]["miou"] == pytest.approx(1.0)
    status, result = evaluated(model, tmp_path / "b", bag, "--label-topic", BOXES)
    assert result["bags"][0]["truth"]["source"] == BOXES
    status, result = evaluated(model, tmp_path / "c", bag, "--label-topic", "")
    assert (status, result["bags"][0]["truth"]) == (0, None)
    status, result = evaluated(model, tmp_path / "d", bag, "--sweep", "dropout_ir=0.5")
    assert status == 0
    assert result["sweeps"]["dropout_ir"]["values"] == [0.0, 0.5]


def test_topics_of_other_names_or_types_are_not_ground_truth(model, tmp_path, capsys):
    bag = str(Recording(3).write(tmp_path / "drive", truth_topic="/other/detections", mask_topic=BOXES))
    status, result = evaluated(model, tmp_path / "a", bag)
    assert (status, result["bags"][0]["truth"]) == (0, None)
    capsys.readouterr()
    assert evaluated(model, tmp_path / "b", bag, "--sweep", "dropout_ir=0.5") == (1, {})
    assert "needs ground truth" in (said := capsys.readouterr().err)
    assert said.endswith("\n")


def test_invalid_default_labels_report_how_to_disable_them(model, tmp_path):
    recording = Recording(3)
    stamp = recording.stamps[0]
    recording.boxes[stamp] = [("red", 5, 5, 5, 30)]
    status, result = evaluated(model, tmp_path / "a", str(recording.write(tmp_path / "drive", truth_topic=BOXES)))
    assert status == 1
    assert '--label-topic ""' in result["failed"][0]["why"]


@pytest.mark.parametrize("ending", [".json", ".coco.json"])
@pytest.mark.parametrize("bag", ["drive", "drive.mcap"])
def test_label_folder_is_searched_for_both_names(model, tmp_path, ending, bag):
    recording = Recording(3)
    written = recording.write(tmp_path / "bags" / "drive")
    if bag == "drive.mcap":
        written = written.rename(tmp_path / "folder") / "drive.mcap"
    recording.labels(tmp_path / "labels" / f"drive{ending}")
    status, result = evaluated(model, tmp_path / "a", str(written), "--labels", str(tmp_path / "labels"))
    assert status == 0
    assert result["total"]["scores"]["all"]["map"] == 1.0
    assert result["bags"][0]["truth"]["source"] == f"drive{ending}"


@pytest.mark.slow  # the topics are found below
def test_bag_evaluate_finds_label_files_of_bag_make(model, tmp_path, capsys):
    folder = tmp_path / "drives"
    for name in ("a.mcap", "b"):
        words = ["bag", "make", "--duration", "0.5", "--size", "112x84", "--rgb-rate", "10"]
        assert main([*words, "--out", str(folder / name)]) == 0
    words = [str(folder), "--labels", str(folder)]
    status, result = evaluated(model, tmp_path / "report", *words)
    assert status == 0
    assert [bag["truth"]["source"] for bag in result["bags"]] == ["a.coco.json", "b.coco.json"]
    (folder / "b.coco.json").unlink()
    status, result = evaluated(model, tmp_path / "report", *words)
    assert status == 1
    assert "neither b.json nor b.coco.json" in result["failed"][0]["why"]
    assert capsys.readouterr().out.endswith("\n")


def pairs_folder(root: Path, labelled: bool, count: int = 13) -> Path:
    """Write pairs that are identified by their grey level."""
    items = []
    for number in range(count):
        item: dict[str, Any] = {"id": f"{number}", "width": 80, "height": 64}
        for key, shape in (("rgb", (64, 80, 3)), ("lwir", (64, 80))):
            item[key] = f"val/{key}/{number}.png"
            (root / "val" / key).mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(root / item[key]), np.full(shape, 10 * number + 20, np.uint8))
        items.append(item | {"label": None})
    (root / "index_val.json").write_text(json.dumps({"items": items}), encoding="utf-8")
    if labelled:
        truth = {
            "images": [{"id": 0, "file_name": items[0]["rgb"]}],
            "annotations": [{"id": 0, "image_id": 0, "category_id": 1, "bbox": [5, 5, 20, 20]}],
            "categories": [{"id": 1, "name": "person"}],
        }
        (root / "instances_val.json").write_text(json.dumps(truth), encoding="utf-8")
    return root


@pytest.mark.parametrize("labelled", [True, False])
def test_unlabelled_folder_gets_no_empty_labels(tmp_path, capsys, labelled):
    folder = pairs_folder(tmp_path / "pairs", labelled)
    out = tmp_path / "out"
    out.mkdir()
    words = ["bag", "make", "--data", str(folder), "--out", str(out / "drive.mcap")]
    assert main(words) == 0
    assert ("coco.json" in capsys.readouterr().out) == labelled
    assert (out / "drive.coco.json").exists() == labelled
    assert (out / "drive.calibration.yaml").exists()
    with BagReader(out / "drive.mcap") as reader:
        assert any(name.startswith("/ground_truth") for name in reader.topics) == labelled
    # Overwriting a labelled bag must not keep its labels.
    pairs_folder(folder, labelled=False)
    (folder / "instances_val.json").unlink(missing_ok=True)
    assert main([*words, "--overwrite"]) == 0
    assert not (out / "drive.coco.json").exists()


@pytest.mark.parametrize(
    ("rates", "frames"),
    [([], (13, 13)), (["--ir-rate", "4"], (13, 13)), (["--rgb-rate", "30", "--ir-rate", "9"], (44, 13))],
)
@pytest.mark.parametrize("more", [[], ["--jitter-ms", "2"], ["--ir-phase-ms", "6"]])
def test_still_pairs_are_paired_with_themselves(tmp_path, rates, frames, more):
    folder = pairs_folder(tmp_path / "pairs", labelled=False)
    out = tmp_path / "drive.mcap"
    assert main(["bag", "make", "--data", str(folder), "--out", str(out), *rates, *more]) == 0
    levels: dict[int, int] = {}
    pairer: Pairer[int] = Pairer(50.0)
    pairs = []
    with BagReader(out) as reader:
        for number, frame in enumerate(reader.frames()):
            levels[number] = int(frame.decode().pixels.flat[0])
            pairs += pairer.push(frame.stream, frame.stamp_ns, number)
        pairs += pairer.flush()
        counts = reader.messages_of
    assert counts["ir"].messages == frames[1]
    assert abs(counts["rgb"].messages - frames[0]) <= 1
    assert len(pairs) >= 12
    assert [pair for pair in pairs if levels[pair.rgb] != levels[pair.ir]] == []


def ignored_regions(model: Path, folder: Path, tmp_path: Path) -> list[int]:
    """Count the ignored regions of a bag made from a folder: from its topics and from its COCO file."""
    out = tmp_path / "out" / "drive.mcap"
    out.parent.mkdir()
    assert main(["bag", "make", "--data", str(folder), "--out", str(out)]) == 0
    counts = []
    for name, words in (("topics", []), ("file", ["--labels", str(out.with_name("drive.coco.json"))])):
        status, result = evaluated(model, tmp_path / name, str(out), *words)
        assert status == 0
        counts.append(result["bags"][0]["truth"]["ignored_regions"])
    return counts


def test_crowds_in_a_folder_are_ignored_in_the_bag(model, tmp_path):
    folder = pairs_folder(tmp_path / "pairs", labelled=True)
    path = folder / "instances_val.json"
    truth = json.loads(path.read_text(encoding="utf-8"))
    truth["categories"][0]["name"] = "red"  # a class of the model
    truth["annotations"].append({"id": 1, "image_id": 0, "category_id": 1, "bbox": [40, 5, 30, 50], "iscrowd": 1})
    path.write_text(json.dumps(truth), encoding="utf-8")
    assert ignored_regions(model, folder, tmp_path) == [1, 1]
    written = json.loads((tmp_path / "out" / "drive.coco.json").read_text(encoding="utf-8"))["annotations"]
    assert [(row["bbox"], row["iscrowd"]) for row in written] == [([5, 5, 20, 20], 0), ([40, 5, 30, 50], 1)]


def test_difficult_objects_in_own_data_are_ignored_in_the_bag(model, tmp_path):
    folder = tmp_path / "own"
    layout = Layout("rgb/{split}/{name}", "thermal/{split}/{name}", "labels/{split}/{name}")
    write_own(folder, layout, "VOC", {"train": [("0001", "both")], "val": [("0009", "both")]})
    path = folder / "labels/val/0009.xml"
    labels = path.read_text(encoding="utf-8").replace("person", "red").replace("<difficult>0", "<difficult>1", 1)
    path.write_text(labels, encoding="utf-8")
    assert ignored_regions(model, folder, tmp_path) == [1, 1]
