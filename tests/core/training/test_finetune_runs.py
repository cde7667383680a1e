"""Whole fine-tuning runs in their own processes: killed and resumed, with gradient accumulation, distributed."""

from __future__ import annotations

import json
import re
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from spectradino_core.models.perception_checkpoint import load_perception
from spectradino_core.training.checkpoints import resume_step
from spectradino_core.training.train_logger import read_log
from tests.core.training.programs import run_program

pytestmark = pytest.mark.slow


def run(folder: Path, *words: object, **options: Any) -> subprocess.CompletedProcess:
    return run_program("tests.core.training.run_finetune", folder, *words, **options)


def rows(folder: Path) -> list[dict]:
    return [{k: v for k, v in row.items() if k != "steps_per_s"} for row in read_log(folder / "log.jsonl")]


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    done = run(folder, drawn=True)
    assert done.returncode == 0, done.stderr
    return folder


def test_a_run_leaves_what_it_should(whole):
    model, info = load_perception(whole / "model.safetensors")
    assert info.provenance["mode"] == "half"
    assert info.box_classes == ("red", "hot")
    assert info.strides == model.architecture.cell_strides == (14.0,)
    record = json.loads((whole / "recipe.json").read_text())
    assert record["recipe"]["loop"]["steps"] == 6
    assert "backbone.vit.blocks.1.attn.qkv.weight" in record["trained"]
    assert "backbone.vit.blocks.0.attn.qkv.weight" not in record["trained"]
    assert (whole / "losses.png").read_bytes().startswith(b"\x89PNG")
    scored = [row for row in rows(whole) if "val_miou" in row]
    assert [row["step"] for row in scored] == [2, 4, 6]
    assert all("val_map50" in row for row in scored)


@pytest.mark.parametrize("step", [1, 4])
def test_killed_run_resumes_bit_for_bit(whole, tmp_path, step):
    assert run(tmp_path, "--die-at", step).returncode == -signal.SIGKILL
    assert resume_step(tmp_path) == step // 2 * 2
    again = run(tmp_path, "--workers", 1)  # who makes the batches does not matter either
    assert again.returncode == 0, again.stderr
    assert rows(tmp_path) == rows(whole)  # every digit of every step
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (tmp_path, whole))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def close(ours: Path, theirs: Path, tolerance: float = 2e-4) -> None:
    """Check for equal losses at every step, in fp32."""
    for a, b in zip(rows(ours), rows(theirs), strict=True):
        assert a.keys() == b.keys()
        for name, value in b.items():
            assert a[name] == pytest.approx(value, rel=tolerance, abs=tolerance), (name, b["step"])


def test_two_processes_equal_one(whole, tmp_path):
    """Normalisers, BatchNorm and gradient norm are those of the whole batch."""
    done = run(tmp_path, processes=2)
    assert done.returncode == 0, done.stderr
    close(tmp_path, whole)


def test_two_processes_with_micro_batches_resume_after_a_kill(tmp_path):
    """Dense head and UPerNet, whose norms depend on the batch: gradient accumulation changes nothing either."""
    options = ("--steps", 4, "--detection", "dense", "--segmentation", "upernet", "--fuse-at", "taps")
    assert run(tmp_path / "one", *options).returncode == 0
    parts = run(tmp_path / "parts", *options, "--grad-accum", 4)
    assert parts.returncode == 0, parts.stderr
    close(tmp_path / "parts", tmp_path / "one")
    killed = run(tmp_path / "two", *options, "--grad-accum", 2, "--die-at", 3, processes=2)
    assert killed.returncode != 0
    assert resume_step(tmp_path / "two") == 2
    assert run(tmp_path / "two", *options, "--grad-accum", 2, processes=2).returncode == 0
    close(tmp_path / "two", tmp_path / "one")


WHOLE_MODEL = ("--steps", 3, "--mode", "full", "--segmentation", "upernet", "--detection", "dense", "--ema", 0)


@pytest.fixture(scope="module")
def exact(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("exact")
    done = run(folder, *WHOLE_MODEL)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize(("amp", "later"), [("bf16", 2e-3), ("fp16", 0.05)])
def test_mixed_precision_stays_near(exact, tmp_path, amp, later):
    """Equal up to rounding in the first step, which has the same weights, and close after two updates; weights stay
    fp32.

    fp16 skips the first updates, until its loss scale no longer overflows.
    """
    done = run(tmp_path, "--amp", amp, *WHOLE_MODEL)
    assert done.returncode == 0, done.stderr
    losses = [[row["total"] for row in rows(folder) if "total" in row] for folder in (tmp_path, exact)]
    assert len(losses[0]) == len(losses[1]) == 3
    assert losses[0][0] != losses[1][0]  # it is another precision
    assert losses[0][0] == pytest.approx(losses[1][0], rel=5e-4)
    assert losses[0] == pytest.approx(losses[1], rel=later)
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (tmp_path, exact))
    assert {weight.dtype for weight in ours.values()} == {weight.dtype for weight in theirs.values()}


def test_checkpoint_of_another_run_and_indivisible_batch_are_refused(whole, tmp_path):
    other = run(whole, "--fusion", "gated", "--steps", 8)
    assert other.returncode != 0
    assert re.search(r"run with other settings: .*fusion \S+ \(now \"gated\"\)", other.stderr)
    (whole / "recipe.json").rename(whole / "recipe.json.away")  # as in a run that has lost it
    other = run(whole, "--fusion", "gated", "--steps", 8)
    (whole / "recipe.json.away").rename(whole / "recipe.json")
    assert other.returncode != 0
    assert "belongs to another run" in other.stderr
    shared = run(tmp_path, processes=3)
    assert shared.returncode != 0
    assert "a batch of 4 can't be shared by 3 processes" in shared.stderr
