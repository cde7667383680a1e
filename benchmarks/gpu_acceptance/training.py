"""Acceptance of training: resuming after a kill, half precision, infrared alignment, host syncs, speed."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.experiment import ROOT, cli
from spectradino_core.bench.gpu import forbid_synchronisation, forward_rows, training_rows
from spectradino_core.data.pretraining import pretraining_batches
from spectradino_core.data.scene_sets import SceneImages
from spectradino_core.data.transfer import map_tensors


class NotRunError(Exception):
    """A prerequisite of a check is missing on this machine; the message names it."""


_WAIT_S = 240
_STEPS = 10


def check_resume(device: str, model: Path, folder: Path) -> str:
    """A half precision run killed after its first checkpoint resumes there, and its losses stay finite."""
    run = folder / "run"
    command = cli(
        "finetune", "--recipe", "smoke", "--steps", _STEPS, "--checkpoint-every", 4, "--log-every", 1, "--workers", 0,
        "--amp", "fp16", "--device", device, "--out", run,
    )  # fmt: skip
    child = subprocess.Popen([sys.executable, *command], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + _WAIT_S
        while not list((run / "checkpoints").glob("*")) and child.poll() is None and time.monotonic() < deadline:
            time.sleep(0.1)
    finally:
        child.kill()
        child.wait()
    assert list((run / "checkpoints").glob("*")), "no checkpoint was written before the kill"
    _succeed(command)
    rows = [row for row in _rows(run / "log.jsonl") if "total" in row]
    assert rows[-1]["step"] == _STEPS, f"the run ended at step {rows[-1]['step']} of {_STEPS}"
    return f"resumed to step {_STEPS}; loss {rows[0]['total']:.2f} to {rows[-1]['total']:.2f}"


def check_pretraining(device: str, model: Path, folder: Path) -> str:
    """Stages I and II of the smallest variant in fp16, with and without alignment between infrared bands."""
    found = []
    for name, options in (("fp16", ["--amp", "fp16"]), ("alignment", ["--infrared-alignment", "0.5"])):
        out = folder / name
        command = cli(
            "pretrain", "--variant", "test", "--stages", "1,2", "--scenes", 12, "--crop", 70, "--batch", 4,
            "--steps", 6, "--log-every", 1, "--workers", 0, "--device", device, "--out", out, *options,
        )  # fmt: skip
        _succeed(command)
        losses = [row["total"] for log in sorted(out.rglob("log.jsonl")) for row in _rows(log) if "total" in row]
        assert losses, "nothing was logged"
        found.append(f"{name}: loss {losses[0]:.2f} to {losses[-1]:.2f} in {len(losses)} steps")
    return "; ".join(found)


def check_transfer(device: str, model: Path, folder: Path) -> str:
    """Batches of bytes in page-locked memory become the CPU's images on the device, without a host sync."""
    source = SceneImages(4, (96, 80), maps=())
    stream = pretraining_batches([source], 4, 56, 0, 3, workers=1, pin=device == "cuda")
    seconds = []
    for batch in stream:
        tensors: list[torch.Tensor] = []
        map_tensors(batch, lambda x, into=tensors: into.append(x) or x)
        assert device == "cpu" or all(x.is_pinned() for x in tensors), "the loader's batches are not page-locked"
        start = time.perf_counter()
        with forbid_synchronisation(device):
            moved = batch.to(device)
        seconds.append(time.perf_counter() - start)
        expected = batch.to("cpu")
        for ours, theirs in ((moved.rgb, expected.rgb), (moved.infrared, expected.infrared)):
            assert torch.equal(ours.cpu(), theirs), "the device makes other images of the same bytes"
    sent = sum(x.nbytes for x in tensors)
    floats = expected.rgb.nbytes + expected.infrared.nbytes
    return f"{sent >> 10} KiB a batch, as float32 {floats >> 10}; host {1e3 * min(seconds):.2f} ms"


def check_sharding(device: str, model: Path, folder: Path) -> str:
    """Two processes train with sharded parameters in bf16, with a learned temperature and infrared alignment."""
    if device == "cuda" and torch.cuda.device_count() < 2:
        raise NotRunError("needs two GPUs")
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    command = cli(
        "pretrain", "--variant", "test", "--stages", 1, "--strategy", "fsdp", "--amp", "bf16", "--learn-temperature",
        "--infrared-alignment", 0.5, "--grad-accum", 2, "--scenes", 12, "--crop", 70, "--batch", 4, "--steps", 4,
        "--log-every", 1, "--workers", 0, "--device", device, "--out", folder,
    )  # fmt: skip
    _succeed((*launcher, *command))
    losses = [row["total"] for row in _rows(folder / "stage1" / "log.jsonl") if "total" in row]
    assert len(losses) == 4, f"{len(losses)} of 4 steps were logged"
    return f"loss {losses[0]:.2f} to {losses[-1]:.2f}"


def check_host_syncs(device: str, model: Path, folder: Path) -> str:
    """One step of Stages I and III without a host sync."""
    rows = training_rows("s", 32, device, rounds=3, compiled=(False,))
    waits = {f"stage {row['stage']}": row["host_waits"] for row in rows}
    assert set(waits.values()) == {"no"}, str(waits)
    return str(waits)


def check_speed(device: str, model: Path, folder: Path) -> str:
    """The smallest part of `spectradino bench gpu`."""
    forward = forward_rows("s", torch.bfloat16, device, batches=(1,), rounds=10)
    steps = training_rows("s", 128, device, stages=(1,), rounds=5, compiled=(False,))
    rows = [f"{row['case']}: {row['ms']:.2f} ms, ratio {row['ratio']:.2f}" for row in forward]
    return "; ".join([*rows, f"stage I, 128 pairs: {steps[0]['pairs_per_s']} pairs/s, {steps[0]['peak_gb']} GB"])


def _succeed(arguments: Sequence[str]) -> None:
    command = [sys.executable, *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=_WAIT_S, check=False)
    assert done.returncode == 0, f"{' '.join(arguments[1:])}: {(done.stdout + done.stderr).strip()[-800:]}"


def _rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines() if line.strip()]
