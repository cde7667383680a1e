"""The commands, as a user types them."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from spectradino_core.cli import main
from tests.blob_model import make_blob_model


@pytest.fixture(scope="module")
def blob(tmp_path_factory):
    return make_blob_model(tmp_path_factory.mktemp("blob") / "blob.onnx")


def test_info_prints_what_the_file_says(blob, capsys):
    assert main(["info", str(blob)]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["name"] == "blob"
    assert told["bands"] == ["rgb", "lwir"]


def test_info_needs_no_torch(blob):
    code = (
        "import sys; from spectradino_core.cli import main; status = main(['info', sys.argv[1]]); "
        "sys.exit(status or 'torch' in sys.modules)"
    )
    assert (
        subprocess.run([sys.executable, "-c", code, str(blob)], stdout=subprocess.DEVNULL, check=False).returncode == 0
    )


def test_errors_are_one_line_and_exit_1(tmp_path, capsys):
    assert main(["info", str(tmp_path / "no.onnx")]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "no.onnx does not exist" in error
    assert main(["finetune", "--recipe", "nonsense"]) == 1
    assert "choose one of box, box_nir, box_swir, smoke" in capsys.readouterr().err


def test_wrong_usage_exits_2(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["finetune"])
    assert stop.value.code == 2
    assert "--recipe" in capsys.readouterr().err


@pytest.mark.slow
def test_finetune_export_evaluate(tmp_path, capsys):
    """The README's three lines, at the smallest size."""
    run = tmp_path / "run"
    assert main(["finetune", "--recipe", "smoke", "--steps", "3", "--out", str(run), "--workers", "0"]) == 0
    model = tmp_path / "m.onnx"
    assert main(["export", str(run / "model.safetensors"), str(model), "--name", "mine"]) == 0
    figures = tmp_path / "figures.json"
    assert main(["evaluate", str(model), "--scenes", "3", "--out", str(figures), "--device", "cpu"]) == 0
    printed = capsys.readouterr().out
    assert "| fused |" in printed
    assert "| ir_only |" in printed
    rows = json.loads(figures.read_text())["results"]["3 mixed scenes"]
    assert [row["mode"] for row in rows] == ["fused", "rgb_only", "ir_only"]
    assert all(row["pairs"] == 3 for row in rows)
