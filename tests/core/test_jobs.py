"""Parallel jobs: all possible jobs are done, and each failure is named, including killed processes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from spectradino_core.jobs import KILLED, run_jobs
from tests.core.jobs_to_do import leave_word

HOW = {"a": "well", "b": "refuse", "c": "kill", "d": "well", "e": "exit", "f": "mistake", "g": "well"}


def check(errors: dict[str, str], reported: list[tuple[str, str | None]], folder: Path, killed: bool) -> None:
    assert list(errors) == (["b", "c", "e", "f"] if killed else ["b", "f"])
    assert errors["b"] == "b is refused"
    assert errors["f"] == "KeyError: 'forgotten'"
    assert sorted(path.name for path in folder.iterdir()) == ["a", "d", "g"]
    assert dict(reported) == {name: errors.get(name) for name in HOW if killed or HOW[name] not in ("kill", "exit")}


def test_processes_fail_one_by_one(tmp_path: Path) -> None:
    reported: list[tuple[str, str | None]] = []
    jobs = {name: (tmp_path / name, how) for name, how in HOW.items()}
    errors = run_jobs(leave_word, jobs, 2, report=lambda *row: reported.append(row))
    check(errors, reported, tmp_path, killed=True)
    assert errors["c"] == f"{KILLED} (SIGKILL); out of memory? Run fewer jobs at once"
    assert errors["e"] == f"{KILLED} (exit code 3)"
    workers = {path.read_text() for path in tmp_path.iterdir()}
    assert str(os.getpid()) not in workers
    assert len(workers) <= 3  # kept from job to job, but for those that died


def test_one_at_a_time_needs_no_process(tmp_path: Path) -> None:
    reported: list[tuple[str, str | None]] = []
    jobs = {name: (tmp_path / name, how) for name, how in HOW.items() if how not in ("kill", "exit")}
    check(run_jobs(leave_word, jobs, 1, report=lambda *row: reported.append(row)), reported, tmp_path, killed=False)
    assert {path.read_text() for path in tmp_path.iterdir()} == {str(os.getpid())}


@pytest.mark.slow
def test_ray_fails_one_by_one(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="no Ray here: pip install 'spectradino_ros[ray]'")
    reported: list[tuple[str, str | None]] = []
    jobs = {name: (tmp_path / name, how) for name, how in HOW.items()}
    errors = run_jobs(leave_word, jobs, 2, engine="ray", report=lambda *row: reported.append(row))
    check(errors, reported, tmp_path, killed=True)
    assert errors["c"].startswith(KILLED)


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="engine 'slurm' is not one of processes, ray"):
        run_jobs(leave_word, {}, 1, engine="slurm")
    with pytest.raises(ValueError, match="number of parallel jobs must be at least 1"):
        run_jobs(leave_word, {}, 0)


def test_what_needs_a_failed_job_is_skipped(tmp_path: Path) -> None:
    reported: list[str] = []
    jobs = {name: (tmp_path / name, how) for name, how in (("d", "well"), ("a", "well"), ("b", "kill"), ("c", "well"))}
    needs = {"d": ["a", "done earlier"], "c": ["b"], "e": ["c"]}
    jobs["e"] = (tmp_path / "e", "well")
    errors = run_jobs(leave_word, jobs, 1, report=lambda name, _: reported.append(name), needs=needs, fresh=True)
    assert list(errors) == ["b"]
    assert reported == ["a", "d", "b"]
    assert len({(tmp_path / name).read_text() for name in "ad"}) == 2  # a process each
