"""Which band a step shows, and which items: pure functions of seed and step, so that a resumed run goes on alike.

Letters: M groups of items to choose from (as a rule one an infrared band), N items of one group, B items in a batch.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

__all__ = ["AdaptiveBands", "BandSampling", "RoundRobin", "spread_order"]


class BandSampling(Protocol):
    """Decides what each step shows."""

    def place(self, step: int) -> tuple[str, int]:
        """(group, how many steps have shown it before)."""
        ...

    def record(self, step: int, group: str, loss: float) -> None:
        """Tells what came of a step; called once a step, in order, with the loss averaged over all ranks."""
        ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


class RoundRobin:
    """Each group in turn (SpectraDINO Section 3.3: NIR, SWIR, LWIR). The default."""

    def __init__(self, groups: Sequence[str]) -> None:
        if not groups:
            raise ValueError("round robin over no groups")
        self.groups = tuple(groups)

    def place(self, step: int) -> tuple[str, int]:
        return self.groups[step % len(self.groups)], step // len(self.groups)

    def record(self, step: int, group: str, loss: float) -> None:
        pass

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        pass


class AdaptiveBands:
    """Shows more of what is still learnt badly: the chance of a group grows with its running loss. Ours, off by
    default; the paper names it as an open question (Appendix, "Limitations").

    Chances change once a round of `period` steps, and what a round does is settled by the losses up to the end of the
    round before last. Batches may therefore be made up to `period` steps ahead without changing what they are.
    """

    def __init__(
        self,
        groups: Sequence[str],
        seed: int,
        period: int = 60,
        power: float = 1.0,
        floor: float = 0.3,
        decay: float = 0.95,
    ) -> None:
        """
        Args:
            groups: names.
            seed: of the draws.
            period: steps of a round; no less than the batches that are made ahead.
            power: chances are proportional to the running loss to this power; 0: all alike.
            floor: share of the steps that is dealt out evenly whatever the losses.
            decay: of the running loss, per step that shows the group.
        """
        if not groups or period < 1 or not 0 <= floor <= 1 or not 0 <= decay < 1:
            raise ValueError(
                "adaptive sampling needs groups, a period of 1 or more, a floor in 0..1, a decay in [0, 1)"
            )
        self.groups = tuple(groups)
        self._seed, self._period, self._power, self._floor, self._decay = seed, period, power, floor, decay
        self._losses: dict[str, float] = {}
        even = [1 / len(groups)] * len(groups)
        # By round: the chance of each group, and how often each was shown before it.
        self._chances: dict[int, list[float]] = {0: even, 1: even}
        self._before: dict[int, list[int]] = {0: [0] * len(groups)}
        self._draws: dict[int, np.ndarray] = {}
        self._recorded = 0

    def chances(self, step: int) -> dict[str, float]:
        """The chance of each group at `step`."""
        return dict(zip(self.groups, self._chances_of(step // self._period), strict=True))

    def place(self, step: int) -> tuple[str, int]:
        number, offset = divmod(step, self._period)
        draws = self._drawn(number)
        which = int(draws[offset])
        return self.groups[which], self._shown_before(number)[which] + int((draws[:offset] == which).sum())

    def record(self, step: int, group: str, loss: float) -> None:
        """
        Raises:
            ValueError: a step out of order, an unknown group or a loss that is not finite.
        """
        if step != self._recorded or group not in self.groups or not np.isfinite(loss):
            raise ValueError(f"step {step} of {group} with loss {loss}: expected step {self._recorded}, a known group")
        last = self._losses.get(group)
        self._losses[group] = loss if last is None else self._decay * last + (1 - self._decay) * loss
        self._recorded += 1
        number, offset = divmod(self._recorded, self._period)
        if offset == 0:  # round number - 1 has ended, which settles round number + 1
            self._chances[number + 1] = self._weigh()
            self._shown_before(number)
            for old in [n for n in self._chances if n < number]:
                self._chances.pop(old)
                self._before.pop(old, None)
                self._draws.pop(old, None)

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers; JSON can hold it."""
        return {
            "recorded": self._recorded,
            "losses": dict(self._losses),
            "chances": {str(n): list(c) for n, c in self._chances.items()},
            "before": {str(n): list(self._shown_before(n)) for n in sorted(self._chances)},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._recorded = int(state["recorded"])
        self._losses = {str(g): float(v) for g, v in state["losses"].items()}
        self._chances = {int(n): [float(x) for x in c] for n, c in state["chances"].items()}
        self._before = {int(n): [int(x) for x in b] for n, b in state["before"].items()}
        self._draws = {}

    def _weigh(self) -> list[float]:
        known = np.array([self._losses.get(group, np.nan) for group in self.groups])
        # What was never shown counts as badly as the worst that was.
        losses = np.where(np.isnan(known), np.nanmax(known), known)
        weights = np.maximum(losses, 1e-12) ** self._power
        return list(self._floor / len(weights) + (1 - self._floor) * weights / weights.sum())

    def _chances_of(self, number: int) -> list[float]:
        if number not in self._chances:
            raise ValueError(
                f"round {number} of {self._period} steps is not settled after {self._recorded} recorded steps: batches "
                "are made too far ahead (fewer workers, or a longer period), or losses are not recorded"
            )
        return self._chances[number]

    def _drawn(self, number: int) -> np.ndarray:
        if number not in self._draws:
            uniform = np.random.default_rng((self._seed, 13, number)).random(self._period)
            edges = np.cumsum(self._chances_of(number))
            self._draws[number] = np.minimum(np.searchsorted(edges, uniform, side="right"), len(self.groups) - 1)
        return self._draws[number]

    def _shown_before(self, number: int) -> list[int]:
        if number not in self._before:
            earlier = self._shown_before(number - 1)
            counts = np.bincount(self._drawn(number - 1), minlength=len(self.groups))
            self._before[number] = [int(a + b) for a, b in zip(earlier, counts)]
        return self._before[number]


_SWAPS = 100


def spread_order(
    sequences: np.ndarray, frames: np.ndarray, gaps: np.ndarray, batch: int, rng: np.random.Generator
) -> tuple[np.ndarray, int]:
    """An epoch's order of N items in whole batches, in which neighbours of a recording don't meet in a batch.

    Two items are neighbours if they are of one sequence and fewer frames apart than its gap (or a frame is unknown):
    in a batch they would be each other's false negatives. Long sequences are dealt evenly over the epoch first; an item
    that would meet a neighbour then waits for a later batch; those left at the end change places with earlier ones.

    Args:
        sequences: int64 [N], number of the recording.
        frames: int64 [N], place in it; negative: unknown.
        gaps: int64 [N], frames.
        batch: B, at most N.
        rng: of the order.

    Returns:
        int64 [N // B * B], and how many items met a neighbour all the same because too few others were left.
    """
    count = len(sequences)
    order = deque(_dealt(sequences, rng))
    out: list[int] = []
    misplaced: list[int] = []  # places in out
    for _ in range(count // batch):
        taken: list[int] = []
        waiting: list[int] = []
        seen: dict[int, list[int]] = {}
        while order and len(taken) < batch and len(waiting) < 8 * batch:
            item = order.popleft()
            others = seen.setdefault(int(sequences[item]), [])
            if _meets(int(frames[item]), others, int(gaps[item])):
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

    def fits(place: int, row: int) -> bool:
        """Whether `row` would meet no neighbour at `place`."""
        first = place // batch * batch
        others = np.delete(rows[first : first + batch], place - first)
        others = others[sequences[others] == sequences[row]]
        return not _meets(int(frames[row]), [int(f) for f in frames[others]], int(gaps[row]))

    met = 0
    for place in misplaced:
        for other in rng.integers(len(rows), size=_SWAPS):
            if fits(place, rows[other]) and fits(int(other), rows[place]):
                rows[[place, other]] = rows[[other, place]]
                break
        else:
            met += not fits(place, rows[place])
    return rows, met


def _dealt(sequences: np.ndarray, rng: np.random.Generator) -> Iterable[int]:
    """All items, each sequence's in random order and evenly spread over the whole."""
    shuffled = rng.permutation(len(sequences))
    _, inverse, sizes = np.unique(sequences, return_inverse=True, return_counts=True)
    by_sequence = shuffled[np.argsort(inverse[shuffled], kind="stable")]
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    owner = inverse[by_sequence]
    place = (np.arange(len(sequences)) - starts[owner] + rng.random(len(sizes))[owner]) / sizes[owner]
    return [int(i) for i in by_sequence[np.argsort(place, kind="stable")]]


def _meets(frame: int, others: list[int], gap: int) -> bool:
    return any(frame < 0 or other < 0 or abs(frame - other) < gap for other in others)
