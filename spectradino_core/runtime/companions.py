"""Companions of the two-stream network: cheaper if one image is missing or was processed before.

The two-stream network runs both streams in any case, with a learnt token in place of the stream that is absent.
`spectradino export --streams all` writes, beside NAME.onnx:

- NAME.rgb.onnx and NAME.ir.onnx, which take one image, for use while the other camera is lost;
- NAME.reuse.onnx, which takes the RGB image and the infrared features of an earlier pass, for RGB frames that reuse an
  infrared frame: the streams meet only at the fusion.

They give the same results. A companion is opened on its own thread when it is first needed, so that nothing stalls.
Until it is ready, and if it cannot be used, the two-stream network serves. The problem is reported once.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from spectradino_core.runtime.bundle import COMPANIONS, WEIGHTS_KEY, BundleError, ModelInfo, companion_path
from spectradino_core.runtime.engine import Engine, EngineError, RawPredictions, computes_on_cpu, warm_up
from spectradino_core.runtime.engines import open_engine
from spectradino_core.runtime.network_inputs import signature
from spectradino_core.runtime.providers import file_precision
from spectradino_core.text import log_line

log = logging.getLogger(__name__)

_ALONE = {(True, False): "rgb", (False, True): "ir", (True, True): "reuse"}
"""Companion by the input `present` (rgb, infrared)."""
_IR_INPUTS = ("ir", "ir_gain")


class CompanionEngine:
    """Two-stream `Engine` that uses the companions of its model file. Not thread-safe.

    Attributes:
        info: of the two-stream network.
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
        """Look for companions beside `path`, the model file of `both`, which was opened with `device` and `threads`.

        If `both` runs on the CPU, the companions do too. `report` is called from any thread with a log line when a file
        cannot be used; `open_one` is `open_engine`, except in tests.
        """
        self.info = both.info
        self._both = self._last = both
        self._names = list(signature(both.info))
        self._cached_inputs: dict[str, np.ndarray] = {}
        self._features: np.ndarray | None = None
        device = "cpu" if both.on_cpu else device
        on_cpu = computes_on_cpu(both)
        found = (
            {} if Path(path).suffix == ".safetensors" else {one: companion_path(Path(path), one) for one in COMPANIONS}
        )
        self._companions = {
            stream: _Companion(
                file, stream, both.info, on_cpu, partial(open_one, file, device, threads, stream), report
            )
            for stream, file in found.items()
            if os.path.lexists(file)  # a pipe is reported when it is opened
        }
        if device == "tensorrt":  # building an engine takes minutes: not while a camera is lost
            for companion in self._companions.values():
                companion.prepare()

    @property
    def label(self) -> str:
        """Label of the engine that ran last; with both images, of the companion that reuses features if it is ready."""
        reuse = self._companions.get("reuse")
        if self._last is self._both and reuse is not None and reuse.engine is not None:
            return reuse.engine.label
        return self._last.label

    @property
    def on_cpu(self) -> bool:
        """See `Engine`."""
        return self._both.on_cpu

    @property
    def computes_on_cpu(self) -> bool:
        """See `engine.computes_on_cpu`."""
        return computes_on_cpu(self._both)

    def run(self, *inputs: np.ndarray) -> RawPredictions:
        """See `Engine.run`. A companion that fails on a frame the two-stream network can run is dropped."""
        inputs_by_name = dict(zip(self._names, inputs, strict=True))
        rgb, infrared = (inputs_by_name["present"] > 0).tolist()
        streams = _ALONE.get((rgb, infrared), "")
        companion = self._companions.get(streams)
        reuses = companion is not None and streams == "reuse"
        if reuses and not self._is_cached(inputs_by_name):
            companion = None
        failed = ""
        if companion is not None and (engine := companion.get()) is not None:
            if self._features is not None:
                inputs_by_name["ir_features"] = self._features
            try:
                result = engine.run(*(inputs_by_name[name] for name in signature(engine.info)))
                self._last = self._both if reuses else engine
                return result
            except EngineError as error:
                failed = str(error)
        result = self._both.run(*inputs)  # if this fails too, the frame is bad or the device is lost
        self._last = self._both
        if reuses:
            self._cache(inputs_by_name)
        if companion is not None and failed:
            companion.drop(failed)
        return result

    def _is_cached(self, inputs: Mapping[str, np.ndarray]) -> bool:
        """Return whether the infrared input is that of the kept features."""
        return self._features is not None and all(
            np.array_equal(inputs[name], of) for name, of in self._cached_inputs.items()
        )

    def _cache(self, inputs: Mapping[str, np.ndarray]) -> None:
        features = getattr(self._both, "ir_features", None)
        self._features = features if features is not None and np.isfinite(features).all() else None
        self._cached_inputs = {name: inputs[name].copy() for name in _IR_INPUTS if name in inputs}


@dataclass
class _Companion:
    """Companion: not requested yet, being opened, ready or dropped.

    It holds no reference to the two-stream engine: `RecoveringEngine` must be able to free that engine after a failure
    while this one is still being opened.
    """

    path: Path
    stream: str
    both: ModelInfo
    on_cpu: bool
    open_it: Callable[[], Engine]
    report: Callable[[str], None]
    thread: threading.Thread | None = None
    engine: Engine | None = None

    def get(self) -> Engine | None:
        """Return the engine once it is ready; the first call starts opening it."""
        if self.thread is None:
            # Not a daemon: the interpreter would exit in the middle of a library's C++, which aborts the process.
            self.thread = threading.Thread(target=self.prepare, name=f"opens {self.path.name}")
            self.thread.start()
        return self.engine

    def drop(self, reason: str) -> None:
        """Release the engine for good."""
        self.engine = None
        line = f"{self.path} is not used ({reason}): the two-stream network serves in its place, more slowly"
        self.report(log_line(line))

    def prepare(self) -> None:
        """Open the graph, on the caller's thread."""
        self.thread = threading.current_thread()
        try:
            engine = self.open_it()
            if problem := self._mismatch(engine):
                raise BundleError(problem)
            warm_ms = warm_up(engine)
        except (BundleError, EngineError) as error:
            self.drop(str(error))
        except Exception as error:  # of a driver, a disk, a library: the two-stream graph serves as well
            self.drop(f"{type(error).__name__}: {error}")
        else:
            self.engine = engine
            log.info("opened %s: %s, warm-up %.0f ms", self.path, engine.label, warm_ms)

    def _mismatch(self, engine: Engine) -> str:
        """Return why the graph does not belong to the model; "" if it does."""
        both, info = self.both, engine.info
        expected, found = both.provenance.get(WEIGHTS_KEY), info.provenance.get(WEIGHTS_KEY)
        if expected is None or expected != found:
            return (
                "it was exported from another checkpoint than the model file, or by older software: export both again "
                "with 'spectradino export --streams all'"
            )
        reuses = self.stream == "reuse"
        if reuses and info.features != both.features:
            return (
                f"it takes infrared features {list(info.features)}, the model file gives {list(both.features)}: "
                "export both again with 'spectradino export --streams all'"
            )
        if info.inputs != both.inputs:
            return (
                f"it takes {info.inputs} inputs, the model file takes {both.inputs} inputs: export both with the same "
                "--inputs"
            )
        if reuses and file_precision(info) != file_precision(both):
            return (
                f"it computes in {file_precision(info)}, the model file in {file_precision(both)}: convert both, or "
                "neither"
            )
        return "it runs on the CPU only" if computes_on_cpu(engine) and not self.on_cpu else ""
