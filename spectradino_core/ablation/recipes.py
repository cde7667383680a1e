"""The available ablations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from spectradino_core.ablation import matrix
from spectradino_core.ablation.recipe import Ablation, Scenes
from spectradino_core.datasets.registry import find_benchmark
from spectradino_core.training.downstream import downstream_recipe
from spectradino_core.training.loop import LoopOptions
from spectradino_core.training.recipes import FinetuneRecipe
from spectradino_core.training.stages import changed, stage_recipe

__all__ = ["ABLATIONS", "find_ablation"]


def tiny_scenes() -> Ablation:
    """Return the full matrix, in minutes on two cores: boxes and masks on synthetic scenes, RGB and LWIR."""
    return _on_scenes(
        "tiny_scenes",
        "tiny",
        Scenes(train=300, test=60, pretrain=150),
        input_size=(168, 140),
        batch=6,
        steps=100,
        teacher_steps=400,
        stages=(45, 24, 45),
        pretrain_batch=16,
        seeds=(0, 1),
    )


def smoke_scenes() -> Ablation:
    """Return the full matrix at minimal size, for tests and a first try; its scores are meaningless."""
    return _on_scenes(
        "smoke_scenes",
        "test",
        Scenes(train=12, test=6, pretrain=8, size=(120, 96), pretrain_size=(80, 64)),
        input_size=(112, 84),
        batch=2,
        steps=2,
        teacher_steps=2,
        stages=(2, 2, 2),
        pretrain_batch=4,
        seeds=(0,),
    )


def _on_scenes(
    name: str, variant: str, scenes: Scenes, *, input_size: tuple[int, int], batch: int, steps: int, teacher_steps: int,
    stages: tuple[int, int, int], pretrain_batch: int, seeds: tuple[int, ...],
) -> Ablation:  # fmt: skip
    def recipe(steps: int = steps, **changes: str) -> FinetuneRecipe:
        base = downstream_recipe("scenes", None, variant, **changes)  # type: ignore[arg-type]
        loop = LoopOptions(steps=steps, warmup=max(1, steps // 10), checkpoint_every=max(1, steps // 2), keep=1)
        return replace(base, dataset=None, epochs=None, loop=loop, batch=batch, input_size=input_size)

    teacher = recipe(teacher_steps, backbone="dinov2_repeat", mode="full")
    return Ablation(
        name=name,
        title=f"The paper's ablations on synthetic scenes, variant {variant}",
        dataset="scenes",
        cells=matrix.cells(recipe),
        pretrainings=matrix.pretrainings(
            lambda stage: changed(stage_recipe(variant, stage), batch=pretrain_batch), stages
        ),
        tables=matrix.tables(("detection", "segmentation")),
        baseline=matrix.BASELINE_CELL,
        seeds=seeds,
        scenes=scenes,
        substitute=replace(teacher, rates=dict.fromkeys(teacher.rates, teacher.rates["head"])),
        notes=(
            "Synthetic scenes, a small model and few steps: this shows that the matrix runs, not the value of the "
            "paper's choices.",
            "Pretraining uses LWIR only, the evaluated band.",
            "Unlike the paper: ViTDet's three coarser levels, a narrow UPerNet, a band hidden in 15 % of the samples, "
            "and Stage II from Stage I's last backbone, as there are no validation pairs.",
        ),
        substitute_notes=(
            "No DINOv2 weights: the teacher, which is also the baseline's frozen backbone, is a ViT trained on the RGB "
            "images of the training scenes.",
        ),
    )


def _of_paper(dataset: str, variant: str = "b") -> Ablation:
    """Return the paper's ablation: Base, with its stages and epochs, on one of its two data sets."""
    benchmark = find_benchmark(dataset)

    def recipe(**changes: str) -> FinetuneRecipe:
        base = downstream_recipe(
            dataset, benchmark.tasks[0], variant, strides="3.5-28", upernet_width=512, **changes  # type: ignore[arg-type]
        )  # fmt: skip
        return replace(base, augmentation=replace(base.augmentation, band_dropout=0.0))

    return Ablation(
        name=f"paper_{dataset}",
        title=f"The paper's ablations on {benchmark.title}, variant {variant}",
        dataset=dataset,
        cells=matrix.cells(recipe),
        pretrainings=matrix.pretrainings(lambda stage: stage_recipe(variant, stage)),
        tables=matrix.tables(benchmark.tasks[:1]),
        baseline=matrix.BASELINE_CELL,
        seeds=(0,),
        notes=(
            "The paper's learning rates, input and batch sizes and epochs of fine-tuning are lost; ours are assumed.",
            "As in the paper: ViTDet's four levels, UPerNet 512 wide as its peers', no band hidden in training. Ours, "
            "as the paper gives none: 500 steps of warm-up then cosine, a moving average of the weights (0.999), "
            "gradients clipped at 1, flips, zoom, stretch and photometry, towers of two convolutions on ViTDet's "
            "levels, views of 224x224 in pretraining.",
            "Pretraining and fine-tuning run once, with seed 0; the paper does not name a number of seeds.",
        ),
    )


ABLATIONS: dict[str, Callable[[], Ablation]] = {
    "tiny_scenes": tiny_scenes,
    "smoke_scenes": smoke_scenes,
    "paper_rasmd": lambda: _of_paper("rasmd"),
    "paper_fmb": lambda: _of_paper("fmb"),
}


def find_ablation(name: str) -> Ablation:
    """Return the ablation of this name.

    Raises:
        ValueError: unknown ablation; lists the available ones.
    """
    if name not in ABLATIONS:
        raise ValueError(f"unknown ablation {name!r}: choose one of {', '.join(ABLATIONS)}")
    return ABLATIONS[name]()
