"""What of ONNX Runtime runs a model: execution providers by device and precision, in the order in which they are tried.

TensorRT builds an engine for the very GPU it finds, which takes minutes; it is kept in a folder of its own for each
model file, GPU, TensorRT and precision, so that none is ever used for another.
"""

from __future__ import annotations

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

from spectradino_core.runtime.gpu import gpu_name, gpu_problem, tensorrt_version

__all__ = ["CPU", "Candidate", "UnavailableError", "cache_root", "candidates", "engine_cache"]

log = logging.getLogger(__name__)

_CPU, _CUDA, _TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"
_NEEDS = {"cpu": _CPU, "cuda": _CUDA, "tensorrt": _TENSORRT}

# TensorFloat-32 would round every product to 10 bits and call it fp32.
_CUDA_OPTIONS = {"use_tf32": "0"}


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


def candidates(device: str, available: Sequence[str], model: Path) -> list[Candidate]:
    """The ways to run a model on a device, best first.

    - "tensorrt": in half precision, then in full, then CUDA.
    - "cuda": CUDA. "cpu": the CPU.
    - "auto": CUDA where there is one, then the CPU. TensorRT is for those who ask for it: it keeps a robot waiting for
      minutes at its first start.

    Args:
        device: "auto", "cpu", "cuda" or "tensorrt".
        available: the providers of this installation.
        model: the model file, which names the folder of TensorRT's engine.

    Raises:
        UnavailableError: the device's own provider is not among them, the file can't be read, or there is no place for
            TensorRT's engine.
    """
    if device == "auto":
        device = "cuda" if _CUDA in available else "cpu"
        return [_cuda(available), CPU] if device == "cuda" else [CPU]
    if _NEEDS[device] not in available:
        raise UnavailableError(
            f"device '{device}' needs ONNX Runtime's {_NEEDS[device]}, this installation offers "
            f"{', '.join(available)}: install onnxruntime-gpu in place of onnxruntime, or set device to 'cpu'"
        )
    if device == "cpu":
        return [CPU]
    found = []
    if device == "tensorrt":
        name = _engine_name(model)
        found = [_tensorrt(precision, available, name) for precision in ("fp16", "fp32")]
    return [*found, _cuda(available)] if _CUDA in available else found


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


def _cuda(available: Sequence[str]) -> Candidate:
    return Candidate("cuda", providers=_present([(_CUDA, _CUDA_OPTIONS), (_CPU, {})], available))


def _engine_name(model: Path) -> str:
    """What an engine is built of and for: the file's content, the GPU and TensorRT's version."""
    try:
        digest = hashlib.sha256(model.read_bytes()).hexdigest()[:16]
    except OSError as error:
        raise UnavailableError(f"{model} can't be read ({error.strerror}): check the parameter 'model'") from None
    return f"{digest}-{gpu_name()}-tensorrt{tensorrt_version()}"


def _tensorrt(precision: str, available: Sequence[str], name: str) -> Candidate:
    folder = cache_root() / "tensorrt" / f"{name}-{precision}"
    options = {
        "trt_fp16_enable": str(precision == "fp16"),
        "trt_engine_cache_enable": "True",
        "trt_engine_cache_path": str(folder),
        "trt_timing_cache_enable": "True",
        "trt_timing_cache_path": str(folder),
        # Norms that overflow in half precision stay in full: TensorRT's own rule for LayerNorm.
        "trt_layer_norm_fp32_fallback": str(precision == "fp16"),
    }
    providers = _present([(_TENSORRT, options), (_CUDA, _CUDA_OPTIONS), (_CPU, {})], available)
    return Candidate("tensorrt", precision, folder, providers)


def _present(
    providers: list[tuple[str, dict[str, Any]]], available: Sequence[str]
) -> tuple[tuple[str, dict[str, Any]], ...]:
    return tuple((name, dict(options)) for name, options in providers if name in available)
