"""`bag evaluate` reports infrared pixels that are no measurement."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from spectradino_core.cli import main
from tests.blob_model import make_blob_model
from tests.core.bags.drives import SIZE, Drive


def test_they_are_reported_and_only_where_there_are_some(tmp_path: Path) -> None:
    model = make_blob_model(tmp_path / "blob.onnx", SIZE)

    def evaluate(bag: Path, out: str) -> dict[str, Any]:
        assert main(["bag", "evaluate", str(bag), "--model", str(model), "--out", str(tmp_path / out)]) == 0
        return json.loads((tmp_path / out / "result.json").read_text())["bags"][0]

    drive = Drive(4)
    assert "ir_invalid_pixels" not in evaluate(drive.write(tmp_path / "clean"), "clean_report")
    rng = np.random.default_rng(0)
    for place, (stamp, frame) in enumerate(drive.ir.items()):
        counts = frame.astype(np.uint16) * 20 + rng.integers(7000, 7020, frame.shape).astype(np.uint16)
        counts[: 12 * (place % 2)] = 0
        drive.ir[stamp] = counts
    found = evaluate(drive.write(tmp_path / "damaged"), "report")["ir_invalid_pixels"]
    height = next(iter(drive.ir.values())).shape[0]
    assert found == {"frames": 2, "mean": round(6 / height, 6), "max": round(12 / height, 6)}
    assert "no measurement" in (tmp_path / "report/report.html").read_text()
