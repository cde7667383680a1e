"""The available ablations: runs that each differ in one setting, and the paper's tables that compare them.

The cell "base" is the paper's default: pretrained in all three stages with all four losses, ViTDet's pyramid for boxes
and UPerNet for masks, concatenation, the top half of the blocks unfrozen. Every other cell differs from it in one
setting, so "base" is trained once and part of every table.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from spectradino_core.datasets.registry import find_benchmark
from spectradino_core.models.registry import choose
from spectradino_core.training.downstream import downstream_recipe
from spectradino_core.training.loop import LoopOptions
from spectradino_core.training.recipes import FinetuneRecipe
from spectradino_core.training.stages import StageRecipe, changed, stage_recipe

TEACHER = "teacher"
"""Backbone of a cell: DINOv2's weights, or a substitute for them."""
BASE = "base"
BASELINE_CELL = "no_adapters"

_LOSSES = ("distillation", "contrastive", "patch", "neighbourhood")
"""Assumed order in which Table 12 adds the losses; with the last one it is the base."""


@dataclass(frozen=True)
class Scenes:
    """Synthetic scenes instead of data sets, rendered once for all cells.

    Attributes:
        train, test: number of labelled pairs for training and for the report.
        pretrain: number of pairs for pretraining.
        size, pretrain_size: (width, height) in pixels of the labelled and of the pretraining pairs.
    """

    train: int
    test: int
    pretrain: int
    size: tuple[int, int] = (320, 256)
    pretrain_size: tuple[int, int] = (240, 192)


@dataclass(frozen=True)
class Pretraining:
    """A pretraining stage that cells start from.

    Attributes:
        key: name of the pretraining.
        stage, steps: recipe, and optimiser steps; None: the recipe's epochs.
        after: key of the previous stage, whose backbone and queue are used; None: starts from the teacher.
    """

    key: str
    stage: StageRecipe
    steps: int | None = None
    after: str | None = None


@dataclass(frozen=True)
class Cell:
    """One fine-tuning, repeated with several seeds.

    Attributes:
        key: name of the cell and of its folder.
        recipe: recipe of the fine-tuning; its seed is replaced.
        backbone: key of a `Pretraining`, or `TEACHER`.
    """

    key: str
    recipe: FinetuneRecipe
    backbone: str


@dataclass(frozen=True)
class Table:
    """A table of the paper: its number, the varied setting, (title, key of a cell) of each row, and notes below it."""

    number: int
    title: str
    rows: tuple[tuple[str, str], ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Ablation:
    """A matrix of runs and its tables.

    Attributes:
        name: name on the command line.
        title: title of the report.
        dataset: name in `datasets.registry`, or "scenes".
        cells: fine-tunings.
        pretrainings: pretraining stages, in an order in which they can run.
        tables: tables of the report.
        seeds: seeds of the fine-tunings. Pretraining runs once, so the spread excludes its variation.
        scenes: synthetic data instead of a data set; None: real data.
        substitute: recipe of a teacher, trained on RGB only, that replaces DINOv2 if no weights are given; None:
            DINOv2's weights are required.
        notes: notes of the report.
        substitute_notes: further notes if the substitute was used.
        baseline: key of the cell with frozen DINOv2 and infrared as grey, which is part of every table.

    Raises:
        ValueError: a key occurs twice, or refers to nothing.
    """

    name: str
    title: str
    dataset: str
    cells: tuple[Cell, ...]
    pretrainings: tuple[Pretraining, ...]
    tables: tuple[Table, ...]
    seeds: tuple[int, ...] = (0,)
    scenes: Scenes | None = None
    substitute: FinetuneRecipe | None = None
    notes: tuple[str, ...] = ()
    substitute_notes: tuple[str, ...] = ()
    baseline: str = BASELINE_CELL

    def __post_init__(self) -> None:
        cells = [cell.key for cell in self.cells]
        stages = [TEACHER, *(one.key for one in self.pretrainings)]
        for kind, names in (("cell", cells), ("pretraining", stages), ("seed", list(map(str, self.seeds)))):
            if not names:
                raise ValueError(f"{self.name}: no {kind}")
            if twice := sorted({name for name in names if names.count(name) > 1}):
                raise ValueError(f"{self.name}: the {kind} {twice[0]} occurs twice")
        self._check("the baseline", self.baseline, cells)
        for cell in self.cells:
            self._check(f"the cell {cell.key}", cell.backbone, stages)
        for table in self.tables:
            for _, key in table.rows:
                self._check(f"Table {table.number}", key, cells)
        for index, one in enumerate(self.pretrainings):
            if one.after is not None:
                self._check(f"the pretraining {one.key}", one.after, stages[: index + 1])

    def _check(self, what: str, name: str, known: Sequence[str]) -> None:
        if name not in known:
            raise ValueError(f"{self.name}: {what} names {name!r}, which is not defined before it")

    @property
    def infrared(self) -> str:
        return self.cells[0].recipe.architecture.infrared

    def cell(self, key: str) -> Cell:
        return next(cell for cell in self.cells if cell.key == key)

    def pretraining(self, key: str) -> Pretraining:
        return next(one for one in self.pretrainings if one.key == key)

    def only(self, tables: Sequence[int]) -> Ablation:
        """Return the ablation with some of its tables, and only the cells that these need.

        Raises:
            ValueError: no such table.
        """
        known = [table.number for table in self.tables]
        if unknown := sorted(set(tables) - set(known)):
            raise ValueError(f"{self.name} has no Table {unknown[0]}: choose from {', '.join(map(str, known))}")
        chosen = tuple(table for table in self.tables if table.number in tables)
        keys = {self.baseline} | {key for table in chosen for _, key in table.rows}
        cells = tuple(cell for cell in self.cells if cell.key in keys)
        needed = {cell.backbone for cell in cells}
        for one in reversed(self.pretrainings):
            if one.key in needed and one.after is not None:
                needed.add(one.after)
        pretrainings = tuple(one for one in self.pretrainings if one.key in needed)
        return replace(self, tables=chosen, cells=cells, pretrainings=pretrainings)


def _pretrainings(
    stage: Callable[[int], StageRecipe], steps: tuple[int | None, ...] = (None,) * 3
) -> tuple[Pretraining, ...]:
    """Return the three stages, and Stage III with one, two and three of the four losses (Table 12)."""
    third = stage(3)
    rows = [
        Pretraining("stage1", stage(1), steps[0]),
        Pretraining("stage2", stage(2), steps[1], after="stage1"),
        Pretraining("stage3", third, steps[2], after="stage2"),
    ]
    for count, loss in enumerate(_LOSSES[:-1], 1):
        disabled: dict[str, Any] = dict.fromkeys(_LOSSES[count:], 0.0)
        recipe = replace(third, weights=replace(third.weights, **disabled))
        rows.append(Pretraining(f"stage3_{loss}", recipe, steps[2], after="stage2"))
    return tuple(rows)


def _cells(recipe: Callable[..., FinetuneRecipe]) -> tuple[Cell, ...]:
    """Return all cells; `recipe` makes a recipe from the changed settings (see `downstream_recipe`)."""

    def cell(key: str, backbone: str = "stage3", segmentation: str = "upernet", **changes: str) -> Cell:
        return Cell(key, recipe(segmentation=segmentation, **changes), backbone)

    return (
        cell(BASE),
        Cell(BASELINE_CELL, recipe(segmentation="upernet", backbone="dinov2_repeat", mode="head"), TEACHER),
        cell("linear", detection="linear", segmentation="linear"),
        cell("head", mode="head"),
        cell("adapters", mode="adapters"),
        cell("full", mode="full"),
        *(cell(f"loss_{loss}", f"stage3_{loss}") for loss in _LOSSES[:-1]),
        cell("stage1", "stage1"),
        cell("stage2", "stage2"),
        cell("cross_attention", fusion="cross_attention"),
        cell("gated", fusion="gated"),
    )


def _tables(tasks: tuple[str, ...]) -> tuple[Table, ...]:
    """Return the paper's tables, without those for detection only if there are no boxes."""
    heads = ", ".join({"detection": "ViTDet", "segmentation": "UPerNet"}[task] for task in tasks)
    half_and_full = (("SpectraDINO (half)", BASE), ("SpectraDINO (full)", "full"))
    frozen = ("Frozen backbone (no adapters)", BASELINE_CELL)
    losses = (
        ("Distillation", "loss_distillation"), ("+ contrastive", "loss_contrastive"), ("+ patch", "loss_patch"),
        ("+ neighbourhood", BASE),
    )  # fmt: skip
    order = "Stages I and II are the same for all rows; the order in which losses are added is assumed."
    stages = (("Stage I", "stage1"), ("Stage II (bridge)", "stage2"), ("Stage III", BASE))
    fusions = (("Concatenation (baseline)", BASE), ("Cross attention", "cross_attention"), ("Gated token", "gated"))
    found = (
        Table(9, "Task head", (("Linear", "linear"), (heads, BASE))),
        Table(10, "Adapters", (frozen, ("+ adapters and stems", "adapters"), *half_and_full)),
        Table(
            11, "Fine-tuned parameters", (("Head", "head"), ("Head + adapters and stems", "adapters"), *half_and_full)
        ),
        Table(12, "Losses of Stage III", losses, (order,)),
        Table(13, "Stage of pretraining", stages),
        Table(14, "Fusion", fusions),
    )
    return tuple(table for table in found if "detection" in tasks or table.number not in (10, 14))


def tiny_scenes() -> Ablation:
    """Return the full matrix, in minutes on two cores: boxes and masks on synthetic scenes, RGB and LWIR."""
    return _on_scenes(
        "tiny_scenes", "tiny", Scenes(train=300, test=60, pretrain=150), input_size=(168, 140), batch=6, steps=100,
        teacher_steps=400, stages=(45, 24, 45), pretrain_batch=16, seeds=(0, 1),
    )  # fmt: skip


def smoke_scenes() -> Ablation:
    """Return the full matrix at minimal size, for tests and a first try; its scores are meaningless."""
    scenes = Scenes(train=12, test=6, pretrain=8, size=(120, 96), pretrain_size=(80, 64))
    return _on_scenes(
        "smoke_scenes", "test", scenes, input_size=(112, 84), batch=2, steps=2, teacher_steps=2, stages=(2, 2, 2),
        pretrain_batch=4, seeds=(0,),
    )  # fmt: skip


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
        cells=_cells(recipe),
        pretrainings=_pretrainings(lambda stage: changed(stage_recipe(variant, stage), batch=pretrain_batch), stages),
        tables=_tables(("detection", "segmentation")),
        seeds=seeds,
        scenes=scenes,
        substitute=replace(teacher, lr=dict.fromkeys(teacher.lr, teacher.lr["head"])),
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


def _of_paper(dataset: str) -> Ablation:
    """Return the paper's ablation: Base, with its stages and epochs, on one of its two data sets."""
    benchmark = find_benchmark(dataset)

    def recipe(**changes: str) -> FinetuneRecipe:
        base = downstream_recipe(
            dataset, benchmark.tasks[0], "b", strides="3.5-28", upernet_width=512, **changes  # type: ignore[arg-type]
        )  # fmt: skip
        return replace(base, augmentation=replace(base.augmentation, band_dropout=0.0))

    return Ablation(
        name=f"paper_{dataset}",
        title=f"The paper's ablations on {benchmark.title}, variant b",
        dataset=dataset,
        cells=_cells(recipe),
        pretrainings=_pretrainings(lambda stage: stage_recipe("b", stage)),
        tables=_tables(benchmark.tasks[:1]),
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
    found: Ablation = choose(ABLATIONS, "ablation", name)()
    return found
