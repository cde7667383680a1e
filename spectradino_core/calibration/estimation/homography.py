"""Estimate the IR-to-RGB homography from image pairs, or refuse with the reason.

All scales and shifts are tried on downscaled images (`search.py`), and the best candidates are refined by patches
(`matching.py`) from coarse to fine. A result must pass these tests:

- enough patches held out from the fit (every other block in turn) lie where it predicts;
- they cover enough of the common field of view;
- fits from either half of the image, and of the pairs, agree;
- the jackknife bound of the error at the corners is small enough;
- the geometry is possible for two cameras side by side;
- in held-out pairs the structure correlation rises over no calibration, beyond its noise. Otherwise no calibration is
  better: the cameras count as registered, or the fit is refused.

Evidence is summed over all pairs, since the cameras are rigidly mounted. Letters: h x w an image.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import reduce
from operator import add

import cv2
import numpy as np

from spectradino_core.calibration.estimation import CalibrationError, spread_over
from spectradino_core.calibration.estimation.evidence import (
    GROUPS,
    AlreadyRegisteredError,
    Evidence,
    HomographyEstimate,
    UncertainRegistrationError,
    correlation_gain,
    jackknife_bound,
    warp_infrared,
)
from spectradino_core.calibration.estimation.matching import INLIER_PX, Surfaces, fit
from spectradino_core.calibration.estimation.search import search
from spectradino_core.calibration.estimation.structure import grey_image, structure
from spectradino_core.calibration.registration import (
    Registration,
    RegistrationError,
    Size,
    jacobian,
    resize_matrix,
    transfer,
)

_LEVELS = ((256, 8), (512, 8), (640, 8))
"""Image width and search radius, from coarse to fine."""

_MIN_SCORE = 0.3
_BLOCK = 5  # side of a held-out block, in patches
_SEARCHED = 8  # number of pairs for the coarse search
_ROLLS = ((0.0,), (-4.0, 4.0))
_NEARLY = 0.8  # candidates with at least this fraction of the best score are refined too

# Acceptance limits. Hits are held-out patches, localised in both directions, that lie where the fit predicts.
_MIN_HITS, _MIN_HIT_FRACTION = 110, 0.6
_MIN_COVERAGE = 0.3  # fraction of the common field of view with hits nearby
_MAX_DISAGREEMENT = 1.5  # of fits from either half, in pixels of the compared images, at most 640 wide
_MAX_UNCERTAINTY = 0.0125  # 95 % bound of the error at the corners, as a ratio of the RGB image's width
_MIN_GAIN = 0.05  # relative rise of the structure correlation over no calibration, beyond its noise
_REGISTERED = 0.03
"""Maximum distance from no calibration, uncertainty included, at which a homography without gain means that the cameras
are registered; as a ratio of the RGB image's width."""
_MAX_STRETCH = 1.15  # ratio of the two directions' scales


def estimate_homography(
    pairs: Sequence[tuple[np.ndarray, np.ndarray]],
    scales: tuple[float, float] | None = None,
) -> HomographyEstimate:
    """Estimate the homography that a set of image pairs agrees on.

    Args:
        pairs: RGB uint8 [h, w, 3] and IR uint8 or uint16 [h', w'], each of one size throughout.
        scales: minimum and maximum number of RGB pixels per IR pixel; None: 0.4 to 1.5 times the scale at which the IR
            image just covers the RGB image.

    Raises:
        AlreadyRegisteredError: none is needed.
        CalibrationError: no pairs, images of several sizes, or no acceptable result; gives the reason.
    """
    if not pairs:
        raise CalibrationError("there is no pair of images to register")
    sizes = {(_size(rgb), _size(infrared)) for rgb, infrared in pairs}
    if len(sizes) > 1:
        listed = ", ".join(f"{rgb[0]}x{rgb[1]} with {ir[0]}x{ir[1]}" for rgb, ir in sorted(sizes)[:4])
        raise CalibrationError(f"the images have several sizes ({listed}): one homography belongs to one pair of sizes")
    (rgb_size, ir_size) = sizes.pop()
    if min(*rgb_size, *ir_size) < 64:
        raise CalibrationError(f"images of {min(*rgb_size, *ir_size)} pixels across are too small to register")
    grey = [(grey_image(rgb), grey_image(infrared)) for rgb, infrared in pairs]
    covering = max(rgb_size[0] / ir_size[0], rgb_size[1] / ir_size[1])
    min_scale, max_scale = scales or (0.4 * covering, 1.5 * covering)
    count = max(2, math.ceil(np.log(max_scale / min_scale) / 0.04))
    steps = np.exp(np.linspace(np.log(min_scale), np.log(max_scale), count))
    refusal: CalibrationError | None = None
    whole = np.reshape(Registration.whole(ir_size, rgb_size).matrix, (3, 3))
    for rolls in _ROLLS:
        candidates = search(spread_over(grey, _SEARCHED), list(steps), rolls)
        good = [c.matrix for c in candidates if c.score >= _NEARLY * candidates[0].score]
        if rolls == _ROLLS[0] and not any(_are_near(matrix, whole, ir_size, rgb_size) for matrix in good):
            good.append(whole)  # always try the identity
        if not good:  # images without content have no score
            continue
        refined = [_Refined(grey, matrix, rgb_size, ir_size) for matrix in good]
        refined.sort(key=lambda r: -r.rank)
        try:
            return refined[0].validated()
        except (AlreadyRegisteredError, UncertainRegistrationError):
            raise  # the location is right: a rotated IR image would not fit better
        except CalibrationError as error:
            refusal = refusal or error
    raise refusal or CalibrationError(
        "the images have nothing in common at any scale or shift: check that they show the same scene"
    )


class _Refined:
    """A candidate refined from coarse to fine, with its evidence."""

    def __init__(self, grey: list[tuple[np.ndarray, np.ndarray]], matrix: np.ndarray, rgb_size: Size, ir_size: Size):
        self.grey, self.rgb_size, self.ir_size = grey, rgb_size, ir_size
        self.matrix = matrix
        self.tried = self.hits = 0
        self.maps: list[np.ndarray] = []  # corrections fitted to either half of the patches; empty: nothing fits
        for width, radius in _LEVELS:
            width = min(width, rgb_size[0])
            size = (width, max(32, round(rgb_size[1] * width / rgb_size[0])))
            shrink = resize_matrix(rgb_size, size)
            groups = self._surfaces(size, shrink, radius)
            total = reduce(add, groups)
            found = total.matches(_MIN_SCORE)
            if len(found) < 16:
                return
            correction = fit(found, size)
            moved = np.linalg.inv(shrink) @ correction @ shrink @ self.matrix
            if not np.isfinite(moved).all() or abs(moved[2, 2]) < 1e-9:
                return
            self.before = self.matrix
            self.matrix = moved / moved[2, 2]
            self.found, self.groups, self.total, self.size, self.shrink = found, groups, total, size, shrink
        self._hold_out()

    @property
    def rank(self) -> float:
        return self.hits * self.hits / max(self.tried, 1)

    def _surfaces(self, size: Size, shrink: np.ndarray, radius: int) -> list[Surfaces]:
        # Neighbours in one group: images taken close together are not independent.
        count = min(len(self.grey), GROUPS)
        groups = [Surfaces(size, radius) for _ in range(count)]
        for number, (colour, infrared) in enumerate(self.grey):
            warped, seen = warp_infrared(infrared, shrink @ self.matrix, size)
            small = cv2.resize(colour, size, interpolation=cv2.INTER_AREA)
            groups[number * count // len(self.grey)].add(structure(small), structure(warped, seen), seen)
        self.seen = seen
        return groups

    def _hold_out(self) -> None:
        """Fit every other block of patches and evaluate on the rest."""
        odd = (self.found.cells // _BLOCK).sum(axis=1) % 2 == 1
        distances: list[np.ndarray] = []
        hit_cells: list[np.ndarray] = []
        for part in (odd, ~odd):
            if part.sum() < 8:
                return
            correction = fit(self.found[part], self.size)
            self.maps.append(correction)
            rest = self.found[~part & self.found.corners]
            off = np.linalg.norm(transfer(correction, rest.points) - rest.points - rest.shifts, axis=1)
            distances.append(off)
            hit_cells.append(rest.cells[off < INLIER_PX])
        off = np.concatenate(distances)
        self.tried, self.hits = len(off), int(np.count_nonzero(off < INLIER_PX))
        self.residual = float(np.median(off)) if len(off) else math.inf
        covered = np.zeros(self.total.grid[::-1], np.uint8)
        for column, row in np.concatenate(hit_cells):
            covered[row, column] = 1
        covered = cv2.dilate(covered, np.ones((3, 3), np.uint8))
        seen = cv2.resize(self.seen.astype(np.float32), self.total.grid, interpolation=cv2.INTER_AREA) > 0.5
        self.coverage = float(covered[seen].mean()) if seen.any() else 0.0

    def validated(self) -> HomographyEstimate:
        """Return the estimate, or raise CalibrationError with the reason for refusing it."""
        hint = "record daylight scenes with edges that both cameras see, spread over the image"
        if len(self.maps) < 2:
            raise CalibrationError(f"too little of the IR images is found again in the RGB images; {hint}")
        registration = self._plausible()
        unit = self.rgb_size[0] / self.size[0]
        disagreement = self._disagreement() * unit
        if self.hits < _MIN_HITS or self.hits < _MIN_HIT_FRACTION * self.tried:
            raise CalibrationError(
                f"too few patches agree: {self.hits} of {self.tried} matched patches lie where the others predict, at "
                f"least {_MIN_HITS} and {_MIN_HIT_FRACTION:.0%} are required; {hint}"
            )
        if self.coverage < _MIN_COVERAGE:
            raise CalibrationError(
                f"matching patches cover only {self.coverage:.0%} of the common field of view, at least "
                f"{_MIN_COVERAGE:.0%} is required; {hint}"
            )
        if disagreement > _MAX_DISAGREEMENT * unit:
            raise CalibrationError(
                f"fits from either half of the images differ by {disagreement:.1f} px (median), at most "
                f"{_MAX_DISAGREEMENT * unit:.1f} px are allowed: avoid close objects, and check that the cameras are "
                "rigidly mounted and their clocks synchronised"
            )
        parts, seen = self._parts(), self._seen_points()
        uncertainty = unit * max(jackknife_bound([transfer(correction, seen) for correction in kind]) for kind in parts)
        whole = Registration.whole(self.ir_size, self.rgb_size)
        from_whole = np.reshape(whole.matrix, (3, 3))
        if not math.isfinite(uncertainty):
            raise CalibrationError(f"too few matches remain when some of the images are held out; {hint}")
        maps = [np.linalg.inv(self.shrink) @ correction @ self.shrink @ self.before for correction in parts[0]]
        maps = [matrix / matrix[2, 2] for matrix in maps]
        gain = correlation_gain(self.grey, maps, from_whole, self.shrink, self.size, _block_groups(self.total.grid))
        points = _grid_points(self.ir_size)
        moved = np.linalg.norm(transfer(self.matrix, points) - transfer(from_whole, points), axis=1)
        evidence = Evidence(
            pairs=len(self.grey),
            matches=self.tried,
            hits=self.hits,
            coverage=self.coverage,
            residual_px=self.residual * unit,
            disagreement_px=disagreement,
            uncertainty_px=uncertainty,
            **gain._asdict(),
            moved_px=float(np.median(moved)),
            moved_corner_px=float(moved.max()),
        )
        estimate = HomographyEstimate(registration, evidence)
        if evidence.gain < max(evidence.gain_noise, _MIN_GAIN * evidence.correlation_before):
            correlations = (
                f"structure correlation {evidence.correlation_before:.3f} without a calibration, "
                f"{evidence.correlation:.3f} with it, a gain of {evidence.gain:.3f} in images held out from the fit "
                f"(noise {evidence.gain_noise:.3f})"
            )
            if evidence.moved_px + uncertainty > _REGISTERED * self.rgb_size[0]:
                raise UncertainRegistrationError(
                    f"the homography found ({evidence.moved_px:.0f} px from the IR image stretched over the RGB image, "
                    f"uncertain by {uncertainty:.0f} px) fits no better than none: {correlations}; {hint}"
                )
            raise AlreadyRegisteredError(
                f"the cameras are already registered within {evidence.moved_px + uncertainty:.0f} px: the best "
                f"homography lies {evidence.moved_px:.1f} px from none (median; {evidence.moved_corner_px:.1f} px at a "
                f"corner, uncertain by {uncertainty:.1f} px) and brings no gain: {correlations}",
                estimate,
                whole,
            )
        max_px = _MAX_UNCERTAINTY * self.rgb_size[0]
        if uncertainty > max_px:
            raise UncertainRegistrationError(
                f"the homography is uncertain by {uncertainty:.1f} px at the corners (95 %; fits from parts of the "
                f"images differ), at most {max_px:.1f} px are allowed: use more pairs (--limit) of scenes at the "
                f"working distance; {hint}"
            )
        return estimate

    def _parts(self) -> list[list[np.ndarray]]:
        """Return corrections that leave out one group each: of the pairs (if several), and of the patches."""
        columns, rows = (self.found.cells // _BLOCK).T
        place = _block_groups(self.total.grid)[rows, columns]
        left = [[self.found[place != group] for group in range(GROUPS)]]
        if len(self.groups) > 1:
            left.insert(0, [(self.total - group).matches(_MIN_SCORE) for group in self.groups])
        if min(len(part) for kind in left for part in kind) < 16:
            return [[]]
        return [[fit(part, self.size) for part in kind] for kind in left]

    def _plausible(self) -> Registration:
        try:
            registration = Registration(
                tuple(self.matrix.reshape(-1)), self.ir_size, self.rgb_size, "the estimated homography"
            )
        except RegistrationError as error:
            raise CalibrationError(f"the result is not possible for two cameras side by side: {error}") from None
        u, stretches, v = np.linalg.svd(jacobian(self.matrix, self.ir_size))
        turned = u @ v
        roll = math.degrees(math.atan2(turned[1, 0], turned[0, 0]))
        if stretches[0] / stretches[1] > _MAX_STRETCH or abs(roll) > 15:
            raise CalibrationError(
                f"the result stretches the image by {stretches[0] / stretches[1]:.2f} and rotates it by {roll:.0f} "
                "degrees, which is not possible for two cameras side by side"
            )
        return registration

    def _seen_points(self) -> np.ndarray:
        points = _grid_points(self.size)
        inside = self.seen[points[:, 1].astype(int), points[:, 0].astype(int)]
        return points[inside] if inside.any() else points

    def _disagreement(self) -> float:
        """Return the median distance between the maps from either half, in pixels of the finest image."""
        points = self._seen_points()
        both = [tuple(self.maps)]
        if len(self.groups) > 1:
            parts = [reduce(add, self.groups[first::2]).matches(_MIN_SCORE) for first in (0, 1)]
            if min(map(len, parts)) < 16:
                return math.inf
            both.append(tuple(fit(part, self.size) for part in parts))
        return max(float(np.median(np.linalg.norm(transfer(a, points) - transfer(b, points), axis=1))) for a, b in both)


def _size(image: np.ndarray) -> Size:
    return image.shape[1], image.shape[0]


def _block_groups(grid: Size) -> np.ndarray:
    """Assign blocks to groups of patches, int64 [rows, columns]; neighbours differ."""
    columns, rows = np.meshgrid(*(np.arange(math.ceil(cells / _BLOCK)) for cells in grid))
    return (columns + 3 * rows) % GROUPS


def _are_near(one: np.ndarray, other: np.ndarray, ir_size: Size, rgb_size: Size) -> bool:
    """Return whether two maps are the same candidate at the resolution of the search."""
    points = _grid_points(ir_size)
    distance = np.linalg.norm(transfer(one, points) - transfer(other, points), axis=1)
    return float(distance.mean()) < rgb_size[0] / 24


def _grid_points(size: Size) -> np.ndarray:
    columns, rows = np.meshgrid(np.linspace(0, size[0] - 1, 16), np.linspace(0, size[1] - 1, 12))
    return np.stack([columns.ravel(), rows.ravel()], axis=1)
