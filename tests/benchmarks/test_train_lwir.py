"""Number of steps that fit into a time, and the recipe at other batch sizes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.train_lwir import recipe_for, steps_for
from spectradino_core.training.recipes import box_real


def test_steps_fit_into_the_time_without_what_happens_once(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    seconds = {4: 30.0, 12: 34.0, 24: 40.0}  # 26 s to begin with, then two steps per second
    rows: list[dict[str, float]] = [{"step": step, "steps_per_s": step / after} for step, after in seconds.items()]
    log.write_text("".join(json.dumps(row) + "\n" for row in [*rows, {"step": 24, "val_map50": 0.5}]))
    assert steps_for(10, log) == pytest.approx(0.85 * 600 * 2, rel=0.01)


def test_a_larger_batch_has_higher_rates() -> None:
    recipe = recipe_for(32, 100)
    assert (recipe.batch, recipe.scene_pool, recipe.mix) == (32, 100, box_real().mix)
    assert recipe.lr == pytest.approx({name: 2 * rate for name, rate in box_real().lr.items()})
