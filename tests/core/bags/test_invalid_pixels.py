"""`bag evaluate` reports invalid infrared pixels, and temperatures of the valid ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spectradino_core.cli import main
from spectradino_core.runtime.perception_result import Mode
from tests.blob_model import make_blob_model
from tests.core.bags import recorded
from tests.core.bags.recorded import IR, pairs, record
from tests.core.bags.recordings import SIZE, Recording
from tests.core.bags.test_replay import replayed

pytestmark = pytest.mark.usefixtures("undrawn")


def test_they_are_reported_and_only_where_there_are_some(tmp_path: Path) -> None:
    model = make_blob_model(tmp_path / "blob.onnx", SIZE)

    def evaluate(bag: Path, out: str) -> dict[str, Any]:
        assert main(["bag", "evaluate", str(bag), "--model", str(model), "--out", str(tmp_path / out)]) == 0
        return json.loads((tmp_path / out / "result.json").read_text())["bags"][0]

    recording = Recording(4)
    assert "ir_invalid_pixels" not in evaluate(recording.write(tmp_path / "clean"), "clean_report")
    rng = np.random.default_rng(0)
    for place, (stamp, frame) in enumerate(recording.ir.items()):
        counts = frame.astype(np.uint16) * 20 + rng.integers(7000, 7020, frame.shape).astype(np.uint16)
        counts[: 12 * (place % 2)] = 0
        recording.ir[stamp] = counts
    found = evaluate(recording.write(tmp_path / "damaged"), "report")["ir_invalid_pixels"]
    height = next(iter(recording.ir.values())).shape[0]
    assert found == {"frames": 2, "mean": round(6 / height, 6), "max": round(12 / height, 6)}
    assert "Invalid IR pixels" in (tmp_path / "report/report.html").read_text()


def test_temperatures_are_reported_for_a_radiometric_camera(tmp_path: Path) -> None:
    """Of the served detections by class; each line has those of its detections."""
    model = make_blob_model(tmp_path / "blob.onnx", recorded.SIZE)
    command = ["bag", "evaluate", str(record(tmp_path / "bag", pairs(3))), "--model", str(model)]
    command += ["--ir-kelvin-per-count", "0.01", "--ir-celsius-offset", "-100", "--class-thresholds", "red:0.85"]
    assert main([*command, "--out", str(tmp_path / "out")]) == 0
    found = json.loads((tmp_path / "out/result.json").read_text())["bags"][0]["temperatures"]
    assert found == {"hot": {"detections": 3, "measured": 3, "minimum": 200.0, "mean": 200.0, "maximum": 200.0}}
    (lines,) = (tmp_path / "out/bags").glob("*/detections.jsonl")
    hot, red = json.loads(lines.read_text().splitlines()[0])["detections"]
    assert hot["celsius"] == [200.0, 200.0, 200.0]
    assert -90 <= red["celsius"][0] < red["celsius"][2] < -89
    assert "temperatures of valid infrared pixels" in (tmp_path / "out/report.html").read_text()


def test_an_infrared_frame_without_a_measurement_leaves_its_partner(tmp_path):
    """Two blank frames, as behind a shutter: counted by cause, and the RGB frame is answered alone where it may be."""
    rows = pairs(6)
    for number, row in enumerate(row for row in rows if row.topic == IR):
        if number in (2, 3):
            row.pixels = np.zeros_like(row.pixels)
    bag = record(tmp_path / "bag", rows)
    model = make_blob_model(tmp_path / "blob.onnx", recorded.SIZE)
    answers, replay = replayed(bag, model, frozen_ms=0.0)
    assert [a.mode for a in answers] == [Mode.FUSED] * 2 + [Mode.RGB_ONLY] * 2 + [Mode.FUSED] * 2
    assert [(a.cause, a.ir_stamp_ns) for a in answers[2:4]] == [("", None)] * 2
    assert replay.drops() == {"ir_no_valid_pixel": 2}
    assert any("no pixel of this infrared frame is valid" in e.text for e in replay.take_events())
    for mode in ("fused_only", "ir_only"):
        answers, replay = replayed(bag, model, frozen_ms=0.0, fallback_mode=mode)
        assert [a.cause for a in answers] == [""] * 2 + ["ir_no_valid_pixel"] * 2 + [""] * 2
        assert replay.drops() == {"ir_no_valid_pixel": 2}
