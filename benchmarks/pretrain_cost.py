"""Cost of pretraining at the paper's scale: floating-point operations counted, memory measured, hours derived.

`python -m benchmarks.pretrain_cost` prints the table of docs/training.md; it takes about a minute and no GPU.

- Operations: a real forward and backward pass of each stage's step, counted by torch on tensors without contents
  (2 per multiplication and addition), plus the teacher's forward pass.
- Memory of activations: what autograd keeps of one pair in bf16, measured on ViT-S; it is proportional to tokens x
  width x blocks, which gives the others.
- Hours: operations over what a GPU sustains, which is an assumption (40 % of the dense bf16 peak).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.experiment import run_main
from spectradino_core.losses.alignment import distillation_loss, patch_loss
from spectradino_core.modality import Modality
from spectradino_core.models.spectradino import SpectraDINO
from spectradino_core.models.vit import ViT, vit_config
from spectradino_core.training.stages import STAGES, freeze, stage_recipe
from spectradino_core.training.student import Student

PAIRS = 270_000
"""100 K NIR, 100 K SWIR, 70 K LWIR (Section 4.1)."""

MACHINES = {"2 x RTX A6000": (2, 155e12, 48), "1 x H200": (1, 989e12, 141)}
"""GPUs, dense bf16 peak of each in FLOP/s, memory of each in GB."""

SUSTAINED = 0.4
"""Share of the peak that a ViT training reaches. Assumed."""


def step(variant: str, stage: int, pairs: int = 2) -> tuple[Student, Tensor]:
    """Return a student and the loss of one step on `pairs` pairs, in the current default device."""
    recipe = stage_recipe(variant, stage)
    backbone = SpectraDINO(variant)
    freeze(recipe, backbone)
    student = Student(backbone)
    side = recipe.crop
    positions = torch.arange(int((side // 14) ** 2 * recipe.weights.patch_ratio))
    out = student(torch.randn(pairs, 3, side, side), {Modality.NIR: torch.rand(pairs, 1, side, side)}, positions)
    # Both CLS and the patches of both get a gradient, as from all losses together; what losses cost is nothing.
    loss = distillation_loss(out["infrared"], out["rgb"]) + patch_loss(out["rgb_patches"], out["infrared_patches"])
    return student, loss


def operations(variant: str, stage: int) -> float:
    """Return the FLOP of one pair in a step of a stage, including the teacher's."""
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        _, loss = step(variant, stage)
        loss.backward()
        with torch.no_grad():
            ViT(variant)(torch.randn(2, 3, stage_recipe(variant, stage).crop, stage_recipe(variant, stage).crop))
    return counter.get_total_flops() / 2


def kept_per_channel() -> float:
    """Return the bytes that autograd keeps per token, channel and block in bf16: measured on ViT-S, Stage III."""
    kept: dict[int, int] = {}

    def pack(x: Tensor) -> Tensor:
        kept[x.untyped_storage()._cdata] = x.untyped_storage().nbytes()
        return x

    with torch.autocast("cpu", torch.bfloat16), torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        student, _ = step("s", 3)
    weights = {p.untyped_storage()._cdata for p in student.parameters()}
    config = vit_config("s")
    return sum(size for key, size in kept.items() if key not in weights) / (2 * 2 * 257 * config.width * config.depth)


def parameters(variant: str, stage: int) -> tuple[int, int]:
    """Count all parameters of the student, and those that the stage trains."""
    with torch.device("meta"):
        model = SpectraDINO(variant)
    freeze(stage_recipe(variant, stage), model)
    return sum(p.numel() for p in model.parameters()), sum(p.numel() for p in model.parameters() if p.requires_grad)


def memory(variant: str, stage: int, pairs: int, per_channel: float, processes: int, sharded: bool) -> float:
    """Return GB on one GPU: weights of student and teacher in fp32 and their bf16 copies, gradients, AdamW,
    activations."""
    config = vit_config(variant)
    whole, trained = parameters(variant, stage)
    model = (4 * whole + 12 * trained) / (processes if sharded else 1) + 2 * whole + 6 * whole  # teacher: 4 + 2
    activations = per_channel * 2 * 257 * config.width * config.depth * pairs
    return (model + activations) / 1e9


def main() -> None:
    per_channel = kept_per_channel()
    print(f"activations: {per_channel:.0f} bytes per token, channel and block\n")
    machines = " | ".join(f"{name}: GB, hours" for name in MACHINES)
    print(f"| variant | stage | GFLOP per pair | epochs x batch | {machines} |")
    print("|---" * (4 + len(MACHINES)) + "|")
    for variant in ("s", "b", "l", "g"):
        sums = dict.fromkeys(MACHINES, 0.0)
        for stage in STAGES:
            recipe, cost = stage_recipe(variant, stage), operations(variant, stage)
            cells = []
            for name, (gpus, peak, _) in MACHINES.items():
                hours = cost * PAIRS * recipe.epochs / (gpus * peak * SUSTAINED) / 3600
                sums[name] += hours
                used = memory(variant, stage, recipe.batch // gpus, per_channel, gpus, variant == "g")
                cells.append(f"{used:.0f} GB, {hours:.1f} h")
            print(f"| {variant.upper()} | {stage} | {cost / 1e9:.0f} | {recipe.epochs} x {recipe.batch} | "
                  f"{' | '.join(cells)} |")  # fmt: skip
        print(f"| {variant.upper()} | all | | | {' | '.join(f'**{hours:.0f} h**' for hours in sums.values())} |")


if __name__ == "__main__":
    run_main(main)
