"""What commands do with an --out that exists: they replace nothing that they did not write in an earlier run."""

from __future__ import annotations

import os
from contextlib import nullcontext
from pathlib import Path

import pytest

from spectradino_core import cli
from spectradino_core.cli import main
from spectradino_core.files import written_atomically
from spectradino_core.options import claim_file, claim_folder
from tests.core.test_options import name_of, parsers

MODEL = "--model {models}/lwir_box"
FILES = {
    "export": (f"{MODEL}.safetensors", ".onnx"),
    "convert": (f"{MODEL}.onnx --precision fp16", ".onnx"),
    "data check": ("--dataset scenes --limit 1", ".png"),
    "data make-manifest": ("--data .", ".jsonl"),
    "bag make": ("--duration 1", ".mcap"),
    "bag run": (f"none.mcap {MODEL}.onnx", ".mcap"),
    "calibrate time": ("none.mcap", ".yaml"),
    "calibrate registration": ("none.mcap", ".yaml"),
}
FOLDERS = {
    "data make-manifest --scenes 1": ("", "manifest.jsonl"),
    "bag make": ("--duration 1", "notes.txt"),
    "bag run": (f"none.mcap {MODEL}.onnx", "notes.txt"),
    "bag export": ("none.mcap", "labels.json"),
    "bag evaluate": (f"none.mcap {MODEL}.onnx", "result.json"),
    "evaluate": (f"{MODEL}.onnx --scenes 1", "result.json"),
    "evaluate retrieval": (f"{MODEL}.safetensors --scenes 2", "retrieval.json"),
    "finetune": ("--recipe smoke --steps 1", "model.safetensors"),
    "pretrain": ("--variant test --scenes 8 --steps 1", "stage1/last.safetensors"),
    "pretrain --system omnivorous": ("--variant test --scenes 8 --steps 1", "last.safetensors"),
    "bench train": ("--quick", "train.csv"),
    "ablate": ("--recipe smoke_scenes", "tables.md"),
}


@pytest.fixture
def run(tmp_path, monkeypatch, repository, capsys):
    """Return a function that runs a command, which must fail, and returns its error."""
    monkeypatch.chdir(tmp_path)

    def run(command: str, words: str, out: str) -> str:
        line = f"{command} {words} --out {out}".format(models=repository / "models")
        assert main(line.split()) == 1
        return capsys.readouterr().err

    return run


def test_every_command_with_an_output_is_tested() -> None:
    having = {name_of(parser) for parser in parsers() if any("--out" in a.option_strings for a in parser._actions)}
    tested = {" ".join(word for word in command.split() if word[:2] != "--") for command in (*FILES, *FOLDERS)}
    assert {name for name in having if not any(one.startswith(name) for one in tested)} == set()


@pytest.mark.parametrize("command", FILES)
def test_existing_file_is_replaced_with_overwrite_only(command: str, run, tmp_path: Path) -> None:
    words, ending = FILES[command]
    for name, remedies in ((f"mine{ending}", ("--overwrite",)), ("README.md", (ending, "--overwrite"))):
        (tmp_path / name).write_text("mine")
        error = run(command, words, name)
        assert name in error
        assert any(remedy in error for remedy in remedies)
        assert (tmp_path / name).read_text() == "mine"


@pytest.mark.parametrize("command", FOLDERS)
def test_folder_of_another_program_is_left_alone(command: str, run, tmp_path: Path) -> None:
    words, name = FOLDERS[command]
    path = tmp_path / "mine" / name
    path.parent.mkdir(parents=True)
    path.write_text("mine")
    error = run(command, words, "mine")
    assert "mine" in error
    assert any(remedy in error for remedy in ("--overwrite", "another folder", "another name"))
    assert [file for file in (tmp_path / "mine").rglob("*") if file.is_file()] == [path]
    assert path.read_text() == "mine"


@pytest.mark.parametrize("command", [*FILES, *FOLDERS])
def test_file_in_place_of_a_folder_is_named_before_the_work(command: str, run, tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("mine")
    words, ending = FILES.get(command) or (FOLDERS[command][0], "")
    assert "notes is a file: choose another path" in run(command, words, f"notes/below/out{ending}")


@pytest.mark.parametrize("command", [command for command in FOLDERS if not command.startswith("bag")])
def test_file_as_output_folder_is_refused(command: str, run, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("mine")
    assert "README.md is a file: give a folder" in run(command, FOLDERS[command][0], "README.md")


@pytest.mark.slow  # whole commands; the tests below cover the rule
def test_missing_parents_are_created_and_own_output_is_replaced(tmp_path: Path, repository: Path) -> None:
    out = tmp_path / "new" / "scenes"
    assert [main(["data", "make-manifest", "--scenes", count, "--out", str(out)]) for count in "12"] == [0, 0]
    assert len((out / "manifest.jsonl").read_text().splitlines()) == 2
    model = repository / "models/lwir_box.onnx"
    report = tmp_path / "new" / "report"
    words = ["evaluate", "--model", str(model), "--scenes", "1", "--draw", "0", "--out", str(report)]
    assert [main(words), main(words)] == [0, 0]


def test_own_kind_of_file_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, manifest = tmp_path / "mine.onnx", tmp_path / "list.json"
    for content, refused in ((b"other program's", True), (b"... spectradino {...}", False)):
        model.write_bytes(content)
        with pytest.raises(ValueError, match="--overwrite") if refused else nullcontext():
            claim_file(model, (".onnx",), overwrite=False, own="spectradino")
    monkeypatch.chdir(tmp_path)
    scenes = ["data", "make-manifest", "--scenes", "1", "--out", "scenes"]
    assert main(scenes) == 0
    manifest.write_bytes((tmp_path / "scenes/manifest.jsonl").read_bytes())
    claim_file(manifest, (), overwrite=False, own='"source"')
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="--overwrite"):
        claim_file(tmp_path / "pipe", (), overwrite=False, own='"source"')


def test_existing_output_folder_needs_no_writable_parent(run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a volume mounted at the root of a container that runs without privileges."""
    checked: list[Path] = []
    monkeypatch.setattr(cli, "check_folder", checked.append)
    (tmp_path / "volume").mkdir()
    for out in ("volume", "volume/new"):
        run("evaluate", "--model none.onnx --scenes 1", out)
    assert checked == [Path("volume"), Path("volume")]


@pytest.mark.slow  # whole commands; the refusal is tested above
def test_overwrite_replaces_a_file(tmp_path: Path) -> None:
    sheet = tmp_path / "sheet.png"
    words = ["data", "check", "--dataset", "scenes", "--split", "val", "--limit", "1", "--out", str(sheet)]
    sheet.write_text("mine")
    assert main([*words, "--overwrite"]) == 0
    assert sheet.read_bytes().startswith(b"\x89PNG")


def test_other_files_may_lie_beside_an_output(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_text("a run")
    (tmp_path / "result.json").touch()
    claim_folder(tmp_path, "report.html pictures", "*.json", b"mine")
    (tmp_path / "pictures").mkdir()
    claim_folder(tmp_path, "report.html pictures", "*.json", b"mine")
    (tmp_path / "pictures/1.png").touch()
    with pytest.raises(ValueError, match="holds pictures"):
        claim_folder(tmp_path, "report.html pictures", "*.json", b"mine")
    (tmp_path / "result.json").write_text("made by mine")
    claim_folder(tmp_path, "report.html pictures", "*.json", b"mine")


def test_written_file_names_the_file_in_place_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "notes").touch()
    with pytest.raises(OSError, match="notes is a file"), written_atomically(tmp_path / "notes" / "a.txt"):
        pass


def test_a_link_stays_one_and_its_file_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    real, link = tmp_path / "store" / "model", tmp_path / "model"
    real.write_text("former")
    link.symlink_to("store/model")
    with written_atomically(link) as scratch:
        scratch.write_text("new")
    assert link.is_symlink()
    assert real.read_text() == "new"
    assert sorted(path.name for path in (tmp_path / "store").iterdir()) == ["model"]


def test_a_read_only_file_behind_a_link_is_not_replaced(tmp_path: Path) -> None:
    """Content-addressed stores, such as git-annex, protect their files so."""
    real, link = tmp_path / "object", tmp_path / "model"
    real.write_text("stored")
    real.chmod(0o444)
    link.symlink_to("object")
    with written_atomically(link) as scratch:
        scratch.write_text("new")
    assert real.read_text() == "stored"
    assert not link.is_symlink()
    assert link.read_text() == "new"


def test_a_dangling_link_gets_its_file(tmp_path: Path) -> None:
    (tmp_path / "model").symlink_to("store/new")
    with written_atomically(tmp_path / "model") as scratch:
        scratch.write_text("new")
    assert (tmp_path / "store/new").read_text() == "new"


def test_the_present_folder_is_no_name_of_a_bag(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["bag", "make", "--duration", "1", "--out", "."]) == 1
    assert ". exists already" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
