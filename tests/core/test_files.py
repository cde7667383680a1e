"""Untrusted files: special files, placeholders, and content that costs time or memory."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from spectradino_core import files
from spectradino_core.bags.evaluate import find_bags
from spectradino_core.bags.ground_truth import GroundTruthError
from spectradino_core.bags.ground_truth_coco import read_coco
from spectradino_core.calibration.registration import RegistrationError
from spectradino_core.cli import main
from spectradino_core.data.manifest import ManifestError, read_manifest
from spectradino_core.files import FileError, child_path, parse_json, parse_yaml, read_bytes, read_text
from spectradino_core.streams.calibration_file import load_calibration
from spectradino_core.streams.parameter_values import settings_from_file
from spectradino_core.streams.settings import ParameterError
from spectradino_core.text import PrintableFormatter, log_line, printable
from tests.blob_model import blob_info
from tests.core.hostile import KINDS, READERS
from tests.core.training.programs import run_program

ROOT = Path(__file__).resolve().parents[2]

SAID = {
    "pipe": "a named pipe (FIFO), not a regular file",
    "socket": "a socket, not a regular file",
    "device": "a device, not a regular file",
    "git lfs": "a Git LFS pointer, not the content itself: run 'git lfs pull'",
    "git-annex": "a git-annex pointer, not the content itself: run 'git annex get'",
    "git-annex link": "a git-annex link without its content: run 'git annex get'",
    "web page": "a web page (a login or error page?), not the content itself: download it again",
    "link to itself": "Too many levels of symbolic links",
}
OWN_ERRORS = {
    "BagError", "BenchmarkError", "BundleError", "CheckpointError", "GroundTruthError", "ImageFileError", "LabelError",
    "LayoutError",
    "ManifestError", "PairedFolderError", "ParameterError", "RegistrationError",
}  # fmt: skip


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], dict]:
    """Results of each reader for each kind of file, by both; from another process, which is ended if it hangs."""
    done = run_program("tests.core.hostile", tmp_path_factory.mktemp("hostile"))
    assert done.returncode == 0, done.stderr
    results = [json.loads(line) for line in done.stdout.splitlines()]
    return {(result["reader"], result["kind"]): result for result in results}


@pytest.mark.slow  # a process that waits for hanging readers; the tests below cover the rules
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("reader", READERS)
def test_what_is_no_file_is_refused_in_one_sentence(hostile: dict, reader: str, kind: str) -> None:
    found = hostile[reader, kind]
    assert found["error"] in OWN_ERRORS
    assert "\n" not in found["text"]
    assert kind in found["text"]  # the folder's name: the path is given
    assert found["seconds"] < 20
    if kind in SAID and not (reader.startswith("index") and "link" in kind):  # these look for other layouts then
        assert SAID[kind] in found["text"]


# --------------------------------------------------------------------------------------------------------------- bytes


def test_a_file_longer_than_its_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "rig.yaml"
    with path.open("wb") as file:
        file.truncate(8 << 30)  # of holes: what is read of it would be 8 GiB
    with pytest.raises(FileError, match=r"rig.yaml is too long: 8 GiB, such a file has at most 256 KiB"):
        read_bytes(path, "calibration file")
    monkeypatch.setitem(files.LARGEST, "calibration file", 10)
    with pytest.raises(FileError, match="is too long"):
        read_bytes("/proc/self/status", "calibration file")  # its size on record is 0


def test_text_is_utf8_with_or_without_a_mark(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"\xef\xbb\xbfgr\xc3\xbcn")
    assert read_text(tmp_path / "a", "manifest") == "grün"
    (tmp_path / "b").write_bytes("grün".encode("latin-1"))
    with pytest.raises(FileError, match=r"b is not UTF-8 text \(byte 0xfc at 2\): save it as UTF-8"):
        read_text(tmp_path / "b", "manifest")


def test_a_pointer_in_the_middle_of_a_text_is_none(tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("see\nversion https://git-lfs.github.com/spec/v1\n")
    assert read_text(tmp_path / "notes", "manifest").startswith("see")


def test_a_path_that_is_none() -> None:
    for path in ("a\0b", "x" * 5000):
        with pytest.raises(FileError, match="can't be read"):
            read_bytes(path, "manifest")
    with pytest.raises(FileError, match=r"manifest e\\x1b\[2Jvil does not exist"):
        read_bytes("e\x1b[2Jvil", "manifest")


# ---------------------------------------------------------------------------------------------------------------- YAML

BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdefgh", "bcdefghi")
)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (BOMB, r"uses a YAML alias \(\*a\): write the value out"),
        ("base: &b {x: 1}\nother: {<<: *b}", "uses a YAML alias"),
        ("a: *nowhere", "uses a YAML alias"),
        ("[" * 100_000, "deeper nested"),
        ("a:\n" + "".join(" " * i + "- b:\n" for i in range(2, 400, 2)), "deeper nested"),
        ("- 1\n" * 100_000, "more, or deeper nested"),
        ("a: " + "9" * 5000, "a number of 5000 digits"),
        ("a: " + "1:" * 2000 + "1", "a number of 4001 digits"),
        ('!!int ""', "is no valid YAML"),
        ("!!timestamp soon", "is no valid YAML"),
        ("!!bool perhaps", "is no valid YAML"),
        ("!!python/object/apply:os.system [true]", "is no valid YAML"),
        ("{[1]: 2}", "is no valid YAML"),
        ("a: 1\n---\nb: 2", "is no valid YAML"),
        ('a: "\x1b[2J"', "is no valid YAML"),
        ("? ]\x07", "is no valid YAML"),
    ],
)
def test_yaml_that_is_refused(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(FileError, match=said) as caught:
        parse_yaml(text, "it")
    assert str(caught.value).isprintable()
    (tmp_path / "rig.yaml").write_text(text)
    for read, error in ((load_calibration, RegistrationError), (settings_from_file, ParameterError)):
        with pytest.raises(error, match="rig.yaml"):
            read(tmp_path / "rig.yaml")


def test_yaml_that_is_read() -> None:
    text = "a: [1, 2.5e-3, 0x1F, yes, null, 'x']\nb: {c: {d: 2001-01-01}}\n"
    assert parse_yaml(text, "it")["a"] == [1, 2.5e-3, 31, True, None, "x"]


# ---------------------------------------------------------------------------------------------------------------- JSON


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[" * 200_000, "nested too deeply"),
        ("[" * 100 + "]" * 100, "nested more than 64 levels deep"),
        ('{"a": [' * 40 + "1" + "]}" * 40, "nested more than 64 levels deep"),
        ('{"stamp_ns": ' + "1" * 300 + "}", "a whole number of 300 digits, larger than 2\\^64"),
        ('{"stamp_ns": -' + "1" * 10_000 + "}", "a whole number of 10000 digits"),
        (str(1 << 64), "larger than 2\\^64"),
        ("{", "can't be read as JSON"),
        ("", "can't be read as JSON"),
    ],
)
def test_json_that_is_refused(text: str, said: str) -> None:
    with pytest.raises(FileError, match=said):
        parse_json(text, "it")


def test_json_that_is_read() -> None:
    assert parse_json("[" * 60 + "]" * 60, "it") is not None
    assert parse_json(str((1 << 64) - 1), "it") == (1 << 64) - 1
    name = "1" * 300  # digits in a text are a text
    assert parse_json(json.dumps({"file_name": name}), "it") == {"file_name": name}


@pytest.mark.parametrize(
    ("image", "said"),
    [
        ('{"id": 1, "stamp_ns": ' + "1" * 300 + "}", "a whole number of 300 digits"),
        ('{"id": 1, "stamp_ns": 9223372036854775808}', "has the stamp 9223372036854775808 ns, out of range"),
        ('{"id": 1, "stamp_ns": -5}', "has the stamp -5 ns"),
        ('{"id": 1, "stamp": {"sec": 999999999999999, "nanosec": 0}}', "out of range"),
        ('{"id": 1, "file_name": "999999999999.000000000.png"}', "out of range"),
        (
            '{"id": 1, "stamp_ns": 5, "sem_seg_file_name": "m\\u0000.png"}',
            r"names the mask 'm\\x00.png' outside the file's folder",
        ),
    ],
)
def test_labels_with_numbers_and_names_beyond_use(tmp_path: Path, image: str, said: str) -> None:
    (tmp_path / "labels.json").write_text(f'{{"images": [{image}], "annotations": [], "categories": []}}')
    with pytest.raises(GroundTruthError, match=said):
        read_coco(tmp_path / "labels.json", blob_info())


# --------------------------------------------------------------------------------------------------------------- paths


@pytest.mark.parametrize("text", ["", "a\0b", "x" * 5000])
def test_what_is_no_path(tmp_path: Path, text: str) -> None:
    with pytest.raises(FileError, match="is not a path"):
        child_path(tmp_path, text)


@pytest.mark.parametrize("text", ["/etc/passwd", "..", "a/../../b", "c:\\a", "a\\..\\b"])
def test_paths_that_leave(tmp_path: Path, text: str) -> None:
    with pytest.raises(FileError, match="may not leave it"):
        child_path(tmp_path, text)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"rgb": "a\\u0000.png", "nir": "b.png"}', r"line 1: rgb names 'a\\x00.png' is not a path"),
        ('{"rgb": "../\\u001b[2J.png", "nir": "b.png"}', r"'../\\x1b\[2J.png': paths are relative"),
        ('{"\\u001b[2J": "a", "rgb": "a.png", "nir": "b.png"}', r"unknown key \\x1b\[2J"),
        ("[" * 5000, "nested too deeply"),
        ('{"rgb": "a.png", "nir": "b.png", "sequence": "s", "frame": ' + "1" * 400 + "}", "of 400 digits"),
    ],
)
def test_a_manifest_line_that_is_refused(tmp_path: Path, line: str, said: str) -> None:
    (tmp_path / "pairs.jsonl").write_text(line + "\n")
    with pytest.raises(ManifestError, match=said) as caught:
        read_manifest(tmp_path / "pairs.jsonl")
    assert str(caught.value).isprintable()


def test_a_list_of_bags_that_lists_itself(tmp_path: Path) -> None:
    (tmp_path / "bags.txt").write_text("bags.txt\n")
    with pytest.raises(ValueError, match="bags.txt is a list inside a list of bags"):
        find_bags([tmp_path / "bags.txt"])


# ---------------------------------------------------------------------------------------------------------------- text


def test_printable() -> None:
    assert printable("\x1b]0;title\x07 a\rb\x9b2J \u202e\u2028\ud800") == (
        "\\x1b]0;title\\x07 a\\rb\\x9b2J \\u202e\\u2028\\ud800"
    )
    assert printable("人 grün Fußgänger\u200c") == "人 grün Fußgänger\u200c"  # no control: Persian is written with it
    assert printable("a" * 300) == "a" * 197 + "..."
    assert log_line("one\n\ttwo\x1b") == "one\n\ttwo\\x1b"


def test_what_a_command_prints_is_printable(capsys, monkeypatch) -> None:
    """Names of topics, classes and files, which every command prints."""
    monkeypatch.setattr("spectradino_core.cli._info", lambda options: print("topic\t/\x1b[2J\n人") or 0)
    assert main(["info", "--model", "model.onnx"]) == 0
    assert capsys.readouterr().out == "topic\t/\\x1b[2J\n人\n"


def test_log_records_and_errors_of_the_command_line_are_printable(tmp_path: Path, capsys) -> None:
    record = logging.LogRecord("a", logging.WARNING, "", 0, "topic %s", ("/\x1b[2J",), None)
    assert PrintableFormatter("%(message)s").format(record) == "topic /\\x1b[2J"
    assert main(["info", "--model", str(tmp_path / "\x1b[31mred.safetensors")]) == 1
    assert "\x1b" not in capsys.readouterr().err
    assert any(isinstance(handler.formatter, PrintableFormatter) for handler in logging.getLogger().handlers)
