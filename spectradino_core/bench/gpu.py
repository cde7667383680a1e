"""CUDA benchmark: inference relative to the measured matmul rate, and pretraining steps.

All functions take a device, so that tests can check the arithmetic on a CPU.

- Roof: maximum rate of square matrix products of the dtype in FLOP/s, measured in the same run.
- Floor: operations of one forward pass divided by the roof, in seconds.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

from spectradino_core.bench.backbone import Streams, forward_operations, reference, twice
from spectradino_core.bench.tables import Row
from spectradino_core.bench.timing import take_turns
from spectradino_core.bench.train import our_step, random_batch
from spectradino_core.modality import Modality
from spectradino_core.models.spectradino import SpectraDINO
from spectradino_core.runtime.engine import warm_up
from spectradino_core.runtime.engines import open_engine
from spectradino_core.training.stages import StageRecipe, stage_recipe

SIZE = (518, 644)
ROOF_SIDES = (4096, 8192)
TWICE, PLAIN, COMPILED = "DINOv2 twice", "ours", "ours, compiled with CUDA graphs"


def require_cuda() -> str:
    """Return the GPU's name; RuntimeError if there is none."""
    if not torch.cuda.is_available():
        raise RuntimeError(
            "no CUDA device is available (torch.cuda.is_available() is False): 'bench gpu' needs one, and a CUDA build "
            "of torch"
        )
    return torch.cuda.get_device_name()


def matmul_roof(device: str, kind: torch.dtype, sides: Sequence[int] = ROOF_SIDES, runs: int = 10) -> float:
    """Measure the maximum FLOP/s of square products [n, n] x [n, n] for n in `sides`."""
    best = 0.0
    for side in sides:
        a, b = (torch.randn(side, side, device=device, dtype=kind) for _ in range(2))
        out = torch.empty_like(a)
        for _ in range(3):
            torch.mm(a, b, out=out)
        _wait(device)
        start = perf_counter()
        for _ in range(runs):
            torch.mm(a, b, out=out)
        _wait(device)
        best = max(best, 2 * side**3 * runs / (perf_counter() - start))
    return best


def forward_rows(
    variant: str,
    kind: torch.dtype,
    device: str = "cuda",
    size: tuple[int, int] = SIZE,
    batches: Sequence[int] = (1, 8),
    rounds: int = 30,
    roof: float | None = None,
    compiled: bool = True,
) -> list[Row]:
    """Measure one row per batch size (pairs per pass) and case: time relative to roof and floor, peak memory.

    The roof in FLOP/s is measured unless given; `compiled` includes the compiled case.
    """
    roof = matmul_roof(device, kind) if roof is None else roof
    rows: list[Row] = []
    for batch in batches:
        rows += _forward_rows(variant, kind, device, size, batch, rounds, roof, compiled)
        _free(device)
    return rows


def _forward_rows(
    variant: str, kind: torch.dtype, device: str, size: tuple[int, int], batch: int, rounds: int, roof: float,
    compiled: bool,
) -> list[Row]:  # fmt: skip
    rgb = torch.randn(batch, 3, *size, device=device, dtype=kind)
    ir = torch.rand(batch, 1, *size, device=device, dtype=kind)
    plain, ours = reference(variant).to(device, kind), Streams(_model(variant)).to(device, kind)
    cases: dict[str, Callable[[], object]] = {TWICE: partial(twice, plain, rgb), PLAIN: partial(ours, rgb, ir)}
    if compiled:
        cases[COMPILED] = partial(_compiled(ours, size), rgb, ir)
    operations = forward_operations(variant, size, batch)
    with torch.inference_mode():
        timings = take_turns(cases, rounds, warm_up=5, synchronise=lambda: _wait(device))
        peaks = {name: _peak_gb(device, run) for name, run in cases.items()}
    rows: list[Row] = []
    for name, timing in timings.items():
        seconds = timing.median_ms / 1e3
        row: Row = {"variant": variant, "kind": str(kind).split(".")[-1], "batch": batch, "case": name}
        row |= timing.columns() | {"pairs_per_s": batch / seconds}
        row["ratio"] = timing.median_ms / timings[TWICE].median_ms
        row["share_of_roof"] = "-" if name == TWICE else operations / seconds / roof
        row["times_the_floor"] = "-" if name == TWICE else seconds * roof / operations
        row["roof_tflops"] = roof / 1e12
        rows.append(row | {"peak_gb": peaks[name]})
    return rows


def training_rows(
    variant: str,
    pairs: int,
    device: str = "cuda",
    stages: Sequence[int] = (1, 3),
    rounds: int = 10,
    crop: int | None = None,
    compiled: Sequence[bool] = (False, True),
) -> list[Row]:
    """Measure one row per stage: step time, peak memory, and host-device synchronisation.

    Activation checkpointing is off, autocast is bf16. The row reports if `pairs` do not fit into memory.
    """
    rows: list[Row] = []
    for stage in stages:
        recipe = stage_recipe(variant, stage)
        recipe = replace(recipe, crop=crop or recipe.crop)
        for fast in compiled:
            row: Row = {"variant": variant, "stage": stage, "crop": recipe.crop, "pairs": pairs, "compiled": fast}
            try:
                row |= _training_row(recipe, pairs, device, rounds, fast)
            except torch.cuda.OutOfMemoryError:
                row |= {"ms": "out of memory", "quartiles": "-", "rounds": 0, "pairs_per_s": "-"}
                row |= {"peak_gb": "-", "host_waits": "-"}
            rows.append(row)
            _free(device)
    return rows


def _training_row(recipe: StageRecipe, pairs: int, device: str, rounds: int, compiled: bool) -> Row:
    """Measure one row; a separate function, so that its device memory is released on return and on errors."""
    step = our_step(recipe, torch.bfloat16, device=device, compiled=compiled)
    run = partial(step, random_batch(recipe, pairs, 0, device))
    timing = take_turns({"step": run}, rounds, 3, lambda: _wait(device))["step"]
    row: Row = timing.columns() | {"pairs_per_s": pairs / timing.median_ms * 1e3}
    return row | {"peak_gb": _peak_gb(device, run), "host_waits": _synchronisation_error(device, run)}


def engine_rows(model: Path, devices: Sequence[str] = ("cuda", "tensorrt")) -> list[Row]:
    """Measure a model's latency in ONNX Runtime per device; unavailable devices are reported."""
    rows: list[Row] = []
    for device in devices:
        row: Row = {"model": model.name, "device": device}
        try:
            engine = open_engine(model, device)
        except RuntimeError as error:
            rows.append(row | {"ms": "-", "quartiles": "-", "rounds": 0, "engine": str(error)})
            continue
        timing = take_turns({"run": partial(warm_up, engine)}, 50, warm_up=5)["run"]
        rows.append(row | timing.columns() | {"engine": engine.label})
    return rows


def _model(variant: str) -> SpectraDINO:
    return SpectraDINO(variant, (Modality.RGB, Modality.LWIR)).eval()


def _compiled(streams: Streams, size: tuple[int, int]) -> Any:
    """Return a compiled copy with fixed positions; the module itself is timed too and must not change."""
    streams = deepcopy(streams)
    patch = streams.model.config.patch
    streams.model.freeze_grid(size[0] // patch, size[1] // patch)
    return torch.compile(streams, mode="reduce-overhead", fullgraph=True, dynamic=False)


def _free(device: str) -> None:
    """Release compiled code, reference cycles and the memory cached by torch's allocator."""
    torch.compiler.reset()  # compiled code stays cached, and its CUDA graphs keep their memory
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def _peak_gb(device: str, run: Callable[[], object]) -> object:
    """Peak device memory including weights; "-" on a CPU."""
    if device != "cuda":
        return "-"
    torch.cuda.reset_peak_memory_stats()
    run()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() / 1e9


def _synchronisation_error(device: str, run: Callable[[], Any]) -> str:
    """Return "no", or the first line of torch's error on a call that synchronises host and device."""
    with forbid_synchronisation(device):
        try:
            run()
        except RuntimeError as error:
            if "synchroniz" not in str(error):
                raise
            return str(error).splitlines()[0]
    return "no" if device == "cuda" else "-"


@contextmanager
def forbid_synchronisation(device: str) -> Iterator[None]:
    """Raise an error where the host waits for the GPU."""
    if device != "cuda":
        yield
        return
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")
