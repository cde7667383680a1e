"""Evidence for a homography, its acceptance limits, and the errors for homographies that bring no gain."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from spectradino_core.calibration.estimation.errors import CalibrationError
from spectradino_core.calibration.registration import Registration

__all__ = ["AlreadyRegisteredError", "Evidence", "HomographyEstimate", "Limits", "UncertainRegistrationError"]


@dataclass(frozen=True)
class Limits:
    """Acceptance limits of a homography.

    Attributes:
        hits: number of held-out patches, localised in both directions, that lie where the fit predicts.
        hit_fraction: fraction of all such patches.
        coverage: fraction of the common field of view with hits nearby.
        disagreement: between fits from either half, in pixels of the compared images, at most 640 wide.
        uncertainty: 95 % bound of the error at the corners, as a ratio of the RGB image's width.
        gain: minimum relative rise of the structure correlation over no calibration, beyond its noise.
        registered: maximum distance from no calibration, uncertainty included, at which a homography without gain means
            that the cameras are registered; as a ratio of the RGB image's width.
        stretch: maximum ratio of the two directions' scales.
    """

    hits: int = 110
    hit_fraction: float = 0.6
    coverage: float = 0.3
    disagreement: float = 1.5
    uncertainty: float = 0.0125
    gain: float = 0.05
    registered: float = 0.03
    stretch: float = 1.15


@dataclass(frozen=True)
class Evidence:
    """Evidence for a homography. Distances are in RGB pixels.

    Attributes:
        pairs: number of image pairs.
        matches: number of matched patches localised in both directions.
        hits: those within `INLIER_PX` (of an image 640 wide) of a fit from other patches.
        coverage: fraction, 0 to 1, of the common field of view that has a hit nearby.
        residual_px: median distance of the held-out patches from the fit.
        disagreement_px: median distance between maps from either half, the larger of halves of the image and of the
            pairs.
        uncertainty_px: 95 % bound of the map's maximum error over the common field of view: from fits that leave out
            some of the pairs, or of the patches, whichever differ more.
        likeness, likeness_before: structure correlation with this map, and with the IR image stretched over the RGB
            image.
        gain, gain_noise: mean rise of that correlation in images (of a single pair: in parts of it) held out from the
            fit, and the 95 % bound of its noise.
        moved_px, moved_corner_px: distance between the two maps, median and maximum.
    """

    pairs: int
    matches: int
    hits: int
    coverage: float
    residual_px: float
    disagreement_px: float
    uncertainty_px: float
    likeness: float
    likeness_before: float
    gain: float
    gain_noise: float
    moved_px: float
    moved_corner_px: float

    @property
    def hit_fraction(self) -> float:
        return self.hits / max(self.matches, 1)


@dataclass(frozen=True)
class HomographyEstimate:
    """Estimated registration with its evidence.

    Attributes:
        registration: IR to RGB pixels, with the images' sizes.
        evidence: reasons to accept it.
    """

    registration: Registration
    evidence: Evidence

    def __str__(self) -> str:
        e, matrix = self.evidence, np.reshape(self.registration.matrix, (3, 3))
        scale = math.sqrt(abs(np.linalg.det(matrix[:2, :2])))
        roll = math.degrees(math.atan2(matrix[1, 0] - matrix[0, 1], matrix[0, 0] + matrix[1, 1]))
        return (
            f"One IR pixel is {scale:.3f} RGB pixels, rolled by {roll:+.2f} degrees, and the IR image's top left pixel "
            f"lies at ({matrix[0, 2]:.1f}, {matrix[1, 2]:.1f}). {e.hits} of {e.matches} held-out patches from "
            f"{e.pairs} pair{'s' * (e.pairs != 1)} agree, on {e.coverage:.0%} of the common field of view; residual "
            f"{e.residual_px:.2f} px (median); error at the corners at most {e.uncertainty_px:.1f} px (95 %); "
            f"structure correlation {e.likeness_before:.3f} before and {e.likeness:.3f} after, a gain of {e.gain:.3f} "
            f"in images held out from the fit (noise {e.gain_noise:.3f})"
        )


class UncertainRegistrationError(CalibrationError):
    """The homography fits, but is not better than none, or too uncertain at the corners."""


class AlreadyRegisteredError(CalibrationError):
    """No homography is better than none: the IR image already covers the RGB image as it is.

    Attributes:
        estimate: the best homography found, with the evidence that it brings no gain.
        registration: the IR image stretched over the whole RGB image.
    """

    def __init__(self, text: str, estimate: HomographyEstimate, registration: Registration) -> None:
        super().__init__(text)
        self.estimate = estimate
        self.registration = registration
