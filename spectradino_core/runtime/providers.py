"""Execution providers of ONNX Runtime by device and precision, in order of preference.

TensorRT builds an engine for the present GPU, which takes minutes; it is cached in a separate folder for each model
file, GPU, TensorRT version and precision, so that it is never used for another.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from spectradino_core.runtime.bundle import ModelInfo
from spectradino_core.runtime.engine import EngineError
from spectradino_core.runtime.gpu import (
    driver_version,
    explain,
    gpu_name,
    gpu_problem,
    missing_library,
    preload_libraries,
    tensorrt_version,
)

log = logging.getLogger(__name__)

_CPU, _CUDA, _TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"
_NEEDS = {"cpu": _CPU, "cuda": _CUDA, "tensorrt": _TENSORRT}
_OLDEST_TENSORRT = 10
"""8.6, the last version of JetPack 5, supports neither GELU nor the opset of our graphs."""


_Providers = tuple[tuple[str, dict[str, Any]], ...]


class UnavailableError(EngineError):
    """A device is not available on this machine or in its ONNX Runtime; the message names cause and remedy."""


@dataclass(frozen=True)
class EngineCandidate:
    """Device, precision and provider options to run a model with.

    Attributes:
        device, precision: "cpu", "cuda", "tensorrt" or "openvino"; "fp32", "fp16" or "bf16", of the engine.
        cache: cache folder of the TensorRT engine, cache file of the OpenVINO engine; None for other devices.
        providers: for ONNX Runtime, in order of preference, each with its options.
        target: OpenVINO's name of the device, such as "CPU" or "GPU.1".
    """

    device: str
    precision: str = "fp32"
    cache: Path | None = None
    providers: _Providers = field(default=((_CPU, {}),), hash=False)
    target: str = ""

    @property
    def needs(self) -> str:
        """Provider that this candidate requires."""
        return _NEEDS[self.device]

    def __str__(self) -> str:
        return {
            "cpu": "CPU",
            "cuda": "CUDA",
            "tensorrt": f"TensorRT in {self.precision}",
            "openvino": f"OpenVINO on {self.target} in {self.precision}",
        }[self.device]


CPU = EngineCandidate("cpu")


def file_precision(info: ModelInfo) -> str:
    """Return the precision of a file's arithmetic: "fp32", or "fp16" or "int8" after `export.convert`."""
    precision = conversion(info).get("precision")
    return precision if precision in ("fp16", "int8") else "fp32"


def conversion(info: ModelInfo) -> dict[str, Any]:
    """Return the record of `export.convert` in a file's provenance; empty if it was not converted."""
    converted = info.provenance.get("converted")
    return converted if isinstance(converted, dict) else {}


def candidates(
    device: str, available: Sequence[str], model: Path, info: ModelInfo | None = None, gpu_id: int = 0
) -> list[EngineCandidate]:
    """List the candidates for running a model file on a device ("auto", "cpu", "cuda", "tensorrt"), best first.

    - "tensorrt": half precision, then single precision, then CUDA. TensorRT 11 takes the file's precision only.
    - "auto": CUDA if `available` (the installation's providers), then the CPU; only the CPU for int8 files. TensorRT
      must be requested: building its engine delays the first start by minutes.

    Raises:
        UnavailableError: the device's provider is missing or cannot run this file, the file cannot be read, or there is
            no cache folder for TensorRT's engine.
    """
    precision = "fp32" if info is None else file_precision(info)
    if device == "auto":
        if _CUDA not in available:
            _report_idle_gpu(gpu_id)
            return [CPU]
        if precision == "int8":
            log.info("%s is an int8 file and runs on the CPU: give the fp32 or fp16 file to use the GPU", model.name)
            return [CPU]
        return [_cuda(available, gpu_id), CPU]
    if _NEEDS[device] not in available:
        raise UnavailableError(
            f"device '{device}' needs ONNX Runtime's {_NEEDS[device]}, this installation has "
            f"{', '.join(available)}: install onnxruntime-gpu in place of onnxruntime, or set device to 'cpu'"
        )
    if device == "cpu":
        return [CPU]
    if precision == "int8":
        raise UnavailableError(
            f"{model.name} is an int8 file, which has no kernels for '{device}': give the fp32 or fp16 file, or set "
            "device to 'cpu'"
        )
    found = _tensorrt_candidates(available, model, info, precision, gpu_id) if device == "tensorrt" else []
    return [*found, _cuda(available, gpu_id)] if _CUDA in available else found


def _tensorrt_candidates(
    available: Sequence[str], model: Path, info: ModelInfo | None, precision: str, gpu_id: int
) -> list[EngineCandidate]:
    """List TensorRT candidates in the precisions that its version supports for a file."""
    fused = 0 if info is None else conversion(info).get("fused_attentions")
    if fused:
        raise UnavailableError(
            f"{model.name} has {fused} fused attentions, operators of ONNX Runtime that TensorRT does not support, so "
            "most of it would run outside TensorRT: give the file as written by 'spectradino export', or its fp16 "
            "conversion"
        )
    preload_libraries()
    major, minor = tensorrt_version()
    if 0 < major < _OLDEST_TENSORRT:
        raise UnavailableError(
            f"device 'tensorrt' needs TensorRT {_OLDEST_TENSORRT} or newer, this machine has {major}.{minor}: update "
            "it (JetPack 6 or newer), or set device to 'cuda'"
        )
    # An fp16 file always runs in fp16; version 11 has no flag to run an fp32 file in fp16.
    if precision == "fp16":
        precisions = ["fp16"]
    elif major >= 11:
        precisions = ["fp32"]
        remedy = "for fp16 convert it with 'spectradino convert --precision fp16'"
        log.warning("TensorRT %d.%d runs %s in fp32: %s", major, minor, model.name, remedy)
    else:
        precisions = ["fp16", "fp32"]
    name = (
        f"{model_digest(model)}-{gpu_name(gpu_id) or 'gpu'}-tensorrt{major}.{minor}-ort{runtime_version()}-"
        f"driver{driver_version()}"
    )
    return [_tensorrt(one, available, name, gpu_id, flags=major < 11) for one in precisions]


@functools.cache
def _report_idle_gpu(gpu_id: int) -> None:
    """Warn once about a GPU that this ONNX Runtime cannot use."""
    if name := gpu_name(gpu_id):
        log.warning(
            "this machine has a GPU (%s), but ONNX Runtime was installed for the CPU only: to use it, 'pip uninstall "
            "onnxruntime' and 'pip install onnxruntime-gpu[cuda,cudnn]' (on a Jetson the wheel of its JetPack)",
            name,
        )


def cache_root() -> Path:
    """Return the cache folder, $SPECTRADINO_CACHE or the user's; UnavailableError if the user has no home folder."""
    if named := os.environ.get("SPECTRADINO_CACHE"):
        return Path(named)
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "spectradino"
    except RuntimeError:
        raise UnavailableError(
            "there is no home folder to cache TensorRT's engine in: set SPECTRADINO_CACHE or HOME"
        ) from None


@contextmanager
def engine_cache(
    candidate: EngineCandidate, model: Path, problem_of_gpu: Callable[[], str] = gpu_problem
) -> Iterator[None]:
    """Context for opening an engine: create TensorRT's cache folder, log the wait, delete a damaged cache.

    An engine file truncated while it was written fails each time, so a failure empties the folder, but only while the
    GPU works (`problem_of_gpu` returns ""): on a lost or full GPU a failure does not mean that the file is damaged.

    Raises:
        UnavailableError: the folder cannot be created or written to.
    """
    folder = candidate.cache
    if folder is None:
        yield
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UnavailableError(
            f"{folder} cannot be created for TensorRT's engine ({error}): set SPECTRADINO_CACHE"
        ) from None
    if not any(folder.glob("*.engine")):
        _check_writable(folder)
        once = "for this GPU, which takes minutes, once"
        log.warning("%s builds an engine of %s %s; it is cached in %s", candidate, model.name, once, folder)
    try:
        yield
    except Exception:
        _forget_damaged(folder, problem_of_gpu)
        raise


def _check_writable(folder: Path) -> None:
    """Check permissions and disk space before spending minutes on an engine that could not be cached."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"\0")
    except OSError as error:
        raise UnavailableError(
            f"{folder} cannot be written to, so TensorRT's engine could not be cached ({error.strerror}): "
            "make it writable, or set SPECTRADINO_CACHE to a writable folder"
        ) from None


def _forget_damaged(folder: Path, problem_of_gpu: Callable[[], str]) -> None:
    if not any(folder.glob("*")):
        shutil.rmtree(folder, ignore_errors=True)
    elif problem := problem_of_gpu():
        log.warning("%s is kept, since it may be intact: the GPU cannot compute now (%s)", folder, problem)
    else:
        shutil.rmtree(folder, ignore_errors=True)
        log.warning("deleted %s, which seems damaged: TensorRT failed on it while the GPU works", folder)


def _cuda(available: Sequence[str], gpu_id: int) -> EngineCandidate:
    return EngineCandidate("cuda", providers=_on_cuda(available, gpu_id))


def _on_cuda(available: Sequence[str], gpu_id: int) -> _Providers:
    """Return CUDA and the CPU, as far as this installation has them."""
    options = {
        "device_id": str(gpu_id),
        # An exhaustive search takes seconds at each start without a gain for a few small convolutions.
        "cudnn_conv_algo_search": "HEURISTIC",
        # The default doubles the arena, up to twice the memory needed; a Jetson shares its memory with the system.
        "arena_extend_strategy": "kSameAsRequested",
    }
    if tuple(map(int, runtime_version().split(".")[:2])) >= (1, 18):  # older versions refuse unknown options
        # TensorFloat-32 would round every product to 10 bits.
        options["use_tf32"] = "0"
    return tuple((name, its) for name, its in ((_CUDA, options), (_CPU, dict[str, str]())) if name in available)


def runtime_version() -> str:
    """Return ONNX Runtime's version; "0.0" if it is not installed."""
    try:
        import onnxruntime as ort
    except ImportError:
        return "0.0"
    return str(ort.__version__)


def model_digest(model: Path) -> str:
    """Return the first 16 hexadecimal digits of a file's SHA-256; UnavailableError if it cannot be read."""
    try:
        return hashlib.sha256(model.read_bytes()).hexdigest()[:16]
    except OSError as error:
        raise UnavailableError(f"{model} cannot be read ({error.strerror}): check the parameter 'model'") from None


def _tensorrt(precision: str, available: Sequence[str], name: str, gpu_id: int, flags: bool) -> EngineCandidate:
    folder = cache_root() / "tensorrt" / f"{name}-{precision}"
    options = {
        "device_id": str(gpu_id),
        "trt_engine_cache_enable": "True",
        "trt_engine_cache_path": str(folder),
        "trt_timing_cache_enable": "True",
        "trt_timing_cache_path": str(folder),
    }
    if flags:  # weakly typed networks, which version 11 does not have
        options["trt_fp16_enable"] = str(precision == "fp16")
        # LayerNorms that would overflow in half precision run in single precision.
        options["trt_layer_norm_fp32_fallback"] = str(precision == "fp16")
    return EngineCandidate("tensorrt", precision, folder, ((_TENSORRT, options), *_on_cuda(available, gpu_id)))


def prepare_gpu_libraries() -> None:
    """Prepare the process for its first GPU session."""
    # TensorRT has no option to disable TensorFloat-32, whose rounding fails the parity check of an fp32 engine after
    # minutes of building. NVIDIA's libraries read this variable when they are loaded; a user's setting is kept.
    os.environ.setdefault("NVIDIA_TF32_OVERRIDE", "0")
    preload_libraries()


def setup_problem(device: str, error: str) -> str:
    """Return the missing library, or the remedy of a known error, to append to an error of a GPU session."""
    library = missing_library("tensorrt" if device == "tensorrt" else "cuda")
    return f"{library} is missing: {explain(library)}" if library else explain(error)
