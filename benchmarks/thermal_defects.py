"""Detections lost to dead pixels, borders and telemetry rows in 16-bit thermal frames, and time of their recognition.

    python -m benchmarks.thermal_defects --pairs ../shared/data/msrs_rgb_lwir
    python -m benchmarks.thermal_defects --time-only

Defects are put into the thermal frames of two rendered recordings (60 pairs each, at 10 Hz), of the first one at
160x120, and of the labelled real pairs of a folder, whose 8-bit frames become 16-bit counts, 32 a level above 7000.
Each case is scored fused, without recognition of invalid counts (as before) and with it. Each pair is taken by itself.
Then the thermal input of one frame of 640x512 is timed both ways, in turns on one thread; the fastest of all counts,
since other programs take the cores too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any

import cv2
import numpy as np

from benchmarks.experiment import parser_of, run_main, show
from spectradino_core.bags.sources import SceneViews
from spectradino_core.bench.machine import describe
from spectradino_core.bench.tables import write_table
from spectradino_core.data.sample import PairedSample
from spectradino_core.data.thermal_defects import (
    add_border,
    add_clusters,
    add_dead_lines,
    add_dead_pixels,
    add_telemetry_rows,
)
from spectradino_core.evaluation.scorer import Run, score_runs
from spectradino_core.evaluation.sets import FolderSet
from spectradino_core.modality import Modality
from spectradino_core.options import COUNT, NATURAL
from spectradino_core.runtime.onnx_engine import OnnxEngine
from spectradino_core.runtime.pipeline import Pipeline
from spectradino_core.runtime.preprocess import Letterbox, infrared_input
from spectradino_core.streams.queues import Stream
from spectradino_core.thermal import ThermalContract, ThermalNormaliser

Defect = Callable[[np.ndarray, np.random.Generator], np.ndarray]


def _zero_rows(frame: np.ndarray, _: np.random.Generator) -> np.ndarray:
    out = frame.copy()
    out[:2] = 0
    return out


CASES: dict[str, Defect] = {
    "clean": lambda f, r: f,
    "0.2 % dead pixels": lambda f, r: add_dead_pixels(f, 0.002, r),
    "0.8 % dead pixels": lambda f, r: add_dead_pixels(f, 0.008, r),
    "10 % dead pixels": lambda f, r: add_dead_pixels(f, 0.1, r),
    "2 % border of zeros": lambda f, r: add_border(f, 0.02),
    "20 % border of zeros": lambda f, r: add_border(f, 0.2),
    "10 % oblique border, two sides": lambda f, r: add_border(f, 0.1, 0, ("left", "top"), 0.8),
    "two zero rows": _zero_rows,
    "two telemetry rows": lambda f, r: add_telemetry_rows(f, 2, r),
    "4 dead columns": lambda f, r: add_dead_lines(f, r, columns=4),
    "1 % clusters of zeros": lambda f, r: add_clusters(f, 0.01, r, (0,), 5),
    "4 % of 65535": lambda f, r: add_dead_pixels(f, 0.04, r, (65535,)),
    "1 % of 16383": lambda f, r: add_dead_pixels(f, 0.01, r, (16383,)),
    "3 % of 0, 16383 and 65535": lambda f, r: add_dead_pixels(f, 0.03, r, (0, 16383, 65535)),
}
"""Defects by name: from clean counts uint16 [h, w] and a generator to damaged ones."""


SMALL = (160, 120)
SMALL_CASES = (
    "clean",
    "0.8 % dead pixels",
    "2 % border of zeros",
    "two zero rows",
    "two telemetry rows",
    "4 dead columns",
    "4 % of 65535",
)
"""What is tried with a thermal camera of 160x120 pixels as well."""


def recording(seed: int, count: int = 60, rate_hz: float = 10.0) -> list[PairedSample]:
    """Return labelled pairs of one synthetic scene, without objects of which less than a quarter is visible."""
    source = SceneViews(seed)
    moments = [round(place * 1e9 / rate_hz) for place in range(count)]
    samples = []
    for rgb, ir in zip(source.views(Stream.RGB, moments), source.views(Stream.IR, moments), strict=True):
        assert rgb.boxes is not None
        assert rgb.labels is not None
        assert rgb.visible is not None
        seen = rgb.visible >= 0.25
        samples.append(PairedSample(rgb.pixels, ir.pixels, rgb.boxes[seen], rgb.labels[seen]))
    return samples


def small(samples: Iterable[PairedSample]) -> list[PairedSample]:
    """Return the same pairs seen by a thermal camera with fewer pixels."""
    return [replace(s, infrared=cv2.resize(s.infrared, SMALL, interpolation=cv2.INTER_AREA)) for s in samples]


def widened(samples: Iterable[PairedSample]) -> list[PairedSample]:
    """Return 8-bit thermal frames as counts of a 14-bit camera: 32 per level, from 7000."""
    return [replace(s, infrared=s.infrared.astype(np.uint16) * 32 + 7000) for s in samples]


def _map50(pipeline: Pipeline, samples: Sequence[PairedSample], defect: Defect) -> float:
    rng = np.random.default_rng(1)
    damaged = (replace(sample, infrared=defect(sample.infrared, rng)) for sample in samples)
    scores = score_runs({"fused": Run(pipeline)}, damaged)["fused"].scores()
    assert scores.detection is not None
    return scores.detection.map50


def _scored(model: Path, sets: dict[str, list[PairedSample]]) -> list[dict[str, Any]]:
    after = Pipeline.open(model, device="cpu", threads=1)
    before = Pipeline(after.engine, thermal=replace(after.thermal, recognise_invalid=False))
    rows = []
    for name, samples in sets.items():
        for case in SMALL_CASES if samples[0].infrared.shape == SMALL[::-1] else CASES:
            row: dict[str, Any] = {"set": name, "pairs": len(samples), "case": case}
            row |= {
                key: round(_map50(pipeline, samples, CASES[case]), 3)
                for key, pipeline in (("map50_before", before), ("map50_after", after))
            }
            rows.append(row)
            show(row)
    return rows


def _timed(frame: np.ndarray, network: tuple[int, int], rounds: int) -> list[dict[str, Any]]:
    box = Letterbox.fit((frame.shape[1], frame.shape[0]), network)
    out = np.zeros((1, network[1], network[0]), np.float32)
    before, after = (ThermalNormaliser(ThermalContract(recognise_invalid=on)) for on in (False, True))
    rows = []
    for case, defect in CASES.items():
        damaged = defect(frame, np.random.default_rng(1))
        best = {"before_ms": np.inf, "after_ms": np.inf}
        for _ in range(rounds):
            for key, normaliser in zip(best, (before, after), strict=True):
                start = perf_counter()
                infrared_input(damaged, box, normaliser, None, out)
                best[key] = min(best[key], (perf_counter() - start) * 1e3)
        row = {"case": case} | {key: round(value, 3) for key, value in best.items()}
        row["more_ms"] = round(best["after_ms"] - best["before_ms"], 3)
        row["ratio"] = round(best["after_ms"] / best["before_ms"], 2)
        rows.append(row)
        show(row)
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    parser = parser_of("thermal_defects", __doc__)
    parser.add_argument("--model", type=Path, default=Path("models/lwir_box.onnx"), help="default: %(default)s")
    parser.add_argument("--seeds", type=NATURAL, nargs="+", default=[0, 2], help="recordings (default: 0 and 2)")
    parser.add_argument("--count", type=COUNT, default=60, help="pairs of a recording (default: %(default)s)")
    parser.add_argument("--pairs", type=Path, help="folder of labelled real pairs, whose val split is scored as well")
    parser.add_argument("--time-only", action="store_true", help="measure times, no detections")
    parser.add_argument("--rounds", type=COUNT, default=300, help="of timing (default: %(default)s)")
    options = parser.parse_args(arguments)
    cv2.setNumThreads(1)
    first = recording(options.seeds[0], 1 if options.time_only else options.count)
    if not options.time_only:
        sets = {f"recording {options.seeds[0]}": first}
        sets |= {f"recording {seed}": recording(seed, options.count) for seed in options.seeds[1:]}
        sets[f"recording {options.seeds[0]}, thermal 160x120"] = small(first)
        if options.pairs is not None:
            real = FolderSet(options.pairs, "val", Modality.LWIR)
            sets[f"{real.name}, 16-bit"] = widened(real.samples())
        write_table(options.out / "thermal_defects.csv", describe(), _scored(options.model, sets))
    network = OnnxEngine(options.model, device="cpu").info.input_size
    write_table(
        options.out / "thermal_defects_time.csv", describe(), _timed(first[0].infrared, network, options.rounds)
    )
    return 0


if __name__ == "__main__":
    run_main(main)
