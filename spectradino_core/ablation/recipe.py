"""Types of an ablation: runs that each differ in one setting, and tables that compare them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from spectradino_core.training.recipes import FinetuneRecipe
from spectradino_core.training.stages import StageRecipe

__all__ = ["TEACHER", "Ablation", "Cell", "Pretraining", "Scenes", "Table", "fingerprint"]

TEACHER = "teacher"
"""Backbone of a cell: DINOv2's weights, or a substitute for them."""


@dataclass(frozen=True)
class Scenes:
    """Synthetic scenes instead of data sets, rendered once for all cells.

    Attributes:
        train, test: number of labelled pairs for training and for the report.
        pretrain: number of pairs for pretraining.
        size: (width, height) of the labelled pairs in pixels.
        pretrain_size: (width, height) of the pretraining pairs in pixels.
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
        stage: recipe of the stage.
        steps: optimiser steps; None: the recipe's epochs.
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
    backbone: str = TEACHER


@dataclass(frozen=True)
class Table:
    """A table of the paper.

    Attributes:
        number: number in the paper.
        title: the varied setting.
        rows: (title, key of a cell) in the paper's order.
        notes: notes below the table.
    """

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
        baseline: key of the cell with frozen DINOv2 and infrared as grey, which is part of every table.
        seeds: seeds of the fine-tunings. Pretraining runs once, so the spread excludes its variation.
        scenes: synthetic data instead of a data set; None: real data.
        substitute: recipe of a teacher, trained on RGB only, that replaces DINOv2 if no weights are given; None:
            DINOv2's weights are required.
        notes: notes of the report.
        substitute_notes: further notes if the substitute was used.

    Raises:
        ValueError: a key occurs twice, or refers to nothing.
    """

    name: str
    title: str
    dataset: str
    cells: tuple[Cell, ...]
    pretrainings: tuple[Pretraining, ...]
    tables: tuple[Table, ...]
    baseline: str
    seeds: tuple[int, ...] = (0,)
    scenes: Scenes | None = None
    substitute: FinetuneRecipe | None = None
    notes: tuple[str, ...] = ()
    substitute_notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        keys = [cell.key for cell in self.cells]
        stages = [TEACHER, *(one.key for one in self.pretrainings)]
        for kind, names in (("cell", keys), ("pretraining", stages), ("seed", [str(seed) for seed in self.seeds])):
            twice = sorted({name for name in names if names.count(name) > 1})
            if twice or not names:
                raise ValueError(f"{self.name}: {f'the {kind} {twice[0]} occurs twice' if twice else f'no {kind}'}")
        references: list[tuple[str, str | None, list]] = [
            *((f"the cell {cell.key}", cell.backbone, stages) for cell in self.cells),
            *(
                (f"the pretraining {one.key}", one.after, [*stages[: index + 1], None])
                for index, one in enumerate(self.pretrainings)
            ),
            *((f"Table {table.number}", key, keys) for table in self.tables for _, key in table.rows),
            ("the baseline", self.baseline, keys),
        ]
        for what, name, known in references:
            if name not in known:
                raise ValueError(f"{self.name}: {what} names {name!r}, which is not defined before it")

    def cell(self, key: str) -> Cell:
        return next(cell for cell in self.cells if cell.key == key)

    def pretraining(self, key: str) -> Pretraining:
        return next(one for one in self.pretrainings if one.key == key)

    def only(self, tables: Sequence[int]) -> Ablation:
        """Return the ablation with some of its tables, and only the cells that these need.

        Raises:
            ValueError: no such table.
        """
        unknown = sorted(set(tables) - {table.number for table in self.tables})
        if unknown:
            raise ValueError(
                f"{self.name} has no Table {unknown[0]}: choose from {', '.join(str(t.number) for t in self.tables)}"
            )
        chosen = tuple(table for table in self.tables if table.number in tables)
        keys = {self.baseline} | {key for table in chosen for _, key in table.rows}
        cells = tuple(cell for cell in self.cells if cell.key in keys)
        needed = {cell.backbone for cell in cells}
        for one in reversed(self.pretrainings):
            if one.key in needed and one.after is not None:
                needed.add(one.after)
        return replace(
            self, tables=chosen, cells=cells, pretrainings=tuple(one for one in self.pretrainings if one.key in needed)
        )


def fingerprint(*parts: Any) -> str:
    """Return a hash of the inputs of a result."""
    text = json.dumps(
        [asdict(p) if hasattr(p, "__dataclass_fields__") else p for p in parts], sort_keys=True, default=str
    )
    return hashlib.sha256(text.encode()).hexdigest()[:16]
