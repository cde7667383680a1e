"""Lifecycle node: RGB and IR images in; detections, masks and frame reports out.

Topics: `spectradino_core/streams/topics.py`. Parameters: `spectradino_core/streams/settings.py`. Both are listed in
`docs/node.md`.

Two threads: the executor's thread receives, checks and pairs messages and queues the newest pair; the worker's thread
decodes that pair, runs the pipeline and publishes. A new pair replaces one that still waits.

An engine that fails on several frames in a row is reopened, or moved to the CPU, on the worker's thread
(`runtime.recovery`). If it can't be recovered, the node goes through error processing to the unconfigured state.

    python -m spectradino_ros.detector_node --ros-args --params-file config/detector.yaml
"""

from __future__ import annotations

import gc
import os
import sys
from collections import Counter
from collections.abc import Sequence
from functools import partial
from time import perf_counter

import cv2
import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from rcl_interfaces.msg import SetParametersResult
from rclpy.clock import Clock, ClockType
from rclpy.lifecycle import LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter

from spectradino_core.calibration.registration import RegistrationError
from spectradino_core.runtime.bundle import BundleError
from spectradino_core.runtime.companions import CompanionEngine
from spectradino_core.runtime.engine import EngineError
from spectradino_core.runtime.engines import open_engine
from spectradino_core.runtime.gpu import context_problem, leave_process
from spectradino_core.runtime.perception_result import Mode
from spectradino_core.runtime.pipeline import Pipeline
from spectradino_core.runtime.recovery import Condition, RecoveringEngine, RecoveryPolicy
from spectradino_core.streams.detecting import pipeline_of
from spectradino_core.streams.feed import Capture
from spectradino_core.streams.frames import CameraFrame
from spectradino_core.streams.parameter_values import check
from spectradino_core.streams.registering import Registering
from spectradino_core.streams.result_fields import DISABLED
from spectradino_core.streams.settings import ParameterError, Settings, When, parameter
from spectradino_core.streams.topics import IMAGES, OUTPUTS
from spectradino_core.thermal import ThermalError
from spectradino_ros import diagnosing
from spectradino_ros.cameras import camera_topic, warn_of_one_camera
from spectradino_ros.health import Health
from spectradino_ros.intake import Intake, tf_message_type
from spectradino_ros.managed import ManagedNode
from spectradino_ros.notices import CoreWarnings, Notices
from spectradino_ros.outputs import Outputs
from spectradino_ros.parameters import declare, idle_overrides, unknown_overrides
from spectradino_ros.process import run
from spectradino_ros.processing import CaptureProcessor
from spectradino_ros.shared_files import resolve_model
from spectradino_ros.worker import NewestOnlyWorker

NODE_NAME = "detector_node"
_WATCH_S = 0.5
_DIAGNOSTICS_S = 1.0
_RELEASE_TIMEOUT_S = 0.004
"""Maximum time for which the executor's thread leaves the interpreter to the worker's."""
_PERIODS_WITHOUT_RESULT = 3.0
"""Periods of `max_rate_hz` without a result before it is reported."""
_KEPT_BYTES = 16 << 20
"""More than a message of a 5-megapixel camera. glibc may keep up to twice as much memory unused."""


class DetectorNode(ManagedNode):
    """Lifecycle node that pairs RGB and IR images and publishes what the model detects.

    Raises:
        ParameterError: a parameter given at start is invalid.
    """

    expected_errors = (BundleError, EngineError, ParameterError, RegistrationError, ThermalError)

    def __init__(self) -> None:
        super().__init__(NODE_NAME)
        self.settings = declare(self)
        for complaint in unknown_overrides(list(getattr(self, "_parameter_overrides", {}))):
            self.get_logger().warning(complaint)
        self.add_on_set_parameters_callback(self._on_set_parameters)
        self._notices = Notices(self.get_logger(), self.settings.warning_period_s)
        self._health = Health()
        self._engine: RecoveringEngine | None = None
        self._registering: Registering | None = None
        self._pipeline: Pipeline | None = None
        self._outputs: Outputs | None = None
        self._worker: NewestOnlyWorker[Capture[CameraFrame]] | None = None
        self._processor: CaptureProcessor | None = None
        self._intake: Intake | None = None
        self._stopping: NewestOnlyWorker[Capture[CameraFrame]] | None = None
        self._lost = ""
        self._diagnostics = self.create_publisher(DiagnosticArray, OUTPUTS["diagnostics"].name, 10)
        # On a steady clock: warnings and diagnostics continue while simulated time stands still.
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(_WATCH_S, self._guarded("watch the cameras", self._watch), clock=steady)
        self.create_timer(_DIAGNOSTICS_S, self._guarded("publish diagnostics", self._publish_diagnostics), clock=steady)
        self.guard_services()
        self._core_warnings = CoreWarnings(self.get_logger())

    @property
    def autostart(self) -> bool:
        return self.settings.autostart

    # ---- transitions ---------------------------------------------------------------------------------------------

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Open the model and create the publishers."""
        return self._transition("configure", self._configure, super().on_configure, state)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Start the worker and subscribe to the cameras."""
        result = self._transition("activate", self._activate, super().on_activate, state, after=self._publish_latched)
        if result is not TransitionCallbackReturn.SUCCESS:
            self._deactivate()  # undo a partial activation
        return result

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Unsubscribe and stop the worker; returns ERROR if the engine is lost, see `on_error`."""
        result = self._transition("deactivate", self._deactivate, super().on_deactivate, state)
        if not self._lost:
            return result
        self.get_logger().error(f"{self._lost}. The node goes to the unconfigured state")
        return TransitionCallbackReturn.ERROR

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Release the model and destroy the publishers."""
        return self._transition("clean up", self.release, super().on_cleanup, state)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Deactivate and clean up."""
        return self._transition("shut down", self.release, super().on_shutdown, state)

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Release everything, which leads to the unconfigured state."""
        return self._transition("recover", self.release, super().on_error, state)

    def _configure(self) -> None:
        settings = self.settings
        registering = Registering(settings)
        if registering.from_tf:
            tf_message_type()  # fails now, not at the activation
        path, threads = resolve_model(settings.model, settings.infrared_band), settings.threads
        warn = self.get_logger().warning
        start = perf_counter()
        open_here = partial(open_engine, gpu_id=settings.gpu_id, auto_openvino=True)
        engine = RecoveringEngine(
            lambda device: CompanionEngine(open_here(path, device, threads), path, device, threads, warn, open_here),
            settings.device,
            lambda: RecoveryPolicy(self.settings.max_engine_rebuilds, self.settings.allow_cpu_fallback),
            warn,
            context_problem=lambda: context_problem(gpu_id=settings.gpu_id),
        )
        pipeline = pipeline_of(engine, settings, path)
        opened = perf_counter()
        warm_up_ms = pipeline.warm_up()
        info = pipeline.info
        self.get_logger().info(
            f"model {info.name} ({info.bands[0].key} + {info.infrared.key}, boxes: {', '.join(info.box_classes)}; "
            f"mask: {', '.join(info.mask_classes) or 'none'}) from {path} on {pipeline.engine.label}, input "
            f"{info.input_size[0]}x{info.input_size[1]}: opened in {opened - start:.1f} s, "
            f"first inference {warm_up_ms:.0f} ms"
        )
        scale = settings.temperature_scale
        temperatures = "" if scale is None else f"; temperatures: {scale.describe()}"
        self.get_logger().info(
            f"thermal: {pipeline.thermal.describe()}{temperatures}; registration: {registering.describe()}"
        )
        for name in registering.without_effect:
            self.get_logger().warning(f"parameter '{name}' has no effect without registration_from_camera_info")
        self._outputs = Outputs(self, info, temperatures=scale is not None)
        self._pipeline, self._engine, self._registering, self._lost = pipeline, engine, registering, ""
        _tune_memory()

    def _activate(self) -> None:
        pipeline, engine, outputs, settings = self._pipeline, self._engine, self._outputs, self.settings
        registering = self._registering
        assert pipeline is not None
        assert engine is not None
        assert outputs is not None
        assert registering is not None
        if self._stopping is not None and not self._stopping.stop(0.0):
            raise EngineError("inference from before the deactivation still runs: activate again after it has ended")
        self._stopping = None
        engine.rearm()
        pipeline.reset()
        self._health.reset()
        self._notices.forget()
        health, notices = self._health, self._notices
        self._processor = processor = CaptureProcessor(
            self, pipeline, outputs, lambda: self.settings, self._drops, health, notices, registering, self._on_lost
        )
        self._worker = NewestOnlyWorker(processor.process, processor.failed)
        pipeline.on_prepared = self._worker.release_waiters
        self._update_subscriptions()
        topics = " and ".join(camera_topic(self, name, settings.transport_of(key)) for key, name in IMAGES.items())
        warn_of_one_camera(self)
        idle = "" if self._intake is not None else ", once an output topic has a subscriber (lazy_subscription)"
        slop = f", at most {settings.sync_slop_ms:g} ms apart" if settings.sync_slop_ms else ""
        self.get_logger().info(f"active: pairs from {topics}{slop}, pairing {settings.pairing}{idle}")

    def _update_subscriptions(self) -> None:
        """Subscribe to the cameras; with lazy_subscription only while an output topic has a subscriber."""
        outputs, intake, registering = self._outputs, self._intake, self._registering
        assert outputs is not None
        assert registering is not None
        wanted = not self.settings.lazy_subscription or outputs.has_subscriber
        if wanted and intake is None:
            self._intake = Intake(
                self, self.settings, self._health, self._notices, self._submit, registering, self._publish_mode
            )
            self._publish_mode()
            given, declared = (getattr(self, name, {}) for name in ("_parameter_overrides", "_parameters"))
            for complaint in idle_overrides(given, declared):
                self._notices.warn(complaint, complaint, counted=False)
        elif not wanted and intake is not None:
            self._intake = None
            intake.destroy()
            self._publish_mode()
            for cause, count in intake.drops().items():  # drops are counted since activation
                self._health.dropped(cause, count)

    def _submit(self, *captures: Capture[CameraFrame]) -> list[Capture[CameraFrame]]:
        """Queue captures for the worker; returns those that are dropped for newer ones."""
        worker, processor, engine = self._worker, self._processor, self._engine
        if worker is None or processor is None:
            return []
        dropped = worker.submit(*captures)
        if any(capture.after_jump for capture in dropped):
            processor.note_jump()
        worker.wait_for_release(_RELEASE_TIMEOUT_S)
        if dropped and engine is not None and engine.condition is Condition.REBUILDING:
            self._health.dropped("engine_rebuilding", len(dropped))
            return []
        return dropped

    def _on_lost(self, reason: str) -> None:
        """Note on the worker's thread that the engine was given up; `_watch` then deactivates the node."""
        self._lost = reason

    def _publish_labels(self) -> None:
        if self._outputs is not None and self._pipeline is not None:
            self._outputs.publish_labels(self.settings.threshold_of(self._pipeline.info))

    def _publish_mode(self, mode: Mode | None = None) -> None:
        """Publish a mode; None: the current one, which is stale while the cameras are not subscribed to."""
        if self._outputs is None or not self.context.ok():
            return
        if mode is None:
            mode = Mode.STALE if self._intake is None else self._intake.feed.modes.mode
        self._outputs.publish_mode(mode.value if self.settings.enabled else DISABLED)

    def _publish_latched(self) -> None:
        self._publish_labels()
        self._publish_mode()

    def _deactivate(self) -> None:
        intake, self._intake = self._intake, None
        if intake is not None:
            intake.destroy()
        self._publish_mode()
        worker, self._worker = self._worker, None
        if self._engine is not None:
            self._engine.interrupt()
        if worker is not None and not worker.stop():
            self._stopping = worker
            self.get_logger().warning("inference still runs 10 s after deactivation: its result will be discarded")

    def release(self) -> None:
        """Release all resources; may be called in any state and repeatedly."""
        self._deactivate()
        outputs, self._outputs = self._outputs, None
        if outputs is not None:
            outputs.destroy()
        self._pipeline = self._engine = self._registering = None

    def destroy_node(self) -> None:
        """See `Node`; also stops passing on core's warnings."""
        self._core_warnings.close()
        super().destroy_node()

    # ---- parameters ----------------------------------------------------------------------------------------------

    def _on_set_parameters(self, changes: list[Parameter]) -> SetParametersResult:
        try:
            values = {}
            for change in changes:
                if change.name.startswith("qos_overrides.") or change.name == "use_sim_time":
                    continue
                values[change.name] = check(change.name, change.value)
                if parameter(change.name).when is When.CONFIGURE and self._pipeline is not None:
                    raise ParameterError(
                        f"parameter '{change.name}' can't change while the node is {self.state}, because it takes "
                        f"effect when the node is configured: first run '{self.commands_to_clean_up}'"
                    )
            settings = self.settings.with_(**values)
            if self._pipeline is not None:
                settings.check_classes(self._pipeline.info)
        except ParameterError as error:
            return SetParametersResult(successful=False, reason=str(error))
        self._apply(settings)
        return SetParametersResult(successful=True)

    def _apply(self, settings: Settings) -> None:
        before, self.settings = self.settings, settings
        self._notices.period_s = settings.warning_period_s
        if self._intake is not None:
            self._intake.apply(settings)
        if self._worker is not None and settings.enabled is not before.enabled:
            self._health.resumed()
            self._publish_mode()
            self.get_logger().info(f"inference {'enabled' if settings.enabled else 'disabled'} (parameter 'enabled')")
        filters = ("score_threshold", "classes", "class_thresholds")
        if self._worker is not None and any(getattr(settings, name) != getattr(before, name) for name in filters):
            self._publish_labels()

    # ---- timers --------------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        if self._worker is None:
            return
        if self._lost:
            self.exit_code = 1 if self._engine is not None and self._engine.needs_restart else 0
            self.trigger_deactivate()
            return
        self._update_subscriptions()
        if self._intake is not None:
            self._intake.watch()
            settings = self.settings
            period_s = 1.0 / settings.max_rate_hz if settings.max_rate_hz else 0.0
            timeout_s = max(settings.no_message_timeout_s, _PERIODS_WITHOUT_RESULT * period_s)
            text = diagnosing.describe_silence(self._health, self._intake, self._drops(), timeout_s)
            if text and settings.enabled:
                self._notices.warn("no result", text, counted=False)

    def _publish_diagnostics(self) -> None:
        pipeline, engine, intake = self._pipeline, self._engine, self._intake
        state = "active" if intake is not None else "inactive" if pipeline is not None else "unconfigured"
        if intake is None and self._worker is not None:
            state = "active, nobody listens"
        facts = {}
        if pipeline is not None and engine is not None and self._registering is not None:
            facts = diagnosing.model_facts(self.settings, pipeline, engine, self._registering)
        if intake is not None:
            facts |= diagnosing.intake_facts(intake)
        is_disabled = self._worker is not None and not self.settings.enabled
        if is_disabled:
            state = f"active, {DISABLED}"
            facts |= {"mode": DISABLED, "mode reason": "parameter 'enabled' is false"}
        seen = None if is_disabled else intake
        message = self._health.diagnostics(
            name=f"{self.get_name()}: detector",
            node=self.get_fully_qualified_name(),
            state=state,
            facts=facts,
            inputs={} if intake is None else {key: camera.topic for key, camera in intake.cameras.items()},
            drops=self._drops(),
            timeout_s=self.settings.no_message_timeout_s,
            problems=diagnosing.problems(engine, self._registering, seen, self._health, self._lost),
        )
        message.header.stamp = self.get_clock().now().to_msg()
        self._diagnostics.publish(message)

    def _drops(self) -> dict[str, int]:
        """Number of frames dropped in this activation, by cause; thread-safe."""
        intake, drops = self._intake, Counter(self._health.drops())
        drops.update({} if intake is None else intake.drops())
        return drops


def _tune_memory() -> None:
    """Exclude long-lived objects from garbage collection, and have glibc keep freed image buffers.

    A full collection took 20 to 60 ms. Freeing one large block raises glibc's mmap threshold, so buffers freed by one
    frame are reused by the next instead of being returned to the kernel and zeroed again, which added 1.3 to 2 ms of
    latency at 640x512.
    """
    gc.unfreeze()
    gc.collect()
    gc.freeze()
    block = np.empty(_KEPT_BYTES, np.uint8)
    del block


def main(args: Sequence[str] | None = None) -> int:
    """Run the node until SIGINT or SIGTERM; returns the exit code, 1 if it could not start."""
    if "OPENCV_FOR_THREADS_NUM" not in os.environ:
        # Resizing one frame takes less time than waking OpenCV's threads, which also compete with the middleware.
        cv2.setNumThreads(1)
    code = run(DetectorNode, args)
    leave_process(code)
    return code


if __name__ == "__main__":
    from spectradino_ros.entry import main as enter

    sys.exit(enter())
