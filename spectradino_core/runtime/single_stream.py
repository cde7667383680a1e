"""Single-stream graphs beside the two-stream graph: inference in about half the time while one camera is lost.

The two-stream graph runs both streams in any case, with a learnt token in place of the stream that is absent. A graph
exported for one stream runs only that stream and gives the same result. `spectradino export --streams all` writes them
as NAME.rgb.onnx and NAME.ir.onnx beside NAME.onnx, where they are looked for.

A single-stream graph is opened on its own thread at the first frame that lacks the other camera, so that the loss of a
camera stalls nothing. Until it is ready, and if it cannot be used, the two-stream graph serves. The problem is reported
once.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from spectradino_core.runtime.bundle import WEIGHTS_KEY, BundleError, ModelInfo
from spectradino_core.runtime.engine import Engine, EngineError, RawPredictions, warm_up
from spectradino_core.runtime.engines import open_engine
from spectradino_core.runtime.network_inputs import signature
from spectradino_core.text import log_line

__all__ = ["SingleStreamEngine", "beside"]

log = logging.getLogger(__name__)

_ALONE = {(True, False): "rgb", (False, True): "ir"}
"""Stream by the input `present` (rgb, infrared)."""


def beside(model: Path, stream: str) -> Path:
    """Return the path of a model file's graph for one stream, "rgb" or "ir"."""
    return model.with_name(f"{model.name.removesuffix('.onnx')}.{stream}.onnx")


class SingleStreamEngine:
    """`Engine` that runs frames of a single camera on that stream's own graph. Not thread-safe.

    Attributes:
        info: of the two-stream graph.
    """

    def __init__(
        self,
        both: Engine,
        path: str | Path,
        device: str = "auto",
        threads: int = 0,
        report: Callable[[str], None] = log.warning,
        open_one: Callable[..., Engine] = open_engine,
    ) -> None:
        """
        Args:
            both: two-stream engine of `path`.
            path: model file; single-stream graphs are looked for beside it.
            device, threads: as `both` was opened with; if `both` runs on the CPU, the single-stream graphs do too.
            report: called from any thread with a log line when a file cannot be used.
            open_one: opens a graph, with the signature of `open_engine`.
        """
        self.info = both.info
        self._both = self._last = both
        self._names = list(signature(both.info))
        device = "cpu" if both.on_cpu else device
        found = {} if Path(path).suffix == ".safetensors" else {one: beside(Path(path), one) for one in ("rgb", "ir")}
        self._own = {
            stream: _Own(file, stream, both.info, both.on_cpu, partial(open_one, file, device, threads, stream), report)
            for stream, file in found.items()
            if os.path.lexists(file)  # a pipe is reported when it is opened
        }
        if device == "tensorrt":  # building an engine takes minutes: not while a camera is lost
            for own in self._own.values():
                own.prepare()

    @property
    def label(self) -> str:
        """Label of the engine that ran last."""
        return self._last.label

    @property
    def on_cpu(self) -> bool:
        """See `Engine`."""
        return self._both.on_cpu

    def run(self, *inputs: np.ndarray) -> RawPredictions:
        """See `Engine.run`. A single-stream graph that fails on a frame the two-stream graph can run is dropped."""
        given = dict(zip(self._names, inputs, strict=True))
        rgb, infrared = given["present"] > 0
        own = self._own.get(_ALONE.get((bool(rgb), bool(infrared)), ""))
        engine = own.get() if own is not None else None
        failed = ""
        if engine is not None:
            try:
                result = engine.run(*(given[name] for name in signature(engine.info)))
            except EngineError as error:
                failed = str(error)
            else:
                self._last = engine
                return result
        result = self._both.run(*inputs)  # if this fails too, the frame is bad or the device is lost
        self._last = self._both
        if own is not None and failed:
            own.drop(failed)
        return result


class _Own:
    """Single-stream graph: not requested yet, being opened, ready or dropped.

    It holds no reference to the two-stream engine: `RecoveringEngine` must be able to free that engine after a failure
    while this one is still being opened.
    """

    def __init__(
        self,
        path: Path,
        stream: str,
        both: ModelInfo,
        on_cpu: bool,
        open_it: Callable[[], Engine],
        report: Callable[[str], None],
    ) -> None:
        self._path = path
        self._stream = stream
        self._both = both
        self._on_cpu = on_cpu
        self._open = open_it
        self._report = report
        self._thread: threading.Thread | None = None
        self._engine: Engine | None = None

    def get(self) -> Engine | None:
        """Return the engine once it is ready; the first call starts opening it."""
        if self._thread is None:
            # Not a daemon: the interpreter would exit in the middle of a library's C++, which aborts the process.
            self._thread = threading.Thread(target=self._prepare, name=f"opens the {self._stream} graph")
            self._thread.start()
        return self._engine

    def drop(self, why: str) -> None:
        """Release the engine for good."""
        self._engine = None
        line = f"{self._path} is not used ({why}): the two-stream graph also serves {self._stream}-only frames"
        self._report(log_line(line))

    def prepare(self) -> None:
        """Open the graph now, on the caller's thread."""
        self._thread = threading.current_thread()
        self._prepare()

    def _prepare(self) -> None:
        try:
            engine = self._open()
            if problem := self._mismatch(engine):
                raise BundleError(problem)
            warm_ms = warm_up(engine)
        except (BundleError, EngineError) as error:
            self.drop(str(error))
        except Exception as error:  # of a driver, a disk, a library: the two-stream graph serves as well
            self.drop(f"{type(error).__name__}: {error}")
        else:
            self._engine = engine
            log.info("%s serves %s-only frames: %s, warm-up %.0f ms", self._path, self._stream, engine.label, warm_ms)

    def _mismatch(self, engine: Engine) -> str:
        """Why the graph does not belong to the model; empty if it does."""
        wanted, found = (info.provenance.get(WEIGHTS_KEY) for info in (self._both, engine.info))
        if wanted is None or wanted != found:
            return (
                "it was exported from another checkpoint than the model file, or by older software: export both again "
                "with 'spectradino export --streams all'"
            )
        if engine.info.inputs != self._both.inputs:
            return (
                f"it takes {engine.info.inputs} inputs, the model file takes {self._both.inputs} inputs: export both "
                "with the same --inputs"
            )
        return "it runs on the CPU only" if engine.on_cpu and not self._on_cpu else ""
