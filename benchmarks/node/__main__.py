"""`make bench-node`: the node's overhead and endurance, written as CSV and plots. See benchmarks/README.md."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.experiment import RESULTS, ros_machine, run_main
from benchmarks.node.measuring import OVERHEAD, PERCENTS, measure_overhead, percentiles, slope, soak
from benchmarks.node.plots import plot_overhead, plot_soak
from spectradino_core.bench.tables import write_table
from spectradino_core.options import NOT_NEGATIVE, POSITIVE
from tests.blob_model import make_blob_model

NUMBER = ".3f"
"""Milliseconds and megabytes to the thousandth: a step in memory is resolved to the kilobyte."""
WANTED_MS = 2.5
WANTED_LARGE_MS = 5.0
"""At the larger of `SIZES`."""
SIZES = ((640, 512), (1280, 1024))
MEMORY_NOISE_MB = 0.1
"""A minute: the allocator's peak rises by a step when the machine halts for a moment."""
OVERHEAD_INPUT = (644, 518)
SOAK_INPUT = (322, 252)


def main() -> int:
    """Measure, write, print; the exit code is 1 if latency or memory grew."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.node", description=__doc__)
    parser.add_argument("what", choices=["overhead", "soak", "all"])
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    parser.add_argument("--seconds", type=POSITIVE, default=60.0, help="overhead: how long each size is measured")
    parser.add_argument("--rate", type=POSITIVE, default=10.0, help="overhead: pairs a second")
    parser.add_argument("--model", type=Path, help="overhead: a model file instead of the blob model")
    parser.add_argument("--minutes", type=POSITIVE, default=10.0, help="soak: for how long")
    parser.add_argument("--soak-rate", type=POSITIVE, default=60.0, help="soak: pairs a second")
    parser.add_argument("--engine-ms", type=NOT_NEGATIVE, default=90.0, help="soak: how slow the model is made")
    parser.add_argument("--note", default="", help="kept with the results: what else the machine did")
    arguments = parser.parse_args()
    good = True
    with tempfile.TemporaryDirectory() as folder:
        if arguments.what in ("overhead", "all"):
            _overhead(arguments, Path(folder))
        if arguments.what in ("soak", "all"):
            good = _soak(arguments, Path(folder))
    return 0 if good else 1


def _overhead(arguments: argparse.Namespace, folder: Path) -> None:
    facts = ros_machine() | {"note": arguments.note or "none"}
    model = arguments.model or make_blob_model(folder / "blob.onnx", input_size=OVERHEAD_INPUT)
    name = "blob model, input {}x{}".format(*OVERHEAD_INPUT) if arguments.model is None else model.name
    measured = {}
    table = []
    memory: dict[str, str] = {}
    for size in SIZES:
        case = f"{size[0]}x{size[1]}"
        resident: list[float] = []
        measured[case] = rows = measure_overhead(model, size, arguments.rate, arguments.seconds, memory_mb=resident)
        range_mb = memory[f"the node's memory at {case} [MB]"] = f"{min(resident):.1f} to {max(resident):.1f}"
        print(f"{case} RGB + mono16 at {arguments.rate:g} Hz, {len(rows)} pairs, {name}, {range_mb} MB resident [ms]")
        for step, values in percentiles(rows).items():
            table.append(
                {"size": case, "step": step, "pairs": len(rows)}
                | {f"p{p}_ms": float(v) for p, v in zip(PERCENTS, values, strict=True)}
            )
            print(f"  {step:22} " + "  ".join(f"p{p} {v:7.2f}" for p, v in zip(PERCENTS, values, strict=True)))
    facts |= {"model": name, "rate_hz": f"{arguments.rate:g}"} | memory
    stem = "node_overhead" if arguments.model is None else f"node_overhead_{arguments.model.stem}"
    write_table(arguments.out / f"{stem}.csv", facts, table, NUMBER)
    plot_overhead(arguments.out / f"{stem}.png", measured, WANTED_MS)
    for case, wanted_ms in zip(measured, (WANTED_MS, WANTED_LARGE_MS), strict=True):
        p95 = np.percentile([row[OVERHEAD] for row in measured[case]], 95)
        print(f"overhead p95 at {case}: {p95:.2f} ms, wanted below {wanted_ms:g} ms")


def _soak(arguments: argparse.Namespace, folder: Path) -> bool:
    facts = ros_machine() | {"note": arguments.note or "none"}
    model = make_slow_model(folder, arguments.engine_ms)
    rows, drops = soak(model, SIZES[0], arguments.soak_rate, arguments.minutes, _progress)
    # What is reached early and kept (caches, the allocator's highest mark) is no growth; a leak is seen in either half.
    settled = [row for row in rows[len(rows) // 2 :] if row["answers"]]
    minutes = [row["second"] / 60 for row in settled]
    slopes = {
        "latency [ms]": slope(minutes, [row["latency_ms"] for row in settled]),
        "memory [MB]": slope(minutes, [row["rss_mb"] for row in settled]),
    }
    last = rows[-1]
    rate, answers = last["sent"] / last["second"], sum(row["answers"] for row in rows)
    grows = {
        "latency [ms]": slopes["latency [ms]"].grows(),
        "memory [MB]": slopes["memory [MB]"].grows(MEMORY_NOISE_MB),
    }
    dropped = ", ".join(f"{count} {cause}" for cause, count in sorted(drops.items(), key=lambda item: -item[1]))
    title = (
        f"{rate:.0f} pairs/s of 640x512 in, {answers / last['second']:.1f}/s answered, {arguments.minutes:g} minutes"
    )
    print(f"\r{title}; dropped: {dropped}")
    for name, line in slopes.items():
        print(f"  {name}: {line} in the second half, {'GROWING' if grows[name] else 'not growing'}")
    write_table(
        arguments.out / "node_soak.csv",
        facts
        | {"what": title, "dropped": dropped}
        | {f"slope of {name}, second half": f"{line} (95 %)" for name, line in slopes.items()},
        rows,
        NUMBER,
    )
    plot_soak(arguments.out / "node_soak.png", rows, title)
    return not any(grows.values())


def make_slow_model(folder: Path, engine_ms: float) -> Path:
    """Make a blob model of which one pass takes about `engine_ms` milliseconds on one idle core."""
    from spectradino_core.runtime.pipeline import Pipeline

    os.environ["OMP_NUM_THREADS"] = "1"
    times = {}
    for work in (0, 2):
        pipeline = Pipeline.open(
            make_blob_model(folder / f"work{work}.onnx", SOAK_INPUT, work=work), device="cpu", threads=1
        )
        pipeline.warm_up()
        start = time.perf_counter()
        for _ in range(5):
            pipeline.warm_up()
        times[work] = (time.perf_counter() - start) / 5 * 1e3
    each_ms = max((times[2] - times[0]) / 2, 1.0)
    work = max(1, round((engine_ms - times[0]) / each_ms))
    return make_blob_model(folder / "slow.onnx", SOAK_INPUT, work=work)


def _progress(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r{text}   ", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    run_main(main)
