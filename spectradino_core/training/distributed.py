"""Distributed training: process group, DDP or FSDP2, gathered states and reductions.

Each process started by `torchrun` has one device. DDP replicates the model; FSDP2 shards it, for ViT-G and for GPUs
with too little memory. Without `torchrun` there is one process, and these functions have no effect.
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

log = logging.getLogger(__name__)

_SECONDS_TO_IDLE = 0.3


@dataclass(frozen=True)
class DistEnv:
    """Rank of this process, 0 to world - 1, and number of processes."""

    rank: int
    world: int

    @classmethod
    def current(cls) -> DistEnv:
        if dist.is_available() and dist.is_initialized():
            return cls(dist.get_rank(), dist.get_world_size())
        return cls(0, 1)

    @property
    def first(self) -> bool:
        """Whether this is the process that logs and writes files."""
        return self.rank == 0

    def wait(self) -> None:
        """Wait for all processes (barrier)."""
        if self.world > 1:
            dist.barrier()


@contextmanager
def process_group(device: str) -> Iterator[tuple[DistEnv, torch.device]]:
    """Join the process group of `torchrun`, if there is one, and leave it at the end.

    Yields its environment and this process's device, for `device` "auto", "cpu" or "cuda".
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: PyTorch sees no CUDA device; use --device cpu, or install a CUDA build")
    local = int(os.environ.get("LOCAL_RANK", "0"))
    if device == "cuda" and local >= torch.cuda.device_count():
        raise ValueError(
            f"local rank {local} has no device: this machine has {torch.cuda.device_count()}; lower --nproc-per-node"
        )
    chosen = torch.device("cuda", local) if device == "cuda" else torch.device(device)
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    started = "RANK" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1
    if started:
        dist.init_process_group(
            "nccl" if chosen.type == "cuda" else "gloo",
            timeout=timedelta(minutes=30),
            device_id=chosen if chosen.type == "cuda" else None,  # otherwise NCCL guesses and warns
        )
    if not DistEnv.current().first:
        logging.getLogger("spectradino_core").setLevel(logging.ERROR)  # rank 0 logs the rest
    try:
        yield DistEnv.current(), chosen
        if started:
            dist.barrier()  # exiting while other processes still communicate would make them fail
    finally:
        if started:
            dist.destroy_process_group()
            # Gloo's threads outlive the group if DDP or FSDP still references it. A thread that releases its last
            # tensor during interpreter shutdown aborts the process ("terminate called without an active exception";
            # pytorch pull request 179291), which torchrun reports as a failed run. Wait until the threads are idle.
            time.sleep(_SECONDS_TO_IDLE)


def parallelise(
    model: nn.Module, units: list[nn.Module], strategy: str, device: torch.device, amp: str = "fp32"
) -> nn.Module:
    """Wrap a model in DDP or shard it with FSDP2; with "ddp" and one process, return it unchanged.

    Args:
        model: on `device`; "fsdp" shards it in place and replaces its parameters, so make its optimiser afterwards.
        units: modules that FSDP2 gathers one at a time, see `fsdp_units`.
        strategy: "ddp" or "fsdp".
        device: device of this process.
        amp: precision of the run, see `LoopOptions`. With "bf16" FSDP2 gathers `units` in bf16, half the bytes, and
            reduces gradients in fp32; the optimiser's weights stay fp32.
    """
    world = DistEnv.current().world
    if strategy == "ddp":
        if world == 1:
            return model
        # A step contains one infrared band, so the stems of the others get no gradient. With gradients as views of
        # the communication buckets they are stored once.
        return nn.parallel.DistributedDataParallel(model, find_unused_parameters=True, gradient_as_bucket_view=True)
    if strategy != "fsdp":
        raise ValueError(f"unknown strategy {strategy!r}: choose ddp or fsdp")
    if world == 1:
        raise ValueError("fsdp shards the parameters over processes: start several with torchrun")
    _check_shardable(model, world)
    _scalars_as_vectors(model)
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    mesh = init_device_mesh(device.type, (world,))

    def last_dimension(parameter: nn.Parameter) -> Shard | None:
        # Adapters are stacks [bands, ...]: sharding the first dimension would divide them by band.
        return Shard(parameter.ndim - 1) if parameter.ndim in (2, 3) else None

    # Autocast rounds the same matrices to bf16; inputs, stems, tokens and norms stay in fp32 as with autocast.
    precision = (
        MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False)
        if amp == "bf16"
        else MixedPrecisionPolicy()
    )
    for unit in units:
        fully_shard(unit, mesh=mesh, shard_placement_fn=last_dimension, mp_policy=precision)
    fully_shard(model, mesh=mesh, shard_placement_fn=last_dimension)
    return model


def fsdp_units(backbone: SpectraDINO) -> list[nn.Module]:
    """Return the modules that compute in autocast's precision: attentions, MLPs and adapters, not norms and gains."""
    parts = [part for block in backbone.vit.blocks for part in (block.attn, block.mlp)]
    return [*parts, *backbone.adapters]


def _check_shardable(model: nn.Module, world: int) -> None:
    """Raise ValueError for a parameter on which FSDP2 would fail at the first step."""
    for name, parameter in model.named_parameters():
        if parameter.ndim in (2, 3) and parameter.shape[-1] % world:
            raise ValueError(
                f"fsdp can't shard '{name}' of {list(parameter.shape)} evenly over {world} processes: start a number "
                f"of processes that divides {parameter.shape[-1]}, or use --strategy ddp"
            )


def _scalars_as_vectors(model: nn.Module) -> None:
    """Reshape scalar parameters to vectors in place, because FSDP2 refuses scalars."""
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if parameter.ndim == 0:
                vector = nn.Parameter(parameter.detach().reshape(1), parameter.requires_grad)
                module.register_parameter(name, vector)


def is_sharded(model: nn.Module) -> bool:
    return any(isinstance(parameter, DTensor) for parameter in model.parameters())


def full_state(model: nn.Module) -> dict[str, Tensor]:
    """Return the full state dict on the CPU, contiguous.

    With sharded parameters all processes must call it, and only rank 0 gets tensors: a machine holds one copy.
    """
    kept = DistEnv.current().first or not is_sharded(model)
    state = {}
    for name, value in model.state_dict().items():
        full = value.full_tensor() if isinstance(value, DTensor) else value
        if kept:
            state[name] = full.detach().cpu().contiguous()
    return state


class FullState:
    """Full state dict of a sharded model, gathered once per step for all files written at that step."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._cached: tuple[int, dict[str, Tensor]] | None = None

    def at(self, step: int) -> dict[str, Tensor]:
        """Return `full_state`, gathered again only if `step` changed."""
        if not is_sharded(self._model):
            return full_state(self._model)
        if self._cached is None or self._cached[0] != step:
            self._cached = step, full_state(self._model)
        return self._cached[1]

    def forget(self) -> None:
        self._cached = None


def load_full_state(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load a state of `full_state`; raises RuntimeError if names or shapes differ."""
    current = model.state_dict()
    state = {
        name: distribute_tensor(value.to(current[name].device), current[name].device_mesh, current[name].placements)
        if isinstance(current.get(name), DTensor)
        else value
        for name, value in state.items()
    }
    model.load_state_dict(state)


def mean_over_processes(values: Mapping[str, Tensor]) -> dict[str, float]:
    """Average scalars over all processes, which must all call it with the same names."""
    if not values:
        return {}
    stacked = torch.stack([value.detach().double().reshape(()) for value in values.values()])
    if DistEnv.current().world > 1:
        dist.all_reduce(stacked)
        stacked /= DistEnv.current().world
    return dict(zip(values, stacked.tolist(), strict=True))


def sum_over_processes(values: Tensor) -> Tensor:
    """Sum a tensor without gradient over all processes, which must all call it."""
    if DistEnv.current().world > 1:
        values = values.detach().clone()
        dist.all_reduce(values)
    return values
