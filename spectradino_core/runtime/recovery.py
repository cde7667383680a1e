"""Recovery from device failures: reopen a failing engine, move it to the CPU, or give up.

A single failure costs one frame. `FAILURES` in a row mean that the device is lost (a GPU that has fallen off the bus, a
poisoned CUDA context): the engine is reopened at most `max_rebuilds` times with growing pauses, then on the CPU if that
is allowed. If "auto" opens an engine on the CPU (ONNX Runtime, OpenVINO) because the GPU is gone, the rebuild counts as
failed: only the policy allows the CPU. If nothing helps, every later call fails immediately with `DeviceLostError`. A
CUDA context poisoned by a failed kernel cannot be rebuilt in the same process, and destroying its session may abort the
process: if the driver reports that, the session is kept and no rebuild is tried.

All of this happens in `run`, on the inference thread; `interrupt` ends a pause. The count of rebuilds is reset after
`GOOD_FRAMES` results in a row.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

import numpy as np

from spectradino_core.runtime.bundle import BundleError
from spectradino_core.runtime.engine import Engine, EngineError, RawPredictions, computes_on_cpu, warm_up
from spectradino_core.runtime.gpu import abandon

FAILURES = 3
GOOD_FRAMES = 100
_FIRST_PAUSE_S = 0.5
_MAX_PAUSE_S = 30.0
_RESTART = "restart the process"


class DeviceLostError(EngineError):
    """The engine failed permanently; the message names what was tried and the remedy."""


class RebuildInterruptedError(EngineError):
    """The engine was interrupted while it was being rebuilt."""


class Condition(Enum):
    """Condition of an engine."""

    GOOD = "good"
    REBUILDING = "being rebuilt"
    ON_CPU = "on the CPU, its device was lost"
    LOST = "lost"


@dataclass(frozen=True)
class RecoveryPolicy:
    """Allowed recovery steps; `max_rebuilds` >= 0."""

    max_rebuilds: int = 3
    allow_cpu: bool = True


class RecoveringEngine:
    """`Engine` that reopens its underlying engine. Thread-safe are `condition`, `label`, `interrupt` and `rearm` only.

    Attributes:
        info: the model's description, from the first opening.
        condition: condition of the engine.
        rebuilds: number of attempts to reopen it, successful or not.
        needs_restart: whether only a new process can recover it.
    """

    def __init__(
        self,
        open_on: Callable[[str], Engine],
        device: str,
        policy: Callable[[], RecoveryPolicy] = RecoveryPolicy,
        report: Callable[[str], None] = lambda text: None,
        first_pause_s: float = _FIRST_PAUSE_S,
        context_problem: Callable[[], str] = lambda: "",
    ) -> None:
        """Open the engine on a device; raises what `open_on` raises.

        Args:
            open_on, device: opens the engine on a device, one of `engine.DEVICES`; also called at each rebuild.
            policy: called at each failure, so that it may change.
            report: called with a log line at each step.
            first_pause_s: pause before the second rebuild; doubles with each further one.
            context_problem: why the GPU cannot compute in this process any more, empty if it can; called after repeated
                failure on a GPU.
        """
        self._open_on, self._device = open_on, device
        self._policy, self._report = policy, report
        self._first_pause_s, self._context_problem = first_pause_s, context_problem
        self._interrupted = threading.Event()
        engine = open_on(device)
        self.info = engine.info
        self._use(engine)
        self._failures_in_a_row = self._good_frames = self._rebuilds_used = 0
        self._final_error = self._poisoned = ""
        self._is_on_fallback = False
        self.rebuilds = 0
        self.needs_restart = False
        self.condition = Condition.GOOD

    def _use(self, engine: Engine) -> None:
        self._engine: Engine | None = engine
        self._label, self._on_cpu, self._computes_on_cpu = engine.label, engine.on_cpu, computes_on_cpu(engine)

    @property
    def label(self) -> str:
        """Name of runtime and device of the engine in use or last used."""
        engine = self._engine
        # An engine's label may change from frame to frame, see `companions`.
        return self._label if engine is None else engine.label

    @property
    def on_cpu(self) -> bool:
        """See `Engine`; of the engine in use or last used."""
        return self._on_cpu

    def run(self, *inputs: np.ndarray) -> RawPredictions:
        """Run one forward pass, see `Engine.run`.

        Raises:
            DeviceLostError, RebuildInterruptedError: the engine is lost; `interrupt` was called during a rebuild.
            EngineError: inference failed on this frame; call again with the next.
        """
        if self.condition is Condition.LOST:
            raise DeviceLostError(self._final_error)
        if self._engine is None:
            self._recover("was interrupted while being rebuilt")
        assert self._engine is not None
        try:
            result = self._engine.run(*inputs)
        except EngineError as error:
            self._good_frames, self._failures_in_a_row = 0, self._failures_in_a_row + 1
            if self._failures_in_a_row < FAILURES:
                raise
            reason = str(error)
        else:
            self._good_frames, self._failures_in_a_row = self._good_frames + 1, 0
            if self._good_frames == GOOD_FRAMES:
                self._rebuilds_used = 0
            return result
        # Not inside the handler: the error's traceback references the engine and thereby its device memory.
        self._recover(f"failed on {FAILURES} frames in a row: {reason}")
        raise EngineError(f"{reason} (the engine has been reopened since)")

    def interrupt(self) -> None:
        """End a pause between rebuilds and start none until `rearm`. May be called from any thread."""
        self._interrupted.set()

    def rearm(self) -> None:
        """Allow rebuilds again, with a full count; call only while `run` is not active."""
        self._interrupted.clear()
        self._failures_in_a_row = self._good_frames = self._rebuilds_used = 0

    def _recover(self, reason: str) -> None:
        """Reopen the engine, on the CPU as a last resort; raises as `run`."""
        failed, self._engine = self._engine, None
        self.condition = Condition.REBUILDING
        lost, device = self._label, "cpu" if self._is_on_fallback else self._device
        poisoned = self._keep_if_poisoned(failed)
        del failed
        while not poisoned and self._rebuilds_used < (max_rebuilds := self._policy().max_rebuilds):
            self._pause()
            self._rebuilds_used += 1
            self._report(f"{lost} {reason}; rebuild {self._rebuilds_used} of {max_rebuilds}")
            reason = self._try(device)
            if not reason:
                self.condition = Condition.ON_CPU if self._is_on_fallback else Condition.GOOD
                self._report(f"rebuilt the engine: {self._label}")
                return
            reason = f"cannot be rebuilt: {reason}"
            poisoned = self._poisoned
        if poisoned:
            reason = f"{reason}; the GPU is unusable in this process ({poisoned})"
        may_fall_back = self._policy().allow_cpu
        if may_fall_back and not self._on_cpu:
            problem = self._try("cpu")
            if not problem:
                self.condition, self._is_on_fallback, self._rebuilds_used = Condition.ON_CPU, True, 0
                self._report(
                    f"{lost} {reason}; rebuilt {self.rebuilds - 1} times. Continuing on {self._label}, which is "
                    f"slower. To retry the device, {_RESTART if poisoned else 'clean up and configure the node, or '}"
                    f"{'' if poisoned else _RESTART}"
                )
                return
            reason = f"{reason}; the CPU is not usable either: {problem}"
        fallback_note = "" if may_fall_back or self._on_cpu else ", and allow_cpu_fallback is false"
        self.condition = Condition.LOST
        self.needs_restart = bool(poisoned)
        remedy = _RESTART if poisoned else f"configure and activate the node, or {_RESTART}"
        self._final_error = (
            f"gave up {lost} after {self.rebuilds} rebuilds (max_engine_rebuilds){fallback_note}. It {reason}. Check "
            f"the device, then {remedy}"
        )
        raise DeviceLostError(self._final_error)

    def _keep_if_poisoned(self, failed: Engine | None) -> str:
        """Why the GPU cannot compute in this process any more; if so, the failed engine is never destroyed."""
        without_cuda = self._on_cpu or self._label.startswith("OpenVINO")
        problem = "" if without_cuda else self._context_problem()
        if problem and failed is not None:
            abandon(failed)
        return problem

    def _pause(self) -> None:
        """Wait before a rebuild, except the first."""
        pause_s = (
            min(self._first_pause_s * 2 ** (self._rebuilds_used - 1), _MAX_PAUSE_S) if self._rebuilds_used else 0.0
        )
        if self._interrupted.wait(pause_s):
            raise RebuildInterruptedError("the rebuild of the engine was interrupted")

    def _try(self, device: str) -> str:
        """Open and test the engine; return the problem, or "" on success."""
        self.rebuilds += 1
        self._failures_in_a_row = 0
        engine: Engine | None = None
        try:
            engine = self._open_on(device)
            warm_up(engine)
        except (BundleError, EngineError) as error:  # their messages contain the remedy
            self._poisoned = "" if device == "cpu" else self._keep_if_poisoned(engine)
            return str(error)
        except Exception as error:  # of a driver, a disk, a library: a failed rebuild must not end the inference thread
            return f"{type(error).__name__}: {error}"
        if engine.info != self.info:
            return "the model file has been replaced by another model"
        if computes_on_cpu(engine) and device != "cpu" and not self._computes_on_cpu:
            return f"device '{device}' opened on the CPU only"
        self._use(engine)
        return ""
