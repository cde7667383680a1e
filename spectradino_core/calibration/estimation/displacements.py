"""Error of a time offset, from positions and velocities of moving edges in the other camera's frames.

Activity (`time_offset.py`) reports when something changes, but an object may stand out by its front in one band and by
its rear in the other, which shifts the activities by some milliseconds. An edge that both bands show has one position
at one moment. Patches of the IR structure, masked to what moves (differs from both the previous and the next frame),
are therefore searched in the RGB frames before and after the moment, and interpolated between them.

The remaining displacement is the registration's local error, plus velocity times the error of the offset. The former is
a smooth shift, fitted jointly and anchored by static patches; the latter is separable because objects move differently.
Weights are robust (Geman-McClure of shrinking width) and follow the localisation accuracy of each patch. Content that
only one band shows beside an edge biases its position by a seventh of a pixel: one or two milliseconds for fast
objects, ten for distant walkers. The standard deviation includes it.

Letters: h x w an image, N patches.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import cv2
import numpy as np

from spectradino_core.calibration.estimation import spread_over
from spectradino_core.calibration.estimation.matching import refined_peaks, relative_information
from spectradino_core.calibration.estimation.structure import structure

WIDTH = 320
"""Width of the compared images in pixels; the height follows from the RGB image's aspect ratio."""

_MAX_MOMENTS = 160
_BASELINE_NS = 60_000_000
_GAP = 2.5
_HALF, _RADIUS, _GRID = 10, 6, 10
_MOVING, _STILL = 40, 12  # maximum number of patches per moment
_MIN_ENERGY, _MIN_SCORE = 0.002, 0.35
_FLOOR = 0.2

_MIN_SPEED = 6.0  # pixels/s in an image 320 wide; below it patches are static, or their velocity is noise
_MIN_PATCHES = 60
_STILL_WEIGHT = 0.1  # the same static patches recur at every moment
_PRIOR_PX = 2.0
_DRAWN_PX = 0.15
_WIDTHS = (3.0, 2.5, 2.1, 1.8, 1.5, 1.3, 1.1, 1.0, 1.0, 1.0)
_STRETCH_S, _DRAWS = 2.0, 40


@dataclass(frozen=True)
class Moment:
    """Stamps of an IR frame and its neighbours, of the RGB frames around it, and its position between those, 0 to 1."""

    infrared: tuple[int, int, int]
    colour: tuple[int, int]
    fraction: float


@dataclass(frozen=True)
class Displacements:
    """Matched patches; static ones have velocity 0.

    Attributes:
        points: float64 [N, 2], x and y of patch centres, from the image centre in units of half the image width.
        shifts: float64 [N, 2], their position in the RGB camera at the moment, relative to `points`; pixels.
        velocities: float64 [N, 2], pixels/s, between the two RGB frames.
        information: float64 [N, 2, 2], localisation accuracy; see `matching.Matches`.
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
    """Choose moments spread over a recording at which patches can be compared.

    The cameras' sorted stamps are int64 [K], at least three each; the offset is that of `estimate_time_offset`.
    """
    rgb_period, ir_period = (float(np.median(np.diff(stamps))) for stamps in (rgb_ns, ir_ns))
    # Fast cameras skip frames: hardly anything moves from one to the next.
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
    return spread_over(found, _MAX_MOMENTS)


def displacements(
    chosen: list[Moment], colour: Mapping[int, np.ndarray], infrared: Mapping[int, np.ndarray], valid: np.ndarray | None
) -> Displacements:
    """Match moving patches, and some static ones, at the given moments; those with missing frames are skipped.

    The images by stamp are grey, float [h, w] in 0..1; `valid`: bool [h, w], the IR camera's field of view; None:
    everywhere.
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
        motion = flow.calc(*((255 * image).astype(np.uint8) for image in pair), None)
        seen = structure(triple[1], valid).transpose(1, 2, 0)
        around = [np.ascontiguousarray(structure(image).transpose(1, 2, 0)) for image in pair]
        moving = _moving(*triple) * inside
        patches = _Patches(around, motion, moment.fraction, seconds)
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
    """Patches of one moment, searched in the RGB frames around it."""

    def __init__(self, around: list[np.ndarray], motion: np.ndarray, fraction: float, seconds: float) -> None:
        self.around, self.motion, self.fraction, self.seconds = around, motion, fraction, seconds
        self.energies = [np.einsum("hwc,hwc->hw", image, image) for image in around]
        self.rows: list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]] = []

    def look_for(self, template: np.ndarray, mask: np.ndarray, maximum: int, moves: bool) -> None:
        """Add the strongest patches of float32 [h, w, C], masked by [h, w], that are found in both frames."""
        energy = np.einsum("hwc,hwc->hw", template, template)
        held = cv2.blur(energy, (2 * _HALF + 1, 2 * _HALF + 1))
        edge = _HALF + _RADIUS + 1
        rows, columns = np.mgrid[edge : mask.shape[0] - edge : _GRID, edge : mask.shape[1] - edge : _GRID]
        rows, columns = rows.ravel(), columns.ravel()
        order = np.argsort(-held[rows, columns], kind="stable")
        order = order[held[rows[order], columns[order]] > _MIN_ENERGY]
        if not moves:  # spread out, so that one sharp corner of the image does not dominate
            order = order[: len(order) // 2 + 1][:: max(1, (len(order) // 2 + 1) // maximum)]
        for place in order[:maximum]:
            self._add(int(columns[place]), int(rows[place]), template, mask, energy, moves)

    def _add(self, x: int, y: int, template: np.ndarray, mask: np.ndarray, energy: np.ndarray, moves: bool) -> None:
        part = np.s_[y - _HALF : y + _HALF + 1, x - _HALF : x + _HALF + 1]
        total = float(energy[part].sum())
        motion = np.einsum("hwc,hw->c", self.motion[part], energy[part]) / total if moves else np.zeros(2)
        found, known = [], np.zeros((2, 2))
        for number, way in ((0, -self.fraction), (1, 1 - self.fraction)):
            guess = np.rint(way * motion).astype(int)
            one = self._found(number, x + guess[0], y + guess[1], template[part], mask[part], total)
            if one is None:
                return
            found.append(one[0] + guess)
            known += one[1] / 2
        velocity = np.zeros(2)
        if moves:
            # Optical flow smooths small objects into the background: use the patch's motion between RGB frames.
            between = self._between(x, y, found, mask[part])
            if between is None:
                return
            velocity = between / self.seconds
            apart = float(np.linalg.norm(found[1] - found[0] - between))
            if apart > 1.0 + 0.2 * float(np.linalg.norm(between)):
                return  # two different objects were matched
        shift = (1 - self.fraction) * found[0] + self.fraction * found[1]
        self.rows.append((np.array([x, y]), shift, velocity, known))

    def _between(self, x: int, y: int, found: list[np.ndarray], mask: np.ndarray) -> np.ndarray | None:
        """Return how far the match in the first RGB frame moved to the second."""
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
        """Return the template's position near (x, y) in an RGB frame and its information, or None."""
        reach = _HALF + _RADIUS
        height, width = self.energies[number].shape
        if not (reach <= x < width - reach and reach <= y < height - reach):
            return None
        part = np.s_[y - reach : y + reach + 1, x - reach : x + reach + 1]
        window = self.around[number][part]
        product = np.zeros((2 * _RADIUS + 1, 2 * _RADIUS + 1), np.float32)
        for channels in (np.s_[..., :3], np.s_[..., 3:]):  # matchTemplate takes at most four
            parts = np.ascontiguousarray(window[channels]), np.ascontiguousarray(template[channels])
            product += cv2.matchTemplate(*parts, cv2.TM_CCORR)
        energy = cv2.matchTemplate(np.ascontiguousarray(self.energies[number][part]), mask * mask, cv2.TM_CCORR)
        score = product / np.sqrt((total + _FLOOR) * (np.maximum(energy, 0) + _FLOOR))
        row, column = divmod(int(score.argmax()), score.shape[1])
        if not (0 < row < 2 * _RADIUS and 0 < column < 2 * _RADIUS) or score[row, column] < _MIN_SCORE:
            return None
        places, information = refined_peaks(score[:, :, None], np.array([row]), np.array([column]))
        return places[0] - _RADIUS, information[0]


def _moving(before: np.ndarray, now: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Return the moving pixels of a frame, float32 [h, w] in 0..1: different from both neighbouring frames."""
    images = [image - cv2.GaussianBlur(image, (0, 0), 20.0) for image in (before, now, after)]
    change = np.minimum(np.abs(images[1] - images[0]), np.abs(images[1] - images[2]))
    noise = 1.4826 * float(np.median(change)) + 0.01 * float(images[1].std()) + 1e-6
    moved = cv2.GaussianBlur(np.clip((change - 4 * noise) / (6 * noise), 0, 1), (0, 0), 1.5)
    return np.clip(2 * cv2.dilate(moved, np.ones((3, 3), np.uint8)), 0, 1)


@dataclass(frozen=True)
class Delay:
    """Correction to be added to a time offset, its standard deviation, and the number of moving patches."""

    ms: float
    spread_ms: float
    patches: int


def fit_delay(found: Displacements) -> Delay | None:
    """Fit the delay; None if too few patches move."""
    speed = np.linalg.norm(found.velocities, axis=1)
    found = found[(speed == 0) | (speed > _MIN_SPEED)]
    moving = np.linalg.norm(found.velocities, axis=1) > 0
    stretch = (found.seconds // _STRETCH_S).astype(int)
    stretches = np.unique(stretch[moving])
    if moving.sum() < _MIN_PATCHES or len(stretches) < 4:
        return None
    information = relative_information(found.information) * np.where(moving, 1.0, _STILL_WEIGHT)[:, None, None]
    # With an offset that is too small, RGB frames are taken too late, when objects have moved on.
    design = np.zeros((len(found), 2, 7))
    design[:, :, 0] = found.velocities
    for axis in (0, 1):
        design[:, axis, 1 + 3 * axis] = 1.0
        design[:, axis, 2 + 3 * axis : 4 + 3 * axis] = found.points
    whole = _solved(design, found.shifts, information, np.ones(len(found)))
    rng = np.random.default_rng(0)
    place = np.searchsorted(stretches, stretch).clip(0, len(stretches) - 1)
    drawn = []
    for _ in range(_DRAWS):
        counts = np.bincount(rng.integers(0, len(stretches), len(stretches)), minlength=len(stretches))
        drawn.append(_solved(design, found.shifts, information, np.where(moving, counts[place], 1.0)))
    usual = float(np.sqrt(np.mean(np.sum(found.velocities[moving] ** 2, axis=1))))
    spread = float(np.hypot(np.std(drawn), _DRAWN_PX / usual))
    return Delay(1e3 * whole, 1e3 * spread, int(moving.sum()))


def _solved(design: np.ndarray, shifts: np.ndarray, information: np.ndarray, counts: np.ndarray) -> float:
    prior = np.diag([1.0] + [1 / _PRIOR_PX**2] * 6)
    kept = counts > 0
    design, shifts, known = design[kept], shifts[kept], information[kept] * counts[kept, None, None]
    relative = information[kept]
    solution = np.zeros(7)
    for width in _WIDTHS:
        rest = shifts - design @ solution
        weight = 1 / (1 + np.einsum("ni,nij,nj->n", rest, relative, rest) / width**2) ** 2
        weighted = known * weight[:, None, None]
        left = np.einsum("nij,njl->nil", weighted, design)
        normal = np.einsum("nik,nil->kl", design, left) + prior
        solution = np.linalg.solve(normal, np.einsum("nil,ni->l", left, shifts))
    return float(solution[0])
