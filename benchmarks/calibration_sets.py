"""Acceptance of calibrations: written only if there is something to correct, and with correct bounds.

    python -m benchmarks.calibration_sets --data path/to/data

Sets of pairs on one pixel grid (four real ones and rendered scenes) are registered unchanged, where no calibration must
win, and with every infrared image moved by one known homography, which must be found or, if the images do not determine
it, refused. Each case is evaluated on either half of a set's pairs (every other one):

- `verdict`: "found", "registered" (no homography is better than none) or "refused";
- `error_px`: maximum distance at a corner from the applied homography, part of which is the set's own misalignment and
  parallax; `bound_px`: bound of the fit (95 %); `gain`, `noise`: see `estimation/evidence.py`;
- `halves_px`: maximum distance of the two halves' maps at a corner, and `halves_bound_px`: both bounds added in
  quadrature.

All distances are in pixels of the size at which the set is used, `--width` wide. (The committed results use the
defaults and take some four minutes of one core.)
"""

from __future__ import annotations

import math
import os
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from benchmarks.experiment import parser_of, run_main, side_by_side
from spectradino_core.bench.machine import describe
from spectradino_core.bench.tables import write_table
from spectradino_core.calibration.estimation import CalibrationError
from spectradino_core.calibration.estimation.evidence import Evidence
from spectradino_core.calibration.estimation.homography import AlreadyRegisteredError, estimate_homography
from spectradino_core.calibration.registration import transfer
from spectradino_core.data.paired_folder import PairedFolder
from spectradino_core.data.scene_sets import ScenePairs
from spectradino_core.modality import Modality
from spectradino_core.options import COUNT

SETS = {
    "roadscene_rgb_lwir": "lwir",
    "msrs_rgb_lwir": "lwir",
    "m3svd_rgb_lwir": "lwir",
    "epfl_rgb_nir": "nir",
    "rendered": "lwir",
}
CASES = ("as it comes", "shift of 1 %", "shift of 2 %", "homography")

Pair = tuple[np.ndarray, np.ndarray]


def applied(case: str, size: tuple[int, int]) -> np.ndarray:
    """Return the map from the moved infrared image's pixels to the old grid, [3, 3]; shifts relative to the width."""
    width, height = size
    shift, zoom, roll, perspective = {
        "as it comes": ((0.0, 0.0), 1.0, 0.0, (0.0, 0.0)),
        "shift of 1 %": ((0.008, -0.006), 1.0, 0.0, (0.0, 0.0)),
        "shift of 2 %": ((-0.016, 0.012), 1.0, 0.0, (0.0, 0.0)),
        "homography": ((-0.03, 0.02), 1.15, -0.6, (0.012, -0.008)),
    }[case]
    c, s = zoom * math.cos(math.radians(roll)), zoom * math.sin(math.radians(roll))
    gx, gy = (value * 2 / width for value in perspective)
    moved = np.array([[c, -s, shift[0] * width], [s, c, shift[1] * width], [gx, gy, 1.0]])
    centre = np.array([[1, 0, (width - 1) / 2], [0, 1, (height - 1) / 2], [0, 0, 1.0]])
    matrix = centre @ moved @ np.linalg.inv(centre)
    return matrix / matrix[2, 2]


def load_set(root: Path, band: str, count: int, width: int) -> list[Pair]:
    """Load pairs spread over both splits, resized to one size: the set's usual aspect, `width` wide."""
    folders = [PairedFolder(root, split, band, single=True) for split in ("train", "val")]
    items = [item for folder in folders for item in folder if all(item.present)]
    shapes = sorted(item.size[1] / item.size[0] for item in items)
    usual = shapes[len(shapes) // 2]
    items = [item for item in items if abs(item.size[1] / item.size[0] / usual - 1) < 0.12]
    chosen = [items[round(k)] for k in np.linspace(0, len(items) - 1, min(count, len(items)))]
    size = (width, round(width * usual))
    return [
        (
            cv2.resize(item.load_rgb(), size, interpolation=cv2.INTER_AREA),
            cv2.resize(item.load_infrared(), size, interpolation=cv2.INTER_AREA),
        )
        for item in chosen
    ]


def rendered_set(count: int, width: int, first: int = 0) -> list[Pair]:
    """Render as many scenes, by day and night."""
    scenes = ScenePairs(range(first, first + count), Modality.LWIR, (width, round(0.8 * width)))
    return [(scene.rgb, scene.infrared) for scene in scenes]


def evaluate_halves(pairs: Sequence[Pair], case: str) -> list[dict[str, Any]]:
    """Evaluate either half of the pairs."""
    size = pairs[0][0].shape[1], pairs[0][0].shape[0]
    truth, corners = applied(case, size), _corners(size)
    rows: list[dict[str, Any]] = []
    found: list[tuple[np.ndarray, Evidence]] = []
    for half, members in (("even", pairs[::2]), ("odd", pairs[1::2])):
        row: dict[str, Any] = {"half": half, "pairs": len(members)}
        try:
            estimate = estimate_homography([(rgb, _moved(infrared, truth)) for rgb, infrared in members])
            row["verdict"] = "found"
        except AlreadyRegisteredError as error:
            estimate = error.estimate
            row["verdict"] = "registered"
        except CalibrationError as error:
            rows.append(row | {"verdict": "refused", "reason": str(error).partition(";")[0]})
            continue
        evidence, matrix = estimate.evidence, np.reshape(estimate.registration.matrix, (3, 3))
        found.append((matrix, evidence))
        rows.append(
            row
            | {
                "error_px": _apart(matrix, truth, corners),
                "bound_px": evidence.uncertainty_px,
                "gain": evidence.gain,
                "noise": evidence.gain_noise,
                "likeness_before": evidence.correlation_before,
                "likeness": evidence.correlation,
            }
        )
    if len(found) == 2:
        (one, first), (other, second) = found
        for row in rows:
            row["halves_px"] = _apart(one, other, corners)
            row["halves_bound_px"] = math.hypot(first.uncertainty_px, second.uncertainty_px)
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    parser = parser_of("calibration_sets", __doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder that holds the sets")
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=list(SETS), help="default: all")
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES), help="default: all")
    parser.add_argument("--pairs", type=COUNT, default=8, help="pairs of each half (default: %(default)s)")
    parser.add_argument("--width", type=COUNT, default=320, help="of the images (default: %(default)s)")
    parser.add_argument(
        "--workers", type=COUNT, default=max(1, (os.cpu_count() or 2) // 2), help="default: %(default)s"
    )
    options = parser.parse_args(arguments)
    jobs = [
        (options.data, name, case, 2 * options.pairs, options.width) for name in options.sets for case in options.cases
    ]
    rows = side_by_side(_job, jobs, options.workers)
    write_table(options.out / "calibration_sets.csv", describe(), rows, ".3f")
    return 0


def _job(job: tuple[Path, str, str, int, int]) -> list[dict[str, Any]]:
    data, name, case, count, width = job
    pairs = rendered_set(count, width) if name == "rendered" else load_set(data / name, SETS[name], count, width)
    return [{"set": name, "case": case} | row for row in evaluate_halves(pairs, case)]


def _moved(infrared: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Return the view of an infrared camera whose pixels `truth` maps to the old grid."""
    if np.allclose(truth, np.eye(3)):
        return infrared
    size = infrared.shape[1], infrared.shape[0]
    seed = zlib.crc32(infrared.tobytes())  # a sensor of its own: what is moved keeps some noise
    image = cv2.warpPerspective(
        infrared, truth, size, flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_REPLICATE
    )
    top = np.iinfo(infrared.dtype).max
    spread = 0.004 * float(np.ptp(infrared))
    noisy = image + np.random.default_rng(seed).normal(0.0, spread, image.shape)
    return np.clip(noisy, 0, top).astype(infrared.dtype)


def _corners(size: tuple[int, int]) -> np.ndarray:
    x, y = size[0] - 1.0, size[1] - 1.0
    return np.array([[0, 0], [x, 0], [x, y], [0, y]])


def _apart(one: np.ndarray, other: np.ndarray, corners: np.ndarray) -> float:
    return float(np.linalg.norm(transfer(one, corners) - transfer(other, corners), axis=1).max())


if __name__ == "__main__":
    run_main(main)
