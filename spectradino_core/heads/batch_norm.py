"""BatchNorm over the whole batch, however many processes share it.

Letters: B batch on this process, P channels, h x w a map.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

__all__ = ["BatchNorm"]


class BatchNorm(nn.BatchNorm2d):
    """`nn.BatchNorm2d` whose statistics are those of all processes' samples together, on the CPU too.

    PyTorch's SyncBatchNorm runs on GPUs only; linear probes are trained on CPUs as well, and several processes must
    compute what one does.
    """

    def forward(self, x: Tensor) -> Tensor:
        """[B, P, h, w] to the same shape."""
        alone = not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1
        if alone or not self.training:
            return super().forward(x)
        wide = x if x.dtype == torch.float64 else x.float()
        count = _sum(wide.new_tensor([wide.numel() // wide.shape[1]]))
        mean = _sum(wide.sum(dim=(0, 2, 3))) / count
        centred = wide - mean[:, None, None]
        variance = _sum(centred.square().sum(dim=(0, 2, 3))) / count
        self._remember(mean.detach(), (variance * count / (count - 1).clamp(min=1)).detach())
        normal = centred * torch.rsqrt(variance + self.eps)[:, None, None]
        return (normal * self.weight[:, None, None] + self.bias[:, None, None]).to(x.dtype)

    @torch.no_grad()
    def _remember(self, mean: Tensor, variance: Tensor) -> None:
        """Moves the running statistics, which serve in evaluation mode."""
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
        self.running_var.lerp_(variance.to(self.running_var.dtype), self.momentum)


class _Sum(torch.autograd.Function):
    """The sum over all processes. Every process's result depends on every process's input, so gradients sum too."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.detach().clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        total = gradient.contiguous().clone()
        dist.all_reduce(total)
        return total


def _sum(x: Tensor) -> Tensor:
    return _Sum.apply(x)
