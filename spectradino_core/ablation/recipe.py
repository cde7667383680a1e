"""What an ablation is: runs that differ in one thing each, and the tables that put them side by side."""

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
"""As a cell's backbone: DINOv2's weights, or what stands in for them."""


@dataclass(frozen=True)
class Scenes:
    """Rendered streets in place of data sets, drawn once for all cells.

    Attributes:
        train, test: labelled pairs to train on and to report on.
        pretrain: pairs to pretrain on.
        size: (width, height) of the labelled pairs, pixels.
        pretrain_size: of the others.
    """

    train: int
    test: int
    pretrain: int
    size: tuple[int, int] = (320, 256)
    pretrain_size: tuple[int, int] = (240, 192)


@dataclass(frozen=True)
class Pretraining:
    """One stage of pretraining that cells start from.

    Attributes:
        key: its name.
        stage: its recipe.
        steps: in place of its epochs; None: its epochs.
        after: key of the stage before, whose result and queue it takes; None: it starts from the teacher.
    """

    key: str
    stage: StageRecipe
    steps: int | None = None
    after: str | None = None


@dataclass(frozen=True)
class Cell:
    """One fine-tuning, repeated with several seeds.

    Attributes:
        key: its name; a folder's too.
        recipe: what is trained; its seed is replaced.
        backbone: key of a `Pretraining`, or `TEACHER`.
    """

    key: str
    recipe: FinetuneRecipe
    backbone: str = TEACHER


@dataclass(frozen=True)
class Table:
    """Rows of cells.

    Attributes:
        number: the paper's.
        title: what varies.
        rows: (title, key of a cell), in the paper's order.
        notes: what a reader must know, one a line.
    """

    number: int
    title: str
    rows: tuple[tuple[str, str], ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Ablation:
    """A matrix of runs and its tables.

    Attributes:
        name: what users type.
        title: what it is about.
        dataset: one of `datasets.registry`, or "scenes".
        cells, pretrainings, tables: see these; pretrainings in an order in which they can run.
        baseline: key of the cell that is frozen DINOv2 with infrared as grey; it stands in every table.
        seeds: of the fine-tunings. Pretraining runs once: what varies with its seed is not in the spread.
        scenes: rendered data in place of a data set; None: real data.
        stand_in: how a teacher is trained that stands in for DINOv2 when none is given, on colour alone; None: DINOv2's
            weights must be given.
        notes: what a reader must know, one a line.
        stand_in_notes: likewise, where the stand-in was used.

    Raises:
        ValueError: a key occurs twice, or names nothing.
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
    stand_in: FinetuneRecipe | None = None
    notes: tuple[str, ...] = ()
    stand_in_notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        keys = [cell.key for cell in self.cells]
        stages = [TEACHER, *(one.key for one in self.pretrainings)]
        for kind, names in (("cell", keys), ("pretraining", stages), ("seed", [str(seed) for seed in self.seeds])):
            twice = sorted({name for name in names if names.count(name) > 1})
            if twice or not names:
                raise ValueError(f"{self.name}: {f'the {kind} {twice[0]} occurs twice' if twice else f'no {kind}'}")
        wanted: list[tuple[str, str | None, list]] = [
            *((f"the cell {cell.key}", cell.backbone, stages) for cell in self.cells),
            *(
                (f"the pretraining {one.key}", one.after, [*stages[: place + 1], None])
                for place, one in enumerate(self.pretrainings)
            ),
            *((f"Table {table.number}", key, keys) for table in self.tables for _, key in table.rows),
            ("the baseline", self.baseline, keys),
        ]
        for what, name, known in wanted:
            if name not in known:
                raise ValueError(f"{self.name}: {what} names {name!r}, which there is not before it")

    def cell(self, key: str) -> Cell:
        return next(cell for cell in self.cells if cell.key == key)

    def pretraining(self, key: str) -> Pretraining:
        return next(one for one in self.pretrainings if one.key == key)

    def only(self, tables: Sequence[int]) -> Ablation:
        """The same with some of its tables, and the cells that these need.

        Raises:
            ValueError: it has no such table.
        """
        unknown = sorted(set(tables) - {table.number for table in self.tables})
        if unknown:
            raise ValueError(
                f"{self.name} has no Table {unknown[0]}: choose of {', '.join(str(t.number) for t in self.tables)}"
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
    """Tells what made a result from what would make another."""
    text = json.dumps(
        [asdict(p) if hasattr(p, "__dataclass_fields__") else p for p in parts], sort_keys=True, default=str
    )
    return hashlib.sha256(text.encode()).hexdigest()[:16]
