"""Model benchmark: frames to detections on the CPU, also in int8, in OpenVINO and with a single camera.

The frames are raw messages as sent by camera drivers: rgb8 and mono16. `make bench-node` times the overhead of the node
(pairing, queue, publishing).
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path
from time import perf_counter, process_time
from types import SimpleNamespace
from typing import Any

import numpy as np

from spectradino_core.bench.tables import Row
from spectradino_core.bench.timing import Case, peak_memory_mb, take_turns
from spectradino_core.modality import Modality
from spectradino_core.runtime.bundle import COMPANIONS, companion_path
from spectradino_core.runtime.engine import Engine
from spectradino_core.runtime.onnx_engine import OnnxEngine
from spectradino_core.runtime.openvino_engine import OpenVinoEngine, openvino_candidates, openvino_or_none
from spectradino_core.runtime.parity import network_inputs
from spectradino_core.runtime.pipeline import Pipeline
from spectradino_core.streams.decode import decode_infrared, decode_rgb

SIZES = ((640, 512), (1280, 1024))
"""Width and height of both cameras."""
CAMERAS = {"both": "both", "rgb": "rgb", "ir": "ir", "reuse": "both, ir frame reused"}
STEPS = ("decode", "preprocess", "engine", "postprocess")
SCENES = 4
_WARM_UP = 2

Score = Callable[[Engine], float]


def model_rows(model: Path, folder: Path, frames: int, score: Score | None = None, memory: bool = True) -> list[Row]:
    """Measure one row per precision and image size: milliseconds of each step, CPU time, peak memory, mAP50.

    The fp32 file also runs in OpenVINO, if it is installed, in each precision that the processor has.

    Args:
        model, folder: the exported file; cache of its int8 conversion.
        frames: timed frames per size; precisions are interleaved frame by frame.
        score: evaluates an engine, in 0..1; None: no evaluation.
        memory: measure peak memory, in separate processes.
    """
    files = {"fp32": model, "int8": _converted(model, folder)}
    in_openvino = openvino_or_none(model, OnnxEngine(model, "cpu").info)
    files |= {f"OpenVINO {one.precision}": model for one in reversed(in_openvino)}
    scores = {name: score(_open(path, name)) if score else None for name, path in files.items()}
    rows: list[Row] = []
    for size in SIZES:
        pipelines = {name: Pipeline(_open(path, name)) for name, path in files.items()}
        scenes = _scenes(SCENES, pipelines["fp32"].info.infrared, size)
        pairs = [(_message(s.rgb, "rgb8"), _message(s.infrared.astype(np.uint16), "mono16")) for s in scenes]
        taken: dict[str, list[dict[str, float]]] = {name: [] for name in files}
        for number in range(-_WARM_UP, frames):
            for name, pipeline in pipelines.items():
                taken[name].append(_run(pipeline, *pairs[number % len(pairs)]))
        steps = {
            name: {step: [run[step] for run in runs[_WARM_UP:]] for step in (*STEPS, "cpu")}
            for name, runs in taken.items()
        }
        medians = {
            name: {f"{step}_ms": statistics.median(values) for step, values in own.items()}
            for name, own in steps.items()
        }
        for name, path in files.items():
            row: Row = {"model": model.name, "precision": name, "pictures": f"{size[0]}x{size[1]}", "frames": frames}
            row |= medians[name]
            others = [steps[name][step] for step in STEPS if step != "engine"]
            row["beside_engine_p95_ms"] = float(np.percentile(np.sum(others, axis=0), 95))
            row["engine_ratio"] = medians[name]["engine_ms"] / medians["fp32"]["engine_ms"]
            row["cpu_ratio"] = medians[name]["cpu_ms"] / medians["fp32"]["cpu_ms"]
            found = scores[name]
            row["map50"] = "-" if found is None else 100 * found
            given = {"model": str(path), "width": size[0], "height": size[1], "name": name}
            row["peak_mb"] = peak_memory_mb(__name__, given) if memory else "-"
            rows.append(row)
    return rows


def alone_rows(model: Path, frames: int) -> list[Row]:
    """Compare the engine time of the model of both streams with that of its companions, see `runtime.companions`."""
    files = {"both": model} | {
        one: companion_path(model, one) for one in COMPANIONS if companion_path(model, one).is_file()
    }
    engines = {graph: OnnxEngine(path, "cpu") for graph, path in files.items()}
    (scene,) = _scenes(1, engines["both"].info.infrared, SIZES[0])
    cases = [("both", "both")] + [(one, graph) for one in engines if one != "both" for graph in ("both", one)]
    given = {
        (cameras, graph): next(network_inputs(scene.rgb, scene.infrared, engines[graph].info, cameras, engines["both"]))
        for cameras, graph in cases
    }
    runs = {each: partial(engines[each[1]].run, *given[each]) for each in cases}
    median = {each: timing.median_ms for each, timing in take_turns(runs, frames, _WARM_UP).items()}
    return [
        {
            "model": model.name, "cameras": CAMERAS[cameras], "graph": graph, "frames": frames,
            "engine_ms": median[cameras, graph], "ratio": median[cameras, graph] / median[cameras, "both"],
        }
        for cameras, graph in cases
    ]  # fmt: skip


def _scenes(count: int, infrared: Modality, size: tuple[int, int]) -> list[Any]:
    """Render fixed scenes."""
    from spectradino_core.data.scene_sets import ScenePairs

    return list(ScenePairs.held_out("report", count, infrared, size))


def case(model: str, width: int, height: int, name: str) -> Case:
    """Prepare one pair and a model file for `timing.peak_memory_mb`; imports no training code."""
    pipeline = Pipeline(_open(Path(model), name))
    rng = np.random.default_rng(0)
    rgb = rng.integers(0, 256, (height, width, 3), np.uint8)
    infrared = rng.integers(7000, 9000, (height, width)).astype(np.uint16)
    return lambda: _run(pipeline, _message(rgb, "rgb8"), _message(infrared, "mono16"))


def _open(path: Path, name: str) -> Engine:
    """Open a file in ONNX Runtime, or in OpenVINO for a name like "OpenVINO bf16"."""
    on_cpu = OnnxEngine(path, "cpu")
    runtime, _, precision = name.partition(" ")
    if runtime != "OpenVINO":
        return on_cpu
    found = {one.precision: one for one in openvino_candidates("openvino", path, on_cpu.info)}
    return OpenVinoEngine(path, on_cpu.info, found[precision])


def _run(pipeline: Pipeline, rgb: Any, infrared: Any) -> dict[str, float]:
    """Process a pair and return the milliseconds of each of `STEPS`, and the CPU time of all threads."""
    start, cpu = perf_counter(), process_time()
    frames = decode_rgb(rgb), decode_infrared(infrared)
    decoded = perf_counter()
    steps = pipeline(*frames).steps_ms
    return {"decode": 1e3 * (decoded - start)} | steps | {"cpu": 1e3 * (process_time() - cpu)}


def _message(image: np.ndarray, encoding: str) -> Any:
    return SimpleNamespace(
        height=image.shape[0], width=image.shape[1], encoding=encoding, is_bigendian=0,
        step=image.strides[0], data=np.ascontiguousarray(image).tobytes(),
    )  # fmt: skip


def _converted(model: Path, folder: Path) -> Path:
    from spectradino_core.data.scene_sets import ScenePairs
    from spectradino_core.export.convert import convert

    path = folder / f"{model.stem}_int8.onnx"
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        convert(model, path, "int8", list(ScenePairs.held_out("report", 2, OnnxEngine(model, "cpu").info.infrared)))
    return path
