"""An engine that outlives its device: opened anew when it fails frame after frame, moved to the CPU, or given up.

One failure costs one frame and nothing else. `FAILURES` in a row mean that the device is lost (a GPU that has fallen
off the bus, a CUDA context that was poisoned): the engine is opened anew, at most `max_rebuilds` times and with growing
pauses, then on the CPU where that is allowed. Where "auto" answers a rebuild with the CPU, because the GPU is gone, the
rebuild has failed: only the policy lets the CPU serve. If nothing helps, every later call fails at once with
`DeviceLostError`. A CUDA context that a failed kernel has poisoned can't be rebuilt in the same process, and tearing
its session down may abort it: where the driver reports that, the session is left alone and no rebuild is tried.

All of this happens within `run`, so on the thread that infers, and nobody else waits for it; `interrupt` ends a pause.
The count of rebuilds starts again after `GOOD_FRAMES` answers in a row.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

import numpy as np

from spectradino_core.runtime.bundle import BundleError
from spectradino_core.runtime.engine import Engine, EngineError, RawPredictions, warm_up
from spectradino_core.runtime.gpu import abandon

__all__ = [
    "FAILURES",
    "GOOD_FRAMES",
    "Condition",
    "DeviceLostError",
    "RebuildInterruptedError",
    "RecoveringEngine",
    "RecoveryPolicy",
]

FAILURES = 3
GOOD_FRAMES = 100
_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 30.0
_START_AGAIN = "start the process anew"


class DeviceLostError(EngineError):
    """The engine failed for good; the message says what was tried and what is left to do."""


class RebuildInterruptedError(EngineError):
    """The engine was told to stop while it was being rebuilt."""


class Condition(Enum):
    """How an engine is."""

    GOOD = "good"
    REBUILDING = "being rebuilt"
    ON_CPU = "on the CPU, its device was lost"
    LOST = "lost"


@dataclass(frozen=True)
class RecoveryPolicy:
    """What may be tried: see the module's head. `max_rebuilds` >= 0."""

    max_rebuilds: int = 3
    allow_cpu: bool = True


class RecoveringEngine:
    """An `Engine` around those that it opens. For one thread, but for `condition`, `label`, `interrupt` and `rearm`.

    Attributes:
        info: the model's, from its first opening.
        condition: how it is.
        rebuilds: how often it was opened anew, successfully or not.
        needs_restart: whether it is lost in a way that only a new process can mend.
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
        """
        Args:
            open_on: opens the engine on a device, one of `engine.DEVICES`; called here, and at each rebuild.
            device: the one to open it on.
            policy: asked at each failure, so that it may change.
            report: called with a log line at each step.
            first_pause_s: the pause before the second rebuild; it doubles from one to the next.
            context_problem: why the GPU can't compute in this process any more, empty if it can; asked after repeated
                failure on a GPU.

        Raises:
            BundleError, EngineError: what `open_on` raises at the first opening.
        """
        self._open_on = open_on
        self._device = device
        self._policy = policy
        self._report = report
        self._first_pause_s = first_pause_s
        self._interrupted = threading.Event()
        self._engine: Engine | None = open_on(device)
        self.info = self._engine.info
        self._label, self._on_cpu = self._engine.label, self._engine.on_cpu
        self._streak = 0
        self._good = 0
        self._spent = 0
        self._gave_up = ""
        self._left_device = False
        self._poisoned = ""
        self._context_problem = context_problem
        self.rebuilds = 0
        self.needs_restart = False
        self.condition = Condition.GOOD

    @property
    def label(self) -> str:
        """Runtime and device in words, of the engine in use or last used."""
        engine = self._engine
        # An engine's label may change from frame to frame, see `single_stream`.
        return self._label if engine is None else engine.label

    @property
    def on_cpu(self) -> bool:
        """Whether it is the CPU that infers, or last did."""
        return self._on_cpu

    def run(self, *inputs: np.ndarray) -> RawPredictions:
        """One forward pass, see `Engine.run`.

        Raises:
            DeviceLostError: the engine is given up, now or before.
            RebuildInterruptedError: it was told to stop while it was being rebuilt.
            EngineError: it failed on this frame; call again with the next.
        """
        if self.condition is Condition.LOST:
            raise DeviceLostError(self._gave_up)
        if self._engine is None:
            self._recover("its rebuilding was interrupted")
        assert self._engine is not None
        try:
            result = self._engine.run(*inputs)
        except EngineError as error:
            self._good, self._streak = 0, self._streak + 1
            if self._streak < FAILURES:
                raise
            why = str(error)
        else:
            self._good, self._streak = self._good + 1, 0
            if self._good == GOOD_FRAMES:
                self._spent = 0
            return result
        # Only here, not in the handler: the error's traceback holds the engine and, with it, its memory on the device.
        self._recover(f"failed on {FAILURES} frames in a row: {why}")
        raise EngineError(f"{why} (the engine was opened anew since)")

    def interrupt(self) -> None:
        """Ends a pause between rebuilds; until `rearm`, none is begun. From any thread."""
        self._interrupted.set()

    def rearm(self) -> None:
        """Lets it rebuild, with a full count; to be called while nobody runs it."""
        self._interrupted.clear()
        self._streak = self._good = self._spent = 0

    def _recover(self, why: str) -> None:
        """Opens the engine anew, on the CPU at last.

        Raises:
            DeviceLostError: nothing helped.
            RebuildInterruptedError: `interrupt` was called.
        """
        failed, self._engine = self._engine, None
        self.condition = Condition.REBUILDING
        lost, device = self._label, "cpu" if self._left_device else self._device
        poisoned = self._keep_if_poisoned(failed)
        del failed
        while not poisoned and self._spent < (most := self._policy().max_rebuilds):
            self._pause()
            self._spent += 1
            self._report(f"{lost} {why}; rebuild {self._spent} of {most}")
            why = self._try(device)
            if not why:
                self.condition = Condition.ON_CPU if self._left_device else Condition.GOOD
                self._report(f"rebuilt the engine: {self._label}")
                return
            why = f"could not be rebuilt: {why}"
            poisoned = self._poisoned
        if poisoned:
            why = f"{why}; the GPU computes nothing more in this process ({poisoned})"
        may_leave = self._policy().allow_cpu
        if may_leave and not self._on_cpu:
            problem = self._try("cpu")
            if not problem:
                self.condition, self._left_device, self._spent = Condition.ON_CPU, True, 0
                self._report(
                    f"{lost} {why}; rebuilt {self.rebuilds - 1} times. Going on with {self._label}, which is slower. "
                    f"To try the device again, {_START_AGAIN if poisoned else 'clean up and configure the node, or '}"
                    f"{'' if poisoned else _START_AGAIN}"
                )
                return
            why = f"{why}; nor does the CPU serve: {problem}"
        forbidden = "" if may_leave or self._on_cpu else ", and allow_cpu_fallback is false"
        self.condition = Condition.LOST
        self.needs_restart = bool(poisoned)
        remedy = _START_AGAIN if poisoned else f"configure and activate the node, or {_START_AGAIN}"
        self._gave_up = (
            f"gave up {lost} after {self.rebuilds} rebuilds (max_engine_rebuilds){forbidden}. It {why}. See to the "
            f"device, then {remedy}"
        )
        raise DeviceLostError(self._gave_up)

    def _keep_if_poisoned(self, failed: Engine | None) -> str:
        """Why the GPU can't compute in this process any more; the engine that failed there is then never destroyed."""
        problem = "" if self._on_cpu else self._context_problem()
        if problem and failed is not None:
            abandon(failed)
        return problem

    def _pause(self) -> None:
        """Waits before a rebuild; the first is at once."""
        pause_s = min(self._first_pause_s * 2 ** (self._spent - 1), _LONGEST_PAUSE_S) if self._spent else 0.0
        if self._interrupted.wait(pause_s):
            raise RebuildInterruptedError("the engine's rebuilding was interrupted")

    def _try(self, device: str) -> str:
        """Opens and tries the engine; returns what went wrong, or nothing."""
        self.rebuilds += 1
        self._streak = 0
        engine: Engine | None = None
        try:
            engine = self._open_on(device)
            warm_up(engine)
        except (BundleError, EngineError) as error:  # their texts say what to do
            self._poisoned = "" if device == "cpu" else self._keep_if_poisoned(engine)
            return str(error)
        except Exception as error:  # of a driver, a disk, a library: it must cost a rebuild, not the thread that infers
            return f"{type(error).__name__}: {error}"
        if engine.info != self.info:
            return "the model file holds another model by now"
        if engine.on_cpu and device != "cpu" and not self._on_cpu:
            return f"only the CPU answers (device '{device}')"
        self._engine, self._label, self._on_cpu = engine, engine.label, engine.on_cpu
        return ""
