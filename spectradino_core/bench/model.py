"""Model benchmark: frames to detections on the CPU, also in int8, in OpenVINO and with a single camera.

The frames are raw messages as sent by camera drivers: rgb8 and mono16. `make bench-node` times the overhead of the node
(pairing, queue, publishing).
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from pathlib import Path
from time import perf_counter, process_time
from types import SimpleNamespace
from typing import Any

import numpy as np

from spectradino_core.bench.tables import Row
from spectradino_core.bench.timing import Case, peak_memory_mb
from spectradino_core.modality import Modality
from spectradino_core.runtime.bundle import COMPANIONS, beside
from spectradino_core.runtime.engine import Engine
from spectradino_core.runtime.onnx_engine import OnnxEngine
from spectradino_core.runtime.openvino_engine import OpenVinoEngine, openvino_candidates, openvino_or_none
from spectradino_core.runtime.parity import network_inputs
from spectradino_core.runtime.pipeline import Pipeline
from spectradino_core.streams.decode import decode_infrared, decode_rgb

__all__ = ["SIZES", "STEPS", "alone_rows", "case", "model_rows"]

SIZES = ((640, 512), (1280, 1024))
"""Width and height of both cameras."""
CAMERAS = {"both": "both", "rgb": "rgb", "ir": "ir", "reuse": "both, ir frame reused"}
STEPS = ("decode", "preprocess", "engine", "postprocess")
SCENES = 4

Score = Callable[[Engine], float]


def model_rows(
    model: Path, folder: Path, frames: int, score: Score | None = None, memory: bool = True, int8: bool = True
) -> list[Row]:
    """Measure one row per precision and image size: milliseconds of each step, CPU time, peak memory, mAP50.

    The fp32 file also runs in OpenVINO, if it is installed, in each precision that the processor has.

    Args:
        model: the exported file.
        folder: cache of the int8 conversion.
        frames: timed frames per size; precisions are interleaved frame by frame.
        score: evaluates an engine, in 0..1; None: no evaluation.
        memory: measure peak memory, in separate processes.
        int8: also convert the model to int8 and time it.
    """
    files = {"fp32": model} | ({"int8": _converted(model, folder)} if int8 else {})
    in_openvino = openvino_or_none(model, OnnxEngine(model, "cpu").info)
    files |= {f"OpenVINO {one.precision}": model for one in reversed(in_openvino)}
    scores = {name: score(_open(path, name)) if score else None for name, path in files.items()}
    rows: list[Row] = []
    for size in SIZES:
        pipelines = {name: Pipeline(_open(path, name)) for name, path in files.items()}
        pairs = _messages(size, next(iter(pipelines.values())).info.infrared)
        steps: dict[str, dict[str, list[float]]] = {name: {step: [] for step in (*STEPS, "cpu")} for name in files}
        for number in range(-2, frames):
            for name, pipeline in pipelines.items():
                taken = _run(pipeline, *pairs[number % len(pairs)])
                if number >= 0:
                    for step, values in steps[name].items():
                        values.append(taken[step])
        for name, path in files.items():
            row: Row = {"model": model.name, "precision": name, "pictures": f"{size[0]}x{size[1]}", "frames": frames}
            medians = {f"{step}_ms": statistics.median(values) for step, values in steps[name].items()}
            row |= medians
            others = [steps[name][step] for step in STEPS if step != "engine"]
            row["beside_engine_p95_ms"] = float(np.percentile(np.sum(others, axis=0), 95))
            engine = {key: statistics.median(steps[key]["engine"]) for key in files}
            row["engine_ratio"] = engine[name] / engine["fp32"]
            row["cpu_ratio"] = medians["cpu_ms"] / statistics.median(steps["fp32"]["cpu"])
            found = scores[name]
            row["map50"] = "-" if found is None else 100 * found
            given = {"model": str(path), "width": size[0], "height": size[1], "name": name}
            row["peak_mb"] = peak_memory_mb(__name__, given) if memory else "-"
            rows.append(row)
    return rows


def alone_rows(model: Path, frames: int) -> list[Row]:
    """Compare the model of both streams with its companions where these serve, in engine time.

    Args:
        model: model of both streams; its companions are used, see `runtime.companions`.
        frames: timed frames per case.
    """
    files = {"both": model} | {one: beside(model, one) for one in COMPANIONS if beside(model, one).is_file()}
    engines = {graph: OnnxEngine(path, "cpu") for graph, path in files.items()}
    scene = _scene(engines["both"].info.infrared, SIZES[0])
    cases = [("both", "both")] + [(one, graph) for one in engines if one != "both" for graph in ("both", one)]
    given = {
        (cameras, graph): next(network_inputs(scene.rgb, scene.infrared, engines[graph].info, cameras, engines["both"]))
        for cameras, graph in cases
    }
    taken: dict[tuple[str, str], list[float]] = {each: [] for each in cases}
    for number in range(-2, frames):
        for each in cases:
            start = perf_counter()
            engines[each[1]].run(*given[each])
            if number >= 0:
                taken[each].append(1e3 * (perf_counter() - start))
    median = {each: statistics.median(times) for each, times in taken.items()}
    return [
        {
            "model": model.name, "cameras": CAMERAS[cameras], "graph": graph, "frames": frames,
            "engine_ms": median[cameras, graph], "ratio": median[cameras, graph] / median[cameras, "both"],
        }
        for cameras, graph in cases
    ]  # fmt: skip


def _scene(infrared: Modality, size: tuple[int, int]) -> Any:
    """Render a fixed scene."""
    from spectradino_core.data.scene_sets import ScenePairs

    return ScenePairs.held_out("report", 1, infrared, size)[0]


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


def _messages(size: tuple[int, int], infrared: Modality) -> list[tuple[Any, Any]]:
    from spectradino_core.data.scene_sets import ScenePairs

    scenes = list(ScenePairs.held_out("report", SCENES, infrared, size))
    return [(_message(s.rgb, "rgb8"), _message(s.infrared.astype(np.uint16), "mono16")) for s in scenes]


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
