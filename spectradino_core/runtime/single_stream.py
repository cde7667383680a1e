"""Graphs of one stream beside the one of both: what answers while the other camera is lost, in about half the time.

The graph of both runs both streams whatever is there, and puts a learnt stand-in in the place of the one that is not.
A graph that was exported for one stream makes that pass only, and says the same. `spectradino export --streams all`
writes them as NAME.rgb.onnx and NAME.ir.onnx beside NAME.onnx, where they are looked for.

Such a file is opened when its stream is first alone, on a thread of its own, so that a camera's loss stalls nothing:
until it is ready, and whenever something is wrong with it, the graph of both answers. What is wrong is said once.
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
"""The stream by what `present` says of (rgb, infrared)."""


def beside(model: Path, stream: str) -> Path:
    """Where the graph of one stream, "rgb" or "ir", lies for a model file."""
    return model.with_name(f"{model.name.removesuffix('.onnx')}.{stream}.onnx")


class SingleStreamEngine:
    """An `Engine` of both streams that hands frames of one alone to that stream's own graph. For one thread.

    Attributes:
        info: of the graph of both.
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
            both: the engine of `path`.
            path: the model file; beside it those of one stream are looked for.
            device, threads: as `both` was opened with; where it ended up on the CPU, so do they.
            report: called with a log line when a file cannot be used, from any thread.
            open_one: opens them, as `open_engine` does.
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
        if device == "tensorrt":  # whose engine may take minutes to build: not while a camera is lost
            for own in self._own.values():
                own.prepare()

    @property
    def label(self) -> str:
        """Of the engine that answered last."""
        return self._last.label

    @property
    def on_cpu(self) -> bool:
        """See `Engine`."""
        return self._both.on_cpu

    def run(self, *inputs: np.ndarray) -> RawPredictions:
        """See `Engine.run`. A graph of one stream that fails where the one of both does not is not used again."""
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
        result = self._both.run(*inputs)  # where this fails too it is the frame's fault, or the device is lost
        self._last = self._both
        if own is not None and failed:
            own.drop(failed)
        return result


class _Own:
    """The graph of one stream: not asked for yet, being opened, ready or dropped. It holds no engine of both streams.

    Whoever lets go of that one after a failure must not find it held by the thread that opens here.
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
        """The engine once it is ready; the first call begins to open it."""
        if self._thread is None:
            # No daemon: the interpreter would end in the middle of a library's C++, which aborts the process.
            self._thread = threading.Thread(target=self._prepare, name=f"opens the {self._stream} graph")
            self._thread.start()
        return self._engine

    def drop(self, why: str) -> None:
        """Lets go of it for good."""
        self._engine = None
        line = f"{self._path} is not used ({why}): the graph of both streams answers for {self._stream} alone too"
        self._report(log_line(line))

    def prepare(self) -> None:
        """Opens it now, on the caller's thread."""
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
        except Exception as error:  # of a driver, a disk, a library: the graph of both serves as well
            self.drop(f"{type(error).__name__}: {error}")
        else:
            self._engine = engine
            log.info("%s answers for %s alone: %s, first pass %.0f ms", self._path, self._stream, engine.label, warm_ms)

    def _mismatch(self, engine: Engine) -> str:
        """Why it does not belong to the model; empty if it does."""
        wanted, found = (info.provenance.get(WEIGHTS_KEY) for info in (self._both, engine.info))
        if wanted is None or wanted != found:
            return (
                "it was exported from another checkpoint than the model file, or that one by older software: export "
                "both again with 'spectradino export --streams all'"
            )
        if engine.info.inputs != self._both.inputs:
            return (
                f"it takes {engine.info.inputs} inputs, the model file {self._both.inputs} ones: export both with the "
                "same --inputs"
            )
        return "only the CPU runs it" if engine.on_cpu and not self._on_cpu else ""
