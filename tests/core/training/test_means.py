"""Log rows average all steps since the previous row, by band, also in a resumed run."""

from __future__ import annotations

import pytest
import torch

from spectradino_core.training.train_logger import RecentMeans

BANDS = ("nir", "swir", "lwir")


def run(recent: RecentMeans, first: int, last: int) -> list[dict[str, float]]:
    """Return rows of steps whose total is their number, and of which every second has "queue"."""
    rows = []
    for step in range(first, last):
        losses = {"total": torch.tensor(float(step))} | ({"queue": torch.tensor(2.0 * step)} if step % 2 else {})
        recent.after_step(step, BANDS[step % 3], losses)
        if (step + 1) % 6 == 0 or step + 1 == 8:
            rows.append({name: float(value) for name, value in losses.items()})
    return rows


def test_rows_by_hand():
    first, last = run(RecentMeans(6, 8), 0, 8)
    assert first == {"total": 2.5, "total_nir": 1.5, "total_swir": 2.5, "total_lwir": 3.5, "queue": 6.0}
    assert last == {"total": 6.5, "total_nir": 6.0, "total_swir": 7.0, "queue": 14.0}


def test_only_the_named_values_are_averaged():
    recent = RecentMeans(4, 8, only=("clipped",))
    for step in range(4):
        losses = {"total": torch.tensor(float(step)), "clipped": torch.tensor(step < 1)}
        recent.after_step(step, "", losses)
    assert {name: float(value) for name, value in losses.items()} == {"total": 3.0, "clipped": 0.25}


@pytest.mark.parametrize("stopped", [1, 4, 6, 7])
def test_resumed_run_logs_the_same_means(stopped):
    whole = run(RecentMeans(6, 8), 0, 8)
    before, after = RecentMeans(6, 8), RecentMeans(6, 8)
    rows = run(before, 0, stopped)
    after.load_state_dict(before.state_dict())
    assert rows + run(after, stopped, 8) == whole
