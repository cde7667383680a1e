"""The homography from infrared to colour pixels, from pairs of images alone; or a reason why it can't be had.

All scales and shifts are tried on small pictures (`search.py`); the best few places are refined by patches
(`matching.py`, `fitting.py`) from coarse to fine; then what was found must stand up:

- patches that the fit has not seen must lie where it says (every other block of patches is held out, in turns);
- there must be enough of them, over enough of what both cameras see;
- fits from either half of the picture, and from either half of the pairs, must agree;
- fits that leave out a part of the pairs (jackknife) say how uncertain it is at the corners, which is limited;
- it must be what two cameras side by side can have;
- the likeness of structure must rise over that without a calibration, beyond its noise, in pairs that the fit has not
  seen. Else no calibration is the better one: the cameras count as registered, or the fit is refused.

The evidence of all pairs is added up, as the cameras do not move against each other. Letters: h x w a picture.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import reduce
from operator import add

import cv2
import numpy as np

from spectradino_core.calibrate.errors import CalibrationError
from spectradino_core.calibrate.evidence import (
    AlreadyRegisteredError,
    Evidence,
    HomographyEstimate,
    Limits,
    UncertainRegistrationError,
)
from spectradino_core.calibrate.fitting import INLIER_PX, fit, transfer
from spectradino_core.calibrate.likeness import jacobian, laid, likeness_gain
from spectradino_core.calibrate.matching import Matches, Surfaces
from spectradino_core.calibrate.search import search
from spectradino_core.calibrate.structure import grey_picture, structure
from spectradino_core.calibrate.uncertainty import GROUPS, jackknife_bound
from spectradino_core.runtime.registration import Registration, RegistrationError, Size

__all__ = ["AlreadyRegisteredError", "Evidence", "HomographyEstimate", "Limits", "estimate_homography"]

_LEVELS = ((256, 8), (512, 8), (640, 8))
"""Width of the picture and search radius in it, from coarse to fine."""

_LEAST_SCORE = 0.3
_BLOCK = 5  # patches along the side of a block that is held out
_SEARCHED = 8  # pairs are enough for the rough place
_ROLLS = ((0.0,), (-4.0, 4.0))
_NEARLY = 0.8  # places whose score is this share of the best one's are refined too


def estimate_homography(
    pairs: Sequence[tuple[np.ndarray, np.ndarray]],
    scales: tuple[float, float] | None = None,
    limits: Limits | None = None,
) -> HomographyEstimate:
    """The homography that pairs of images agree on.

    Args:
        pairs: colour uint8 [h, w, 3] in RGB order and infrared uint8 or uint16 [h', w'], each of one size throughout.
        scales: least and largest number of colour pixels that an infrared pixel may be; None: from 0.4 to 1.5 of what
            lets the infrared image just cover the colour image.
        limits: when to believe it.

    Raises:
        AlreadyRegisteredError: none is needed.
        CalibrationError: no pairs, images of several sizes, or nothing that can be believed was found; says why.
    """
    limits = limits or Limits()
    if not pairs:
        raise CalibrationError("there is no pair of images to register")
    sizes = {(_size(rgb), _size(infrared)) for rgb, infrared in pairs}
    if len(sizes) > 1:
        listed = ", ".join(f"{rgb[0]}x{rgb[1]} with {ir[0]}x{ir[1]}" for rgb, ir in sorted(sizes)[:4])
        raise CalibrationError(f"the images have several sizes ({listed}): one homography belongs to one pair of sizes")
    (rgb_size, ir_size) = sizes.pop()
    if min(*rgb_size, *ir_size) < 64:
        raise CalibrationError(f"images of {min(*rgb_size, *ir_size)} pixels across are too small to register")
    grey = [(grey_picture(rgb), grey_picture(infrared)) for rgb, infrared in pairs]
    least, largest = scales or _plausible_scales(rgb_size, ir_size)
    steps = np.exp(np.linspace(np.log(least), np.log(largest), max(2, math.ceil(np.log(largest / least) / 0.04))))
    refusal: CalibrationError | None = None
    whole = np.reshape(Registration.whole(ir_size, rgb_size).matrix, (3, 3))
    for rolls in _ROLLS:
        candidates = search(_spread_over(grey, _SEARCHED), list(steps), rolls)
        good = [c.matrix for c in candidates if c.score >= _NEARLY * candidates[0].score]
        if rolls == _ROLLS[0] and not any(_are_near(matrix, whole, ir_size, rgb_size) for matrix in good):
            good.append(whole)  # that nothing needs correcting is always tried
        if not good:  # images without content have no score at all
            continue
        refined = [_Refined(grey, matrix, rgb_size, ir_size) for matrix in good]
        refined.sort(key=lambda r: -r.rank)
        try:
            return refined[0].judged(limits)
        except (AlreadyRegisteredError, UncertainRegistrationError):
            raise  # the place is right: turning the infrared image finds no better one
        except CalibrationError as error:
            refusal = refusal or error
    raise refusal or CalibrationError(
        "the pictures have nothing in common at any scale or shift: are they of one scene?"
    )


class _Refined:
    """One candidate, refined, with the evidence for it."""

    def __init__(self, grey: list[tuple[np.ndarray, np.ndarray]], matrix: np.ndarray, rgb_size: Size, ir_size: Size):
        self.grey, self.rgb_size, self.ir_size = grey, rgb_size, ir_size
        self.matrix = matrix
        self.found: Matches | None = None
        for width, radius in _LEVELS:
            size, shrink = _picture(rgb_size, min(width, rgb_size[0]))
            groups = self._surfaces(size, shrink, radius)
            total = reduce(add, groups)
            found = total.matches(_LEAST_SCORE)
            if len(found) < 16:
                self.found = None
                return
            done = fit(found, size)
            moved = np.linalg.inv(shrink) @ done.correction @ shrink @ self.matrix
            if not np.isfinite(moved).all() or abs(moved[2, 2]) < 1e-9:
                self.found = None
                return
            self.before = self.matrix
            self.matrix = moved / moved[2, 2]
            self.found, self.groups, self.total, self.size, self.shrink = found, groups, total, size, shrink
        self._hold_out()

    @property
    def rank(self) -> float:
        return 0.0 if self.found is None else self.hits * self.hits / max(self.tried, 1)

    def _surfaces(self, size: Size, shrink: np.ndarray, radius: int) -> list[Surfaces]:
        # Neighbours in one group: images of nearly one moment say nearly the same.
        count = min(len(self.grey), GROUPS)
        groups = [Surfaces(size, radius) for _ in range(count)]
        for number, (colour, infrared) in enumerate(self.grey):
            picture, seen = laid(infrared, shrink @ self.matrix, size)
            small = cv2.resize(colour, size, interpolation=cv2.INTER_AREA)
            groups[number * count // len(self.grey)].add(structure(small), structure(picture, seen), seen)
        self.seen = seen
        return groups

    def _hold_out(self) -> None:
        """Fits from every other block of patches, measured on the rest."""
        assert self.found is not None
        odd = (self.found.cells // _BLOCK).sum(axis=1) % 2 == 1
        self.tried = self.hits = 0
        self.maps: list[np.ndarray] = []
        distances: list[np.ndarray] = []
        hit_cells: list[np.ndarray] = []
        for part in (odd, ~odd):
            if part.sum() < 8:
                return
            done = fit(self.found[part], self.size)
            self.maps.append(done.correction)
            rest = self.found[~part & self.found.corners]
            off = np.linalg.norm(transfer(done.correction, rest.points) - rest.points - rest.shifts, axis=1)
            distances.append(off)
            hit_cells.append(rest.cells[off < INLIER_PX])
        off = np.concatenate(distances)
        self.tried, self.hits = len(off), int((off < INLIER_PX).sum())
        self.residual = float(np.median(off)) if len(off) else math.inf
        covered = np.zeros(self.total.grid[::-1], np.uint8)
        for column, row in np.concatenate(hit_cells):
            covered[row, column] = 1
        covered = cv2.dilate(covered, np.ones((3, 3), np.uint8))
        seen = cv2.resize(self.seen.astype(np.float32), self.total.grid, interpolation=cv2.INTER_AREA) > 0.5
        self.coverage = float(covered[seen].mean()) if seen.any() else 0.0

    def judged(self, limits: Limits) -> HomographyEstimate:
        """The estimate; raises CalibrationError saying why it is not to be believed."""
        hint = "record daylight scenes with edges that both cameras see, spread over the picture"
        if self.found is None or len(getattr(self, "maps", ())) < 2:
            raise CalibrationError(f"too little in the infrared pictures is found again in the colour ones; {hint}")
        registration = self._plausible(limits)
        unit = self.rgb_size[0] / self.size[0]
        disagreement = self._disagreement() * unit
        if self.hits < limits.hits or self.hits < limits.hit_share * self.tried:
            raise CalibrationError(
                f"too few patches agree: of {self.tried} found again {self.hits} lie where the others say, at least "
                f"{limits.hits} and {limits.hit_share:.0%} are wanted; {hint}"
            )
        if self.coverage < limits.coverage:
            raise CalibrationError(
                f"what agrees covers only {self.coverage:.0%} of what both cameras see, at least {limits.coverage:.0%} "
                f"is wanted; {hint}"
            )
        if disagreement > limits.disagreement * unit:
            raise CalibrationError(
                f"fits from either half of the pictures differ by {disagreement:.1f} px (median), at most "
                f"{limits.disagreement * unit:.1f} are allowed; is everything near the cameras, did they move against "
                "each other, or are their clocks apart?"
            )
        parts = self._parts()
        uncertainty = max(self._spread(part) for part in parts) * unit
        whole = Registration.whole(self.ir_size, self.rgb_size)
        from_whole = np.reshape(whole.matrix, (3, 3))
        if not math.isfinite(uncertainty):
            raise CalibrationError(f"too little is left to fit when a part of the images is left out; {hint}")
        maps = [self._moved(correction) for correction in parts[0]]
        gain = likeness_gain(self.grey, maps, from_whole, self.shrink, self.size, _block_groups(self.total.grid))
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
            likeness=gain.after,
            likeness_before=gain.before,
            gain=gain.mean,
            gain_noise=gain.noise,
            moved_px=float(np.median(moved)),
            moved_corner_px=float(moved.max()),
        )
        estimate = HomographyEstimate(registration, evidence)
        if gain.mean < max(gain.noise, limits.gain * gain.before):
            said = (
                f"likeness of structure {gain.before:.3f} without a calibration, {gain.after:.3f} with it, a gain of "
                f"{gain.mean:.3f} in images left out of the fit (noise {gain.noise:.3f})"
            )
            if evidence.moved_px + uncertainty > limits.registered * self.rgb_size[0]:
                raise UncertainRegistrationError(
                    f"the place found ({evidence.moved_px:.0f} px from laying the infrared image over the whole colour "
                    f"one, uncertain by {uncertainty:.0f} px) fits no better: {said}; {hint}"
                )
            raise AlreadyRegisteredError(
                f"the cameras are registered already within {evidence.moved_px + uncertainty:.0f} px: the best "
                f"homography lies {evidence.moved_px:.1f} px from none (median; {evidence.moved_corner_px:.1f} px at a "
                f"corner, uncertain by {uncertainty:.1f} px) and brings nothing: {said}",
                estimate,
                whole,
            )
        most = limits.uncertainty * self.rgb_size[0]
        if uncertainty > most:
            raise UncertainRegistrationError(
                f"the homography is uncertain by {uncertainty:.1f} px at the corners (95 %; fits from parts of the "
                f"images differ), at most {most:.1f} are allowed: give more pairs (--pairs), of "
                f"scenes at the distance that counts; {hint}"
            )
        return estimate

    def _parts(self) -> list[list[np.ndarray]]:
        """Corrections from all but a part each: of the pairs (if there are several), and of the patches."""
        assert self.found is not None
        columns, rows = (self.found.cells // _BLOCK).T
        place = _block_groups(self.total.grid)[rows, columns]
        left = [[self.found[place != group] for group in range(GROUPS)]]
        if len(self.groups) > 1:
            left.insert(0, [(self.total - group).matches(_LEAST_SCORE) for group in self.groups])
        if min(len(part) for kind in left for part in kind) < 16:
            return [[]]
        return [[fit(part, self.size).correction for part in kind] for kind in left]

    def _spread(self, corrections: list[np.ndarray]) -> float:
        """95 % bound of the distance from the truth, at the point of what both see where it is largest [px]."""
        points = self._seen_points()
        return jackknife_bound([transfer(correction, points) for correction in corrections])

    def _moved(self, correction: np.ndarray) -> np.ndarray:
        """The map of the last level's beginning, corrected."""
        moved = np.linalg.inv(self.shrink) @ correction @ self.shrink @ self.before
        return moved / moved[2, 2]

    def _plausible(self, limits: Limits) -> Registration:
        try:
            registration = Registration(
                tuple(self.matrix.reshape(-1)), self.ir_size, self.rgb_size, "the homography found"
            )
        except RegistrationError as error:
            raise CalibrationError(f"what was found can't be two cameras side by side: {error}") from None
        u, stretches, v = np.linalg.svd(jacobian(self.matrix, self.ir_size))
        turned = u @ v
        roll = math.degrees(math.atan2(turned[1, 0], turned[0, 0]))
        if stretches[0] / stretches[1] > limits.stretch or abs(roll) > 15:
            raise CalibrationError(
                f"what was found stretches the picture by {stretches[0] / stretches[1]:.2f} and turns it by "
                f"{roll:.0f} degrees, which two cameras side by side don't do"
            )
        return registration

    def _seen_points(self) -> np.ndarray:
        points = _grid_points(self.size)
        inside = self.seen[points[:, 1].astype(int), points[:, 0].astype(int)]
        return points[inside] if inside.any() else points

    def _disagreement(self) -> float:
        """Median distance of the maps from either half, in the pixels of the finest image."""
        points = self._seen_points()
        both = [tuple(self.maps)]
        if len(self.groups) > 1:
            parts = [reduce(add, self.groups[first::2]).matches(_LEAST_SCORE) for first in (0, 1)]
            if min(map(len, parts)) < 16:
                return math.inf
            both.append(tuple(fit(part, self.size).correction for part in parts))
        return max(float(np.median(np.linalg.norm(transfer(a, points) - transfer(b, points), axis=1))) for a, b in both)


def _size(image: np.ndarray) -> Size:
    return image.shape[1], image.shape[0]


def _plausible_scales(rgb_size: Size, ir_size: Size) -> tuple[float, float]:
    covering = max(rgb_size[0] / ir_size[0], rgb_size[1] / ir_size[1])
    return 0.4 * covering, 1.5 * covering


def _spread_over(items: list, most: int) -> list:
    if len(items) <= most:
        return items
    return [items[round(k * (len(items) - 1) / (most - 1))] for k in range(most)]


def _picture(size: Size, width: int) -> tuple[Size, np.ndarray]:
    """The size of an image brought to a width, and the map of its pixels [3, 3]."""
    small = (width, max(32, round(size[1] * width / size[0])))
    x, y = small[0] / size[0], small[1] / size[1]
    return small, np.array([[x, 0, (x - 1) / 2], [0, y, (y - 1) / 2], [0, 0, 1]])


def _block_groups(grid: Size) -> np.ndarray:
    """Which group of patches each block belongs to, int64 [rows, columns]: neighbours to different ones."""
    columns, rows = np.meshgrid(*(np.arange(math.ceil(cells / _BLOCK)) for cells in grid))
    return (columns + 3 * rows) % GROUPS


def _are_near(one: np.ndarray, other: np.ndarray, ir_size: Size, rgb_size: Size) -> bool:
    """Whether two maps are one and the same place to the search."""
    points = _grid_points(ir_size)
    distance = np.linalg.norm(transfer(one, points) - transfer(other, points), axis=1)
    return float(distance.mean()) < rgb_size[0] / 24


def _grid_points(size: Size) -> np.ndarray:
    columns, rows = np.meshgrid(np.linspace(0, size[0] - 1, 16), np.linspace(0, size[1] - 1, 12))
    return np.stack([columns.ravel(), rows.ravel()], axis=1)
