"""Coarse exhaustive search over scale, roll and shift for the alignment of two cameras' images.

Normalised correlations of structure (`structure.py`) are summed over the pairs before a candidate is chosen; they are
computed on downscaled images by Fourier transform.

Letters: h x w the downscaled RGB image, C channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from spectradino_core.calibration.estimation.structure import structure

__all__ = ["Candidate", "search"]

_WIDTH = 160
_MIN_OVERLAP = 0.3


@dataclass(frozen=True)
class Candidate:
    """Candidate alignment.

    Attributes:
        matrix: float64 [3, 3], IR to RGB pixels.
        score: correlation, at most 1, times the root of the overlap's fraction.
    """

    matrix: np.ndarray
    score: float


def search(
    pairs: Sequence[tuple[np.ndarray, np.ndarray]],
    scales: Sequence[float],
    rolls_deg: Sequence[float] = (0.0,),
    keep: int = 4,
) -> list[Candidate]:
    """Return the best candidates in descending order of score, each clearly apart from the previous ones.

    Args:
        pairs: grey images float32 (RGB [H, W], IR [H', W']), all of the same two sizes.
        scales: RGB pixels per IR pixel.
        rolls_deg: rotations of the IR camera about its axis.
        keep: maximum number of candidates.
    """
    (height, width), (ir_height, ir_width) = pairs[0][0].shape, pairs[0][1].shape
    shrink = min(1.0, _WIDTH / width)
    small = (max(16, round(width * shrink)), max(16, round(height * shrink)))
    to_small = np.diag([small[0] / width, small[1] / height, 1.0])
    max_scale = max(scales) * shrink
    side = (
        cv2.getOptimalDFTSize(int(small[1] + ir_height * max_scale + 8)),
        cv2.getOptimalDFTSize(int(small[0] + ir_width * max_scale + 8)),
    )
    colour = [_Spectra.of(structure(cv2.resize(rgb, small, interpolation=cv2.INTER_AREA)), side) for rgb, _ in pairs]
    colour_energy = np.sum([spectra.energy for spectra in colour], axis=0)
    inside = _transformed(np.ones(small[::-1], np.float32), side)
    found: list[tuple[float, float, float, float, float]] = []
    for roll in rolls_deg:
        for scale in scales:
            place, size = _placed(scale * shrink, roll, (ir_width, ir_height))
            if min(size) < 12:
                continue
            products, energy = np.zeros_like(inside), np.zeros_like(inside)
            for spectra, (_, infrared) in zip(colour, pairs):
                warped, seen = _warped(infrared, place, size, scale * shrink)
                other = _Spectra.of(structure(warped, seen), side)
                products += np.einsum("chw,chw->hw", spectra.channels, other.channels.conj())
                energy += other.energy
            mask = _transformed(seen.astype(np.float32), side)  # the same for all pairs
            surface = np.fft.irfft2(products, side)
            energies = np.stack([np.fft.irfft2(s, side) for s in (colour_energy * mask.conj(), inside * energy.conj())])
            overlap = np.fft.irfft2(inside * mask.conj(), side) / min(seen.sum(), small[0] * small[1])
            enough = overlap >= _MIN_OVERLAP
            floor = 0.02 * energies.max(axis=(1, 2), keepdims=True) + 1e-6
            score = np.where(enough, surface / np.sqrt(np.prod(np.maximum(energies, floor), axis=0)), -1.0)
            score *= np.sqrt(np.clip(overlap, 0.0, 1.0))
            for _ in range(keep):
                row, column = np.unravel_index(int(score.argmax()), side)
                if score[row, column] <= 0:
                    break
                dy, dx = (int(v) - s if v > s // 2 else int(v) for v, s in zip((row, column), side))
                found.append((float(score[row, column]), scale, roll, dx, dy))
                rows, columns = np.arange(row - 6, row + 7) % side[0], np.arange(column - 6, column + 7) % side[1]
                score[np.ix_(rows, columns)] = -1.0
    found.sort(reverse=True)
    return _distinct(found, shrink, (ir_width, ir_height), (width, height), to_small, keep)


@dataclass
class _Spectra:
    """Fourier transforms of an image's structure: complex64 [C, ...] and of its summed squares."""

    channels: np.ndarray
    energy: np.ndarray

    @classmethod
    def of(cls, channels: np.ndarray, side: tuple[int, int]) -> _Spectra:
        return cls(
            np.stack([_transformed(channel, side) for channel in channels]),
            _transformed((channels * channels).sum(axis=0), side),
        )


def _transformed(plane: np.ndarray, side: tuple[int, int]) -> np.ndarray:
    """Compute `np.fft.rfft2` in half the time: the left half of a plane's spectrum, complex64."""
    padded = np.zeros(side, np.float32)
    padded[: plane.shape[0], : plane.shape[1]] = plane
    both = cv2.dft(padded, flags=cv2.DFT_COMPLEX_OUTPUT, nonzeroRows=plane.shape[0])
    return np.ascontiguousarray(both[:, : side[1] // 2 + 1]).view(np.complex64)[..., 0]


def _placed(scale: float, roll_deg: float, ir_size: tuple[int, int]) -> tuple[np.ndarray, tuple[int, int]]:
    """Return the map [3, 3] of scaled and rolled IR pixels and the (width, height) of their bounding box."""
    c, s = scale * np.cos(np.radians(roll_deg)), scale * np.sin(np.radians(roll_deg))
    linear = np.array([[c, -s], [s, c]])
    x, y = ir_size[0] - 0.5, ir_size[1] - 0.5
    corners = np.array([[-0.5, -0.5], [x, -0.5], [x, y], [-0.5, y]]) @ linear.T
    low, high = corners.min(axis=0), corners.max(axis=0)
    matrix = np.eye(3)
    matrix[:2, :2], matrix[:2, 2] = linear, -low - 0.5
    return matrix, (int(np.ceil(high[0] - low[0])), int(np.ceil(high[1] - low[1])))


def _warped(
    infrared: np.ndarray, place: np.ndarray, size: tuple[int, int], scale: float
) -> tuple[np.ndarray, np.ndarray]:
    """Warp the IR image, and return its bool mask of valid pixels."""
    if scale < 1:
        infrared = cv2.GaussianBlur(infrared, (0, 0), 0.4 / scale)
    warped = cv2.warpPerspective(infrared, place, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    seen = cv2.warpPerspective(np.ones(infrared.shape, np.uint8), place, size, flags=cv2.INTER_NEAREST)
    return warped, seen > 0


def _distinct(
    found: list[tuple[float, float, float, float, float]],
    shrink: float,
    ir_size: tuple[int, int],
    size: tuple[int, int],
    to_small: np.ndarray,
    keep: int,
) -> list[Candidate]:
    """Select candidates whose IR corners differ by more than a twelfth of the RGB image's width."""
    back = np.linalg.inv(to_small)
    # Pixel centres: (x, y) in the downscaled image is (x + 0.5) / shrink - 0.5 in the full image.
    half = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1.0]])
    corners = np.array([[0, 0, 1], [ir_size[0], 0, 1], [ir_size[0], ir_size[1], 1], [0, ir_size[1], 1.0]])
    chosen: list[Candidate] = []
    places: list[np.ndarray] = []
    for score, scale, roll, dx, dy in found:
        place, _ = _placed(scale * shrink, roll, ir_size)
        shift = np.array([[1, 0, dx], [0, 1, dy], [0, 0, 1.0]])
        matrix = np.linalg.inv(half) @ back @ half @ shift @ place
        here = (corners @ matrix.T)[:, :2]
        if any(np.linalg.norm(here - there, axis=1).mean() < size[0] / 12 for there in places):
            continue
        chosen.append(Candidate(matrix, score))
        places.append(here)
        if len(chosen) == keep:
            break
    return chosen
