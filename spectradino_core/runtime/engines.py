"""Open an engine from a file with `open_engine`.

An ONNX model file runs in ONNX Runtime (CPU, CUDA or TensorRT) or in OpenVINO, selected by `device` and logged; a
training checkpoint runs in torch. Torch and OpenVINO are imported only then.

TensorRT engines are built in a child process, so that minutes of building block no signal and a crash is contained:

    python -m spectradino_core.runtime.engines MODEL DEVICE PRECISION GPU_ID

builds the engine of one candidate in its cache folder, from which the parent opens it in seconds.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from spectradino_core.runtime.bundle import BundleError, ModelInfo, two_stream_path
from spectradino_core.runtime.engine import DEVICES, Engine, EngineError, warm_up
from spectradino_core.runtime.onnx_engine import OnnxEngine, candidates_of
from spectradino_core.runtime.openvino_engine import OpenVinoEngine, openvino_candidates, openvino_or_none
from spectradino_core.runtime.parity import RememberedEngine, drawn_inputs, first_that_agrees, sample_inputs
from spectradino_core.runtime.providers import (
    CPU,
    EngineCandidate,
    UnavailableError,
    cache_root,
    engine_cache,
    model_digest,
    runtime_version,
)
from spectradino_core.text import printable

_POLL_S = 0.1
_STOP_S = 5.0
_PR_SET_PDEATHSIG = 1

_interrupted = False


def open_engine(
    path: str | Path,
    device: str = "auto",
    threads: int = 0,
    streams: str = "both",
    gpu_id: int = 0,
    auto_openvino: bool = False,
) -> Engine:
    """Open a model file (`.onnx`) or a checkpoint (`.safetensors`).

    Engines on a GPU and in OpenVINO must pass a parity check with the CPU first, see `parity`.

    Args:
        path, threads: the file; CPU threads of the engine, 0 leaves it to the runtime.
        device: one of `DEVICES`; "auto" takes CUDA if it is available and passes the parity check, else the CPU.
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
        found, lambda one: TorchEngine(path, f"cuda:{gpu_id}", threads), on_cpu, drawn_inputs(on_cpu.info)
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
        build(path, one, gpu_id)
        return OnnxEngine(path, one, threads)

    both = OnnxEngine(two_stream_path(path, streams), CPU, threads) if streams == "reuse" else None
    return first_that_agrees(found, open_one, on_cpu, sample_inputs(on_cpu, both), _remembered(on_cpu))


def _remembered(on_cpu: OnnxEngine) -> Engine:
    """Cache the CPU engine's results on the samples between starts, if there is a cache folder."""
    try:
        key = f"{model_digest(on_cpu.path)}-ort{runtime_version()}"
        return RememberedEngine(on_cpu, cache_root() / "parity", key)
    except UnavailableError:
        return on_cpu


def _check_streams(info: ModelInfo, streams: str, path: Path) -> None:
    if info.streams == streams:
        return
    if streams != "both":
        raise BundleError(f"{path} takes streams {info.streams!r}, not {streams!r} only: export it again")
    raise BundleError(
        f"{path} does not take both cameras' images ({info.streams}): give {two_stream_path(path, info.streams).name}, "
        "the two-stream model file that it was exported with; this file is then used where it is faster"
    )


class BuildError(EngineError):
    """The engine was not built; the message names the reason."""


def interrupt_builds() -> None:
    """Stop running and future builds at process exit. May be called from a signal handler."""
    global _interrupted  # not an Event: the interrupted thread itself could hold its lock
    _interrupted = True


def build(model: Path, candidate: EngineCandidate, gpu_id: int = 0, command: Sequence[str] | None = None) -> None:
    """Build a TensorRT candidate's engine unless it is in the cache; `command` replaces this module in tests.

    Raises:
        BuildError, UnavailableError: the child failed or was interrupted; the cache folder cannot be written.
    """
    if candidate.cache is None or any(candidate.cache.glob("*.engine")):
        return
    command = command or [
        sys.executable, "-m", __name__, str(model), candidate.device, candidate.precision, str(gpu_id),
    ]  # fmt: skip
    with engine_cache(candidate, model), tempfile.TemporaryFile("w+", errors="replace") as output:
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT)
        try:
            while child.poll() is None:
                if _interrupted:
                    raise BuildError(f"building the engine of {model.name} was interrupted")
                time.sleep(_POLL_S)
        finally:
            _end(child)
        if child.returncode:
            output.seek(0)
            lines = [line.strip() for line in output if line.strip()]
            reason = lines[-1] if lines else f"exit status {child.returncode}"
            raise BuildError(f"the engine of {model.name} cannot be built: {reason}")


def _end(child: subprocess.Popen) -> None:
    if child.poll() is not None:
        return
    child.terminate()
    try:
        child.wait(_STOP_S)
    except subprocess.TimeoutExpired:  # a builder inside a kernel search ignores SIGTERM
        child.kill()
        child.wait()


def main(arguments: Sequence[str] | None = None) -> int:
    """Build one engine; return the exit code. If it is not 0, the last printed line is the reason."""
    with suppress(OSError, AttributeError):  # Linux: the builder ends when its parent is killed
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    model, device, precision, gpu_id = sys.argv[1:] if arguments is None else arguments
    try:
        info = OnnxEngine(model, CPU).info
        found = candidates_of(Path(model), device, info, int(gpu_id))
        warm_up(OnnxEngine(model, next(one for one in found if one.precision == precision)))
    except (BundleError, EngineError) as error:
        print(error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
