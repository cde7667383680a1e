"""Rows of the paper's Tables 9 to 14 for any data set.

The cell "base" is the paper's default: pretrained in all three stages with all four losses, ViTDet's pyramid for boxes
and UPerNet for masks, concatenation, the top half of the blocks unfrozen. Every other cell differs from it in one
setting, so "base" is trained once and part of every table.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from spectradino_core.ablation.recipe import TEACHER, Cell, Pretraining, Table
from spectradino_core.training.recipes import FinetuneRecipe
from spectradino_core.training.stages import LossWeights, StageRecipe

__all__ = ["BASE", "BASELINE_CELL", "cells", "pretrainings", "tables"]

BASE = "base"
BASELINE_CELL = "no_adapters"

_LOSSES = ("distillation", "contrastive", "patch")
"""Assumed order in which Table 12 adds the losses; with the neighbourhood loss it is the base."""


def pretrainings(
    stage: Callable[[int], StageRecipe], steps: tuple[int | None, ...] = (None,) * 3
) -> tuple[Pretraining, ...]:
    """Return the three stages, and Stage III with one, two and three of the four losses (Table 12).

    Args:
        stage: maps the number of a stage to its recipe.
        steps: steps of the stages; None: the recipes' epochs.
    """
    third = stage(3)
    without = {
        f"stage3_{_LOSSES[count - 1]}": replace(third, weights=_only(third.weights, count)) for count in (1, 2, 3)
    }
    return (
        Pretraining("stage1", stage(1), steps[0]),
        Pretraining("stage2", stage(2), steps[1], after="stage1"),
        Pretraining("stage3", third, steps[2], after="stage2"),
        *(Pretraining(key, recipe, steps[2], after="stage2") for key, recipe in without.items()),
    )


def _only(weights: LossWeights, count: int) -> LossWeights:
    """Set the weights of all but the first `count` losses to 0."""
    disabled = dict.fromkeys((*_LOSSES[count:], "neighbourhood"), 0.0)
    return replace(weights, **disabled)  # type: ignore[arg-type]


def cells(recipe: Callable[..., FinetuneRecipe]) -> tuple[Cell, ...]:
    """Return all cells.

    Args:
        recipe: makes a recipe from the changed settings: `mode`, `backbone`, `detection`, `segmentation`, `fusion` (see
            `downstream_recipe`).
    """

    def made(**changes: Any) -> FinetuneRecipe:
        return recipe(**{"segmentation": "upernet"} | changes)

    return (
        Cell(BASE, made(), "stage3"),
        Cell(BASELINE_CELL, made(backbone="dinov2_repeat", mode="head"), TEACHER),
        Cell("linear", made(detection="linear", segmentation="linear"), "stage3"),
        Cell("head", made(mode="head"), "stage3"),
        Cell("adapters", made(mode="adapters"), "stage3"),
        Cell("full", made(mode="full"), "stage3"),
        *(Cell(f"loss_{loss}", made(), f"stage3_{loss}") for loss in _LOSSES),
        Cell("stage1", made(), "stage1"),
        Cell("stage2", made(), "stage2"),
        Cell("cross_attention", made(fusion="cross_attention"), "stage3"),
        Cell("gated", made(fusion="gated"), "stage3"),
    )


def tables(tasks: tuple[str, ...]) -> tuple[Table, ...]:
    """Return the paper's tables, without those for detection only if there are no boxes."""
    heads = ", ".join({"detection": "ViTDet", "segmentation": "UPerNet"}[task] for task in tasks)
    found = (
        Table(9, "Task head", (("Linear", "linear"), (heads, BASE))),
        Table(
            10,
            "Adapters",
            (
                ("Frozen backbone (no adapters)", BASELINE_CELL),
                ("+ adapters and stems", "adapters"),
                ("SpectraDINO (half)", BASE),
                ("SpectraDINO (full)", "full"),
            ),
        ),
        Table(
            11,
            "Fine-tuned parameters",
            (
                ("Head", "head"),
                ("Head + adapters and stems", "adapters"),
                ("SpectraDINO (half)", BASE),
                ("SpectraDINO (full)", "full"),
            ),
        ),
        Table(
            12,
            "Losses of Stage III",
            (
                ("Distillation", "loss_distillation"),
                ("+ contrastive", "loss_contrastive"),
                ("+ patch", "loss_patch"),
                ("+ neighbourhood", BASE),
            ),
            ("Stages I and II are the same for all rows; the order in which losses are added is assumed.",),
        ),
        Table(
            13, "Stage of pretraining", (("Stage I", "stage1"), ("Stage II (bridge)", "stage2"), ("Stage III", BASE))
        ),
        Table(
            14,
            "Fusion",
            (("Concatenation (baseline)", BASE), ("Cross attention", "cross_attention"), ("Gated token", "gated")),
        ),
    )
    return tuple(table for table in found if "detection" in tasks or table.number not in (10, 14))
