"""Accuracy of registrations estimated from real pairs of images, and refusal of mismatched pairs.

    python -m benchmarks.calibration --data path/to/roadscene_rgb_lwir

(The committed results are of all 161 pairs and take seven minutes of two cores. `--every 3` takes every third. For time
offsets see `calibration_time.py`.)

Each pair of RoadScene (both splits) is seen by two simulated cameras: the RGB image is cropped to a window of 85 to
100 % of its sides, the infrared image to another window of 72 to 100 % and resized by 0.75 to 1.3. So shift and scale
of the true homography are known, relative to the alignment of the data set, which is itself wrong by a pixel or more,
differently in each pair. So there are two errors, both medians over a grid on the infrared image:

- `error_px`: estimated homography compared with the applied one; includes the data set's own misalignment;
- `error_compensated_px`: the same after removing the data set's misalignment, as estimated by the same code on the
  unchanged pair: the accuracy of the applied shift and scale.

As a control every fourth RGB image is also paired with the infrared image of another pair, which must be refused.

The time of day is the data set's for the 78 pairs that have boxes. For the others it is day if the mean luminance
(Rec. 601) of the upper third of the RGB image, mostly sky, is at least 140, which agrees with 77 of those 78. (The
whole image is no good rule, since exposure brightens street lamps.) `time_from` names the source.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from benchmarks.experiment import parser_of, run_main, show, side_by_side
from spectradino_core.bench.machine import describe
from spectradino_core.bench.tables import write_table
from spectradino_core.calibration.estimation import CalibrationError
from spectradino_core.calibration.estimation.homography import estimate_homography
from spectradino_core.calibration.registration import transfer
from spectradino_core.data.images import read_counts
from spectradino_core.data.paired_folder import PairedFolder, PairedItem
from spectradino_core.options import COUNT

SPLITS = ("train", "val")
WITHIN_PX = 2.0


def is_daytime(rgb: np.ndarray) -> bool:
    """Return whether the upper third of an RGB image uint8 [h, w, 3] is bright."""
    return float(cv2.cvtColor(rgb[: rgb.shape[0] // 3], cv2.COLOR_RGB2GRAY).mean()) >= 140


def recorded_anew(
    rgb: np.ndarray, infrared: np.ndarray, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Simulate two other cameras that see a pair on one pixel grid.

    Returns:
        The RGB image, the infrared image, and two maps [3, 3]: from the old grid to the new RGB pixels, and from new
        infrared pixels to the old grid. Their product is the true homography.
    """
    rng = np.random.default_rng([seed, 6])
    height, width = rgb.shape[:2]

    def window(share: float) -> tuple[int, int, int, int]:
        w, h = int(width * share), int(height * share)
        return int(rng.integers(0, width - w + 1)), int(rng.integers(0, height - h + 1)), w, h

    x, y, w, h = window(rng.uniform(0.85, 1.0))
    colour = np.ascontiguousarray(rgb[y : y + h, x : x + w])
    to_colour = np.array([[1.0, 0, -x], [0, 1, -y], [0, 0, 1]])
    x, y, w, h = window(rng.uniform(0.72, 1.0))
    zoom = rng.uniform(0.75, 1.3)
    size = round(w * zoom), round(h * zoom)
    method = cv2.INTER_AREA if zoom < 1 else cv2.INTER_LINEAR
    thermal = cv2.resize(infrared[y : y + h, x : x + w], size, interpolation=method)
    a, b = w / size[0], h / size[1]
    from_thermal = np.array([[a, 0, (a - 1) / 2 + x], [0, b, (b - 1) / 2 + y], [0, 0, 1]])
    return colour, thermal, to_colour, from_thermal


def evaluate_pair(rgb: np.ndarray, infrared: np.ndarray, seed: int, compensate: bool = True) -> dict[str, Any]:
    """Evaluate one pair: `status` "answered" or "refused", with errors or the reason."""
    colour, thermal, to_colour, from_thermal = recorded_anew(rgb, infrared, seed)
    try:
        found = estimate_homography([(colour, thermal)])
    except CalibrationError as error:
        return {"status": "refused", "reason": str(error).partition(";")[0].partition(": record")[0]}
    matrix = np.reshape(found.registration.matrix, (3, 3))
    row: dict[str, Any] = {"status": "answered"}
    row["error_px"] = _distance(matrix, to_colour @ from_thermal, thermal.shape[:2], colour.shape[:2])
    if compensate:
        try:
            own = np.reshape(estimate_homography([(rgb, infrared)]).registration.matrix, (3, 3))
        except CalibrationError:
            pass
        else:
            row["own_px"] = _distance(own, np.eye(3), infrared.shape[:2], rgb.shape[:2])
            expected = to_colour @ own @ from_thermal
            row["error_compensated_px"] = _distance(matrix, expected, thermal.shape[:2], colour.shape[:2])
    evidence = found.evidence
    return row | {
        "hits": evidence.hits,
        "matches": evidence.matches,
        "coverage": evidence.coverage,
        "residual_px": evidence.residual_px,
        "disagreement_px": evidence.disagreement_px,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    parser = parser_of("calibration", __doc__)
    parser.add_argument("--data", type=Path, required=True, help="the folder roadscene_rgb_lwir")
    parser.add_argument("--every", type=COUNT, default=1, metavar="N", help="only every N-th pair (default: all)")
    parser.add_argument(
        "--workers", type=COUNT, default=max(1, (os.cpu_count() or 2) // 2), help="default: %(default)s"
    )
    options = parser.parse_args(arguments)
    items = _items(options.data)
    numbers = list(range(0, len(items), options.every))
    jobs = [(items[k], items[(k + 37) % len(items)].infrared_path, k) for k in numbers]
    rows = side_by_side(_job, jobs, options.workers)
    facts = describe()
    write_table(options.out / "calibration_pairs.csv", facts, rows, ".3f")
    summary = _summary(rows)
    write_table(options.out / "calibration.csv", facts, summary, ".3f")
    _plot(options.out / "calibration.png", rows)
    for line in summary:
        show(line)
    return 0


def _items(root: Path) -> list[PairedItem]:
    folders = [PairedFolder(root, split, infrared="lwir", classes=("person", "bicycle", "car")) for split in SPLITS]
    return sorted((item for folder in folders for item in folder), key=lambda item: item.id)


def _job(job: tuple[PairedItem, Path, int]) -> list[dict[str, Any]]:
    item, other_path, number = job
    rgb, infrared, other = item.load_rgb(), item.load_infrared(), read_counts(other_path)
    named = {"id": item.id, "time": item.time or ("day" if is_daytime(rgb) else "night")}
    named["time_from"] = "luminance" if item.time is None else "noted"
    rows = [named | {"infrared": "its own"} | evaluate_pair(rgb, infrared, number)]
    if number % 4:
        return rows
    height, width = (min(a, b) for a, b in zip(rgb.shape, other.shape))
    cropped = np.ascontiguousarray(rgb[:height, :width])
    found = evaluate_pair(cropped, other[:height, :width], number, compensate=False)
    return [*rows, named | {"infrared": "of another pair"} | found]


def _summary(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    lines = []
    for infrared in ("its own", "of another pair"):
        for time in ("day", "night"):
            group = [row for row in rows if (row["infrared"], row["time"]) == (infrared, time)]
            answered = [row for row in group if row["status"] == "answered"]
            line: dict[str, Any] = {"infrared": infrared, "time": time, "pairs": len(group), "answered": len(answered)}
            if infrared == "its own":
                for key in ("error_px", "error_compensated_px"):
                    errors = [row[key] for row in answered if key in row]
                    line[f"{key}_median"] = round(float(np.median(errors)), 2) if errors else ""
                    line[f"{key}_largest"] = round(max(errors), 2) if errors else ""
                    line[f"{key}_within_{WITHIN_PX:g}"] = sum(error <= WITHIN_PX for error in errors)
                    line[f"{key}_share"] = round(line[f"{key}_within_{WITHIN_PX:g}"] / max(len(group), 1), 3)
            lines.append(line)
    return lines


def _distance(a: np.ndarray, b: np.ndarray, shape: tuple[int, ...], seen: tuple[int, ...]) -> float:
    """Return the median distance of two maps over those points of a grid that `b` maps into the image."""
    columns, rows = np.meshgrid(np.linspace(0, shape[1] - 1, 32), np.linspace(0, shape[0] - 1, 24))
    points = np.stack([columns.ravel(), rows.ravel()], axis=1)
    there = transfer(b, points)
    inside = ((there >= 0) & (there <= np.array([seen[1], seen[0]]) - 1)).all(axis=1)
    return float(np.median(np.linalg.norm(transfer(a, points) - there, axis=1)[inside])) if inside.any() else math.inf


def _plot(path: Path, rows: list[dict[str, Any]]) -> None:
    from matplotlib.figure import Figure

    own = [row for row in rows if row["infrared"] == "its own"]
    figure = Figure(figsize=(9, 3.2))
    axes = figure.subplots(1, 2, sharey=True)
    titles = {"error_px": "against the homography applied", "error_compensated_px": "the data's misalignment taken out"}
    for axis, (key, title) in zip(axes, titles.items()):
        for time, colour in (("day", "tab:orange"), ("night", "tab:blue")):
            group = [row for row in own if row["time"] == time]
            errors = sorted(row[key] for row in group if key in row)
            shares = np.arange(1, len(errors) + 1) / max(len(group), 1)
            axis.step([0, *errors], [0, *shares], where="post", color=colour, label=f"{time} ({len(group)} pairs)")
        axis.axvline(WITHIN_PX, color="grey", linewidth=0.8, linestyle=":")
        axis.axhline(0.8, color="grey", linewidth=0.8, linestyle=":")
        axis.set(title=title, xlabel="median error [px]", xlim=(0, 5), ylim=(0, 1))
    axes[0].set_ylabel("share of all pairs")
    axes[0].legend(loc="lower right")
    figure.tight_layout()
    figure.savefig(path, dpi=90)


if __name__ == "__main__":
    run_main(main)
