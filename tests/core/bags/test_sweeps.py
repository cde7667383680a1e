"""Sweeps on recordings with known ground truth: expected curves, table and page."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spectradino_core.bags.evaluate import evaluate_bags
from spectradino_core.bags.evaluation_options import LabelSource, Options, parse_sweeps
from spectradino_core.bags.report import summary_lines, write_report
from spectradino_core.bags.results import BagEvidence
from spectradino_core.bags.sweep_run import is_kept, place_of, sweep_runs
from spectradino_core.streams.queues import Stream
from spectradino_core.streams.settings import Settings
from tests.blob_model import make_blob_model
from tests.core.bags.recordings import SIZE, Recording

FRAMES = 12
Found = tuple[dict[str, Any], list[BagEvidence], Path, Recording]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Found:
    folder = tmp_path_factory.mktemp("sweeps")
    recording = Recording(FRAMES)
    options = Options(
        Settings(pairing="one_to_one"),  # so that a lost IR frame costs a pair
        model=make_blob_model(folder / "m.onnx", SIZE),
        labels=LabelSource(recording.labels(folder / "labels.json")),
        sweeps=parse_sweeps(["dropout=0.5,1", "offset=40,100", "shift=6,30"]),
    )
    result, bags = evaluate_bags({"drive": recording.write(folder / "drive")}, options, folder / "out")
    assert not result["failed"]
    return result, bags, folder / "out", recording


def points(found: Found, kind: str, line: str, figure: str = "map50") -> list[float]:
    return [point[figure] for point in found[0]["sweeps"][kind][line]]


def recall_precision_1(share: float) -> float:
    """Return COCO's AP if a fraction of the true boxes is found without false positives."""
    return (np.floor(share * 100 + 1e-9) + 1) / 101 if share else 0.0


def test_at_the_start_nothing_is_worse(found: Found) -> None:
    for kind in found[0]["sweeps"]:
        # Each camera alone finds one of the two classes, whole.
        assert [points(found, kind, line)[0] for line in ("fused", "rgb_only", "ir_only")] == [1.0, 0.5, 0.5]
        assert [points(found, kind, line, "answered")[0] for line in ("fused", "rgb_only", "ir_only")] == [1.0] * 3


@pytest.mark.parametrize(("kind", "stream"), [("dropout_rgb", Stream.RGB), ("dropout_ir", Stream.IR)])
def test_lost_frames_cost_their_objects(found: Found, kind: str, stream: Stream) -> None:
    kept = np.mean([is_kept(stream, stamp, 0.5, 0) for stamp in found[3].stamps])
    own, other = ("rgb_only", "ir_only") if stream is Stream.RGB else ("ir_only", "rgb_only")
    assert points(found, kind, other) == [0.5, 0.5, 0.5]
    assert points(found, kind, own) == pytest.approx([0.5, recall_precision_1(kept) / 2, 0.0], abs=1e-6)
    fused = points(found, kind, "fused")
    assert fused[1] == pytest.approx(recall_precision_1(kept), abs=1e-6)
    assert points(found, kind, "fused", "answered")[1] == pytest.approx(kept, abs=1e-6)
    # Without the camera the other answers, once it has been missed for a second: the last of these 1.2 s.
    assert 0 < fused[2] < 0.5


def test_a_late_camera_pairs_with_what_was_before(found: Found) -> None:
    fused, alone = points(found, "offset", "fused", "map"), points(found, "offset", "ir_only", "map")
    assert fused[0] == fused[1] == 1.0  # 40 ms of 100: still its own partner
    assert alone[0] == alone[1] == 0.5
    assert fused[2] < 0.9  # a frame later, 2 pixels beside
    assert alone[2] < 0.45
    assert points(found, "offset", "rgb_only") == [0.5, 0.5, 0.5]
    assert points(found, "offset", "fused", "answered")[2] == pytest.approx(1 - 1 / FRAMES, abs=1e-6)


def test_a_misregistered_camera_loses_its_own_class_only(found: Found) -> None:
    assert points(found, "shift", "fused") == [1.0, 1.0, 0.5]  # 6 of 24 px: IoU 0.6; 30: none
    assert points(found, "shift", "ir_only") == [0.5, 0.5, 0.0]
    assert points(found, "shift", "fused", "map75") == [1.0, 0.5, 0.5]
    assert points(found, "shift", "rgb_only") == [0.5, 0.5, 0.5]


def test_each_replay_is_done_once() -> None:
    sweeps = parse_sweeps(["dropout=0.5", "offset=20,50", "shift=2"])
    assert sweep_runs(sweeps) == [
        "dropout_ir=0.5", "dropout_rgb=0.5", "ir_alone", "ir_alone,dropout_ir=0.5", "offset=20", "offset=50",
        "rgb_alone", "shift=2",
    ]  # fmt: skip
    assert place_of("fused", "shift", 0.0) == ("node", "node")
    assert place_of("ir_only", "offset", 20.0) == ("ir_alone", "offset=20")


@pytest.mark.slow  # it draws; the tests above cover the points
def test_the_table_and_the_page_hold_every_point(found: Found, tmp_path: Path) -> None:
    result, bags, out, _ = found
    rows = list(csv.DictReader((out / "sweeps.csv").open()))
    assert len(rows) == 3 * 3 * 4
    row = next(r for r in rows if (r["sweep"], r["value"], r["line"]) == ("shift", "30", "fused"))
    assert (row["map50"], row["miou"], row["answered"]) == ("0.5", "", "1.0")
    write_report(tmp_path / "report.html", result, bags)
    page = (tmp_path / "report.html").read_text()
    for words in ("fraction of infrared frames lost", "ir_only: mAP50", "Precision over recall", "Pairing"):
        assert words in page
    assert page.count("<figure>") >= 4 + 2
    assert any("ir_only: mAP50" in line for line in summary_lines(result, ["drive"]))
