"""Where one camera's picture lies in the other's, roughly: every scale, a few rolls and every shift are tried.

Correlations are of structure (`structure.py`), divided by what the two pictures hold where they overlap, and added up
over the pairs before a place is chosen. Done on small pictures, by Fourier transform.

Letters: h x w the small colour picture, C channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from spectradino_core.calibrate.structure import structure

__all__ = ["Candidate", "search"]

_WIDTH = 160
_LEAST_OVERLAP = 0.3


@dataclass(frozen=True)
class Candidate:
    """A place that the search found.

    Attributes:
        matrix: float64 [3, 3], infrared to colour pixels.
        score: correlation, at most 1, times the root of the overlap's share.
    """

    matrix: np.ndarray
    score: float


def search(
    pairs: Sequence[tuple[np.ndarray, np.ndarray]],
    scales: Sequence[float],
    rolls_deg: Sequence[float] = (0.0,),
    keep: int = 4,
) -> list[Candidate]:
    """The best places, best first, each clearly apart from those before.

    Args:
        pairs: grey pictures float32 (colour [H, W], infrared [H', W']), all of the same two sizes.
        scales: colour pixels that one infrared pixel may be.
        rolls_deg: how far the infrared camera may be turned about its axis.
        keep: most places to give.
    """
    (height, width), (ir_height, ir_width) = pairs[0][0].shape, pairs[0][1].shape
    shrink = min(1.0, _WIDTH / width)
    small = (max(16, round(width * shrink)), max(16, round(height * shrink)))
    to_small = np.diag([small[0] / width, small[1] / height, 1.0])
    largest = max(scales) * shrink
    side = (
        cv2.getOptimalDFTSize(int(small[1] + ir_height * largest + 8)),
        cv2.getOptimalDFTSize(int(small[0] + ir_width * largest + 8)),
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
                picture, seen = _warped(infrared, place, size, scale * shrink)
                other = _Spectra.of(structure(picture, seen), side)
                products += np.einsum("chw,chw->hw", spectra.channels, other.channels.conj())
                energy += other.energy
            mask = _transformed(seen.astype(np.float32), side)  # the same for all pairs
            surface = np.fft.irfft2(products, side)
            energies = np.stack([np.fft.irfft2(s, side) for s in (colour_energy * mask.conj(), inside * energy.conj())])
            overlap = np.fft.irfft2(inside * mask.conj(), side) / min(seen.sum(), small[0] * small[1])
            enough = overlap >= _LEAST_OVERLAP
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
    """As `np.fft.rfft2`, in half the time: the left half of a plane's spectrum, complex64."""
    padded = np.zeros(side, np.float32)
    padded[: plane.shape[0], : plane.shape[1]] = plane
    both = cv2.dft(padded, flags=cv2.DFT_COMPLEX_OUTPUT, nonzeroRows=plane.shape[0])
    return np.ascontiguousarray(both[:, : side[1] // 2 + 1]).view(np.complex64)[..., 0]


def _placed(scale: float, roll_deg: float, ir_size: tuple[int, int]) -> tuple[np.ndarray, tuple[int, int]]:
    """Infrared pixels, scaled and rolled, in the smallest picture that holds them: matrix [3, 3], (width, height)."""
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
    """The infrared picture in that place, and bool: where it is."""
    if scale < 1:
        infrared = cv2.GaussianBlur(infrared, (0, 0), 0.4 / scale)
    picture = cv2.warpPerspective(infrared, place, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    seen = cv2.warpPerspective(np.ones(infrared.shape, np.uint8), place, size, flags=cv2.INTER_NEAREST)
    return picture, seen > 0


def _distinct(
    found: list[tuple[float, float, float, float, float]],
    shrink: float,
    ir_size: tuple[int, int],
    size: tuple[int, int],
    to_small: np.ndarray,
    keep: int,
) -> list[Candidate]:
    """Candidates of which no two bring the infrared corners within a twelfth of the colour image's width."""
    back = np.linalg.inv(to_small)
    # Pixel centres: the small picture's (x, y) is the large one's (x + 0.5) / shrink - 0.5.
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
