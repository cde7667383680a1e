"""Training loop: schedule, averaging, resuming, failures."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from spectradino_core.training.checkpoints import resume_step
from spectradino_core.training.loop import (
    LoopOptions,
    LossWatch,
    NonFiniteLossError,
    learning_rate,
    train,
)
from spectradino_core.training.train_logger import read_log
from tests.core.training.programs import run_program

OPTIONS = LoopOptions(steps=30, warmup=5, ema=0.9, amp="fp32", checkpoint_every=10, log_every=1)


class Batch:
    def __init__(self, step: int) -> None:
        generator = torch.Generator().manual_seed(step)
        self.x = torch.randn(8, 4, generator=generator)
        self.y = self.x @ torch.tensor([1.0, -2.0, 0.5, 3.0])

    def to(self, device: torch.device) -> Batch:
        return self


def loss_of(model: nn.Module, batch: Batch) -> dict[str, torch.Tensor]:
    return {"total": ((model(batch.x)[:, 0] - batch.y) ** 2).mean()}


def run(folder: Path, stop: int | None = None, options: LoopOptions = OPTIONS, loss=loss_of) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.GELU(), nn.Linear(8, 1))
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2)
    batches = (Batch(step) for step in range(resume_step(folder), stop or options.steps))
    return train(model, loss, batches, optimiser, options, folder, torch.device("cpu"))


def losses(folder: Path) -> list[float]:
    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [row["total"] for row in rows if "total" in row]


def test_schedule_warms_up_and_decays():
    options = LoopOptions(steps=100, warmup=10, final=0.1)
    shares = [learning_rate(step, options) for step in range(100)]
    assert shares[0] == pytest.approx(0.1)
    assert shares[9] == pytest.approx(1.0)
    assert max(shares) == pytest.approx(1.0)
    assert shares[55] == pytest.approx(0.55, abs=0.01)  # halfway down the cosine
    assert shares[-1] == pytest.approx(0.1, abs=1e-3)
    assert shares[10:] == sorted(shares[10:], reverse=True)


def test_learns(tmp_path):
    run(tmp_path, options=replace(OPTIONS, steps=150))
    curve = losses(tmp_path)
    assert sum(curve[-10:]) < 0.5 * sum(curve[:10])


def test_stopped_run_resumes_bit_for_bit(tmp_path):
    whole = run(tmp_path / "whole")
    run(tmp_path / "parts", stop=20)  # ends at a checkpoint, as a killed process ends after one
    assert resume_step(tmp_path / "parts") == 20
    parts = run(tmp_path / "parts")
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    for (name, a), (_, b) in zip(whole.state_dict().items(), parts.state_dict().items(), strict=True):
        assert torch.equal(a, b), name


def test_what_is_kept_is_the_average(tmp_path):
    averaged = run(tmp_path / "a", options=replace(OPTIONS, ema=0.99))
    plain = run(tmp_path / "b", options=replace(OPTIONS, ema=0.0))
    assert not torch.equal(averaged[0].weight, plain[0].weight)
    assert not averaged.training


def test_log_tells_whether_the_step_was_clipped(tmp_path):
    rows = {}
    for clip in (0.0, 1e-6, 1e6):
        run(tmp_path / str(clip), options=replace(OPTIONS, clip=clip, log_every=1))
        rows[clip] = [row for row in read_log(tmp_path / str(clip) / "log.jsonl") if "total" in row]
    assert "clipped" not in rows[0.0][0]
    assert {row["clipped"] for row in rows[1e-6]} == {1.0}
    assert {row["clipped"] for row in rows[1e6]} == {0.0}


def test_a_broken_loss_stops_and_names_the_step(tmp_path):
    def breaks(model, batch):
        value = loss_of(model, batch)["total"]
        return {"total": value * float("nan") if resume_step(tmp_path) else value}

    with pytest.raises(NonFiniteLossError, match="step 10"):
        run(tmp_path, loss=breaks)
    assert resume_step(tmp_path) == 10  # the last good state is still there


@pytest.mark.parametrize("native", [True, False])
def test_automatic_precision_is_bf16_only_where_the_processor_has_it(tmp_path, monkeypatch, native):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: native)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    kinds = set()

    def watched(model, batch):
        kinds.add(model(batch.x).dtype)
        return loss_of(model, batch)

    run(tmp_path, options=replace(OPTIONS, steps=2, warmup=1, amp="auto"), loss=watched)
    assert kinds == {torch.bfloat16 if native else torch.float32}


@pytest.mark.slow  # two processes; no result depends on it
def test_large_blocks_are_reused_after_they_were_freed():
    def faults(word: str) -> tuple[int, int]:
        kept, count = run_program("tests.core.training.run_blocks", word).stdout.split()
        return int(kept), int(count)

    kept, few = faults("keep")
    if not kept:
        pytest.skip("this C library has no mallopt")
    assert few * 10 < faults("plain")[1]


def test_a_loss_is_read_from_the_device_at_checks_only():
    """As on a GPU: a non-finite loss is reported with its first step, but only at a check."""
    watch = LossWatch(torch.device("meta"), 5)
    assert not watch._at_once
    watch = LossWatch(torch.device("cpu"), 5)
    watch._at_once = False
    for value in (1.0, float("nan"), float("inf"), 2.0):
        watch.record(torch.tensor(value))
        watch.next()
    with pytest.raises(NonFiniteLossError, match="at step 6: lower the learning rate$"):
        watch.check()


def test_no_checkpoint_is_written_of_a_run_that_is_lost(tmp_path, monkeypatch):
    """Between two checks, where the loss is not read, a checkpoint would hold non-finite weights."""
    monkeypatch.setattr(LossWatch, "record", _deferred(LossWatch.record))
    model = torch.nn.Linear(1, 1)

    def loss_of(runner, batch):
        return {"total": runner(batch).sum() * (float("nan") if float(batch) >= 3 else 1.0)}

    batches = [torch.full((1, 1), float(i)) for i in range(8)]
    options = LoopOptions(steps=8, warmup=0, ema=0.0, amp="fp32", checkpoint_every=2, log_every=8, keep=9)
    with pytest.raises(NonFiniteLossError, match="at step 3"):
        train(model, loss_of, batches, torch.optim.SGD(model.parameters(), 0.1), options, tmp_path, torch.device("cpu"))
    assert resume_step(tmp_path) == 2


def _deferred(see):
    def later(watch, total):
        watch._at_once = False
        see(watch, total)

    return later
