"""AdamW for stacked adapters, which hold the weights of all bands in one parameter while a batch trains two bands.

Letters: M bands.

A stack [M, ...] is one parameter, so after a step on NIR pairs LWIR's slice has a gradient of zero rather than none.
Plain AdamW would still apply weight decay and momentum to LWIR's weights, twice for each step that trained them. Here a
band's slice is updated only in steps that contain the band, with its own step count, as if each band's adapters were
separate parameters without a gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim.adamw import adamw

from spectradino_core.models.spectradino import SpectraDINO, parameter_roles
from spectradino_core.models.vit import ViT

_UNDECAYED = ("_bias", "_embedding", "_embed", "_token", "_tokens", "absent", "log_scale")


def is_decayed(name: str, parameter: Tensor) -> bool:
    """Return whether weight decay applies: to matrices and kernels, not to norms, biases, gains, tokens, embeddings."""
    return parameter.ndim >= 2 and not name.endswith(_UNDECAYED)


class BandedAdamW(torch.optim.Optimizer):
    """AdamW that updates stacked parameters slice by slice.

    Args:
        groups: parameter groups as for AdamW, each with "lr" and "weight_decay".
        stacks: parameters whose first dimension is the bands.
        active: returns the slots of the stacks that the current gradients are for.
    """

    def __init__(
        self,
        groups: Iterable[dict[str, Any]],
        stacks: Iterable[nn.Parameter],
        active: Callable[[], Sequence[int]],
    ) -> None:
        self._stacks = {id(parameter) for parameter in stacks}
        self._active = active
        super().__init__(groups, {"lr": 1e-4, "weight_decay": 0.05, "betas": (0.9, 0.999), "eps": 1e-8})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Update the parameters, of stacks only the slices of the bands in the batch."""
        active = list(self._active())
        for group in self.param_groups:
            updates = [one for p in group["params"] if p.grad is not None for one in self._updates(p, active)]
            if updates:
                parameters, gradients, averages, squares, steps = (list(column) for column in zip(*updates))
                beta1, beta2 = group["betas"]
                adamw(
                    parameters, gradients, averages, squares, [], steps, foreach=True, amsgrad=False, beta1=beta1,
                    beta2=beta2, lr=group["lr"], weight_decay=group["weight_decay"], eps=group["eps"], maximize=False,
                )  # fmt: skip

    def _updates(self, parameter: nn.Parameter, active: Sequence[int]) -> Iterator[tuple[Tensor, ...]]:
        """Yield weights, gradient, both moments and step count of a parameter, or of each shown slice of a stack."""
        stacked = id(parameter) in self._stacks
        assert parameter.grad is not None
        weights, state = _local(parameter), self.state[parameter]
        if not state:
            state["step"] = torch.zeros(len(weights) if stacked else 1)
            state["exp_avg"] = torch.zeros_like(weights)
            state["exp_avg_sq"] = torch.zeros_like(weights)
        tensors = (weights, _local(parameter.grad), state["exp_avg"], state["exp_avg_sq"], state["step"])
        if stacked:
            yield from (tuple(tensor[slot] for tensor in tensors) for slot in active)
        else:
            yield *tensors[:4], state["step"][0]


def _local(tensor: Tensor) -> Tensor:
    """Return this process's shard of a tensor; AdamW is elementwise, so the shard is enough."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor.detach()


def active_bands(backbone: SpectraDINO) -> list[int]:
    """Return the slots of the bands that the current gradients are for.

    RGB is part of every pair. The stem of an infrared band outside the batch has no gradient, with DDP and FSDP2 too; a
    band whose stem is frozen counts as shown.
    """
    active = []
    for slot, band in enumerate(backbone.bands):
        trained = [p for p in backbone.stems[band.key].parameters() if p.requires_grad]
        if band.band.channels == 3 or not trained or any(p.grad is not None for p in trained):
            active.append(slot)
    return active


def adamw_for(module: nn.Module, backbone: ViT | SpectraDINO, lr: float, weight_decay: float) -> torch.optim.Optimizer:
    """Return the optimiser of the trainable parameters of `module`, which contains `backbone`.

    The paper only gives the value of the weight decay, 0.05; what it applies to (`is_decayed`) is ours.

    Raises:
        ValueError: every parameter is frozen.
    """
    trained = {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}
    decayed = [parameter for name, parameter in trained.items() if is_decayed(name, parameter)]
    plain = [parameter for name, parameter in trained.items() if not is_decayed(name, parameter)]
    if not trained:
        raise ValueError("nothing to train: every parameter is frozen")
    decays = ((decayed, weight_decay), (plain, 0.0))
    groups = [{"params": params, "weight_decay": decay, "lr": lr} for params, decay in decays if params]
    if isinstance(backbone, ViT):
        return torch.optim.AdamW(groups)
    roles = parameter_roles(backbone)
    stacks = [p for name, p in backbone.named_parameters() if roles[name] in ("adapters", "modality_embedding")]
    return BandedAdamW(groups, stacks, lambda: active_bands(backbone))
