"""Omnivorous losses of two processes equal those of one with the whole batch."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from spectradino_core.losses.omnivorous import alignment_loss, dense_alignment_loss

KEYS = ("rgb", "depth", "lwir")


def whole_batch() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {key: torch.randn(6, 3, 5, generator=generator, dtype=torch.float64) for key in KEYS}


def losses_of(tokens: dict[str, torch.Tensor]) -> torch.Tensor:
    cls = {key: x.mean(dim=1) for key, x in tokens.items()}
    return alignment_loss(cls, 3.0) + 2 * dense_alignment_loss(tokens, 4.0)


def process(rank: int, port: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    own = {key: x[3 * rank : 3 * rank + 3].clone().requires_grad_() for key, x in whole_batch().items()}
    loss = losses_of(own)
    loss.backward()
    torch.save({"loss": loss.detach(), **{key: x.grad for key, x in own.items()}}, Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_equal_one(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(process, (port, str(tmp_path)), nprocs=2)
    parts = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1)]
    tokens = {key: x.requires_grad_() for key, x in whole_batch().items()}
    loss = losses_of(tokens)
    loss.backward()
    torch.testing.assert_close((parts[0]["loss"] + parts[1]["loss"]) / 2, loss.detach(), atol=1e-10, rtol=0)
    for key in KEYS:  # DDP averages over processes, so each one's gradient counts half
        torch.testing.assert_close(torch.cat([p[key] for p in parts]) / 2, tokens[key].grad, atol=1e-10, rtol=0)
