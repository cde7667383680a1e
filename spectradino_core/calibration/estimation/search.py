"""Coarse exhaustive search over scale, roll and shift for the alignment of two cameras' images.

Normalised correlations of structure (`structure.py`) are summed over the pairs before a candidate is chosen; they are
computed on downscaled images by Fourier transform.

Letters: h x w the downscaled RGB image, C channels.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import cv2
import numpy as np

from spectradino_core.calibration.estimation.structure import structure, warped

_WIDTH = 160
_MIN_OVERLAP = 0.3
_KEPT = 4


class Candidate(NamedTuple):
    """An alignment, IR to RGB pixels [3, 3]; its score is a correlation times the root of the overlap's fraction."""

    matrix: np.ndarray
    score: float


def search(
    pairs: Sequence[tuple[np.ndarray, np.ndarray]],
    scales: Sequence[float],
    rolls_deg: Sequence[float],
) -> list[Candidate]:
    """Return the best candidates in descending order of score, each clearly apart from the previous ones.

    Args:
        pairs: grey images float32, all of the same two sizes.
        scales: RGB pixels per IR pixel.
        rolls_deg: rotations of the IR camera about its axis.
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
    colour = [_spectra(structure(cv2.resize(rgb, small, interpolation=cv2.INTER_AREA)), side) for rgb, _ in pairs]
    colour_energy = np.sum([of_energy for _, of_energy in colour], axis=0)
    inside = _transformed(np.ones(small[::-1], np.float32), side)
    found: list[tuple[float, float, float, float, float]] = []
    for roll in rolls_deg:
        for scale in scales:
            place, size = _placed(scale * shrink, roll, (ir_width, ir_height))
            if min(size) < 12:
                continue
            products, energy = np.zeros_like(inside), np.zeros_like(inside)
            for (of_rgb, _), (_, infrared) in zip(colour, pairs):
                image, seen = warped(infrared, place, size, scale * shrink)
                of_ir, of_energy = _spectra(structure(image, seen), side)
                products += np.einsum("chw,chw->hw", of_rgb, of_ir.conj())
                energy += of_energy
            mask = _transformed(seen.astype(np.float32), side)  # the same for all pairs
            surface = np.fft.irfft2(products, side)
            energies = np.stack([np.fft.irfft2(s, side) for s in (colour_energy * mask.conj(), inside * energy.conj())])
            overlap = np.fft.irfft2(inside * mask.conj(), side) / min(seen.sum(), small[0] * small[1])
            enough = overlap >= _MIN_OVERLAP
            floor = 0.02 * energies.max(axis=(1, 2), keepdims=True) + 1e-6
            score = np.where(enough, surface / np.sqrt(np.prod(np.maximum(energies, floor), axis=0)), -1.0)
            score *= np.sqrt(np.clip(overlap, 0.0, 1.0))
            for _ in range(_KEPT):
                row, column = np.unravel_index(int(score.argmax()), side)
                if score[row, column] <= 0:
                    break
                dy, dx = (int(v) - s if v > s // 2 else int(v) for v, s in zip((row, column), side))
                found.append((float(score[row, column]), scale, roll, dx, dy))
                rows, columns = np.arange(row - 6, row + 7) % side[0], np.arange(column - 6, column + 7) % side[1]
                score[np.ix_(rows, columns)] = -1.0
    matrices = (
        (score, _matrix(scale, roll, dx, dy, shrink, (ir_width, ir_height), to_small))
        for score, scale, roll, dx, dy in sorted(found, reverse=True)
    )
    return _distinct(matrices, (ir_width, ir_height), width)


def _spectra(channels: np.ndarray, side: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Return the Fourier transforms of an image's structure, complex64 [C, ...], and of its summed squares."""
    transforms = np.stack([_transformed(channel, side) for channel in channels])
    return transforms, _transformed((channels * channels).sum(axis=0), side)


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


def _matrix(
    scale: float, roll: float, dx: float, dy: float, shrink: float, ir_size: tuple[int, int], to_small: np.ndarray
) -> np.ndarray:
    """Return the map from IR to RGB pixels [3, 3] of a place in the downscaled images."""
    # Pixel centres: (x, y) in the downscaled image is (x + 0.5) / shrink - 0.5 in the full image.
    half = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1.0]])
    place, _ = _placed(scale * shrink, roll, ir_size)
    shift = np.array([[1, 0, dx], [0, 1, dy], [0, 0, 1.0]])
    return np.linalg.inv(half) @ np.linalg.inv(to_small) @ half @ shift @ place


def _distinct(found: Iterable[tuple[float, np.ndarray]], ir_size: tuple[int, int], width: int) -> list[Candidate]:
    """Select candidates whose IR corners differ by more than a twelfth of the RGB image's width."""
    corners = np.array([[0, 0, 1], [ir_size[0], 0, 1], [ir_size[0], ir_size[1], 1], [0, ir_size[1], 1.0]])
    chosen: list[Candidate] = []
    places: list[np.ndarray] = []
    for score, matrix in found:
        here = (corners @ matrix.T)[:, :2]
        if any(np.linalg.norm(here - there, axis=1).mean() < width / 12 for there in places):
            continue
        chosen.append(Candidate(matrix, score))
        places.append(here)
        if len(chosen) == _KEPT:
            break
    return chosen
