"""GPU acceptance: checks that need no GPU run, and failures are on the page."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.gpu_acceptance.__main__ import CHECKS, MODEL, Check, main, page, run_checks
from benchmarks.gpu_acceptance.serving import nodes_by_provider


@pytest.mark.slow
def test_serving_checks_pass_on_a_cpu(tmp_path, capsys):
    assert (
        main(["--device", "cpu", "--out", str(tmp_path), "--only", "providers", "parity", "stale", "transfer", "lost"])
        == 0
    )
    text = (tmp_path / "README.md").read_text()
    assert text.count("| passed |") == 4
    assert "| lost | not run | 0 | Does a process outlive a poisoned CUDA context? | needs a GPU |" in text
    assert "processor:" in text


@pytest.mark.slow
@pytest.mark.experiment
@pytest.mark.parametrize("name", ["precisions", "resume", "alignment", "sharding"])
def test_checks_that_take_longer_pass_on_a_cpu(tmp_path, name):
    assert main(["--device", "cpu", "--out", str(tmp_path), "--only", name]) == 0, (tmp_path / "README.md").read_text()


def test_nodes_are_counted_by_provider(tmp_path):
    found = nodes_by_provider(MODEL, "cpu", tmp_path)
    assert set(found) == {"CPU"}
    assert found["CPU"] > 100


def test_a_check_that_fails_is_reported_and_the_rest_runs(tmp_path):
    def fails(device: str, model: Path, folder: Path) -> str:
        raise AssertionError("boxes | 3 px off")

    checks = (Check("a", "A?", fails), Check("b", "B?", lambda *_: "fine"), Check("c", "C?", fails, needs_gpu=True))
    results = run_checks(checks, "cpu", MODEL, tmp_path)
    assert [one.outcome for one in results] == ["failed", "passed", "not run"]
    assert "| a | failed | 0 | A? | AssertionError: boxes / 3 px off |" in page(results)


def test_a_run_in_which_nothing_ran_is_no_success(tmp_path):
    gpu_only = [check.name for check in CHECKS if check.needs_gpu]
    assert gpu_only
    assert main(["--device", "cpu", "--out", str(tmp_path), "--only", *gpu_only]) == 1
