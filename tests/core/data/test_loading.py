"""Batches from workers with little shared memory, and dying workers: the run continues or ends, but never hangs."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.core.training.programs import run_program

# Slow: processes that import torch. test_transfer.py covers batches, nothing else workers that die.
pytestmark = pytest.mark.slow

BATCHES = [f"item {i}: {2 * i} {i} None" for i in range(5)]


def run(module: str, *arguments: object, shared: str | None = None) -> list[str]:
    """Return the lines that a module prints, optionally with a /dev/shm of the given size."""
    done = run_program(module, *arguments, disk=None if shared is None else ("/dev/shm", shared))
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def loader(case: str, shared: str | None = None) -> list[str]:
    return run("tests.core.data.run_loader", case, shared=shared)


def test_batches_come_in_order() -> None:
    assert loader("plain") == [*BATCHES, "end"]


def test_batches_beyond_shared_memory_use_pipes_and_warn_once() -> None:
    found = loader("no room")
    assert [line for line in found if not line.startswith("LOG")] == [*BATCHES, "end"]
    reported = [line for line in found if line.startswith("LOG")]
    assert len(reported) == 1
    assert reported[0].startswith("LOG /dev/shm is too small for batches of 4 MB (")
    assert reported[0].endswith("in Docker give --shm-size=8g")


@pytest.mark.parametrize(("size", "said"), [("6m", "is too small for batches of 4 MB"), ("4k", "is full")])
def test_a_small_dev_shm(disks: None, size: str, said: str) -> None:
    """6 MB hold one batch of four; 4 kB not even the workers' locks."""
    found = loader("plain", size)
    assert [line for line in found if not line.startswith("LOG")] == [*BATCHES, "end"]
    assert [said in line for line in found if line.startswith("LOG")] == [True]


def test_finetuning_with_a_small_dev_shm(disks: None, tmp_path: Path) -> None:
    """Complete training, which hangs at its first batch without the loader; the result is the same as elsewhere."""
    options = ("--workers", "2", "--steps", "4")
    run("tests.core.training.run_finetune", tmp_path / "small", *options, shared="400k")
    run("tests.core.training.run_finetune", tmp_path / "usual", *options)
    small, usual = ((tmp_path / name / "log.jsonl").read_text() for name in ("small", "usual"))
    assert [line.split('"total"')[1] for line in small.splitlines() if "total" in line] == [
        line.split('"total"')[1] for line in usual.splitlines() if "total" in line
    ]


def test_a_killed_worker_ends_the_run_with_its_reason() -> None:
    *_, last = loader("killed")
    assert last.startswith("WorkerError: a data loading process ended, it is killed by signal: Killed (")


def test_a_silent_worker_ends_the_run() -> None:
    *_, last = loader("silent")
    assert last.startswith("WorkerError: the data loading processes sent nothing for 3 s: check the disk")


def test_an_error_of_the_data_stays_what_it_is() -> None:
    text = "\n".join(loader("faulty"))
    assert "ValueError: Caught ValueError in DataLoader worker process" in text
    assert "the third is damaged" in text
