"""Several processes as one: where this one stands, and how a model is spread over them.

Started by `torchrun`, each process has one device. DDP keeps the whole model in each; FSDP2 keeps a share of it, for
ViT-G and for cards that do not hold what they train. Without `torchrun` there is one process, and this does nothing.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from spectradino_core.models.spectradino import SpectraDINO

__all__ = [
    "DistEnv",
    "WholeState",
    "full_state",
    "is_sharded",
    "load_full_state",
    "matrices",
    "mean_over_processes",
    "process_group",
    "spread",
    "sum_over_processes",
]

log = logging.getLogger(__name__)

_SECONDS_TO_IDLE = 0.3


@dataclass(frozen=True)
class DistEnv:
    """This process among its like.

    Attributes:
        rank: 0 ... world - 1.
        world: how many processes.
    """

    rank: int
    world: int

    @classmethod
    def current(cls) -> DistEnv:
        if dist.is_available() and dist.is_initialized():
            return cls(dist.get_rank(), dist.get_world_size())
        return cls(0, 1)

    @property
    def first(self) -> bool:
        """The one that logs and writes."""
        return self.rank == 0

    def wait(self) -> None:
        """Until all are here."""
        if self.world > 1:
            dist.barrier()


@contextmanager
def process_group(device: str) -> Iterator[tuple[DistEnv, torch.device]]:
    """Joins the group that `torchrun` started, if it did, and leaves it at the end.

    Args:
        device: "auto", "cpu" or "cuda".

    Yields:
        This process's place and its device.

    Raises:
        ValueError: "cuda" on a machine without, or more processes on a machine than it has devices.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: PyTorch sees no CUDA device here")
    local = int(os.environ.get("LOCAL_RANK", "0"))
    if device == "cuda" and local >= torch.cuda.device_count():
        raise ValueError(
            f"process {local} of this machine has no device: it has {torch.cuda.device_count()}; lower --nproc-per-node"
        )
    chosen = torch.device("cuda", local) if device == "cuda" else torch.device(device)
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    started = "RANK" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1
    if started:
        dist.init_process_group(
            "nccl" if chosen.type == "cuda" else "gloo",
            timeout=timedelta(minutes=30),
            device_id=chosen if chosen.type == "cuda" else None,  # NCCL would guess, and warn of it
        )
    if not DistEnv.current().first:
        logging.getLogger("spectradino_core").setLevel(logging.ERROR)  # the first one says it for all
    try:
        yield DistEnv.current(), chosen
        if started:
            dist.barrier()  # a process that exits while others still exchange tensors fails theirs
    finally:
        if started:
            dist.destroy_process_group()
            # Gloo's threads outlive the group wherever DDP or FSDP holds it. One that drops its last tensor after the
            # interpreter began to shut down aborts the process ("terminate called without an active exception";
            # pytorch pull request 179291), and torchrun takes that for a failed run. Idle, they do no harm.
            time.sleep(_SECONDS_TO_IDLE)


def spread(
    model: nn.Module, blocks: list[nn.Module], strategy: str, device: torch.device, amp: str = "fp32"
) -> nn.Module:
    """The model as each process runs it; with one process the model itself, unless it is to be sharded.

    Args:
        model: on `device`; sharded in place by "fsdp". Make its optimiser afterwards: parameters are replaced.
        blocks: the parts that FSDP2 gathers one at a time, see `matrices`.
        strategy: "ddp" or "fsdp".
        device: of this process.
        amp: precision of the run, see `LoopOptions`. With "bf16" FSDP2 gathers `blocks` in bf16, half the bytes, and
            reduces gradients in fp32; the optimiser's weights stay fp32.

    Raises:
        ValueError: an unknown strategy, or "fsdp" without `torchrun` or for parameters that can't be sharded.
    """
    if strategy == "ddp":
        if DistEnv.current().world == 1:
            return model
        # A step shows one infrared band, so the stems of the others get no gradient. Gradients as views of the
        # buckets that are exchanged are not held twice.
        return nn.parallel.DistributedDataParallel(model, find_unused_parameters=True, gradient_as_bucket_view=True)
    if strategy != "fsdp":
        raise ValueError(f"unknown strategy {strategy!r}: choose ddp or fsdp")
    if DistEnv.current().world == 1:
        raise ValueError("fsdp shares the parameters among processes: start several with torchrun")
    _check_shardable(model, DistEnv.current().world)
    _scalars_as_vectors(model)
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    mesh = init_device_mesh(device.type, (DistEnv.current().world,))

    def last_dimension(parameter: nn.Parameter) -> Shard | None:
        # Adapters are stacks [bands, ...]: a share of the first dimension would be a share of the bands.
        return Shard(parameter.ndim - 1) if parameter.ndim in (2, 3) else None

    # Autocast would round the same matrices to bf16; what it leaves in fp32 stays so: inputs, stems, tokens and norms.
    precision = (
        MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False)
        if amp == "bf16"
        else MixedPrecisionPolicy()
    )
    for block in blocks:
        fully_shard(block, mesh=mesh, shard_placement_fn=last_dimension, mp_policy=precision)
    fully_shard(model, mesh=mesh, shard_placement_fn=last_dimension)
    return model


def matrices(backbone: SpectraDINO) -> list[nn.Module]:
    """The parts of a backbone that compute in autocast's precision: attentions, MLPs and adapters, in that order.

    Norms and gains are not among them: with fp32 images they are computed in fp32.
    """
    parts = [part for block in backbone.vit.blocks for part in (block.attn, block.mlp)]
    return [*parts, *backbone.adapters]


def _check_shardable(model: nn.Module, world: int) -> None:
    """
    Raises:
        ValueError: FSDP2 would fail at the first step for a parameter: names it.
    """
    for name, parameter in model.named_parameters():
        if parameter.ndim in (2, 3) and parameter.shape[-1] % world:
            raise ValueError(
                f"fsdp can't share '{name}' of {list(parameter.shape)} evenly among {world} processes: start a number "
                f"of processes that divides {parameter.shape[-1]}, or use --strategy ddp"
            )


def _scalars_as_vectors(model: nn.Module) -> None:
    """Gives scalar parameters one dimension, in place: FSDP2 refuses those without."""
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if parameter.ndim == 0:
                vector = nn.Parameter(parameter.detach().reshape(1), parameter.requires_grad)
                module.register_parameter(name, vector)


def is_sharded(model: nn.Module) -> bool:
    return any(isinstance(parameter, DTensor) for parameter in model.parameters())


def full_state(model: nn.Module) -> dict[str, Tensor]:
    """The whole state on the CPU, contiguous.

    With sharded parameters all processes must call it, and only the first gets tensors: each would hold a copy of the
    whole model in the memory of one machine.
    """
    kept = DistEnv.current().first or not is_sharded(model)
    state = {}
    for name, value in model.state_dict().items():
        whole = value.full_tensor() if isinstance(value, DTensor) else value
        if kept:
            state[name] = whole.detach().cpu().contiguous()
    return state


class WholeState:
    """The whole state of a model, gathered once for all that is written at one step."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._kept: tuple[int, dict[str, Tensor]] | None = None

    def at(self, step: int) -> dict[str, Tensor]:
        """See `full_state`. `step` tells weights from those of another step."""
        if not is_sharded(self._model):
            return full_state(self._model)
        if self._kept is None or self._kept[0] != step:
            self._kept = step, full_state(self._model)
        return self._kept[1]

    def forget(self) -> None:
        """Frees the memory."""
        self._kept = None


def load_full_state(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """The inverse of `full_state`; RuntimeError where names or shapes differ."""
    held = model.state_dict()
    state = {
        name: distribute_tensor(value.to(held[name].device), held[name].device_mesh, held[name].placements)
        if isinstance(held.get(name), DTensor)
        else value
        for name, value in state.items()
    }
    model.load_state_dict(state)


def mean_over_processes(values: Mapping[str, Tensor]) -> dict[str, float]:
    """Scalars averaged over all processes, which must all call it with the same names."""
    if not values:
        return {}
    stacked = torch.stack([value.detach().double().reshape(()) for value in values.values()])
    if DistEnv.current().world > 1:
        dist.all_reduce(stacked)
        stacked /= DistEnv.current().world
    return dict(zip(values, stacked.tolist(), strict=True))


def sum_over_processes(values: Tensor) -> Tensor:
    """A tensor without gradient summed over all processes, which must all call it."""
    if DistEnv.current().world > 1:
        values = values.detach().clone()
        dist.all_reduce(values)
    return values
