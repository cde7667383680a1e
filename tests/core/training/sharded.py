"""A bf16 pretraining run with sharded parameters, started under torchrun by test_distributed.

`python -m tests.core.training.sharded FOLDER` writes to FOLDER/found.json the precisions of its computations, and how
often parameters were gathered for files.
"""

from __future__ import annotations

import json
import os
import sys
from collections import defaultdict
from pathlib import Path

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from spectradino_core.models.spectradino import InfraredStem
from spectradino_core.models.vit import Attention, LayerScale
from spectradino_core.training import distributed, loop
from spectradino_core.training.pretrain import PretrainOptions, pretrain
from spectradino_core.training.stages import stage_recipe
from tests.core.training.patterns import CALM, Patterns

FOUND: dict[str, set[str]] = defaultdict(set)
COUNTS = {"gathered": 0, "held by others": 0}


def watch() -> None:
    """Record precisions in forward and optimiser steps, and gathered parameters."""
    gather, step, state = DTensor.full_tensor, loop.training_step, distributed.full_state

    def noting(kind: str):
        def note(module: nn.Module, *_: object) -> None:
            FOUND[kind].update(str(parameter.dtype) for parameter in module.parameters())

        return note

    def full_tensor(self, **options):
        if self.ndim:  # not the norm of the gradients
            COUNTS["gathered"] += 1
        return gather(self, **options)

    def training_step(model, *arguments, **options):
        if not FOUND:
            for module in model.modules():
                if isinstance(module, (Attention, LayerScale, InfraredStem)):
                    module.register_forward_pre_hook(noting(f"in {type(module).__name__.removeprefix('FSDP')}"))
        losses = step(model, *arguments, **options)
        for parameter in model.parameters():
            FOUND["weights"].add(str(parameter.dtype))
            if parameter.grad is not None:
                FOUND["gradients"].add(str(parameter.grad.dtype))
        COUNTS["parameters"] = sum(isinstance(value, DTensor) for value in model.state_dict().values())
        return losses

    def full_state(model):
        found = state(model)
        if not distributed.DistEnv.current().first:
            COUNTS["held by others"] += len(found)
        return found

    DTensor.full_tensor, loop.training_step, distributed.full_state = full_tensor, training_step, full_state


def main(folder: str) -> None:
    torch.set_num_threads(1)
    watch()
    out = Path(folder)
    pretrain(
        [stage_recipe("test", 1)],
        [Patterns(16)],
        [Patterns(8, first=1000)],
        PretrainOptions(
            folder=out / "run", steps=4, device="cpu", strategy="fsdp", amp="bf16", workers=0, views=CALM,
            checkpoint_every=2, log_every=1,
        ),
    )  # fmt: skip
    checkpoints = sorted(int(p.name.removeprefix("step-")) for p in (out / "run/stage1/checkpoints").glob("step-*"))
    result = {name: sorted(values) for name, values in FOUND.items()} | COUNTS | {"checkpoints": checkpoints}
    if os.environ["RANK"] == "0":
        (out / "found.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main(*sys.argv[1:])
