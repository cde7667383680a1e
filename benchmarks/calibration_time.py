"""Accuracy of the time offset of two cameras found by `spectradino calibrate time` in synthetic scenes.

    python -m benchmarks.calibration_time --seeds 0 1 2 3 4 5

Each scene is recorded twice for 24 s, through the same known homography: RGB at 30 Hz with the infrared camera's clock
37 ms ahead, and RGB at 15 Hz (every second of these frames) with it 20 ms behind; infrared at 9 Hz both times. The
command knows neither offset nor homography. `error_ms` is its result minus the true offset, `activity_ms` the error of
the activity alone, before the refinement by displaced patches. A refusal is a row with its reason.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from benchmarks.experiment import parser_of, run_main, show
from spectradino_core.bags.make import CameraSchedule, MakeOptions, exposures, make_bag
from spectradino_core.bags.reader import BagReader
from spectradino_core.bags.sources import CameraView, SceneViews
from spectradino_core.bench.machine import describe
from spectradino_core.bench.tables import write_table
from spectradino_core.calibration.estimation import CalibrationError
from spectradino_core.commands.calibrate import find_time_offset
from spectradino_core.options import NATURAL
from spectradino_core.streams.queues import Stream

SIZE, IR_SIZE = (320, 256), (256, 208)
IR_TO_RGB = (1.2, 0.012, 4.0, -0.01, 1.19, 5.0, 1e-5, -1e-5, 1.0)
SECONDS = 24.0
COLOUR = CameraSchedule(30.0)


class Kept:
    """A scene rendered once for the times at 30 and 9 Hz."""

    def __init__(self, seed: int) -> None:
        scene = SceneViews(seed, size=SIZE, ir_size=IR_SIZE, ir_to_rgb=IR_TO_RGB)
        self.name, self.band, self.registration = scene.name, scene.band, scene.registration
        self.classes, self.mask_classes = scene.classes, scene.mask_classes
        self._frames: dict[tuple[Stream, int], np.ndarray] = {}
        for stream, schedule in ((Stream.RGB, COLOUR), (Stream.IR, CameraSchedule(9.0))):
            moments = exposures(stream, schedule, SECONDS, 0)
            for moment, view in zip(moments, scene.views(stream, moments), strict=True):
                self._frames[stream, moment] = view.pixels

    def views(self, stream: Stream, moments_ns: Sequence[int]) -> Iterator[CameraView]:
        """See `ViewSource`."""
        for moment in moments_ns:
            yield CameraView(self._frames[stream, moment])


def drives() -> list[MakeOptions]:
    """Return both recordings of a scene."""
    options = MakeOptions(COLOUR, CameraSchedule(9.0, offset_ms=37.0), duration_s=SECONDS, truth=False)
    slow = replace(options, rgb=CameraSchedule(15.0), ir=CameraSchedule(9.0, offset_ms=-20.0))
    return [options, slow]


def measure(bag: Path, true_ms: float) -> dict[str, Any]:
    """Evaluate the command on a bag: errors in ms, or the reason of a refusal."""
    with BagReader(bag) as reader:
        try:
            rough, found = find_time_offset(reader)
        except CalibrationError as error:
            return {"status": "refused", "reason": str(error)}
    return {
        "status": "answered",
        "error_ms": round(found.offset_ms - true_ms, 2),
        "spread_ms": round(found.spread_ms, 2),
        "confidence": round(found.confidence, 2),
        "activity_ms": round(rough.offset_ms - true_ms, 2),
        "activity_spread_ms": round(rough.spread_ms, 2),
        "patches": found.patches,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    parser = parser_of("calibration_time", __doc__)
    parser.add_argument("--seeds", type=NATURAL, nargs="+", default=list(range(6)), help="streets (default: 0 to 5)")
    options = parser.parse_args(arguments)
    cv2.setNumThreads(1)
    rows = []
    for seed in options.seeds:
        source = Kept(seed)
        for recording in drives():
            with tempfile.TemporaryDirectory() as scratch:
                made = make_bag(source, Path(scratch) / "drive.mcap", recording)
                row = {"seed": seed, "rgb_hz": recording.rgb.rate_hz, "ir_hz": recording.ir.rate_hz}
                row["true_ms"] = recording.ir.offset_ms
                rows.append(row | measure(made.bag, recording.ir.offset_ms))
            show(rows[-1])
    write_table(options.out / "calibration_time.csv", describe(), rows)
    errors = [abs(row["error_ms"]) for row in rows if "error_ms" in row]
    within = sum(error <= 3 for error in errors)
    print(
        f"{within} of {len(rows)} within 3 ms, {len(rows) - len(errors)} refused, largest {max(errors, default=0):.1f}"
    )
    return 0


if __name__ == "__main__":
    run_main(main)
