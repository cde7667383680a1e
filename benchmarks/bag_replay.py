"""Replay speed of a recording, the engine's fraction of it, and memory.

    python -m benchmarks.bag_replay                                  # 10,000 small pairs with a tiny model, 1-2 minutes
    python -m benchmarks.bag_replay --pairs 300 --model models/lwir_box.onnx

Writes results/bag_replay_<model>.csv: a row for each tenth of the recording. The exit code is 1 if memory grew after
the first tenth by more than 10 MB.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from time import perf_counter

import numpy as np

from benchmarks.experiment import parser_of, run_main
from spectradino_core.bags.messages import header, image_message
from spectradino_core.bags.reader import BagReader
from spectradino_core.bags.replay import Replay
from spectradino_core.bags.writer import BagWriter
from spectradino_core.bench.machine import describe
from spectradino_core.bench.tables import write_table
from spectradino_core.options import COUNT
from spectradino_core.streams.detecting import open_pipeline
from spectradino_core.streams.settings import Settings
from tests.blob_model import make_blob_model

SIZE = (112, 84)
_START_NS, _PERIOD_NS = 1_700_000_000_000_000_000, 33_000_000
_ALLOWED_MB = 10.0
_STEPS = ("decode", "preprocess", "engine", "postprocess")


def record(path: Path, pairs: int) -> None:
    """Record small noisy pairs with a red and a hot object."""
    rng = np.random.default_rng(0)
    with BagWriter(path) as writer:
        for key in ("rgb", "ir"):
            writer.add(f"/{key}/image_raw", "sensor_msgs/msg/Image")
        for n in range(pairs):
            stamp = _START_NS + n * _PERIOD_NS
            rgb = rng.integers(0, 80, (SIZE[1], SIZE[0], 3), dtype=np.uint8)
            ir = rng.integers(1000, 1100, (SIZE[1], SIZE[0])).astype(np.uint16)
            x = n % (SIZE[0] - 20)
            rgb[10:30, x : x + 20], ir[50:70, x : x + 20] = (255, 0, 0), 30000
            writer.write("/rgb/image_raw", image_message(rgb, header(stamp, "rgb")), stamp + 3_000_000)
            writer.write("/ir/image_raw", image_message(ir, header(stamp + 4_000_000, "ir")), stamp + 8_000_000)


def held_mb() -> float:
    """Return the resident memory of this process, in 10^6 bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def measure(bag: Path, model: Path, pairs: int) -> list[dict[str, float]]:
    """Return a row for each tenth of the recording: pairs per second, milliseconds per pair by step, memory."""
    settings = Settings(threads=1)
    pipeline = open_pipeline(model, settings)
    pipeline.warm_up()
    rows: list[dict[str, float]] = []
    with BagReader(bag) as reader:
        replay = Replay(pipeline, settings)
        sums = dict.fromkeys(_STEPS, 0.0)
        begun, count, done = perf_counter(), 0, 0
        for answer in replay.run(reader):
            for step in _STEPS:
                sums[step] += answer.steps_ms[step]
            count, done = count + 1, done + 1
            if count >= pairs // 10:
                elapsed_ms = (perf_counter() - begun) * 1e3
                row = {"pairs": done, "pairs_per_s": 1e3 * count / elapsed_ms, "ms_per_pair": elapsed_ms / count}
                row |= {f"{step}_ms": value / count for step, value in sums.items()}
                row |= {"engine_share": sums["engine"] / elapsed_ms, "rss_mb": held_mb()}
                rows.append(row)
                sums = dict.fromkeys(_STEPS, 0.0)
                begun, count = perf_counter(), 0
    return rows


def main(arguments: list[str] | None = None) -> int:
    parser = parser_of("bag_replay", __doc__)
    parser.add_argument("--pairs", type=COUNT, default=10_000, help="default: %(default)s, at least 10")
    parser.add_argument("--model", type=Path, help="model file (default: a tiny one that is made)")
    options = parser.parse_args(arguments)
    if options.pairs < 10:
        parser.error("--pairs is at least 10")
    with tempfile.TemporaryDirectory() as folder:
        bag = Path(folder) / "drive.mcap"
        record(bag, options.pairs)
        model = options.model or make_blob_model(Path(folder) / "blob.onnx", SIZE)
        rows = measure(bag, model, options.pairs)
    path = options.out / f"bag_replay_{model.stem}.csv"
    write_table(path, describe(), rows)
    for row in rows:
        print("  ".join(f"{name} {value:.4g}" for name, value in row.items()))
    grown = max(row["rss_mb"] for row in rows) - rows[0]["rss_mb"]
    print(f"{path}: memory grew by {grown:.1f} MB after the first tenth (allowed: {_ALLOWED_MB:g})")
    return int(grown > _ALLOWED_MB)


if __name__ == "__main__":
    run_main(main)
