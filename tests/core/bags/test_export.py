"""Frames exported for labelling: what is written, and the way back into evaluation and training."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from spectradino_core.bags import BagError
from spectradino_core.bags.export import ExportOptions, export_frames
from spectradino_core.bags.reader import BagReader
from spectradino_core.bags.replay import Replay
from spectradino_core.bags.selection import Selection, changed_fraction, disagreement
from spectradino_core.cli import main
from spectradino_core.datasets.own import open_own
from spectradino_core.models.perception import Perception
from spectradino_core.models.perception_checkpoint import save_perception
from spectradino_core.runtime.perception_result import Mode, PerceptionResult
from spectradino_core.streams.detecting import open_pipeline
from spectradino_core.streams.settings import Settings
from spectradino_core.training.recipes import smoke
from tests.blob_model import make_blob_model
from tests.core.bags.recorded import IR, MS, RGB, SIZE, START_NS, Row, hot, pairs, record, red

ALL = Selection(every_s=0)
MARKER = ".spectradino_export"


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return make_blob_model(tmp_path_factory.mktemp("model") / "blob.onnx", SIZE)


@pytest.fixture(scope="module")
def bag(tmp_path_factory) -> Path:
    return record(tmp_path_factory.mktemp("bag") / "drive", pairs(8))


def name_of(stamp_ns: int) -> str:
    return f"{stamp_ns // 10**9}_{stamp_ns % 10**9:09d}"


def files(folder: Path) -> list[str]:
    """Files below a folder, without the marker of exports."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and path.name != MARKER)


def stamps(folder: Path) -> list[int]:
    """Of the exported RGB frames in milliseconds from the start."""
    names = (path.stem.split("_") for path in sorted((folder / "rgb").iterdir()))
    return [(int(s) * 10**9 + int(ns) - START_NS) // MS for s, ns in names]


def test_images_are_the_recorded_ones_and_labels_the_nodes_detections(bag, model, tmp_path):
    done = export_frames(bag, tmp_path / "out", model, ExportOptions(selection=ALL))
    names = [name_of(START_NS + 100 * n * MS) for n in range(8)]
    assert files(tmp_path / "out") == ["labels.json", *(f"{c}/{n}.png" for c in ("lwir", "rgb") for n in names)]
    assert (done.frames, done.labels, done.is_registered) == ({"pairs": 8}, {"hot": 8, "red": 8}, None)
    for n, name in enumerate(names):
        counts = cv2.imread(str(tmp_path / f"out/lwir/{name}.png"), cv2.IMREAD_UNCHANGED)
        assert counts.dtype == np.uint16
        np.testing.assert_array_equal(counts, hot(n))
        np.testing.assert_array_equal(cv2.imread(str(tmp_path / f"out/rgb/{name}.png"))[..., ::-1], red(n))
    labels = json.loads((tmp_path / "out/labels.json").read_text())
    assert [image["file_name"] for image in labels["images"]] == [f"rgb/{name}.png" for name in names]
    with BagReader(bag) as reader:
        answers = list(Replay(open_pipeline(model, Settings())).run(reader))
    for image, answer in zip(labels["images"], answers, strict=True):
        assert image["stamp_ns"] == answer.stamp_ns
        own = [a for a in labels["annotations"] if a["image_id"] == image["id"]]
        assert [a["category_id"] - 1 for a in own] == answer.perception.labels.tolist()
        corners = np.array([[x, y, x + w, y + h] for x, y, w, h in (a["bbox"] for a in own)])
        np.testing.assert_allclose(corners, answer.perception.boxes, atol=0.02)


def cvat(name: str) -> str:
    return name


def label_studio(name: str) -> str:
    return f"images\\a1b2c3d4-{name}"


def roboflow(name: str) -> str:
    return f"{name.replace('.', '_')}.rf.0123456789abcdef0123456789abcdef.jpg"


def returned(folder: Path, renamed: Callable[[str], str]) -> Path:
    """Labels as a tool gives them back: its own names and no stamps; corrected: one red box removed, one cone added."""
    labels: dict[str, Any] = json.loads((folder / "labels.json").read_text())
    red_id = next(c["id"] for c in labels["categories"] if c["name"] == "red")
    labels["categories"].append({"id": 9, "name": "cone"})
    labels["annotations"].remove(next(a for a in labels["annotations"] if a["category_id"] == red_id))
    labels["annotations"].append({"id": 99, "image_id": 2, "category_id": 9, "bbox": [30, 40, 12, 20], "iscrowd": 0})
    for annotation in labels["annotations"]:
        annotation.pop("score", None)
    for image in labels["images"]:
        del image["stamp_ns"]
        image["file_name"] = renamed(image["file_name"].rpartition("/")[2])
    (folder / "labels.json").write_text(json.dumps(labels))
    return folder / "labels.json"


@pytest.mark.slow  # the YOLO labels below are read too; training on them is tested here alone
@pytest.mark.usefixtures("undrawn", "undrawn_curves")
@pytest.mark.parametrize("renamed", [cvat, label_studio, roboflow])
def test_what_a_tool_returns_is_evaluated_and_trained_on(bag, model, tmp_path, renamed, capsys):
    folder = tmp_path / "to_label"
    words = ["bag", "export", str(bag), "--model", str(model), "--out", str(folder), "--every", "0"]
    assert main(words) == 0
    assert "8 pairs\nlabels to be corrected: 8 hot, 8 red" in capsys.readouterr().out
    labels = returned(folder, renamed)

    words = ["bag", "evaluate", str(bag), "--model", str(model), "--labels", str(labels)]
    assert main([*words, "--out", str(tmp_path / "report")]) == 0
    result = json.loads((tmp_path / "report/result.json").read_text())
    scores = result["total"]["scores"]
    assert scores["frames"]["answered"] == scores["frames"]["scored"] == 8
    assert scores["all"]["instances"] == {"hot": 8, "red": 7}
    assert (scores["all"]["ap50"]["hot"], scores["all"]["ap50"]["red"] < 1) == (1.0, True)
    assert result["bags"][0]["truth"]["unknown_classes"] == {"cone": 1}

    own = open_own(folder)
    assert set(own.benchmark.box_classes) == {"red", "hot", "cone"}
    assert own.provenance["images"] == {"train": {"pairs": 7}, "val": {"pairs": 1}}
    if renamed is cvat:
        start, run = tmp_path / "start.safetensors", tmp_path / "run"
        save_perception(start, Perception(smoke().architecture), smoke().info())
        words = ["finetune", "--data", str(folder), "--start", str(start), "--out", str(run), "--steps", "2"]
        assert main([*words, "--batch", "4", "--workers", "0", "--device", "cpu"]) == 0
        assert (run / "model.safetensors").stat().st_size > 0


def test_yolo_labels_are_read_as_they_were_written(bag, model, tmp_path):
    export_frames(bag, tmp_path / "out", model, ExportOptions(selection=ALL, form="yolo"))
    own = open_own(tmp_path / "out")
    assert own.provenance["formats"] == ["YOLO"]
    assert own.benchmark.box_classes == ("red", "hot")
    samples = own.benchmark.open(own.root, "train")
    for n, item in enumerate(samples):
        sample = samples.load(item)
        boxes = {samples.box_classes[label]: box for box, label in zip(sample.boxes, sample.labels, strict=True)}
        x = 4 + 3 * n
        np.testing.assert_allclose(boxes["red"], [x, 10, x + 20, 30], atol=0.01)
        np.testing.assert_array_equal(sample.infrared, hot(n))


def test_exports_of_two_recordings_may_lie_side_by_side(model, tmp_path):
    for number, day in enumerate(("monday", "tuesday")):
        bag = record(tmp_path / day, pairs(3, shift_ns=number * 86_400_000 * MS))
        export_frames(bag, tmp_path / f"data/{day}", model, ExportOptions(selection=ALL))
    own = open_own(tmp_path / "data")
    assert own.provenance["images"] == {"train": {"pairs": 5}, "val": {"pairs": 1}}
    samples = own.benchmark.open(own.root, "train")
    assert [len(samples.load(item).boxes) for item in samples] == [2] * 5


def test_without_a_model_only_images_are_written(bag, tmp_path):
    """An image in a label file without boxes would be known to be empty."""
    done = export_frames(bag, tmp_path / "out", None, ExportOptions(selection=ALL))
    assert {name.partition("/")[0] for name in files(tmp_path / "out")} == {"ir", "rgb"}
    assert (done.frames, done.labels) == ({"pairs": 8}, {})


def test_frames_are_selected_by_time(bag, model, tmp_path):
    done = export_frames(bag, tmp_path / "a", model, ExportOptions(selection=Selection(every_s=0.25)))
    assert stamps(tmp_path / "a") == [0, 300, 600]
    assert done.skipped == {"too soon": 5}
    export_frames(bag, tmp_path / "b", model, ExportOptions(selection=Selection(every_s=0.25, limit=2)))
    assert stamps(tmp_path / "b") == [0, 300]


def test_frames_are_selected_by_motion(model, tmp_path):
    """The scene stands still from the third frame to the sixth."""
    rows = pairs(8)
    for row in rows:
        if row.topic == RGB:
            row.pixels = red(
                min((row.stamp_ns - START_NS) // (100 * MS), 2) if row.stamp_ns < START_NS + 600 * MS else 9
            )
    bag = record(tmp_path / "bag", rows)
    by_motion = Selection("motion", 0.0, min_change=0.005)
    done = export_frames(bag, tmp_path / "out", model, ExportOptions(selection=by_motion))
    assert stamps(tmp_path / "out") == [0, 100, 200, 600]
    assert done.skipped == {"unchanged": 4}


def test_frames_are_selected_by_disagreement_the_hardest_first(model, tmp_path):
    """Nothing in the first two frames, red and hot apart in the others, where each camera finds what is in it."""
    rows = pairs(6)
    for row in rows:
        if row.stamp_ns < START_NS + 150 * MS:
            noise = np.random.default_rng(1).integers(1000, 1100, SIZE[::-1]).astype(np.uint16)
            row.pixels = np.full((SIZE[1], SIZE[0], 3), 60, np.uint8) if row.topic == RGB else noise
    bag = record(tmp_path / "bag", rows)
    settings = Settings(ir_normalization="fixed", ir_range_low=0.0, ir_range_high=40000.0)
    hard = ExportOptions(settings, Selection("disagreement", 0.0))
    done = export_frames(bag, tmp_path / "all", model, hard)
    assert stamps(tmp_path / "all") == [200, 300, 400, 500]
    assert done.skipped == {"cameras agree": 2}
    hard = ExportOptions(settings, Selection("disagreement", 0.0, limit=3))
    done = export_frames(bag, tmp_path / "some", model, hard)
    assert stamps(tmp_path / "some") == [200, 300, 400]
    assert done.skipped == {"cameras agree": 2, "less disagreement": 1}


def result_of(boxes: list[list[float]], labels: list[int]) -> PerceptionResult:
    count = len(boxes)
    array = np.array(boxes, np.float32).reshape(-1, 4)
    return PerceptionResult(array, np.ones(count, np.float32), np.array(labels, np.int64), None, Mode.RGB_ONLY, SIZE)


@pytest.mark.parametrize(
    ("other", "labels", "expected"),
    [
        ([[0, 0, 10, 10], [20, 20, 30, 30]], [0, 1], 0.0),
        ([[1, 0, 11, 10], [20, 20, 30, 30]], [0, 1], 0.0),  # an IoU of 0.8
        ([[6, 0, 16, 10], [20, 20, 30, 30]], [0, 1], 0.5),
        ([[0, 0, 10, 10], [20, 20, 30, 30]], [0, 0], 0.5),
        ([[0, 0, 10, 10]], [0], 1 / 3),
        ([], [], 1.0),
    ],
)
def test_disagreement_is_the_fraction_without_a_counterpart(other, labels, expected):
    one, two = result_of([[0, 0, 10, 10], [20, 20, 30, 30]], [0, 1]), result_of(other, labels)
    assert disagreement(one, two, 2) == pytest.approx(expected)
    assert disagreement(two, one, 2) == pytest.approx(expected)


def test_change_is_the_fraction_of_pixels_that_differ_by_more_than_noise():
    before = np.full((10, 10, 3), 100, np.uint8)
    after = before + np.random.default_rng(0).integers(0, 15, before.shape).astype(np.uint8)
    assert changed_fraction(before, after) == 0
    after[:2, :, 1] = 30
    assert changed_fraction(before, after) == 0.2
    assert changed_fraction(before, before[:5]) == 1.0


def test_the_hardest_frames_stay_whatever_their_order(model, tmp_path, monkeypatch):
    values = iter([0.2, 0.9, 0.1, 0.5, 0.7])
    monkeypatch.setattr("spectradino_core.bags.export.disagreement", lambda *_: next(values))
    bag = record(tmp_path / "bag", pairs(5))
    done = export_frames(bag, tmp_path / "out", model, ExportOptions(selection=Selection("disagreement", 0.0, limit=2)))
    assert stamps(tmp_path / "out") == [100, 400]
    assert len(list((tmp_path / "out/lwir").iterdir())) == 2
    assert len(json.loads((tmp_path / "out/labels.json").read_text())["images"]) == 2
    assert done.skipped == {"less disagreement": 3}


def test_an_infrared_frame_is_exported_once_with_its_nearest_rgb_frame(model, tmp_path):
    """RGB at 20 Hz, infrared at 10 Hz; at the end infrared is lost, and RGB frames are exported alone."""
    rows = pairs(10)
    rows += [Row(RGB, r.stamp_ns + 50 * MS, r.received_ns + 50 * MS, r.pixels) for r in rows if r.topic == RGB]
    rows = [r for r in rows if r.topic == RGB or r.stamp_ns < START_NS + 500 * MS]
    bag = record(tmp_path / "bag", rows)
    settings = Settings(stale_ms=200.0, sync_slop_ms=90.0)
    done = export_frames(bag, tmp_path / "out", model, ExportOptions(settings, ALL))
    assert [s for s in stamps(tmp_path / "out") if s < 500] == [0, 100, 200, 300, 400]
    assert done.frames["pairs"] == 5
    assert done.frames["RGB only"] > 0
    assert len(list((tmp_path / "out/lwir").iterdir())) == 5


def test_infrared_images_are_registered_on_request(model, tmp_path, capsys):
    matrix = (0.5, 0.0, 8.0, 0.0, 0.5, 6.0, 0.0, 0.0, 1.0)
    settings = Settings(ir_to_rgb=matrix)
    bag = record(tmp_path / "bag", pairs(2))
    done = export_frames(bag, tmp_path / "out", model, ExportOptions(settings, ALL, register=True))
    assert done.is_registered is True
    rows, columns = np.mgrid[: SIZE[1], : SIZE[0]]
    x, y = (columns - 8) * 2, (rows - 6) * 2  # where an RGB pixel lies in the IR image
    inside = (x >= 0) & (x < SIZE[0]) & (y >= 0) & (y < SIZE[1])
    for n, path in enumerate(sorted((tmp_path / "out/lwir").iterdir())):
        expected = np.where(inside, hot(n)[np.where(inside, y, 0), np.where(inside, x, 0)], 0)
        counts = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        assert counts.dtype == np.uint16
        np.testing.assert_array_equal(counts, expected)

    words = ["bag", "export", str(bag), "--out", str(tmp_path / "raw"), "--ir-to-rgb", *map(str, matrix)]
    assert main(words) == 0
    assert "give --register for it" in capsys.readouterr().out
    assert main(["bag", "export", str(bag), "--out", str(tmp_path / "none"), "--register"]) == 1
    assert "--register needs the registration of the two cameras: give --calibration-file" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def test_registration_mixes_no_invalid_counts_with_valid_ones(tmp_path):
    """A border of rectification, a dead pixel and the edge of the image, all between pixels after the warp."""
    recorded, rows = [], pairs(2)
    for row in rows:
        if row.topic == IR:
            row.pixels = np.random.default_rng(5).integers(20000, 20400, SIZE[::-1]).astype(np.uint16)
            row.pixels[:, :6] = row.pixels[40, 60] = row.pixels[11:13, 30:32] = 0
            recorded.append(row.pixels)
    matrix = (1.0, 0.0, 3.3, 0.0, 1.0, -2.4, 0.0, 0.0, 1.0)
    options = ExportOptions(Settings(ir_to_rgb=matrix), ALL, register=True)
    export_frames(record(tmp_path / "bag", rows), tmp_path / "out", None, options)
    y, x = np.mgrid[: SIZE[1], : SIZE[0]]
    x, y = np.rint(x - 3.3).astype(int), np.rint(y + 2.4).astype(int)  # the nearest IR pixel
    inside = (x >= 0) & (x < SIZE[0]) & (y >= 0) & (y < SIZE[1])
    for path, before in zip(sorted((tmp_path / "out/ir").iterdir()), recorded, strict=True):
        counts = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        valid = inside & (before[np.where(inside, y, 0), np.where(inside, x, 0)] > 0)
        np.testing.assert_array_equal(counts > 0, valid)
        assert counts[valid].min() >= 20000
        assert counts[valid].max() < 20400


def test_a_fixed_range_may_be_in_kelvin(bag, model, tmp_path):
    """Counts of 0.01 K: the hot square is at 300 K, the rest at 10 K, below the range or above it."""
    words = ["bag", "export", str(bag), "--model", str(model), "--every", "0", "--ir-normalization", "fixed"]
    words += ["--ir-kelvin-per-count", "0.01", "--ir-celsius-offset", "-273.15"]
    for low, high, found in (("280", "301", 8), ("301", "320", 0)):
        out = tmp_path / low
        assert main([*words, "--ir-range-low", low, "--ir-range-high", high, "--out", str(out)]) == 0
        labels = json.loads((out / "labels.json").read_text())
        hot_id = next(c["id"] for c in labels["categories"] if c["name"] == "hot")
        assert sum(a["category_id"] == hot_id for a in labels["annotations"]) == found


@pytest.mark.parametrize(("camera", "folder"), [("rgb", "rgb"), ("ir", "lwir")])
def test_one_camera_alone(bag, model, tmp_path, camera, folder):
    settings = Settings(stale_ms=150.0)  # for so long the other camera is waited for: two frames
    options = ExportOptions(settings, ALL, **{"ir_topic" if camera == "rgb" else "rgb_topic": ""})
    done = export_frames(bag, tmp_path / "out", model, options)
    assert done.frames == {"RGB only" if camera == "rgb" else "IR only": 6}
    assert done.labels == {"red" if camera == "rgb" else "hot": 6}
    assert {name.partition("/")[0] for name in files(tmp_path / "out")} == {"labels.json", folder}
    assert open_own(tmp_path / "out").provenance["images"]["train"] == {
        "rgb only" if camera == "rgb" else "infrared only": 5
    }


def test_nothing_selected_is_an_error_that_says_why(model, tmp_path, capsys):
    rows = [row for row in pairs(4) if row.topic == RGB] + [row for row in pairs(4, first=500) if row.topic == IR]
    bag = record(tmp_path / "bag", rows)
    words = ["bag", "export", str(bag), "--model", str(model), "--out", str(tmp_path / "out")]
    words += ["--stale-ms", "150"]
    assert main([*words, "--fallback-mode", "fused_only"]) == 1
    assert "no frame is selected" in (said := capsys.readouterr().err)
    assert "so nothing is written" in said
    assert main([*words, "--select", "disagreement"]) == 1
    assert "of one camera alone" in capsys.readouterr().err
    assert main(["bag", "export", str(bag), "--out", str(tmp_path / "out"), "--select", "disagreement"]) == 1
    assert "only with a model (--model)" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["bag"]


def test_an_export_is_replaced_on_request_and_other_folders_never(bag, model, tmp_path, capsys):
    words = ["bag", "export", str(bag), "--model", str(model), "--out", str(tmp_path / "out")]
    assert main(words) == 0
    before = files(tmp_path / "out")
    assert main([*words, "--every", "0"]) == 1
    assert "give --overwrite" in capsys.readouterr().err
    assert files(tmp_path / "out") == before
    assert main([*words, "--every", "0", "--overwrite"]) == 0
    assert len(files(tmp_path / "out")) == 17
    (tmp_path / "out/notes.txt").write_text("mine")
    assert main([*words, "--overwrite"]) == 1
    assert "holds other files than an export (notes.txt)" in capsys.readouterr().err
    assert len(files(tmp_path / "out")) == 18


def test_a_folder_that_appears_during_the_export_is_kept(bag, tmp_path):
    out = tmp_path / "out"

    def tick(reader: BagReader) -> None:
        out.mkdir(exist_ok=True)
        (out / "labels.json").write_text("mine")

    with pytest.raises(BagError, match="no .spectradino_export, so it may be a data set of your own"):
        export_frames(bag, out, None, ExportOptions(selection=ALL), tick)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (out / "labels.json").read_text() == "mine"


def test_an_export_that_appears_meanwhile_is_kept_without_overwrite(bag, tmp_path):
    out, done = tmp_path / "out", []

    def tick(reader: BagReader) -> None:
        if not done:
            done.append(export_frames(bag, out, None, ExportOptions(selection=Selection(limit=1))))

    with pytest.raises(BagError, match="holds an export already"):
        export_frames(bag, out, None, ExportOptions(selection=ALL), tick)
    assert stamps(out) == [0]


def test_an_export_stays_if_the_new_one_can_not_take_its_place(bag, tmp_path, monkeypatch):
    out = tmp_path / "out"
    export_frames(bag, out, None, ExportOptions(selection=ALL))
    before, rename = files(out), Path.rename

    def failing(path: Path, target: Path) -> Path:
        if path.name == "new":
            raise OSError("no")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(OSError, match="no"):
        export_frames(bag, out, None, ExportOptions(selection=Selection(limit=1), overwrite=True))
    assert files(out) == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("number", [1, 2])
def test_a_signal_while_an_export_is_replaced_leaves_one_of_them(bag, tmp_path, monkeypatch, number):
    """After the first or the second rename, where Python runs the handler."""
    out, rename, calls = tmp_path / "out", Path.rename, []
    export_frames(bag, out, None, ExportOptions(selection=ALL))

    def signalled(path: Path, target: Path) -> None:
        rename(path, target)
        calls.append(path)
        if len(calls) == number:
            raise SystemExit(143)

    monkeypatch.setattr(Path, "rename", signalled)
    with pytest.raises(SystemExit):
        export_frames(bag, out, None, ExportOptions(selection=Selection(every_s=0, limit=1), overwrite=True))
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert len(stamps(out)) == (8 if number == 1 else 1)


def test_a_signal_while_the_former_export_is_removed_leaves_the_new_one(bag, tmp_path, monkeypatch):
    out, rmtree = tmp_path / "out", shutil.rmtree
    export_frames(bag, out, None, ExportOptions(selection=ALL))

    def signalled(path: Path, **options: Any) -> None:
        if path.name == "old":
            raise SystemExit(143)
        rmtree(path, **options)

    monkeypatch.setattr(shutil, "rmtree", signalled)
    with pytest.raises(SystemExit):
        export_frames(bag, out, None, ExportOptions(selection=Selection(every_s=0, limit=1), overwrite=True))
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert len(stamps(out)) == 1


def test_an_export_is_not_lost_if_another_takes_its_place_meanwhile(bag, tmp_path, monkeypatch):
    """Between the two renames, so that neither the new export nor the old one can go there."""
    out, rename = tmp_path / "out", Path.rename
    export_frames(bag, out, None, ExportOptions(selection=ALL))

    def disturbed(path: Path, target: Path) -> Path:
        moved = rename(path, target)
        if path == out:
            (out / "rgb").mkdir(parents=True)
        return moved

    monkeypatch.setattr(Path, "rename", disturbed)
    with pytest.raises(OSError, match="not empty"):
        export_frames(bag, out, None, ExportOptions(selection=Selection(limit=1), overwrite=True))
    (kept,) = tmp_path.glob(".out.*.part/old")
    assert len(stamps(kept)) == 8
    assert (out / "rgb").is_dir()


def test_remains_of_a_killed_export_are_not_taken_over(bag, tmp_path):
    """A process of the same number, as in containers, left them behind."""
    remains = tmp_path / f".out.{os.getpid()}.part" / "rgb"
    remains.mkdir(parents=True)
    (remains / "1_000000000.png").write_bytes(b"old")
    export_frames(bag, tmp_path / "out", None, ExportOptions(selection=ALL))
    assert stamps(tmp_path / "out") == [100 * n for n in range(8)]


def test_the_folder_may_be_a_symbolic_link_or_the_current_one(bag, tmp_path, monkeypatch):
    (tmp_path / "disk/here").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "disk/linked", target_is_directory=True)
    done = export_frames(bag, tmp_path / "link", None, ExportOptions(selection=ALL))
    assert done.path == tmp_path / "disk/linked"
    assert (tmp_path / "link").is_symlink()
    assert len(stamps(tmp_path / "link")) == 8
    for number, overwrite in ((8, False), (1, True)):
        monkeypatch.chdir(tmp_path / "disk/here")
        export_frames(bag, ".", None, ExportOptions(selection=Selection(every_s=0, limit=number), overwrite=overwrite))
        assert len(stamps(tmp_path / "disk/here")) == number


@pytest.mark.parametrize("form", ["coco", "yolo"])
def test_a_data_set_of_ones_own_is_never_overwritten(bag, model, tmp_path, capsys, form):
    out = tmp_path / "mine"
    words = ["bag", "export", str(bag), "--model", str(model), "--out", str(out), "--format", form, "--overwrite"]
    assert main(words) == 0
    assert main(words) == 0
    (out / MARKER).unlink()  # now it is as others write such data sets
    before = files(out)
    assert main(words) == 1
    assert "may be a data set of your own" in capsys.readouterr().err
    assert files(out) == before


def test_a_signal_while_the_folder_is_created_leaves_nothing(bag, tmp_path, monkeypatch):
    mkdir = Path.mkdir

    def signalled(self: Path, *args: Any, **kwargs: Any) -> None:
        mkdir(self, *args, **kwargs)
        if self.suffix == ".part":
            raise SystemExit(143)

    monkeypatch.setattr(Path, "mkdir", signalled)
    with pytest.raises(SystemExit):
        export_frames(bag, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
