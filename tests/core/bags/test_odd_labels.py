"""`bag evaluate` counts deviations of a label file in its result, report and terminal output."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from spectradino_core.cli import main
from tests.blob_model import make_blob_model
from tests.core.bags.recordings import SIZE, Recording


@pytest.mark.usefixtures("undrawn")
def test_odd_labels_are_counted_and_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def change(data: dict[str, Any]) -> None:
        data["annotations"] += [data["annotations"][0] | {"bbox": box} for box in ([5, 5, 0, 3], [500, 5, 9, 9])]
        for annotation in data["annotations"]:
            annotation["iscrowd"] = "0"

    recording = Recording(3)
    labels = recording.labels(tmp_path / "labels.json", change)
    labels.write_bytes(b"\xef\xbb\xbf" + labels.read_bytes())
    bag, model = recording.write(tmp_path / "drive"), make_blob_model(tmp_path / "blob.onnx", SIZE)
    words = ["bag", "evaluate", str(bag), "--model", str(model), "--labels", str(labels)]
    assert main([*words, "--out", str(tmp_path / "report")]) == 0
    result = json.loads((tmp_path / "report/result.json").read_text())
    assert result["total"]["scores"]["all"]["map"] == 1.0
    notes = {"byte_order_mark": 1, "outside": 1, "text_flags": 8, "zero_size": 1}
    assert result["bags"][0]["truth"]["label_notes"] == notes
    assert "drive: labels: 1 boxes have no width or height and are skipped" in capsys.readouterr().out
    assert "1 boxes lie outside their image and are skipped" in (tmp_path / "report/report.html").read_text()
