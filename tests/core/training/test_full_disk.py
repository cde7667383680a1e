"""A full disk in training: it is named, the previous checkpoint is kept, and the run resumes once there is room."""

from __future__ import annotations

import errno
import json
import logging
from pathlib import Path

import pytest

from spectradino_core.files import written_atomically
from spectradino_core.training.train_logger import TrainLogger, read_log
from tests.core.training.programs import run_program
from tests.core.training.run_savers import SAVERS


@pytest.mark.slow  # every writer is tested below
def test_a_checkpoint_that_does_not_fit(disks: None, tmp_path: Path) -> None:
    """Room for one and a half: the second fails, and the run resumes from the first once there is room."""
    words = ("--steps", "4", "--every", "2")
    done = run_program("tests.core.training.run_finetune", tmp_path / "whole", *words)
    assert done.returncode == 0, done.stderr
    checkpoint = tmp_path / "whole/checkpoints/step-00000002"
    size = sum(file.stat().st_size for file in checkpoint.iterdir()) * 3 // 2
    small = tmp_path / "small"
    small.mkdir()
    done = run_program("tests.core.training.run_on_small_disk", small, *words, disk=(small, str(size)))
    assert done.stdout.split()[:3] == ["status", "1", "step-00000002"], done.stdout + done.stderr  # and no half one
    assert done.stdout.split()[-2:] == ["status", "0"], done.stderr
    last = [line for line in done.stderr.splitlines() if line.startswith("OSError")][-1]
    assert "checkpoints/step-00000004 could not be written: the disk is full (" in last
    assert "needed); the previous content is kept: make room, and run the same command again" in last
    logs = (read_log(path) for path in (tmp_path / "whole/log.jsonl", tmp_path / "small.jsonl"))
    whole, resumed = ([row["total"] for row in log if "total" in row] for log in logs)
    assert whole == resumed


@pytest.fixture(scope="module")
def refusals(disks: None, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """Two lines of output of each saver on a full disk."""
    folder = tmp_path_factory.mktemp("full") / "d"
    folder.mkdir()
    done = run_program("tests.core.training.run_savers", folder, disk=(folder, "256k"))
    lines = done.stdout.splitlines()
    assert len(lines) == 2 * len(SAVERS), done.stdout + done.stderr
    return {name: lines[2 * index : 2 * index + 2] for index, name in enumerate(SAVERS)}


@pytest.mark.slow  # each library, in a process that mounts a disk; test_writer.py tests the error of one
@pytest.mark.parametrize("saver", SAVERS)
def test_every_writer_reports_a_full_disk(refusals: dict[str, list[str]], saver: str) -> None:
    """Each library reports it in its own way, or not at all."""
    first, second = refusals[saver]
    assert first.startswith(f"{errno.ENOSPC} ")
    assert "/d/result.bin could not be written: the disk is full (" in first
    assert "of 256 KiB free, about 1 MiB needed)" in first
    assert second == "before result.bin"


def test_other_errors_stay_what_they_are(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), written_atomically(tmp_path / "a"):
        print(1 / 0)
    (tmp_path / "b").mkdir()
    with (
        pytest.raises(OSError, match=r"b could not be written: Is a directory"),
        written_atomically(tmp_path / "b") as path,
    ):
        path.write_text("x")


class FullFile:
    """Log file without room for more than some bytes of each write, until `room` is set."""

    def __init__(self, file) -> None:
        self.file, self.room = file, False

    def write(self, data: bytes) -> int:
        if not self.room:
            self.file.write(data[:5])  # a part of a row gets in
            raise OSError(errno.ENOSPC, "No space left on device")
        return self.file.write(data[:7])  # as a raw file may

    def __getattr__(self, name: str):
        return getattr(self.file, name)


def test_log_waits_for_free_space_and_warns_once(tmp_path: Path, caplog) -> None:
    journal = TrainLogger(tmp_path, 0)
    journal.write({"step": 1, "total": 0.5})
    full = journal._file = FullFile(journal._file)
    with caplog.at_level(logging.WARNING):
        for step in (2, 3):
            journal.write({"step": step, "total": 0.5})
    assert [json.loads(line)["step"] for line in (tmp_path / "log.jsonl").read_text().splitlines()] == [1]
    assert caplog.text.count("log.jsonl could not be written: the disk is full") == 1
    full.room = True
    journal.write({"step": 4, "total": 0.5})
    journal.close()
    assert [row["step"] for row in read_log(tmp_path / "log.jsonl")] == [1, 2, 3, 4]


def test_a_log_that_never_finds_room_is_reported_at_the_end(tmp_path: Path, caplog) -> None:
    journal = TrainLogger(tmp_path, 0)
    journal._file = FullFile(journal._file)
    journal.write({"step": 1})
    journal.close()
    assert "log.jsonl lacks its last 1 rows" in caplog.text
