"""What of ONNX Runtime runs a model: execution providers by device and precision, in the order in which they are tried.

TensorRT builds an engine for the very GPU it finds, which takes minutes; it is kept in a folder of its own for each
model file, GPU, TensorRT and precision, so that none is ever used for another.
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
from spectradino_core.runtime.gpu import (
    driver_version,
    explain,
    gpu_name,
    gpu_problem,
    missing_library,
    preload_libraries,
    tensorrt_version,
)

__all__ = [
    "CPU",
    "Candidate",
    "UnavailableError",
    "cache_root",
    "candidates",
    "engine_cache",
    "file_digest",
    "file_precision",
    "prepare_gpu_libraries",
    "runtime_version",
    "setup_problem",
]

log = logging.getLogger(__name__)

_CPU, _CUDA, _TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"
_NEEDS = {"cpu": _CPU, "cuda": _CUDA, "tensorrt": _TENSORRT}
_OLDEST_TENSORRT = 10
"""8.6, the last of JetPack 5, has neither GELU nor the opset of our graphs."""


class UnavailableError(ValueError):
    """This machine or its ONNX Runtime does not have what a device needs; the message says what and the remedy."""


@dataclass(frozen=True)
class Candidate:
    """One way to run a model.

    Attributes:
        device: "cpu", "cuda" or "tensorrt".
        precision: "fp32" or "fp16": of the engine; a file may hold half precision in itself.
        cache: the folder in which TensorRT keeps the engine; None for others.
        providers: for ONNX Runtime, first choice first, each with its options.
    """

    device: str
    precision: str = "fp32"
    cache: Path | None = None
    providers: tuple[tuple[str, dict[str, Any]], ...] = field(default=((_CPU, {}),), hash=False)

    @property
    def needs(self) -> str:
        """The provider without which it is not this candidate."""
        return _NEEDS[self.device]

    def __str__(self) -> str:
        return {"cpu": "CPU", "cuda": "CUDA", "tensorrt": f"TensorRT in {self.precision}"}[self.device]


CPU = Candidate("cpu")


def file_precision(info: ModelInfo) -> str:
    """Precision of a file's own arithmetic: "fp32", or what `export.convert` made of it ("fp16", "int8")."""
    converted = info.provenance.get("converted")
    precision = converted.get("precision") if isinstance(converted, dict) else None
    return precision if precision in ("fp16", "int8") else "fp32"


def candidates(
    device: str, available: Sequence[str], model: Path, info: ModelInfo | None = None, gpu_id: int = 0
) -> list[Candidate]:
    """The ways to run a model on a device, best first.

    - "tensorrt": in half precision, then in full, then CUDA. TensorRT 11 takes the file's precision only.
    - "cuda": CUDA. "cpu": the CPU.
    - "auto": CUDA where there is one, then the CPU; the CPU alone for int8 files. TensorRT is for those who ask for it:
      it keeps a robot waiting for minutes at its first start.

    Args:
        device: "auto", "cpu", "cuda" or "tensorrt".
        available: the providers of this installation.
        model: the model file, which names the folder of TensorRT's engine.
        info: the model's description; None: of a file in fp32 as it was exported.
        gpu_id: which GPU, of those that the process sees.

    Raises:
        UnavailableError: the device's own provider is not among them or can't run this file, the file can't be read, or
            there is no place for TensorRT's engine.
    """
    precision = "fp32" if info is None else file_precision(info)
    if device == "auto":
        if _CUDA not in available:
            _report_idle_gpu(gpu_id)
            return [CPU]
        if precision == "int8":
            log.info("%s is an int8 file, which runs on the CPU: give the fp32 or fp16 file to use the GPU", model.name)
            return [CPU]
        return [_cuda(available, gpu_id), CPU]
    if _NEEDS[device] not in available:
        raise UnavailableError(
            f"device '{device}' needs ONNX Runtime's {_NEEDS[device]}, this installation offers "
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
) -> list[Candidate]:
    """TensorRT in the precisions that its version can build of a file.

    Raises:
        UnavailableError: it is too old, or the file holds operators that it does not know.
    """
    converted = {} if info is None else info.provenance.get("converted")
    fused = converted.get("fused_attentions") if isinstance(converted, dict) else 0
    if fused:
        raise UnavailableError(
            f"{model.name} holds {fused} fused attentions, operators of ONNX Runtime that TensorRT does not know, so "
            "most of it would run outside of TensorRT: give the file as 'spectradino export' writes it, or its fp16 "
            "conversion"
        )
    preload_libraries()
    major, minor = tensorrt_version()
    if 0 < major < _OLDEST_TENSORRT:
        raise UnavailableError(
            f"device 'tensorrt' needs TensorRT {_OLDEST_TENSORRT} or newer, this machine has {major}.{minor}: update "
            "it (JetPack 6 or newer), or set device to 'cuda'"
        )
    # An fp16 file is fp16 whatever is asked; version 11 has no flag that would make fp16 of an fp32 file.
    if precision == "fp16":
        precisions = ["fp16"]
    elif major >= 11:
        precisions = ["fp32"]
        log.warning(
            "TensorRT %d.%d runs %s in fp32: for fp16 convert it with 'spectradino convert --precision fp16'",
            major,
            minor,
            model.name,
        )
    else:
        precisions = ["fp16", "fp32"]
    name = _engine_name(model, gpu_id)
    return [_tensorrt(one, available, name, gpu_id, flags=major < 11) for one in precisions]


@functools.cache
def _report_idle_gpu(gpu_id: int) -> None:
    """Warns once that a GPU is there which this ONNX Runtime can't use."""
    if name := gpu_name(gpu_id):
        log.warning(
            "this machine has a GPU (%s), but ONNX Runtime was installed for the CPU only: to use it, 'pip uninstall "
            "onnxruntime' and 'pip install onnxruntime-gpu[cuda,cudnn]' (on a Jetson the wheel of its JetPack)",
            name,
        )


def cache_root() -> Path:
    """Where engines are kept: $SPECTRADINO_CACHE, else the user's cache folder.

    Raises:
        UnavailableError: this user has no home folder.
    """
    named = os.environ.get("SPECTRADINO_CACHE")
    if named:
        return Path(named)
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "spectradino"
    except RuntimeError:
        raise UnavailableError(
            "there is no home folder to keep TensorRT's engine in: set SPECTRADINO_CACHE or HOME"
        ) from None


@contextmanager
def engine_cache(candidate: Candidate, model: Path, problem_of_gpu: Callable[[], str] = gpu_problem) -> Iterator[None]:
    """Around the opening of an engine: makes TensorRT's folder, tells of the wait, forgets what is damaged there.

    An engine that was cut off while it was written fails each time, so a failure empties the folder: but only while the
    GPU computes. One that is lost, or whose memory is full, says nothing of what was built for it.

    Args:
        candidate: whose folder it is.
        model: the model file, named in the log.
        problem_of_gpu: why the GPU can't compute, empty if it can; asked after a failure.

    Raises:
        UnavailableError: the folder can't be made or written to.
    """
    folder = candidate.cache
    if folder is None:
        yield
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UnavailableError(
            f"{folder} can't be made for TensorRT's engine ({error}): set SPECTRADINO_CACHE"
        ) from None
    if not any(folder.glob("*.engine")):
        _check_writable(folder)
        log.warning(
            "%s builds an engine of %s for this GPU: some minutes, once; it is kept in %s",
            candidate,
            model.name,
            folder,
        )
    try:
        yield
    except Exception:
        _forget_damaged(folder, problem_of_gpu)
        raise


def _check_writable(folder: Path) -> None:
    """Looks before some minutes are spent on an engine that can't be kept: permissions, a read-only or full disk."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"\0")
    except OSError as error:
        raise UnavailableError(
            f"{folder} can't be written to, so TensorRT's engine could not be kept ({error.strerror}): "
            "make it writable, or set SPECTRADINO_CACHE to a folder that is"
        ) from None


def _forget_damaged(folder: Path, problem_of_gpu: Callable[[], str]) -> None:
    if not any(folder.glob("*")):
        shutil.rmtree(folder, ignore_errors=True)
    elif problem := problem_of_gpu():
        log.warning("%s is kept, for it may be sound: the GPU can't compute now (%s)", folder, problem)
    else:
        shutil.rmtree(folder, ignore_errors=True)
        log.warning("deleted %s, which seems damaged: TensorRT failed on it, and the GPU computes", folder)


def _cuda(available: Sequence[str], gpu_id: int) -> Candidate:
    return Candidate("cuda", providers=_present([(_CUDA, _cuda_options(gpu_id)), (_CPU, {})], available))


def _cuda_options(gpu_id: int) -> dict[str, str]:
    options = {
        "device_id": str(gpu_id),
        # An exhaustive search takes seconds at each start, and gains nothing for a few small convolutions.
        "cudnn_conv_algo_search": "HEURISTIC",
        # Doubling instead would take up to twice the memory that a Jetson shares with everything else.
        "arena_extend_strategy": "kSameAsRequested",
    }
    if _release() >= (1, 18):  # older ones refuse options that they do not know
        # TensorFloat-32 would round every product to 10 bits and call it fp32.
        options["use_tf32"] = "0"
    return options


def runtime_version() -> str:
    """ONNX Runtime's version; "0.0" where it is not installed."""
    try:
        import onnxruntime as ort
    except ImportError:
        return "0.0"
    return str(ort.__version__)


def _release() -> tuple[int, int]:
    major, minor = runtime_version().split(".")[:2]
    return int(major), int(minor)


def _engine_name(model: Path, gpu_id: int) -> str:
    """What an engine is built of, by and for: file, GPU, versions of TensorRT and of ONNX Runtime."""
    tensorrt = tensorrt_version()
    return (
        f"{file_digest(model)}-{gpu_name(gpu_id) or 'gpu'}-tensorrt{tensorrt[0]}.{tensorrt[1]}-"
        f"ort{runtime_version()}-driver{driver_version()}"
    )


def file_digest(model: Path) -> str:
    """First 16 hexadecimal digits of a file's SHA-256.

    Raises:
        UnavailableError: the file can't be read.
    """
    try:
        return hashlib.sha256(model.read_bytes()).hexdigest()[:16]
    except OSError as error:
        raise UnavailableError(f"{model} can't be read ({error.strerror}): check the parameter 'model'") from None


def _tensorrt(precision: str, available: Sequence[str], name: str, gpu_id: int, flags: bool) -> Candidate:
    folder = cache_root() / "tensorrt" / f"{name}-{precision}"
    options = {
        "device_id": str(gpu_id),
        "trt_engine_cache_enable": "True",
        "trt_engine_cache_path": str(folder),
        "trt_timing_cache_enable": "True",
        "trt_timing_cache_path": str(folder),
    }
    if flags:  # of weak typing, which version 11 does not have
        options["trt_fp16_enable"] = str(precision == "fp16")
        # Norms that overflow in half precision stay in full: TensorRT's own rule for LayerNorm.
        options["trt_layer_norm_fp32_fallback"] = str(precision == "fp16")
    providers = _present([(_TENSORRT, options), (_CUDA, _cuda_options(gpu_id)), (_CPU, {})], available)
    return Candidate("tensorrt", precision, folder, providers)


def prepare_gpu_libraries() -> None:
    """What must be done once in a process before its first session on a GPU."""
    # TensorRT has no option against TensorFloat-32, whose rounding fails the parity check of an fp32 engine after
    # minutes of building. NVIDIA's libraries read this when they are loaded; a user's own setting stays.
    os.environ.setdefault("NVIDIA_TF32_OVERRIDE", "0")
    preload_libraries()


def setup_problem(device: str, error: str) -> str:
    """What to add to an error of a GPU session: the library that is missing, or the remedy of a known error."""
    library = missing_library("tensorrt" if device == "tensorrt" else "cuda")
    if library:
        return f"{library} is missing: {explain(library)}"
    return explain(error)


def _present(
    providers: list[tuple[str, dict[str, Any]]], available: Sequence[str]
) -> tuple[tuple[str, dict[str, Any]], ...]:
    return tuple((name, dict(options)) for name, options in providers if name in available)
