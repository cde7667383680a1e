"""Match patches of the IR image in the RGB image, given an approximate alignment, and fit a homography to the matches.

Both images share one grid, and every patch is compared at every displacement up to a radius. Correlations are summed
over the pairs of a recording before a displacement is chosen, since weak evidence from rigidly mounted cameras adds up.

The fit rejects wrong matches (parallax, moving objects, ambiguous texture) by Geman-McClure weights whose width shrinks
from step to step. Each match is weighted by the curvature of its correlation, so that an edge counts across and not
along. Two cameras side by side differ mainly by scale, shift and a small roll; stretch, shear and perspective are
limited by a prior as wide as in real rigs, which a few dozen good matches outweigh and a handful do not.

Letters: C channels, ny x nx patches, D = 2 radius + 1 displacements each way, N matches; u, v pixel coordinates from
the image centre in units of half its width.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.lib.stride_tricks import as_strided

from spectradino_core.calibration.registration import transfer

CELL = 12
"""Spacing of the patches in pixels."""

_WINDOW = 1.1
_STEEPEST = 0.5

INLIER_PX = 2.5
"""Inlier threshold in pixels."""

_STRETCH, _PERSPECTIVE = 0.01, 0.02
"""Standard deviations of stretch and shear, and of perspective, per half image width."""

_WIDTHS = (12.0, 8.0, 5.5, 4.0, 3.0, 2.5)
_STEPS = 3


@dataclass(frozen=True)
class Matches:
    """Matched patches.

    Attributes:
        points: float64 [N, 2], x and y of patch centres.
        shifts: float64 [N, 2], where they were found, relative to `points`.
        information: float64 [N, 2, 2], localisation accuracy per squared pixel; near zero along an edge.
        cells: int64 [N, 2], column and row of the patch.
    """

    points: np.ndarray
    shifts: np.ndarray
    information: np.ndarray
    cells: np.ndarray

    def __len__(self) -> int:
        return len(self.points)

    def __getitem__(self, chosen: np.ndarray) -> Matches:
        return Matches(*(getattr(self, name)[chosen] for name in self.__dataclass_fields__))

    @property
    def corners(self) -> np.ndarray:
        """Mask bool [N] of patches localised in both directions, not only across an edge."""
        weakest = np.linalg.eigvalsh(self.information)[:, 0]
        return weakest > 0.25 * np.linalg.eigvalsh(self.information)[:, 1]


class Surfaces:
    """Correlations of all patches at all displacements, summed over image pairs of one size."""

    def __init__(self, size: tuple[int, int], radius: int) -> None:
        """Images have this size (width, height); displacements are up to `radius` pixels."""
        self.radius, self.size = radius, size
        self.grid = (size[0] // CELL, size[1] // CELL)
        self._margin = (size[0] % CELL // 2, size[1] % CELL // 2)
        side = 2 * radius + 1
        shape = (side, side, self.grid[1], self.grid[0])
        self._product = np.zeros(shape, np.float64)
        self._colour = np.zeros(shape, np.float64)
        self._infrared = np.zeros(shape[2:], np.float64)

    def add(self, colour: np.ndarray, infrared: np.ndarray, valid: np.ndarray | None) -> None:
        """Add the structure of a pair, float32 [C, h, w] on one grid; `valid`: bool [h, w], the IR field of view."""
        seen = np.ones((1, *colour.shape[1:]), np.float32) if valid is None else valid.astype(np.float32)[None]
        energy = np.einsum("chw,chw->hw", colour, colour)[None]
        own = np.einsum("chw,chw->hw", infrared, infrared)[None] * seen
        self._infrared += self._correlated(own, None)[0, 0]
        self._product += self._correlated(infrared, colour)
        self._colour += self._correlated(seen, energy)

    def __add__(self, other: Surfaces) -> Surfaces:
        return self._combined(other, operator.add)

    def __sub__(self, part: Surfaces) -> Surfaces:
        return self._combined(part, operator.sub)

    def _combined(self, other: Surfaces, operation: Callable[[Any, Any], Any]) -> Surfaces:
        made = Surfaces(self.size, self.radius)
        for name in ("_product", "_colour", "_infrared"):
            setattr(made, name, operation(getattr(self, name), getattr(other, name)))
        return made

    def matches(self, minimum: float) -> Matches:
        """Return the patches with one distinct maximum of at least this score."""
        radius, side = self.radius, 2 * self.radius + 1
        product, colour, infrared = (
            np.stack([_spread(plane) for plane in stack.reshape(-1, *self.grid[::-1])])
            for stack in (self._product, self._colour, self._infrared)
        )
        # Energies of empty regions are zero up to rounding; a faint patch counts less than an average one.
        floors = [
            0.1 * float(energy[energy > 0].mean()) if (energy > 0).any() else 1.0 for energy in (infrared, colour)
        ]
        score = product / np.sqrt((np.maximum(infrared, 0) + floors[0]) * (np.maximum(colour, 0) + floors[1]))
        score = score.reshape(side, side, -1)
        best = score.reshape(side * side, -1).argmax(axis=0)
        rows, columns = np.divmod(best, side)
        patches = np.arange(score.shape[2])
        peak = score[rows, columns, patches]
        inner = (rows > 0) & (rows < side - 1) & (columns > 0) & (columns < side - 1)
        chosen = np.flatnonzero(inner & (peak >= minimum))
        rows, columns = rows[chosen], columns[chosen]
        shifts, information = refined_peaks(score[:, :, chosen], rows, columns)
        cells = np.stack(np.divmod(chosen, self.grid[0])[::-1], axis=1)
        points = (cells + 0.5) * CELL - 0.5 + self._margin
        good = np.linalg.eigvalsh(information)[:, 1] > 1e-4
        return Matches(points, shifts - radius, information, cells)[good]

    def _correlated(self, cells: np.ndarray, other: np.ndarray | None) -> np.ndarray:
        """Correlate each cell with another image at all displacements: float32 [D, D, ny, nx].

        For each vertical displacement one matrix product multiplies a cell's rows (of all channels) with the other
        image's rows, zero-padded; its diagonals are the horizontal displacements. Without another image the cells
        themselves are summed, [1, 1, ny, nx].
        """
        (left, top), (nx, ny) = self._margin, self.grid
        inner = cells[:, top : top + ny * CELL, left : left + nx * CELL]
        if other is None:
            return inner.reshape(-1, ny, CELL, nx, CELL).sum(axis=(0, 2, 4))[None, None]
        radius, side, reach = self.radius, 2 * self.radius + 1, CELL + 2 * self.radius
        # Stack the rows of all channels so that a cell's values are one matrix without a copy. The stack itself is a
        # copy: a transposed view of one channel counts as contiguous but keeps the stride of whole channels.
        rows = inner.transpose(1, 0, 2).copy()
        padded = np.zeros((other.shape[1] + 2 * radius, other.shape[0], other.shape[2] + 2 * radius), np.float32)
        padded[radius:-radius, :, radius:-radius] = other.transpose(1, 0, 2)
        depth = CELL * len(cells)
        height, width = rows.strides[0], padded.strides[0]
        left_matrices = as_strided(
            rows, (ny, nx, CELL, depth), (CELL * height, CELL * rows.itemsize, rows.itemsize, rows.strides[1])
        )
        found = np.empty((side, side, ny, nx), np.float32)
        for dy in range(side):
            shifted = padded[top + dy :, :, left:]
            right_matrices = as_strided(
                shifted,
                (ny, nx, depth, reach),
                (CELL * width, CELL * padded.itemsize, padded.strides[1], padded.itemsize),
            )
            products = np.matmul(left_matrices, right_matrices)
            step = products.strides
            diagonals = as_strided(products, (ny, nx, CELL, side), (*step[:2], step[2] + step[3], step[3]))
            found[dy] = diagonals.sum(axis=2).transpose(2, 0, 1)
        return found


def _spread(plane: np.ndarray) -> np.ndarray:
    """Sum cells over the patch window, weighted towards its centre."""
    return cv2.GaussianBlur(plane, (0, 0), _WINDOW, borderType=cv2.BORDER_CONSTANT)


def refined_peaks(score: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Refine peaks to sub-pixel by a paraboloid over nine values: [N, 2] (x, y) and curvatures [N, 2, 2]."""
    patches = np.arange(score.shape[2])
    nine = np.stack([score[rows + dy, columns + dx, patches] for dy in (-1, 0, 1) for dx in (-1, 0, 1)])
    nine = nine.reshape(3, 3, -1)
    across = (nine[:, 2] - nine[:, 0]).mean(axis=0) / 2
    down = (nine[2] - nine[0]).mean(axis=0) / 2
    xx = (nine[:, 2] - 2 * nine[:, 1] + nine[:, 0]).mean(axis=0)
    yy = (nine[2] - 2 * nine[1] + nine[0]).mean(axis=0)
    xy = (nine[2, 2] - nine[2, 0] - nine[0, 2] + nine[0, 0]) / 4
    hessian = -np.stack([np.stack([xx, xy], -1), np.stack([xy, yy], -1)], -1)
    values, vectors = np.linalg.eigh(hessian)
    values = np.maximum(values, 1e-5)
    information = np.einsum("nij,nj,nkj->nik", vectors, values, vectors)
    steps = np.einsum("nij,nj,nkj,nk->ni", vectors, 1 / np.maximum(values, 1e-3), vectors, np.stack([across, down], -1))
    return np.stack([columns, rows], -1) + np.clip(steps, -_STEEPEST, _STEEPEST), information


def fit(matches: Matches, size: tuple[int, int]) -> np.ndarray:
    """Fit the correction near the identity, float64 [3, 3], that maps the points of matches to where they were found.

    Args:
        matches: at least one.
        size: (width, height) of the image they lie on.
    """
    half = size[0] / 2
    to_uv = np.array([[1 / half, 0, (1 - size[0]) / size[0]], [0, 1 / half, (1 - size[1]) / size[0]], [0, 0, 1]])
    from_uv = np.linalg.inv(to_uv)
    uv, wanted = transfer(to_uv, matches.points), matches.shifts / half
    known, prior = relative_information(matches.information), _prior()
    # (1 + g·uv) (uv + shift) = uv + a uv + b is linear in all eight parameters of a, b and g.
    design = np.zeros((len(uv), 2, 8))
    for row in (0, 1):
        design[:, row, 3 * row] = 1.0
        design[:, row, 3 * row + 1 : 3 * row + 3] = uv
        design[:, row, 6:] = -(uv + wanted)[:, row, None] * uv
    made = np.eye(3)
    for width in _WIDTHS:
        for _ in range(_STEPS):
            rest = (wanted - (transfer(made, uv) - uv)) * half
            weight = half**2 / (1 + np.einsum("ni,nij,nj->n", rest, known, rest) / width**2) ** 2
            below = 1 + uv @ made[2, :2]
            rows, right = design / below[:, None, None], wanted / below[:, None]
            weighted = known * weight[:, None, None]
            normal = np.einsum("nik,nij,njl->kl", rows, weighted, rows, optimize=True) + prior
            a = np.linalg.solve(normal, np.einsum("nik,nij,nj->k", rows, weighted, right, optimize=True))
            made = np.array([[1 + a[1], a[2], a[0]], [a[4], 1 + a[5], a[3]], [a[6], a[7], 1.0]])
    correction = from_uv @ made @ to_uv
    return correction / correction[2, 2]


def _prior() -> np.ndarray:
    """Return the precision [8, 8] of b_x, a_xx, a_xy, b_y, a_yx, a_yy, g_x, g_y; shift, scale and roll are free."""
    precision = 1e-6 * np.eye(8)
    for first, second, sign in ((1, 5, -1.0), (2, 4, 1.0)):
        along = np.zeros(8)
        along[first], along[second] = 1.0, sign
        precision += np.outer(along, along) / (2 * _STRETCH) ** 2
    precision[6, 6] = precision[7, 7] = 1 / _PERSPECTIVE**2
    return precision


def relative_information(information: np.ndarray) -> np.ndarray:
    """Scale curvatures to weights: 1 in a direction of usual accuracy, less for a blunt peak."""
    values, vectors = np.linalg.eigh(information)
    values = np.clip(values / np.median(values[:, 1]), 1e-4, 1.0)
    return np.einsum("nij,nj,nkj->nik", vectors, values, vectors)
