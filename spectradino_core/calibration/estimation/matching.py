"""Match patches of the IR image in the RGB image, given an approximate alignment.

Both images share one grid, and every patch is compared at every displacement up to a radius. Correlations are summed
over the pairs of a recording before a displacement is chosen, since weak evidence from rigidly mounted cameras adds up.

Letters: C channels, ny x nx patches, D = 2 radius + 1 displacements each way, N matches.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.lib.stride_tricks import as_strided

__all__ = ["CELL", "Matches", "Surfaces", "refined_peaks"]

CELL = 12
"""Spacing of the patches in pixels."""

_WINDOW = 1.1
_STEEPEST = 0.5


@dataclass(frozen=True)
class Matches:
    """Matched patches.

    Attributes:
        points: float64 [N, 2], x and y of patch centres.
        shifts: float64 [N, 2], where they were found, relative to `points`.
        information: float64 [N, 2, 2], localisation accuracy per squared pixel; near zero along an edge.
        score: float64 [N], correlation at the match, at most 1.
        cells: int64 [N, 2], column and row of the patch.
    """

    points: np.ndarray
    shifts: np.ndarray
    information: np.ndarray
    score: np.ndarray
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
        """
        Args:
            size: (width, height) of the images.
            radius: largest displacement, in pixels.
        """
        self.radius = radius
        self.size = size
        self.grid = (size[0] // CELL, size[1] // CELL)
        self._margin = ((size[0] - self.grid[0] * CELL) // 2, (size[1] - self.grid[1] * CELL) // 2)
        side = 2 * radius + 1
        shape = (side, side, self.grid[1], self.grid[0])
        self._product = np.zeros(shape, np.float64)
        self._colour = np.zeros(shape, np.float64)
        self._infrared = np.zeros(shape[2:], np.float64)
        self.pairs = 0

    def add(self, colour: np.ndarray, infrared: np.ndarray, valid: np.ndarray | None) -> None:
        """Add a pair.

        Args:
            colour: structure of the RGB image, float32 [C, h, w].
            infrared: structure of the IR image on the RGB image's grid, float32 [C, h, w].
            valid: bool [h, w], the IR camera's field of view.
        """
        seen = np.ones((1, *colour.shape[1:]), np.float32) if valid is None else valid.astype(np.float32)[None]
        energy = np.einsum("chw,chw->hw", colour, colour)[None]
        own = np.einsum("chw,chw->hw", infrared, infrared)[None] * seen
        self._infrared += self._correlated(own, None)[0, 0]
        self._product += self._correlated(infrared, colour)
        self._colour += self._correlated(seen, energy)
        self.pairs += 1

    def __add__(self, other: Surfaces) -> Surfaces:
        both = Surfaces(self.size, self.radius)
        for name in ("_product", "_colour", "_infrared", "pairs"):
            setattr(both, name, getattr(self, name) + getattr(other, name))
        return both

    def __sub__(self, part: Surfaces) -> Surfaces:
        """Return the sums without the pairs of `part`."""
        rest = Surfaces(self.size, self.radius)
        for name in ("_product", "_colour", "_infrared", "pairs"):
            setattr(rest, name, getattr(self, name) - getattr(part, name))
        return rest

    def matches(self, minimum: float) -> Matches:
        """Return the patches with one distinct maximum that scores at least `least`."""
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
        rows, columns, peak = rows[chosen], columns[chosen], peak[chosen]
        shifts, information = refined_peaks(score[:, :, chosen], rows, columns)
        cells = np.stack(np.divmod(chosen, self.grid[0])[::-1], axis=1)
        points = (cells + 0.5) * CELL - 0.5 + self._margin
        good = np.linalg.eigvalsh(information)[:, 1] > 1e-4
        return Matches(points, shifts - radius, information, peak, cells)[good]

    def _correlated(self, cells: np.ndarray, other: np.ndarray | None) -> np.ndarray:
        """Correlate each cell with another image at all displacements: float32 [D, D, ny, nx].

        For each vertical displacement one matrix product multiplies a cell's rows (of all channels) with the other
        image's rows; its diagonals are the horizontal displacements.

        Args:
            cells: float32 [C, h, w].
            other: float32 [C, h, w], zero-padded; None: sums of the cells themselves, [1, 1, ny, nx].
        """
        (left, top), (nx, ny) = self._margin, self.grid
        inner = cells[:, top : top + ny * CELL, left : left + nx * CELL]
        if other is None:
            return inner.reshape(-1, ny, CELL, nx, CELL).sum(axis=(0, 2, 4))[None, None]
        radius, side, reach = self.radius, 2 * self.radius + 1, CELL + 2 * self.radius
        # Stack the rows of all channels so that a cell's values are one matrix without a copy.
        rows = np.ascontiguousarray(inner.transpose(1, 0, 2))
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
