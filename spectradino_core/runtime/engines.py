"""Open an engine from a file with `open_engine`.

An ONNX model file runs in ONNX Runtime (CPU, CUDA or TensorRT) or in OpenVINO, selected by `device` and logged; a
training checkpoint runs in torch. Torch and OpenVINO are imported only then.
"""

from __future__ import annotations

import os
from pathlib import Path

from spectradino_core.runtime.bundle import BundleError, ModelInfo, both_of
from spectradino_core.runtime.engine import DEVICES, Engine, EngineError
from spectradino_core.runtime.engine_build import BuildError, build
from spectradino_core.runtime.onnx_engine import OnnxEngine, candidates_of
from spectradino_core.runtime.openvino_engine import OpenVinoEngine, openvino_candidates, openvino_or_none
from spectradino_core.runtime.parity_check import drawn_inputs, first_that_agrees, sample_inputs
from spectradino_core.runtime.providers import (
    CPU,
    EngineCandidate,
    UnavailableError,
    cache_root,
    file_digest,
    runtime_version,
)
from spectradino_core.runtime.remembered import RememberedEngine
from spectradino_core.text import printable

__all__ = ["open_engine"]


def open_engine(
    path: str | Path,
    device: str = "auto",
    threads: int = 0,
    streams: str = "both",
    gpu_id: int = 0,
    auto_openvino: bool = False,
) -> Engine:
    """Open a model file (`.onnx`) or a checkpoint (`.safetensors`).

    Engines on a GPU and in OpenVINO must pass a parity check with the CPU first, see `parity_check`.

    Args:
        path: the file.
        device: one of `DEVICES`; "auto" takes CUDA if it is available and passes the parity check, else the CPU.
        threads: CPU threads of the engine; 0 leaves it to the runtime.
        streams: streams that the network must take, one of `bundle.STREAMS`.
        gpu_id: which GPU, of those visible to the process.
        auto_openvino: let "auto" prefer OpenVINO to the CPU if it is installed and passes the parity check. For live
            use only: results of a recording must not depend on the packages that are installed.

    Raises:
        BundleError: the file is missing, damaged, not a SpectraDINO model, or for other streams.
        EngineError: the requested device is not available, or fails the parity check.
    """
    path = Path(path)
    if device not in DEVICES:
        raise EngineError(f"unknown device {device!r}: choose one of {', '.join(DEVICES)}")
    if not os.path.lexists(path):
        raise BundleError(f"model file {printable(str(path))} does not exist: check the parameter 'model'")
    if path.suffix == ".safetensors":
        return _open_checkpoint(path, device, threads, gpu_id)
    return _open_onnx(path, device, threads, streams, gpu_id, auto_openvino)


def _open_checkpoint(path: Path, device: str, threads: int, gpu_id: int) -> Engine:
    from spectradino_core.export.torch_engine import TorchEngine, cuda_is_available

    if device == "cpu" or (device == "auto" and not cuda_is_available()):
        return TorchEngine(path, "cpu", threads)
    if device not in ("auto", "cuda") or not cuda_is_available():
        raise EngineError(f"a checkpoint cannot run on '{device}' here: set device to 'cpu', or export it to ONNX")
    on_cpu = TorchEngine(path, "cpu", threads)
    found = [EngineCandidate("cuda"), *([CPU] if device == "auto" else [])]
    return first_that_agrees(
        found, lambda one: TorchEngine(path, f"cuda:{gpu_id}", threads), lambda: on_cpu, drawn_inputs(on_cpu.info)
    )


def _open_onnx(path: Path, device: str, threads: int, streams: str, gpu_id: int, auto_openvino: bool) -> Engine:
    on_cpu = OnnxEngine(path, CPU, threads)
    info = on_cpu.info
    _check_streams(info, streams, path)
    if device.startswith("openvino"):
        found = openvino_candidates(device, path, info, gpu_id)
    else:
        found = candidates_of(path, device, info, gpu_id)
        if device == "auto" and auto_openvino:
            found = [*found[:-1], *openvino_or_none(path, info), CPU]
    if found == [CPU]:
        return on_cpu

    def open_one(one: EngineCandidate) -> Engine:
        if one.device == "openvino":
            return OpenVinoEngine(path, info, one, threads)
        try:
            build(path, one, gpu_id)
        except (BuildError, UnavailableError) as error:
            raise EngineError(str(error)) from None
        return OnnxEngine(path, one, threads)

    both = OnnxEngine(both_of(path, streams), CPU, threads) if streams == "reuse" else None
    return first_that_agrees(found, open_one, lambda: on_cpu, sample_inputs(on_cpu, both), _remembered(on_cpu))


def _remembered(on_cpu: OnnxEngine) -> Engine:
    """Wrap the CPU engine so that its results on the samples are cached between starts, if there is a cache folder."""
    try:
        key = f"{file_digest(on_cpu.path)}-ort{runtime_version()}"
        return RememberedEngine(on_cpu, cache_root() / "parity", key)
    except UnavailableError:
        return on_cpu


def _check_streams(info: ModelInfo, streams: str, path: Path) -> None:
    if info.streams == streams:
        return
    if streams != "both":
        raise BundleError(f"{path} takes streams {info.streams!r}, not {streams!r} only: export it again")
    raise BundleError(
        f"{path} does not take both cameras' images ({info.streams}): give {both_of(path, info.streams).name}, the "
        "two-stream model file that it was exported with; this file is then used where it is faster"
    )
