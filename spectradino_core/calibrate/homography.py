"""The homography from infrared to colour pixels, from pairs of images alone; or a reason why it can't be had.

All scales and shifts are tried on small pictures (`search.py`); the best few places are refined by patches
(`matching.py`, `fitting.py`) from coarse to fine; then what was found must stand up:

- patches that the fit has not seen must lie where it says (every other block of patches is held out, in turns);
- there must be enough of them, over enough of what both cameras see;
- fits from either half of the picture, and from either half of the pairs, must agree;
- it must be what two cameras side by side can have, and better than laying one picture over the other.

The evidence of all pairs is added up, as the cameras do not move against each other. Letters: h x w a picture.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from spectradino_core.calibrate.errors import CalibrationError
from spectradino_core.calibrate.fitting import INLIER_PX, fit, transfer
from spectradino_core.calibrate.matching import Matches, Surfaces
from spectradino_core.calibrate.search import search
from spectradino_core.calibrate.structure import grey_picture, structure
from spectradino_core.runtime.registration import Registration, RegistrationError, Size

__all__ = ["Evidence", "HomographyEstimate", "Limits", "estimate_homography"]

_LEVELS = ((256, 8), (512, 8), (640, 8))
"""Width of the picture and search radius in it, from coarse to fine."""

_LEAST_SCORE = 0.3
_BLOCK = 5  # patches along the side of a block that is held out
_SEARCHED = 8  # pairs are enough for the rough place
_ROLLS = ((0.0,), (-4.0, 4.0))
_NEARLY = 0.8  # places whose score is this share of the best one's are refined too


@dataclass(frozen=True)
class Limits:
    """What a homography must reach to be believed.

    Attributes:
        hits: patches, known in both directions and held out, that lie where the fit says.
        hit_share: of all such patches.
        coverage: share of what both cameras see with hits nearby.
        disagreement: of fits from either half, in pixels of a picture 640 wide.
        stretch: largest ratio of the two directions' scales.
    """

    hits: int = 110
    hit_share: float = 0.6
    coverage: float = 0.3
    disagreement: float = 1.5
    stretch: float = 1.15


@dataclass(frozen=True)
class Evidence:
    """What speaks for a homography. Distances are in colour pixels.

    Attributes:
        pairs: pairs of images it is from.
        matches: patches found again and known in both directions.
        hits: those of them that lie within `INLIER_PX` (of a picture 640 wide) of a fit that has not seen them.
        coverage: share, 0 to 1, of what both cameras see that has a hit nearby.
        residual_px: median distance of the held-out patches from the fit.
        disagreement_px: median distance of the maps from either half, the larger of halves of the picture and of the
            pairs.
        likeness, likeness_before: correlation of structure at the place found, and with the one picture laid over the
            whole other.
        moved_px: median distance of the two places.
    """

    pairs: int
    matches: int
    hits: int
    coverage: float
    residual_px: float
    disagreement_px: float
    likeness: float
    likeness_before: float
    moved_px: float

    @property
    def hit_share(self) -> float:
        return self.hits / max(self.matches, 1)


@dataclass(frozen=True)
class HomographyEstimate:
    """What was found.

    Attributes:
        registration: infrared to colour pixels, with the images' sizes.
        evidence: why to believe it.
    """

    registration: Registration
    evidence: Evidence

    def __str__(self) -> str:
        e, matrix = self.evidence, np.reshape(self.registration.matrix, (3, 3))
        scale = math.sqrt(abs(np.linalg.det(matrix[:2, :2])))
        roll = math.degrees(math.atan2(matrix[1, 0] - matrix[0, 1], matrix[0, 0] + matrix[1, 1]))
        return (
            f"One infrared pixel is {scale:.3f} colour pixels, rolled by {roll:+.2f} degrees, and the infrared image's "
            f"top left pixel lies at ({matrix[0, 2]:.1f}, {matrix[1, 2]:.1f}). {e.hits} of {e.matches} held-out "
            f"patches from {e.pairs} pair{'s' * (e.pairs != 1)} agree, on {e.coverage:.0%} of what both cameras see; "
            f"residual {e.residual_px:.2f} px (median); fits from either half differ by {e.disagreement_px:.2f} px; "
            f"likeness of structure {e.likeness_before:.2f} before and {e.likeness:.2f} after"
        )


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
    for rolls in _ROLLS:
        candidates = search(_spread_over(grey, _SEARCHED), list(steps), rolls)
        good = [c for c in candidates if c.score >= _NEARLY * candidates[0].score]
        refined = [_Refined(grey, c.matrix, rgb_size, ir_size) for c in good]
        refined.sort(key=lambda r: -r.rank)
        for best in refined[:1]:
            try:
                return best.judged(limits)
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
            halves = self._surfaces(size, shrink, radius)
            both = halves[0] + halves[1]
            found = both.matches(_LEAST_SCORE)
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
            self.found, self.halves, self.size, self.shrink = found, halves, size, shrink
        self._hold_out()

    @property
    def rank(self) -> float:
        return 0.0 if self.found is None else self.hits * self.hits / max(self.tried, 1)

    def _surfaces(self, size: Size, shrink: np.ndarray, radius: int) -> list[Surfaces]:
        halves = [Surfaces(size, radius), Surfaces(size, radius)]
        for number, (colour, infrared) in enumerate(self.grey):
            picture, seen = _laid(infrared, shrink @ self.matrix, size)
            small = cv2.resize(colour, size, interpolation=cv2.INTER_AREA)
            halves[number % 2].add(structure(small), structure(picture, seen), seen)
        self.seen = seen
        return halves

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
        covered = np.zeros(self.halves[0].grid[::-1], np.uint8)
        for column, row in np.concatenate(hit_cells):
            covered[row, column] = 1
        covered = cv2.dilate(covered, np.ones((3, 3), np.uint8))
        seen = cv2.resize(self.seen.astype(np.float32), self.halves[0].grid, interpolation=cv2.INTER_AREA) > 0.5
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
        whole = np.reshape(Registration.whole(self.ir_size, self.rgb_size).matrix, (3, 3))
        likeness, before = self._likeness(self.matrix), self._likeness(whole)
        points = _grid_points(self.ir_size)
        moved = float(np.median(np.linalg.norm(transfer(self.matrix, points) - transfer(whole, points), axis=1)))
        if likeness <= before and moved > 2 * unit:
            raise CalibrationError(
                f"the place found ({moved:.0f} px from laying the infrared picture over the whole colour one) fits no "
                f"better: likeness {likeness:.2f} against {before:.2f}; {hint}"
            )
        evidence = Evidence(
            pairs=len(self.grey),
            matches=self.tried,
            hits=self.hits,
            coverage=self.coverage,
            residual_px=self.residual * unit,
            disagreement_px=disagreement,
            likeness=likeness,
            likeness_before=before,
            moved_px=moved,
        )
        return HomographyEstimate(registration, evidence)

    def _plausible(self, limits: Limits) -> Registration:
        try:
            registration = Registration(
                tuple(self.matrix.reshape(-1)), self.ir_size, self.rgb_size, "the homography found"
            )
        except RegistrationError as error:
            raise CalibrationError(f"what was found can't be two cameras side by side: {error}") from None
        u, stretches, v = np.linalg.svd(_jacobian(self.matrix, self.ir_size))
        turned = u @ v
        roll = math.degrees(math.atan2(turned[1, 0], turned[0, 0]))
        if stretches[0] / stretches[1] > limits.stretch or abs(roll) > 15:
            raise CalibrationError(
                f"what was found stretches the picture by {stretches[0] / stretches[1]:.2f} and turns it by "
                f"{roll:.0f} degrees, which two cameras side by side don't do"
            )
        return registration

    def _disagreement(self) -> float:
        """Median distance of the maps from either half, in the last picture's pixels."""
        points = _grid_points(self.size)
        inside = self.seen[points[:, 1].astype(int), points[:, 0].astype(int)]
        points = points[inside] if inside.any() else points
        both = [tuple(self.maps)]
        if self.halves[1].pairs:
            parts = [half.matches(_LEAST_SCORE) for half in self.halves]
            if min(map(len, parts)) < 16:
                return math.inf
            both.append(tuple(fit(part, self.size).correction for part in parts))
        return max(float(np.median(np.linalg.norm(transfer(a, points) - transfer(b, points), axis=1))) for a, b in both)

    def _likeness(self, matrix: np.ndarray) -> float:
        """Correlation of structure, at most 1, with the infrared pictures laid by `matrix`."""
        sums = np.zeros(3)
        for colour, infrared in self.grey:
            picture, seen = _laid(infrared, self.shrink @ matrix, self.size)
            a = structure(cv2.resize(colour, self.size, interpolation=cv2.INTER_AREA)) * seen
            b = structure(picture, seen) * seen
            sums += float((a * b).sum()), float((a * a).sum()), float((b * b).sum())
        return float(sums[0] / math.sqrt(max(sums[1] * sums[2], 1e-12)))


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


def _laid(infrared: np.ndarray, matrix: np.ndarray, size: Size) -> tuple[np.ndarray, np.ndarray]:
    """The infrared picture on another's pixels: float32 [h, w], and bool [h, w]: where it sees anything."""
    scale = math.sqrt(abs(np.linalg.det(_jacobian(matrix, _size(infrared)))))
    if scale < 1:
        infrared = cv2.GaussianBlur(infrared, (0, 0), 0.4 / max(scale, 0.05))
    picture = cv2.warpPerspective(infrared, matrix, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    seen = cv2.warpPerspective(np.ones(infrared.shape, np.uint8), matrix, size, flags=cv2.INTER_NEAREST)
    return picture, seen > 0


def _jacobian(matrix: np.ndarray, size: Size) -> np.ndarray:
    """What one step right and one step down become at the image's centre: [2, 2], columns."""
    centre = np.array([[(size[0] - 1) / 2, (size[1] - 1) / 2]])
    here, right, down = (transfer(matrix, centre + step)[0] for step in ((0, 0), (1, 0), (0, 1)))
    return np.stack([right - here, down - here], axis=1)


def _grid_points(size: Size) -> np.ndarray:
    columns, rows = np.meshgrid(np.linspace(0, size[0] - 1, 16), np.linspace(0, size[1] - 1, 12))
    return np.stack([columns.ravel(), rows.ravel()], axis=1)
