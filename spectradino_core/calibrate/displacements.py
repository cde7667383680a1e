"""Where moving things that the infrared camera shows lie in the colour pictures around the same moment, and how fast.

Activity (`activity.py`) tells when something changes at a place, whatever it is. But a thing does not look alike in
both bands: what stands out may be its front in one and its rear in the other, so that its changes in one run ahead of
those in the other by some milliseconds. Edges don't: an edge that both bands show is at one place at one moment. So
patches of the infrared structure, masked to what moves (what differs from the frame before and from the frame after is
at this frame's place), are looked for in the colour frames before and after the moment; the line between both places
says where the patch's edges are, seen by the colour camera, at the very moment. What is left is a displacement: the
registration's error at that place, and velocity times the error of the offset.

Letters: h x w a picture, N patches.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import cv2
import numpy as np

from spectradino_core.calibrate.matching import refined_peaks
from spectradino_core.calibrate.structure import structure

__all__ = ["WIDTH", "Displacements", "Moment", "displacements", "moments"]

WIDTH = 320
"""Width of the pictures that are compared, in pixels; their height follows from the colour image's shape."""

_MOST_MOMENTS = 160
_BASELINE_NS = 60_000_000
_GAP = 2.5
_HALF, _RADIUS, _GRID = 10, 6, 10
_MOVING, _STILL = 40, 12  # patches of a moment
_LEAST_ENERGY, _LEAST_SCORE = 0.002, 0.35
_FLOOR = 0.2


@dataclass(frozen=True)
class Moment:
    """An infrared frame with its neighbours, and the colour frames around it: stamps, each of its own camera's clock.

    Attributes:
        infrared: the frame before, the frame and the frame after.
        colour: a frame before and one after the moment.
        share: where the moment lies between them, 0 to 1.
    """

    infrared: tuple[int, int, int]
    colour: tuple[int, int]
    share: float


@dataclass(frozen=True)
class Displacements:
    """Patches that were found again, the still ones with a velocity of 0.

    Attributes:
        points: float64 [N, 2], x and y of their centres, from the picture's centre in halves of its width.
        shifts: float64 [N, 2], where the colour camera saw them at the moment, relative to that; pixels.
        velocities: float64 [N, 2], pixels/s, from one colour frame to the other.
        information: float64 [N, 2, 2], how sharply they were found; see `matching.Matches`.
        seconds: float64 [N], the moment.
    """

    points: np.ndarray
    shifts: np.ndarray
    velocities: np.ndarray
    information: np.ndarray
    seconds: np.ndarray

    def __len__(self) -> int:
        return len(self.points)

    def __getitem__(self, chosen: np.ndarray) -> Displacements:
        return Displacements(*(getattr(self, name)[chosen] for name in self.__dataclass_fields__))


def moments(rgb_ns: np.ndarray, ir_ns: np.ndarray, offset_ms: float) -> list[Moment]:
    """Moments spread over a recording at which patches can be compared.

    Args:
        rgb_ns, ir_ns: int64 [K], the cameras' stamps in order, at least three each.
        offset_ms: how much later the infrared camera stamps the same moment, roughly.
    """
    rgb_period, ir_period = (float(np.median(np.diff(stamps))) for stamps in (rgb_ns, ir_ns))
    # Of quick cameras not the next frames: over so short a time next to nothing moves.
    aside = max(0, math.ceil((_BASELINE_NS / rgb_period - 1) / 2))
    found = []
    for k in range(1, len(ir_ns) - 1):
        at = int(ir_ns[k]) - round(offset_ms * 1e6)
        right = int(np.searchsorted(rgb_ns, at, side="right"))
        first, last = right - 1 - aside, right + aside
        if first < 0 or last >= len(rgb_ns):
            continue
        before, after = int(rgb_ns[first]), int(rgb_ns[last])
        if after - before > (2 * aside + _GAP) * rgb_period or ir_ns[k + 1] - ir_ns[k - 1] > 2 * _GAP * ir_period:
            continue
        triple = (int(ir_ns[k - 1]), int(ir_ns[k]), int(ir_ns[k + 1]))
        found.append(Moment(triple, (before, after), (at - before) / (after - before)))
    if len(found) > _MOST_MOMENTS:
        found = [found[round(k)] for k in np.linspace(0, len(found) - 1, _MOST_MOMENTS)]
    return found


def displacements(
    chosen: list[Moment], colour: Mapping[int, np.ndarray], infrared: Mapping[int, np.ndarray], valid: np.ndarray | None
) -> Displacements:
    """Compares all that moves, and some of what doesn't, at some moments.

    Args:
        chosen: the moments, in order; one of which a picture lacks is passed over.
        colour, infrared: grey pictures by stamp, float [h, w] in 0..1, all of one grid and size.
        valid: bool [h, w], where the infrared camera sees anything; None: everywhere.
    """
    flow = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_FAST)  # type: ignore[attr-defined]  # the stubs lack it
    rows: list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, float]] = []
    inside: np.ndarray | None = None
    for moment in chosen:
        if not all(s in infrared for s in moment.infrared) or not all(s in colour for s in moment.colour):
            continue
        triple = [infrared[s].astype(np.float32) for s in moment.infrared]
        pair = [colour[s].astype(np.float32) for s in moment.colour]
        if inside is None:
            inside = np.ones(pair[0].shape, np.float32)
            if valid is not None:
                inside = cv2.erode(valid.astype(np.float32), np.ones((9, 9), np.uint8), borderType=cv2.BORDER_CONSTANT)
        seconds = (moment.colour[1] - moment.colour[0]) / 1e9
        motion = flow.calc(*((255 * picture).astype(np.uint8) for picture in pair), None)
        seen = structure(triple[1], valid).transpose(1, 2, 0)
        around = [np.ascontiguousarray(structure(picture).transpose(1, 2, 0)) for picture in pair]
        moving = _moving(*triple) * inside
        patches = _Patches(around, motion, moment.share, seconds)
        patches.look_for(np.ascontiguousarray(seen * moving[..., None]), moving, _MOVING, moves=True)
        still = np.where(cv2.dilate(moving, np.ones((9, 9), np.uint8)) > 0.05, 0, inside)
        patches.look_for(np.ascontiguousarray(seen * still[..., None]), still, _STILL, moves=False)
        rows += [(*row, moment.infrared[1] / 1e9) for row in patches.rows]
    if not rows:
        return Displacements(np.zeros((0, 2)), np.zeros((0, 2)), np.zeros((0, 2)), np.zeros((0, 2, 2)), np.zeros(0))
    points, shifts, velocities, information, at = (np.array(column, np.float64) for column in zip(*rows))
    height, width = inside.shape if inside is not None else (1, 1)
    points = (points - (np.array([width, height]) - 1) / 2) / (width / 2)
    return Displacements(points, shifts, velocities, information, at - at.min())


class _Patches:
    """One moment's patches, looked for in the colour frames around it."""

    def __init__(self, around: list[np.ndarray], motion: np.ndarray, share: float, seconds: float) -> None:
        self.around, self.motion, self.share, self.seconds = around, motion, share, seconds
        self.energies = [np.einsum("hwc,hwc->hw", picture, picture) for picture in around]
        self.rows: list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]] = []

    def look_for(self, template: np.ndarray, mask: np.ndarray, most: int, moves: bool) -> None:
        """Adds those patches of float32 [h, w, C], masked by [h, w], that hold most and are found in both frames."""
        energy = np.einsum("hwc,hwc->hw", template, template)
        held = cv2.blur(energy, (2 * _HALF + 1, 2 * _HALF + 1))
        edge = _HALF + _RADIUS + 1
        rows, columns = np.mgrid[edge : mask.shape[0] - edge : _GRID, edge : mask.shape[1] - edge : _GRID]
        rows, columns = rows.ravel(), columns.ravel()
        order = np.argsort(-held[rows, columns], kind="stable")
        order = order[held[rows[order], columns[order]] > _LEAST_ENERGY]
        if not moves:  # spread, so that one sharp corner of the picture does not speak for all
            order = order[: len(order) // 2 + 1][:: max(1, (len(order) // 2 + 1) // most)]
        for place in order[:most]:
            self._add(int(columns[place]), int(rows[place]), template, mask, energy, moves)

    def _add(self, x: int, y: int, template: np.ndarray, mask: np.ndarray, energy: np.ndarray, moves: bool) -> None:
        part = np.s_[y - _HALF : y + _HALF + 1, x - _HALF : x + _HALF + 1]
        total = float(energy[part].sum())
        motion = np.einsum("hwc,hw->c", self.motion[part], energy[part]) / total if moves else np.zeros(2)
        found, known = [], np.zeros((2, 2))
        for number, way in ((0, -self.share), (1, 1 - self.share)):
            guess = np.rint(way * motion).astype(int)
            one = self._found(number, x + guess[0], y + guess[1], template[part], mask[part], total)
            if one is None:
                return
            found.append(one[0] + guess)
            known += one[1] / 2
        velocity = np.zeros(2)
        if moves:
            # Flow smooths small things into the ground: the velocity is the patch's own, from colour to colour.
            between = self._between(x, y, found, mask[part])
            if between is None:
                return
            velocity = between / self.seconds
            apart = float(np.linalg.norm(found[1] - found[0] - between))
            if apart > 1.0 + 0.2 * float(np.linalg.norm(between)):
                return  # two different things were found
        shift = (1 - self.share) * found[0] + self.share * found[1]
        self.rows.append((np.array([x, y]), shift, velocity, known))

    def _between(self, x: int, y: int, found: list[np.ndarray], mask: np.ndarray) -> np.ndarray | None:
        """How far what was found in the first colour frame moved to the second."""
        first, second = (np.rint(place).astype(int) + (x, y) for place in found)
        height, width = self.energies[0].shape
        if not (_HALF <= first[0] < width - _HALF and _HALF <= first[1] < height - _HALF):
            return None
        part = np.s_[first[1] - _HALF : first[1] + _HALF + 1, first[0] - _HALF : first[0] + _HALF + 1]
        template = np.ascontiguousarray(self.around[0][part] * mask[..., None])
        one = self._found(1, int(second[0]), int(second[1]), template, mask, float((template**2).sum()))
        return None if one is None else one[0] + second - first

    def _found(
        self, number: int, x: int, y: int, template: np.ndarray, mask: np.ndarray, total: float
    ) -> tuple[np.ndarray, np.ndarray] | None:
        """Where the template lies near (x, y) in a colour frame, and how sharply."""
        reach = _HALF + _RADIUS
        height, width = self.energies[number].shape
        if not (reach <= x < width - reach and reach <= y < height - reach):
            return None
        part = np.s_[y - reach : y + reach + 1, x - reach : x + reach + 1]
        window = self.around[number][part]
        product = np.zeros((2 * _RADIUS + 1, 2 * _RADIUS + 1), np.float32)
        for channels in (np.s_[..., :3], np.s_[..., 3:]):  # matchTemplate takes no more than four
            parts = np.ascontiguousarray(window[channels]), np.ascontiguousarray(template[channels])
            product += cv2.matchTemplate(*parts, cv2.TM_CCORR)
        energy = cv2.matchTemplate(np.ascontiguousarray(self.energies[number][part]), mask * mask, cv2.TM_CCORR)
        score = product / np.sqrt((total + _FLOOR) * (np.maximum(energy, 0) + _FLOOR))
        row, column = divmod(int(score.argmax()), score.shape[1])
        if not (0 < row < 2 * _RADIUS and 0 < column < 2 * _RADIUS) or score[row, column] < _LEAST_SCORE:
            return None
        places, information = refined_peaks(score[:, :, None], np.array([row]), np.array([column]))
        return places[0] - _RADIUS, information[0]


def _moving(before: np.ndarray, now: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Which pixels of a frame moved, float32 [h, w] in 0..1: they differ from the frame before and from the next."""
    pictures = [picture - cv2.GaussianBlur(picture, (0, 0), 20.0) for picture in (before, now, after)]
    change = np.minimum(np.abs(pictures[1] - pictures[0]), np.abs(pictures[1] - pictures[2]))
    noise = 1.4826 * float(np.median(change)) + 0.01 * float(pictures[1].std()) + 1e-6
    moved = cv2.GaussianBlur(np.clip((change - 4 * noise) / (6 * noise), 0, 1), (0, 0), 1.5)
    return np.clip(2 * cv2.dilate(moved, np.ones((3, 3), np.uint8)), 0, 1)
