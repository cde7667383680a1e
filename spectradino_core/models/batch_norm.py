"""BatchNorm synchronised over all processes, on CPU and GPU.

Letters: B batch on this process, P channels, h x w feature map.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


class BatchNorm(nn.BatchNorm2d):
    """`nn.BatchNorm2d` with statistics over the samples of all processes.

    PyTorch's SyncBatchNorm requires a GPU, but linear probes are also trained on CPUs, and several processes must give
    the results of one.
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
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
        self.running_var.lerp_(variance.to(self.running_var.dtype), self.momentum)


class _Sum(torch.autograd.Function):
    """Sum over all processes; gradients are summed too, since every result depends on every input."""

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
