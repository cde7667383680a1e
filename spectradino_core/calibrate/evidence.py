"""What speaks for a homography, what it must reach, and what is said of one that brings nothing."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from spectradino_core.calibrate.errors import CalibrationError
from spectradino_core.runtime.registration import Registration

__all__ = ["AlreadyRegisteredError", "Evidence", "HomographyEstimate", "Limits", "UncertainRegistrationError"]


@dataclass(frozen=True)
class Limits:
    """What a homography must reach to be believed.

    Attributes:
        hits: patches, known in both directions and held out, that lie where the fit says.
        hit_share: of all such patches.
        coverage: fraction of what both cameras see with hits nearby.
        disagreement: of fits from either half, in pixels of the images that are compared, at most 640 wide.
        uncertainty: 95 % bound of the error at the corners, as a ratio of the RGB image's width.
        gain: by which ratio the likeness of structure rises over that without a calibration, beyond its noise.
        registered: how far a homography that brings no gain may lie from none, uncertainty and all, for the cameras to
            count as registered; as a ratio of the RGB image's width.
        stretch: largest ratio of the two directions' scales.
    """

    hits: int = 110
    hit_share: float = 0.6
    coverage: float = 0.3
    disagreement: float = 1.5
    uncertainty: float = 0.0125
    gain: float = 0.05
    registered: float = 0.03
    stretch: float = 1.15


@dataclass(frozen=True)
class Evidence:
    """What speaks for a homography. Distances are in colour pixels.

    Attributes:
        pairs: pairs of images it is from.
        matches: patches found again and known in both directions.
        hits: those of them that lie within `INLIER_PX` (of an image 640 wide) of a fit that has not seen them.
        coverage: share, 0 to 1, of what both cameras see that has a hit nearby.
        residual_px: median distance of the held-out patches from the fit.
        disagreement_px: median distance of the maps from either half, the larger of halves of the image and of the
            pairs.
        uncertainty_px: 95 % bound of the map's error where it is largest, at a corner of what both cameras see: from
            fits that leave out a part of the pairs each, or of the patches, whichever differ more.
        likeness, likeness_before: correlation of structure at the place found, and with the one image laid over the
            whole other.
        gain, gain_noise: by how much the likeness rises over that without a calibration in images (of a single pair: in
            parts of it) that the fit has not seen, and the 95 % bound of its noise.
        moved_px, moved_corner_px: distance of the two places, median and largest.
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
            f"residual {e.residual_px:.2f} px (median); error at the corners at most {e.uncertainty_px:.1f} px (95 %); "
            f"likeness of structure {e.likeness_before:.3f} before and {e.likeness:.3f} after, a gain of {e.gain:.3f} "
            f"in images left out of the fit (noise {e.gain_noise:.3f})"
        )


class UncertainRegistrationError(CalibrationError):
    """Images and homography agree, but not well enough to be better than none, or to be sure of the corners."""


class AlreadyRegisteredError(CalibrationError):
    """No homography is better than none: the infrared image lies on the whole RGB image as it is.

    Attributes:
        estimate: the best one found, with the evidence that it brings nothing.
        registration: the infrared image over the whole RGB image.
    """

    def __init__(self, text: str, estimate: HomographyEstimate, registration: Registration) -> None:
        super().__init__(text)
        self.estimate = estimate
        self.registration = registration
