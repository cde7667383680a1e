"""Differentiable gathering of batches from all processes.

    B samples on this process    W processes

Contrastive losses use all other samples of the *global* batch as negatives. Each process's loss depends on the tensors
of all processes, so the gradient of a process's own tensor is summed over all processes.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def processes() -> int:
    """Number of processes W; 1 without a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def first_row(rows: int) -> int:
    """Index of this process's first row in the gathered batch."""
    return dist.get_rank() * rows if processes() > 1 else 0


def gather(x: Tensor) -> Tensor:
    """Gather [B, ...] of each process to [W·B, ...] on all, in order of rank; gradients flow back to the own rows.

    All processes must call it equally often, with the same B.
    """
    return _Gather.apply(x) if processes() > 1 else x


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.rows = len(x)
        parts = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(processes())]
        dist.all_gather(parts, x.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].contiguous().clone()
        dist.all_reduce(total)
        start = first_row(ctx.rows)
        return total[start : start + ctx.rows]
