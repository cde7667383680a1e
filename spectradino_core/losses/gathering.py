"""The batches of all processes as one, with gradients.

    B samples on this process    W processes

Contrastive learning wants every other sample of the *global* batch as a negative. What each process computes from the
gathered batch depends on the tensors of all, so the gradient of a process's own tensor is the sum over all processes of
what theirs say of it.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

__all__ = ["first_row", "gather", "processes"]


def processes() -> int:
    """W; 1 where no process group was started."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def first_row(rows: int) -> int:
    """Where this process's `rows` rows begin in the gathered batch."""
    return dist.get_rank() * rows if processes() > 1 else 0


def gather(x: Tensor) -> Tensor:
    """[B, ...] of each process to [W·B, ...] on all, in order of rank; `x` itself where there is one process.

    The gradient flows back to every process's own rows. Every process must call it, with the same B, as often.
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
        start = dist.get_rank() * ctx.rows
        return total[start : start + ctx.rows]
