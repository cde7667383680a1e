"""Several processes (gloo) give the result of one.

The run with DDP that is killed and resumed and one in bf16 are started by torchrun, the others as torchrun would start
them. Only the former shut their interpreters down, where threads of gloo could abort them (see `process_group`).
"""

from __future__ import annotations

import json
import signal

import pytest
import torch
from safetensors.torch import load_file

from spectradino_core.training.checkpoints import resume_step
from spectradino_core.training.distributed import DistEnv, _check_shardable, parallelise, process_group
from spectradino_core.training.train_logger import read_log
from tests.core.training.programs import run_program, torchrun
from tests.core.training.test_resume import losses

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_processes_equal_one(tmp_path, strategy):
    """Losses, gradient norm, weights, and the queue: negatives are those of the whole batch."""
    counts = (1, 2, 3) if strategy == "ddp" else (1, 2)
    for processes in counts:
        done = run_program("tests.core.training.two_steps", tmp_path / f"{processes}.pt", strategy, processes=processes)
        assert done.returncode == 0, done.stderr
    one = torch.load(tmp_path / "1.pt", weights_only=True)
    for processes in counts[1:]:
        several = torch.load(tmp_path / f"{processes}.pt", weights_only=True)
        torch.testing.assert_close(several["queue"], one["queue"], rtol=0, atol=1e-12)
        for a, b in zip(several["losses"], one["losses"], strict=True):
            torch.testing.assert_close(a[:-1], b[:-1], rtol=1e-6, atol=1e-6)
            torch.testing.assert_close(a[-1], b[-1], rtol=1e-5, atol=0.0)  # the norm of gradients through fp32 stems
        assert several["weights"].keys() == one["weights"].keys()
        for name, weight in one["weights"].items():
            if name.endswith("conv2.bias"):
                continue  # the stem's norm takes it out again: its gradient is rounding noise, scaled up by Adam
            found = several["weights"][name].reshape(weight.shape)  # FSDP2 has vectors in place of scalars
            torch.testing.assert_close(found, weight, rtol=0, atol=1e-6, msg=name)


RUN = "tests.core.training.run_patterns"


@pytest.mark.parametrize(
    ("strategy", "options"),
    [
        ("ddp", ("--adaptive", "--alignment", "0.5")),
        ("fsdp", ("--alignment", "0.5", "--learn-temperature", "--grad-accum", "2")),
    ],
)
def test_full_runs_agree_and_resume_after_a_kill(tmp_path, strategy, options):
    """The log, which one process writes, has the rows of a single process."""
    arguments = ("--steps", 4, "--every", 2, *options)
    assert run_program(RUN, tmp_path / "one", *arguments).returncode == 0
    arguments = (RUN, tmp_path / "two", *arguments, "--strategy", strategy)
    launch = torchrun if strategy == "ddp" else run_program
    killed = launch(*arguments, "--die-at", 3, "--die-in", 2, processes=2)
    assert killed.returncode != 0
    if strategy == "ddp":
        assert f"Signal {signal.SIGKILL.value}" in killed.stderr
    assert resume_step(tmp_path / "two/stage2") == 2
    again = launch(*arguments, processes=2)
    assert again.returncode == 0, again.stderr
    for ours, theirs in zip(losses(tmp_path / "two"), losses(tmp_path / "one"), strict=True):
        assert len(ours) == len(theirs)
        for a, b in zip(ours, theirs, strict=True):
            assert a.keys() == b.keys()
            for name, value in b.items():
                assert a[name] == pytest.approx(value, rel=1e-4, abs=1e-4), (name, b["step"])  # fp32, four steps


def test_sharded_parameters_resume_with_the_same_number_of_processes(tmp_path):
    arguments = (tmp_path, "--stages", "1", "--strategy", "fsdp")
    assert run_program(RUN, *arguments, "--steps", 2, processes=2).returncode == 0
    names = {path.name for path in (tmp_path / "stage1/checkpoints/step-00000002").iterdir()}
    assert names == {"weights.safetensors", "state-0.pt", "state-1.pt"}
    arguments = (*arguments, "--override", "steps")
    more = run_program(RUN, *arguments, "--steps", 4, processes=4)
    assert more.returncode != 0
    assert "another number of processes" in more.stderr or "this run has 4" in more.stderr
    assert run_program(RUN, *arguments, "--steps", 4, processes=2).returncode == 0
    assert [row["step"] for row in read_log(tmp_path / "stage1/log.jsonl") if "total" in row] == [1, 2, 3, 4]


def test_indivisible_batch_is_refused(tmp_path):
    done = run_program(RUN, tmp_path, "--stages", "1", processes=3)
    assert done.returncode != 0
    assert "a batch of 4 can't be shared by 3 processes" in done.stderr


def test_bf16_runs_gather_matrices_in_bf16_and_each_checkpoint_once(tmp_path):
    done = torchrun("tests.core.training.sharded", tmp_path, processes=2)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["in Attention"] == ["torch.bfloat16"]
    assert found["in LayerScale"] == found["in InfraredStem"] == ["torch.float32"]
    assert found["gradients"] == found["weights"] == ["torch.float32"]
    assert found["checkpoints"] == [2, 4]
    assert found["gathered"] == 2 * found["parameters"], "best, last and checkpoint of a step share what was gathered"
    assert found["held by others"] == 0
    for name in ("best", "last"):
        backbone = load_file(tmp_path / f"run/stage1/{name}.safetensors")
        kept = load_file(tmp_path / "run/stage1/checkpoints/step-00000004/weights.safetensors")
        assert backbone
        for key, value in backbone.items():
            if name == "last":
                torch.testing.assert_close(value, kept[f"backbone.{key}"], rtol=0, atol=0)


def test_dimensions_that_processes_do_not_divide_are_refused_by_name():
    model = torch.nn.Sequential(torch.nn.Linear(48, 8), torch.nn.LayerNorm(8))
    _check_shardable(model, 3)
    with pytest.raises(ValueError, match=r"'0\.weight' of \[8, 48\] evenly over 5 processes: .* divides 48"):
        _check_shardable(model, 5)


def test_single_process_is_not_parallelised():
    with process_group("cpu") as (place, device):
        assert place == DistEnv(0, 1)
        model = torch.nn.Linear(2, 2)
        assert parallelise(model, [], "ddp", device) is model
        with pytest.raises(ValueError, match="start several with torchrun"):
            parallelise(model, [], "fsdp", device)
        with pytest.raises(ValueError, match="choose ddp or fsdp"):
            parallelise(model, [], "zero", device)


def test_missing_device_is_reported(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="sees no CUDA device"), process_group("cuda"):
        pass
