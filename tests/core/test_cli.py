"""The command line end to end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from spectradino_core import cli
from spectradino_core.cli import main
from tests.blob_model import make_blob_model


@pytest.fixture(scope="module")
def blob(tmp_path_factory):
    return make_blob_model(tmp_path_factory.mktemp("blob") / "blob.onnx")


def test_info_prints_metadata(blob, capsys):
    assert main(["info", "--model", str(blob)]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["name"] == "blob"
    assert data["bands"] == ["rgb", "lwir"]


def test_info_needs_no_torch(blob):
    code = (
        "import sys; from spectradino_core.cli import main; status = main(['info', sys.argv[1]]); "
        "sys.exit(status or 'torch' in sys.modules)"
    )
    assert (
        subprocess.run([sys.executable, "-c", code, str(blob)], stdout=subprocess.DEVNULL, check=False).returncode == 0
    )


# slow: it imports torch; --help covers argparse's output.
@pytest.mark.parametrize(
    "words",
    [["info", "--model", "MODEL"], ["--help"], pytest.param(["finetune", "--help"], marks=pytest.mark.slow)],
)
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_who_leaves_is_no_error(blob, words, unbuffered):
    """`spectradino info ... | head -1` must not end with a message about a broken pipe."""
    command = [sys.executable, "-m", "spectradino_core.cli", *(str(blob) if w == "MODEL" else w for w in words)]
    environment = os.environ | {"PYTHONUNBUFFERED": unbuffered}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    with process.stderr as stream:
        reported = [line for line in stream.read().decode().splitlines() if not line.startswith("INFO")]
    assert reported == []
    assert process.wait() == 141 or ("--help" in words and unbuffered)  # argparse ignores it


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_under_the_output_is_named(blob):
    command = [sys.executable, "-m", "spectradino_core.cli", "info", "--model", str(blob)]
    with open("/dev/full", "w") as full:
        ended = subprocess.run(
            command,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            env=os.environ | {"PYTHONUNBUFFERED": ""},
        )
    assert ended.returncode == 1
    assert "No space left" in ended.stderr
    assert "Exception ignored" not in ended.stderr


def test_a_broken_pipe_elsewhere_is_an_error(monkeypatch, capsys):
    def broken(options):
        raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr(cli, "_info", broken)
    assert main(["info", "--model", "any.onnx"]) == 1
    assert "Broken pipe" in capsys.readouterr().err


def test_errors_are_one_line_and_exit_1(tmp_path, capsys):
    assert main(["info", "--model", str(tmp_path / "no.onnx")]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "no.onnx does not exist: check --model" in error
    assert "parameter" not in error
    for words in (["evaluate", "--scenes", "1"], ["convert", "--precision", "fp16", "--out", str(tmp_path / "a.onnx")]):
        assert main([*words, "--model", str(tmp_path / "no.onnx")]) == 1
        assert "no.onnx does not exist: check --model" in capsys.readouterr().err
    assert main(["finetune", "--recipe", "nonsense"]) == 1
    assert "choose one of box, box_nir, box_real, box_swir, smoke" in capsys.readouterr().err


def test_evaluate_reports_missing_or_invalid_options(blob, tmp_path, capsys):
    for words, message in (
        ([], "nothing to evaluate on: give --dataset NAME"),
        (["--split", "val"], "name it with --dataset"),
        (["--dataset", "nonsense"], "choose one of flir"),
        (["--scenes", "1", "--out", str(blob)], "is a file: give a folder"),
        (["--scenes", "1", "--stride", "14x14"], "needs --slide"),
        (["--scenes", "1", "--draw", "4"], "--draw has no effect without --out"),
        (["--dataset", "scenes", "--time-of-day", "day"], "--time-of-day has no effect without --scenes"),
        (["--dataset", "scenes", "--data", "x"], "--data has no effect on scenes, which is rendered"),
        (["--scenes", "1", "--slide", "1288x1036"], "only a checkpoint (.safetensors) supports sliding windows"),
        (["--scenes", "1", "--slide", "1288x1036", "--device", "openvino"], "PyTorch, which has no device 'openvino'"),
        (["--scenes", "1", "--baseline", str(blob)], "a model was given twice"),
    ):
        assert main(["evaluate", "--model", str(blob), "--device", "cpu", *words]) == 1
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1


def test_wrong_usage_exits_2(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["finetune", "--dataset", "flir", "--recipe", "box"])
    assert stop.value.code == 2
    assert "--recipe" in capsys.readouterr().err


FOLDER, FILE = "folder is a folder, not a regular file", "notes.txt: a file, not a folder"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("export --model folder --out a.onnx", FOLDER),
        ("export --model models/lwir_box.safetensors --out a.onnx --data notes.txt", FILE),
        ("convert --model folder --out a.onnx --precision fp16", FOLDER),
        ("info --model folder", FOLDER),
        ("evaluate --model folder --scenes 1", FOLDER),
        ("evaluate --model models/lwir_box.onnx --data notes.txt", FILE),
        ("evaluate --model models/lwir_box.onnx --dataset flir --data notes.txt", FILE),
        ("evaluate retrieval --model models/lwir_box.safetensors --manifest folder", FOLDER),
        ("finetune --data notes.txt", FILE),
        ("finetune --data folder --start folder", FOLDER),
        ("finetune --recipe box_nir --data-root notes.txt", FILE),
        ("finetune --recipe box_nir --data-root nowhere", "nowhere: no such folder"),
        ("finetune --recipe box_nir --data-root folder", "folder holds no folders"),
        ("pretrain --variant test --scenes 4 --teacher folder", "folder is not a Hugging Face model folder"),
        ("pretrain --variant test --manifest folder", FOLDER),
        ("data check --data notes.txt", FILE),
        ("data list --data-root notes.txt", FILE),
        ("data make-manifest --data notes.txt", FILE),
        ("bag info folder", "folder: not a rosbag2 folder"),
        ("bag info notes.txt", "notes.txt: not a rosbag2 folder"),
        ("bag info folder --params-file folder", FOLDER),
        ("bag make --data notes.txt --out a.mcap", FILE),
        ("bag evaluate folder --model folder", FOLDER),
        ("bench model --model folder", FOLDER),
    ],
)
def test_path_of_the_wrong_kind_is_not_reported_as_missing(tmp_path, capsys, monkeypatch, words, message, repository):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").symlink_to(repository / "models")
    (tmp_path / "folder").mkdir()
    (tmp_path / "notes.txt").write_text("mine")
    assert main(words.split()) == 1
    assert message in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.usefixtures("traced_once")
def test_finetune_export_evaluate(tmp_path, capsys):
    """The three commands of the README, at the smallest size."""
    run = tmp_path / "run"
    assert main(["finetune", "--recipe", "smoke", "--steps", "3", "--out", str(run), "--workers", "0"]) == 0
    model = tmp_path / "m.onnx"
    assert main(["export", "--model", str(run / "model.safetensors"), "--out", str(model), "--name", "mine"]) == 0
    report = tmp_path / "report"
    assert main(["evaluate", "--model", str(model), "--scenes", "3", "--out", str(report), "--device", "cpu"]) == 0
    printed = capsys.readouterr().out
    assert "| all (3) | RGB only |" in printed
    command = "--dataset scenes --baseline --variant test --backbone TEACHER --task both --head dense,pyramid_linear"
    command += " --fuse-at last --strides 7-28 --input-size 168x140"
    assert "| all (3) | frozen DINOv2, IR as grey, not trained |" in printed
    assert f"for `--baseline`:\n\n`spectradino finetune {command} --out runs/baseline`" in printed
    assert main(["evaluate", "--model", str(model), "--scenes", "3", "--baseline", str(run / "model.safetensors")]) == 1
    assert "model.safetensors is not a baseline: its backbone is spectradino" in capsys.readouterr().err
    found = json.loads((report / "result.json").read_text())
    assert found["command"].startswith(f"spectradino evaluate --model {model} --scenes 3")
    rows = found["sets"][0]["subsets"]["all"]["rows"]
    assert [len(row["seeds"]) for row in rows.values()] == [1, 1, 1, 0]
    assert (report / "report.html").stat().st_size > 20_000
    plain = tmp_path / "plain.onnx"
    command = ["export", "--model", str(run / "model.safetensors"), "--out", str(plain), "--inputs", "normalised"]
    assert main([*command, "--input-size", "200x140"]) == 1
    assert "'200x140' is not a size: give WIDTHxHEIGHT in pixels, both multiples of 14" in capsys.readouterr().err
    assert main([*command, "--input-size", "196x154"]) == 0
    for file, form in ((model, (2, "raw", [168, 140])), (plain, (1, None, [196, 154]))):
        capsys.readouterr()
        assert main(["info", "--model", str(file)]) == 0
        info = json.loads(capsys.readouterr().out)
        assert (info["format"], info.get("inputs"), info["input_size"]) == form


@pytest.mark.parametrize(("module", "extra"), [("torch", "train"), ("rosbags", "bag,runtime")])
def test_missing_package_is_named_with_the_command_that_installs_it(monkeypatch, capsys, module, extra):
    def run(options):
        raise ModuleNotFoundError(f"No module named '{module}'", name=module)

    monkeypatch.setattr("spectradino_core.cli._info", run)
    assert main(["info", "--model", "x.safetensors"]) == 1
    err = capsys.readouterr().err
    assert f"the Python module {module} is missing: pip install 'spectradino_ros[{extra}]'" in err
    assert "Traceback" not in err
