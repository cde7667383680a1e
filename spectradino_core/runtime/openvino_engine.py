"""OpenVINO engine: CPUs, and Intel's GPUs and NPUs.

The model file is the same as ONNX Runtime's. It is compiled for a device in one precision and cached, so that later
starts need not read and optimise the graph again.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import io
import logging
import os
import re
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from spectradino_core.files import write_file
from spectradino_core.imports import import_problem
from spectradino_core.runtime.bundle import ModelInfo
from spectradino_core.runtime.engine import FEATURES, EngineError, RawPredictions, raw_predictions, streams_label
from spectradino_core.runtime.network_inputs import signature
from spectradino_core.runtime.providers import (
    EngineCandidate,
    UnavailableError,
    cache_root,
    file_precision,
    model_digest,
)
from spectradino_core.text import printable

log = logging.getLogger(__name__)

_HINTS = {"fp32": "f32", "fp16": "f16", "bf16": "bf16"}
"""OpenVINO's names of precisions."""
_TELEMETRY = "openvino_telemetry"
_DIGEST_BYTES = hashlib.sha256().digest_size


class OpenVinoEngine:
    """`Engine` of an exported model in OpenVINO.

    Attributes:
        ir_features: infrared features of the last pass, float32 of shape `info.features`; None without that output.
        computes_on_cpu: see `engine.computes_on_cpu`.
    """

    on_cpu = False
    """ONNX Runtime on the CPU is the engine to compare with and to fall back to, see `Engine.on_cpu`."""

    def __init__(self, path: str | Path, info: ModelInfo, chosen: EngineCandidate, threads: int = 0) -> None:
        """Compile a file that `OnnxEngine` has checked, as one of `openvino_candidates`; EngineError on failure."""
        path = Path(path)
        self._request = _request(path, info, chosen, openvino_config(chosen.target, chosen.precision, threads))
        self.info, self.path = info, path
        self.computes_on_cpu = chosen.target == "CPU"
        self.ir_features: np.ndarray | None = None
        self._inputs = list(signature(info))
        self._outputs = {name: port for port in self._request.model_outputs for name in port.get_names()}
        self.label = f"OpenVINO {_version()}{streams_label(info)} on {chosen.target} ({chosen.precision})"
        log.info("%s: %s, input %dx%d", path.name, self.label, *info.input_size)

    def run(self, *inputs: np.ndarray) -> RawPredictions:
        """See `Engine`."""
        try:
            given = dict(zip(self._inputs, inputs, strict=True))
            found = self._request.infer(given, share_inputs=True)
        except Exception as error:  # of OpenVINO, whose exception types share no base class
            raise EngineError(f"{self.label} failed on a frame: {_reason(error)}") from error
        results = {name: found[port] for name, port in self._outputs.items()}
        self.ir_features = results.get(FEATURES)
        return raw_predictions(results)


def openvino_candidates(device: str, model: Path, info: ModelInfo, gpu_id: int = 0) -> list[EngineCandidate]:
    """List the candidates for running a model in OpenVINO, best first: bf16 or fp16 if the device has it, then fp32.

    Raises:
        EngineError: OpenVINO is not installed or broken, does not have the device, or is no runtime for this file.
    """
    try:
        return _candidates(device, model, info, gpu_id)
    except EngineError:
        raise
    except (RuntimeError, AttributeError) as error:  # of its libraries and drivers, of an incomplete package
        raise EngineError(
            f"device '{device}' is not available: OpenVINO cannot be used ({_reason(error)}); install openvino and the "
            "device's driver again, or set device to 'cpu'"
        ) from error


def _candidates(device: str, model: Path, info: ModelInfo, gpu_id: int = 0) -> list[EngineCandidate]:
    core = openvino_core()
    kind = device.partition(":")[2] or "CPU"
    target = f"{kind}.{gpu_id}" if kind == "GPU" and gpu_id else kind
    available = core.available_devices
    if target not in available and f"{target}.0" not in available:
        raise EngineError(
            f"device '{device}' is not available: OpenVINO finds only {', '.join(available)}; install its driver, "
            "or set device to 'openvino' or 'cpu'"
        )
    if file_precision(info) == "int8":
        raise EngineError(
            f"{model.name} is an int8 file, which ONNX Runtime runs faster than OpenVINO: give the fp32 file, or set "
            "device to 'cpu'"
        )
    short = "bf16" if kind == "CPU" else "fp16"  # CPUs emulate fp16 mostly
    has_short = short.upper() in core.get_property(target, "OPTIMIZATION_CAPABILITIES")
    name = re.sub(r"[^A-Za-z0-9]+", "_", core.get_property(target, "FULL_DEVICE_NAME")).strip("_")
    key = None
    with suppress(UnavailableError):  # without a home folder the graph is compiled at each start
        key = str(cache_root() / "openvino" / f"{model_digest(model)}-{target}-{name}-{_version()}")
    return [
        EngineCandidate("openvino", one, None if key is None else Path(f"{key}-{one}.blob"), target=target)
        for one in ((short, "fp32") if has_short else ("fp32",))
    ]


def openvino_config(target: str, precision: str, threads: int = 0) -> dict[str, Any]:
    """Return OpenVINO's settings of a device by its name there, for one frame at a time."""
    config: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": _HINTS[precision]}
    if target == "CPU":
        config["ENABLE_CPU_PINNING"] = False  # pinned threads of two nodes would share the same cores
        if threads:
            config["INFERENCE_NUM_THREADS"] = threads
    return config


def openvino_or_none(model: Path, info: ModelInfo) -> list[EngineCandidate]:
    """List the candidates that "auto" tries: those on the CPU, none if OpenVINO is not installed or cannot be used."""
    if importlib.util.find_spec("openvino") is None or file_precision(info) == "int8":
        return []
    try:
        return _candidates("openvino", model, info)
    except Exception as error:  # also of a broken installation: nobody asked for it by name
        log.warning("OpenVINO is not used: %s", _reason(error))
        return []


def _openvino() -> Any:
    """Import OpenVINO without its usage statistics.

    On import it reports itself to its vendor over the network and writes an identifier into the home folder. Without
    the package openvino-telemetry it uses a placeholder of its own.
    """
    reported = _TELEMETRY in sys.modules
    if not reported:
        sys.modules[_TELEMETRY] = None  # type: ignore[assignment]  # importing it raises ImportError
    try:
        return importlib.import_module("openvino")
    except ModuleNotFoundError as error:
        raise EngineError(
            f"OpenVINO is not installed ({error}): install the extra 'openvino' of this package, or pip install "
            "openvino; or set device to 'cpu'"
        ) from None
    except ImportError as error:
        raise EngineError(f"{import_problem(error)}; or set device to 'cpu'") from None
    finally:
        if not reported:
            sys.modules.pop(_TELEMETRY, None)


def _version() -> str:
    return str(_openvino().__version__).partition("-")[0]


@functools.cache
def openvino_core() -> Any:
    """Return OpenVINO's registry of devices; EngineError if it is not installed."""
    return _openvino().Core()


def _request(path: Path, info: ModelInfo, chosen: EngineCandidate, config: Mapping[str, Any]) -> Any:
    """Return a request of the compiled model, which is read from the cache if possible."""
    cached, core = chosen.cache, openvino_core()
    if cached is not None and (blob := _read(cached)) is not None:
        try:
            return core.import_model(io.BytesIO(blob), chosen.target, config).create_infer_request()
        except Exception as error:  # of OpenVINO, see above
            log.warning("%s cannot be opened and is made again: %s", cached, _reason(error))
    try:
        compiled = core.compile_model(core.read_model(str(path)), chosen.target, config)
        request = compiled.create_infer_request()
    except Exception as error:
        raise EngineError(f"{path.name} cannot be run by OpenVINO: {_reason(error)}{_remedy(info)}") from None
    if cached is not None:
        _write(cached, compiled)
    return request


def _read(cached: Path) -> bytes | None:
    """Read a compiled model; None if there is none, or it is damaged or another user's, since it is executed."""
    try:
        with cached.open("rb") as file:
            is_own = os.fstat(file.fileno()).st_uid in (0, os.geteuid())
            data = file.read() if is_own else b""
    except OSError:
        return None
    if not is_own:
        log.warning("%s belongs to another user and is made again", cached)
        return None
    digest, blob = data[:_DIGEST_BYTES], data[_DIGEST_BYTES:]
    if hashlib.sha256(blob).digest() == digest:
        return blob
    log.warning("%s is damaged and is made again", cached)
    return None


def _write(cached: Path, compiled: Any) -> None:
    """Write a compiled model with its hash before it: OpenVINO would compute with damaged weights."""
    stream = io.BytesIO()
    try:
        compiled.export_model(stream)
        blob = stream.getvalue()
        write_file(cached, hashlib.sha256(blob).digest() + blob)
    except Exception as error:  # a device without this, a full disk: the next start takes longer
        log.debug("the compiled model is not cached in %s: %s", cached, _reason(error))


def _remedy(info: ModelInfo) -> str:
    """Return what to do about a graph that OpenVINO cannot read."""
    if "converted" not in info.provenance:
        return "; set device to 'cpu'"
    return (
        "; give the file as written by 'spectradino export', since a converted one has operators of ONNX Runtime, or "
        "set device to 'cpu'"
    )


def _reason(error: BaseException) -> str:
    """Return the line of an error that says something: OpenVINO begins with places in its source."""
    lines = [line.strip() for line in str(error).splitlines()]
    said = [line for line in lines if line and not re.match(r"Exception from |Check '", line)]
    return printable(" ".join(said) or (lines[0] if lines else type(error).__name__), 500)
