"""Sampling of bands and items as pure functions of seed and step, so that a resumed run repeats them exactly.

Letters: M groups of items (usually one per infrared band), N items of one group, B items in a batch.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np


class BandSampling:
    """Chooses the group of each step. The default ignores losses and has no state."""

    def __init__(self, groups: Sequence[str]) -> None:
        if not groups:
            raise ValueError("sampling needs at least one group")
        self.groups = tuple(groups)

    def select(self, step: int) -> tuple[str, int]:
        """Return (group, number of earlier steps with this group)."""
        raise NotImplementedError

    def record(self, step: int, group: str, loss: float) -> None:
        """Record the loss of a step, averaged over all ranks; called once per step, in order."""

    def state_dict(self) -> dict[str, Any]:
        """Return numbers only, which can be stored as JSON."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""


class RoundRobin(BandSampling):
    """Cycle through the groups (SpectraDINO Section 3.3: NIR, SWIR, LWIR). The default."""

    def select(self, step: int) -> tuple[str, int]:
        return self.groups[step % len(self.groups)], step // len(self.groups)


_DECAY = 0.95
"""Decay of a group's running loss per step of the group."""

_FLOOR = 0.3
"""Fraction of the steps that is distributed uniformly regardless of the losses."""


class AdaptiveBands(BandSampling):
    """Sample groups with a probability that grows with their running loss.

    Ours, off by default; the paper names it as an open question (Appendix, "Limitations"). Probabilities change once
    per round of `period` steps and depend on the losses up to the end of the round before the previous one, so up to
    `period` batches can be prefetched.
    """

    def __init__(self, groups: Sequence[str], seed: int, period: int = 60) -> None:
        super().__init__(groups)
        if period < 1:
            raise ValueError("adaptive sampling needs a period of 1 or more")
        self._seed, self._period = seed, period
        self._losses: dict[str, float] = {}
        even = [1 / len(groups)] * len(groups)
        # By round: the probability of each group, and the number of steps of each group before the round.
        self._probabilities: dict[int, list[float]] = {0: even, 1: even}
        self._steps_at_round: dict[int, list[int]] = {0: [0] * len(groups)}
        self._draws: dict[int, np.ndarray] = {}
        self._recorded = 0

    def select(self, step: int) -> tuple[str, int]:
        number, offset = divmod(step, self._period)
        draws = self._drawn(number)
        which = int(draws[offset])
        return self.groups[which], self._steps_before(number)[which] + int((draws[:offset] == which).sum())

    def record(self, step: int, group: str, loss: float) -> None:
        """Raise ValueError for a step out of order, an unknown group or a loss that is not finite."""
        if step != self._recorded or group not in self.groups or not np.isfinite(loss):
            raise ValueError(
                f"step {step} of {group} with loss {loss}: expected step {self._recorded}, one of "
                f"{', '.join(self.groups)} and a finite loss"
            )
        last = self._losses.get(group)
        self._losses[group] = loss if last is None else _DECAY * last + (1 - _DECAY) * loss
        self._recorded += 1
        number, offset = divmod(self._recorded, self._period)
        if offset == 0:  # round number - 1 has ended, which determines round number + 1
            self._probabilities[number + 1] = self._new_probabilities()
            self._steps_before(number)
            for kept in (self._probabilities, self._steps_at_round, self._draws):
                for old in [n for n in kept if n < number]:
                    del kept[old]

    def state_dict(self) -> dict[str, Any]:
        return {
            "recorded": self._recorded,
            "losses": dict(self._losses),
            "chances": {str(n): list(c) for n, c in self._probabilities.items()},
            "before": {str(n): list(self._steps_before(n)) for n in sorted(self._probabilities)},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._recorded = int(state["recorded"])
        self._losses = {str(g): float(v) for g, v in state["losses"].items()}
        self._probabilities = {int(n): [float(x) for x in c] for n, c in state["chances"].items()}
        self._steps_at_round = {int(n): [int(x) for x in b] for n, b in state["before"].items()}
        self._draws = {}

    def _new_probabilities(self) -> list[float]:
        known = np.array([self._losses.get(group, np.nan) for group in self.groups])
        # A group without a loss gets the maximum of the others.
        losses = np.where(np.isnan(known), np.nanmax(known), known)
        weights = np.maximum(losses, 1e-12)
        return list(_FLOOR / len(weights) + (1 - _FLOOR) * weights / weights.sum())

    def _probabilities_of(self, number: int) -> list[float]:
        if number not in self._probabilities:
            raise ValueError(
                f"round {number} of {self._period} steps is undetermined after {self._recorded} recorded steps: use "
                "fewer workers or a longer period, and record the loss of every step"
            )
        return self._probabilities[number]

    def _drawn(self, number: int) -> np.ndarray:
        if number not in self._draws:
            uniform = np.random.default_rng((self._seed, 13, number)).random(self._period)
            edges = np.cumsum(self._probabilities_of(number))
            self._draws[number] = np.minimum(np.searchsorted(edges, uniform, side="right"), len(self.groups) - 1)
        return self._draws[number]

    def _steps_before(self, number: int) -> list[int]:
        if number not in self._steps_at_round:
            earlier = self._steps_before(number - 1)
            counts = np.bincount(self._drawn(number - 1), minlength=len(self.groups))
            self._steps_at_round[number] = [int(a + b) for a, b in zip(earlier, counts)]
        return self._steps_at_round[number]


_SWAPS = 100


def spread_order(
    sequences: np.ndarray, frames: np.ndarray, gaps: np.ndarray, batch: int, rng: np.random.Generator
) -> tuple[np.ndarray, int]:
    """Order N items of an epoch in full batches that avoid neighbouring frames of a recording in one batch.

    Two items are neighbours if they are of one sequence and fewer frames apart than its gap (or a frame is unknown): in
    a batch they would be false negatives of each other. Sequences are first distributed evenly over the epoch; an item
    with a neighbour in the batch is then deferred to a later one; those left at the end are swapped with earlier items.

    Args:
        sequences, frames, gaps: int64 [N], number of each item's recording, frame in it (negative: unknown), and
            minimum distance in frames within a batch.
        batch: B, at most N.
        rng: generator of the order.

    Returns:
        Indices int64 [N // B * B], and the number of items that still share a batch with a neighbour.
    """
    count = len(sequences)
    order = deque(_evenly_spaced(sequences, rng))
    out: list[int] = []
    misplaced: list[int] = []  # positions in out
    for _ in range(count // batch):
        taken: list[int] = []
        waiting: list[int] = []
        seen: dict[int, list[int]] = {}
        while order and len(taken) < batch and len(waiting) < 8 * batch:
            item = order.popleft()
            others = seen.setdefault(int(sequences[item]), [])
            if _has_neighbour(int(frames[item]), others, int(gaps[item])):
                waiting.append(item)
            else:
                taken.append(item)
                others.append(int(frames[item]))
        short = batch - len(taken)
        misplaced += range(len(out) + len(taken), len(out) + batch)
        taken += waiting[:short]
        order.extendleft(reversed(waiting[short:]))
        out += taken
    rows = np.array(out, np.int64)

    def fits(position: int, row: int) -> bool:
        """Return whether `row` would have no neighbour in the batch at `position`."""
        first = position // batch * batch
        others = np.delete(rows[first : first + batch], position - first)
        others = others[sequences[others] == sequences[row]]
        return not _has_neighbour(int(frames[row]), [int(f) for f in frames[others]], int(gaps[row]))

    conflicts = 0
    for position in misplaced:
        for other in rng.integers(len(rows), size=_SWAPS):
            if fits(position, rows[other]) and fits(int(other), rows[position]):
                rows[[position, other]] = rows[[other, position]]
                break
        else:
            conflicts += not fits(position, rows[position])
    return rows, conflicts


def _evenly_spaced(sequences: np.ndarray, rng: np.random.Generator) -> Iterable[int]:
    """Return all items, those of each sequence shuffled and evenly spaced over the epoch."""
    shuffled = rng.permutation(len(sequences))
    _, inverse, sizes = np.unique(sequences, return_inverse=True, return_counts=True)
    by_sequence = shuffled[np.argsort(inverse[shuffled], kind="stable")]
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    owner = inverse[by_sequence]
    position = (np.arange(len(sequences)) - starts[owner] + rng.random(len(sizes))[owner]) / sizes[owner]
    return [int(i) for i in by_sequence[np.argsort(position, kind="stable")]]


def _has_neighbour(frame: int, others: list[int], gap: int) -> bool:
    return any(frame < 0 or other < 0 or abs(frame - other) < gap for other in others)
