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

__all__ = [
    "Place",
    "full_state",
    "is_sharded",
    "load_full_state",
    "mean_over_processes",
    "process_group",
    "spread",
    "sum_over_processes",
]

log = logging.getLogger(__name__)

_SECONDS_TO_IDLE = 0.3


@dataclass(frozen=True)
class Place:
    """This process among its like.

    Attributes:
        rank: 0 ... world - 1.
        world: how many processes.
    """

    rank: int
    world: int

    @classmethod
    def current(cls) -> Place:
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
def process_group(device: str) -> Iterator[tuple[Place, torch.device]]:
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
    if not Place.current().first:
        logging.getLogger("spectradino_core").setLevel(logging.ERROR)  # the first one says it for all
    try:
        yield Place.current(), chosen
        if started:
            dist.barrier()  # a process that exits while others still exchange tensors fails theirs
    finally:
        if started:
            dist.destroy_process_group()
            # Gloo's threads outlive the group wherever DDP or FSDP holds it. One that drops its last tensor after the
            # interpreter began to shut down aborts the process ("terminate called without an active exception";
            # pytorch pull request 179291), and torchrun takes that for a failed run. Idle, they do no harm.
            time.sleep(_SECONDS_TO_IDLE)


def spread(model: nn.Module, blocks: list[nn.Module], strategy: str, device: torch.device) -> nn.Module:
    """The model as each process runs it; with one process the model itself, unless it is to be sharded.

    Args:
        model: on `device`; sharded in place by "fsdp".
        blocks: the parts that FSDP2 gathers one at a time.
        strategy: "ddp" or "fsdp".
        device: of this process.

    Raises:
        ValueError: an unknown strategy, or "fsdp" without `torchrun` or for parameters that can't be sharded.
    """
    if strategy == "ddp":
        if Place.current().world == 1:
            return model
        # A step shows one infrared band, so the stems of the others get no gradient. Gradients as views of the
        # buckets that are exchanged are not held twice.
        return nn.parallel.DistributedDataParallel(model, find_unused_parameters=True, gradient_as_bucket_view=True)
    if strategy != "fsdp":
        raise ValueError(f"unknown strategy {strategy!r}: choose ddp or fsdp")
    if Place.current().world == 1:
        raise ValueError("fsdp shares the parameters among processes: start several with torchrun")
    _check_shardable(model, Place.current().world)
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device.type, (Place.current().world,))

    def last_dimension(parameter: nn.Parameter) -> Shard | None:
        # Adapters are stacks [bands, ...]: a share of the first dimension would be a share of the bands.
        return Shard(parameter.ndim - 1) if parameter.ndim in (2, 3) else None

    for block in blocks:
        fully_shard(block, mesh=mesh, shard_placement_fn=last_dimension)
    fully_shard(model, mesh=mesh, shard_placement_fn=last_dimension)
    return model


def _check_shardable(model: nn.Module, world: int) -> None:
    """
    Raises:
        ValueError: FSDP2 would refuse a parameter, or fail at the first step: names it.
    """
    for name, parameter in model.named_parameters():
        if parameter.ndim == 0:
            raise ValueError(
                f"fsdp can't share the scalar parameter '{name}': use --strategy ddp, or leave out --learn-temperature"
            )
        if parameter.ndim in (2, 3) and parameter.shape[-1] % world:
            raise ValueError(
                f"fsdp can't share '{name}' of {list(parameter.shape)} evenly among {world} processes: start a number "
                f"of processes that divides {parameter.shape[-1]}, or use --strategy ddp"
            )


def is_sharded(model: nn.Module) -> bool:
    return any(isinstance(parameter, DTensor) for parameter in model.parameters())


def full_state(model: nn.Module) -> dict[str, Tensor]:
    """The whole state on the CPU, contiguous. With sharded parameters all processes must call it."""
    state = {}
    for name, value in model.state_dict().items():
        whole = value.full_tensor() if isinstance(value, DTensor) else value
        state[name] = whole.detach().cpu().contiguous()
    return state


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
    if Place.current().world > 1:
        dist.all_reduce(stacked)
        stacked /= Place.current().world
    return dict(zip(values, stacked.tolist(), strict=True))


def sum_over_processes(values: Tensor) -> Tensor:
    """A tensor without gradient summed over all processes, which must all call it."""
    if Place.current().world > 1:
        values = values.detach().clone()
        dist.all_reduce(values)
    return values
