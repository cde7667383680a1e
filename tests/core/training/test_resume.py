"""Interrupted runs: killed without warning, on a full disk, with a damaged checkpoint."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from spectradino_core.training.checkpoints import Checkpoints, ResumeError, resume_step
from spectradino_core.training.loop import LoopOptions, train
from spectradino_core.training.train_logger import read_log
from tests.core.training.programs import run_program
from tests.core.training.test_loop import Batch, loss_of


def run(folder: Path, *options: str) -> subprocess.CompletedProcess:
    return run_program("tests.core.training.run_patterns", folder, *options)


def losses(folder: Path) -> list[list[dict]]:
    """Return every logged row of every stage, without the speed."""
    logs = sorted(folder.glob("stage*/log.jsonl"))
    return [[{k: v for k, v in row.items() if k != "steps_per_s"} for row in read_log(log)] for log in logs]


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    done = run(folder)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "step"), [(1, 1), (1, 4), (2, 3), (3, 5), (3, 6)])
def test_run_killed_at_any_step_resumes_bit_for_bit(whole, tmp_path, stage, step):
    killed = run(tmp_path, "--die-at", str(step), "--die-in", str(stage))
    assert killed.returncode == -signal.SIGKILL
    again = run(tmp_path)
    assert again.returncode == 0, again.stderr
    assert losses(tmp_path) == losses(whole)  # every digit of every step
    for file in ("stage1/best", "stage3/last", "stage3/queue"):
        ours, theirs = (load_file(folder / f"{file}.safetensors") for folder in (tmp_path, whole))
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs), file


@pytest.mark.slow
def test_stateful_options_resume_bit_for_bit(tmp_path):
    options = ("--adaptive", "--ema", "0.9", "--stages", "1", "--steps", "8", "--every", "3")
    assert run(tmp_path / "whole", *options).returncode == 0
    assert run(tmp_path / "killed", *options, "--die-at", "5").returncode == -signal.SIGKILL
    assert resume_step(tmp_path / "killed/stage1") == 3
    assert run(tmp_path / "killed", *options).returncode == 0
    assert losses(tmp_path / "killed") == losses(tmp_path / "whole")


@pytest.mark.slow
def test_full_disk_leaves_the_previous_checkpoint(whole, tmp_path):
    full = run(tmp_path, "--disk-full-at", "3")  # the checkpoint of step 4 can't be written
    assert full.returncode == 3
    assert "could not be written" in full.stderr
    stage = tmp_path / "stage1"
    assert resume_step(stage) == 2
    assert [path.name for path in (stage / "checkpoints").iterdir()] == ["step-00000002"]  # no half one beside it
    assert run(tmp_path).returncode == 0
    assert losses(tmp_path) == losses(whole)


def small_run(folder: Path, steps: int, **options) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Linear(4, 1)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2)
    made = (Batch(step) for step in range(resume_step(folder), steps))
    settings = {"ema": 0.0, "amp": "fp32", "checkpoint_every": 2, "log_every": 1} | options
    return train(model, loss_of, made, optimiser, LoopOptions(steps, **settings), folder, torch.device("cpu"))


@pytest.mark.parametrize(("keep", "left"), [(1, [8]), (3, [4, 6, 8])])
def test_the_last_few_are_kept(tmp_path, keep, left):
    small_run(tmp_path, 8, keep=keep)
    assert sorted(int(p.name[5:]) for p in (tmp_path / "checkpoints").iterdir()) == left


def test_full_disk_of_a_real_file_system_is_reported(tmp_path, monkeypatch):
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full on this system")
    small_run(tmp_path, 2)
    model = nn.Linear(4, 1)

    def onto_full(self, *args, **kwargs):  # the state goes to a device that has no room; all else is as it is
        return open("/dev/full", "wb") if self.name == "state.pt" else original(self, *args, **kwargs)

    original = Path.open
    monkeypatch.setattr(Path, "open", onto_full)
    with pytest.raises(OSError, match=r"step-00000004 could not be written"):
        Checkpoints(tmp_path).save(4, model, None, torch.optim.AdamW(model.parameters()), {})
    monkeypatch.undo()
    assert resume_step(tmp_path) == 2
    assert not list((tmp_path / "checkpoints").glob(".*"))


@pytest.mark.parametrize("file", ["weights.safetensors", "state.pt"])
def test_a_damaged_checkpoint_is_named_with_the_way_out(tmp_path, file):
    small_run(tmp_path, 4)
    path = tmp_path / "checkpoints/step-00000004" / file
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ResumeError, match=r"step-00000004 is damaged .* delete that folder"):
        small_run(tmp_path, 6)
    for inner in path.parent.iterdir():
        inner.unlink()
    path.parent.rmdir()
    assert resume_step(tmp_path) == 2
    small_run(tmp_path, 6)
    assert resume_step(tmp_path) == 6


def test_another_runs_checkpoint_is_refused(tmp_path):
    small_run(tmp_path, 2)
    model = nn.Linear(5, 1)
    with pytest.raises(ResumeError, match="belongs to another run"):
        Checkpoints(tmp_path).load(model, None, torch.optim.AdamW(model.parameters()), {})
    with pytest.raises(ResumeError, match=r"lacks average\.safetensors"):
        small_run(tmp_path, 4, ema=0.9)


def test_a_line_that_was_cut_in_half_is_written_again(tmp_path):
    small_run(tmp_path, 2)
    log = tmp_path / "log.jsonl"
    with log.open("a") as file:
        file.write('{"step": 3, "total": 1.0}\n{"step": 4, "to')
    small_run(tmp_path, 4)
    small_run(tmp_path / "whole", 4)
    assert [row["total"] for row in read_log(log)] == [row["total"] for row in read_log(tmp_path / "whole/log.jsonl")]


def test_runs_of_the_previous_version_resume(tmp_path):
    """One file `resume.pt` with these keys, as `finetune` wrote before checkpoints became folders."""
    whole = small_run(tmp_path / "whole", 4)
    old = tmp_path / "old"
    small_run(old, 4, checkpoint_every=2, keep=2)
    torch.manual_seed(0)
    model = nn.Linear(4, 1)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2)
    assert Checkpoints(old).load(model, None, optimiser, {}) == 4
    halfway = old / "checkpoints/step-00000002"
    state = torch.load(halfway / "state.pt", weights_only=True)
    for folder in (old / "checkpoints").iterdir():
        for inner in folder.iterdir():
            if folder != halfway:
                inner.unlink()
    weights = load_file(halfway / "weights.safetensors")
    for inner in halfway.iterdir():
        inner.unlink()
    for folder in (old / "checkpoints").iterdir():
        folder.rmdir()
    torch.save(
        {"step": 2, "model": weights, "average": None, "optimiser": state["optimiser"], "peaks": [1e-2]},
        old / "resume.pt",
    )
    assert resume_step(old) == 2
    resumed = small_run(old, 4)
    for a, b in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)
