"""Build TensorRT engines in a child process, so that minutes of building block no signal and a crash is contained.

    python -m spectradino_core.runtime.engine_build MODEL DEVICE PRECISION GPU_ID

builds the engine of one candidate in its cache folder, from which the parent opens it in seconds.
"""

from __future__ import annotations

import ctypes
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from spectradino_core.runtime.bundle import BundleError
from spectradino_core.runtime.engine import EngineError, warm_up
from spectradino_core.runtime.onnx_engine import OnnxEngine, candidates_of
from spectradino_core.runtime.providers import CPU, EngineCandidate, UnavailableError, engine_cache

__all__ = ["BuildError", "build", "interrupt_builds"]

_POLL_S = 0.1
_STOP_S = 5.0
_PARENT_DEATH_SIGNAL = 1
"""Number of PR_SET_PDEATHSIG."""

_interrupted = False


class BuildError(RuntimeError):
    """The engine was not built; the message names the reason."""


def interrupt_builds() -> None:
    """Stop running and future builds at process exit. May be called from a signal handler."""
    global _interrupted  # not an Event: the interrupted thread itself could hold its lock
    _interrupted = True


def build(model: Path, candidate: EngineCandidate, gpu_id: int = 0, command: Sequence[str] | None = None) -> None:
    """Build a candidate's engine unless it is in the cache.

    Args:
        model: the model file.
        candidate: a TensorRT candidate.
        gpu_id: which GPU.
        command: build command, for tests; None: this module.

    Raises:
        BuildError: the child failed, or was interrupted.
        UnavailableError: the cache folder cannot be written.
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
            why = lines[-1] if lines else f"exit status {child.returncode}"
            raise BuildError(f"the engine of {model.name} cannot be built: {why}")


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
        ctypes.CDLL(None).prctl(_PARENT_DEATH_SIGNAL, signal.SIGTERM)
    model, device, precision, gpu_id = sys.argv[1:] if arguments is None else arguments
    try:
        info = OnnxEngine(model, CPU).info
        found = candidates_of(Path(model), device, info, int(gpu_id))
        warm_up(OnnxEngine(model, next(one for one in found if one.precision == precision)))
    except (BundleError, EngineError, UnavailableError) as error:
        print(error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
