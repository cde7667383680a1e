"""The lifecycle node: two cameras in, detections, masks and reports out.

Subscribed: `rgb/image_raw`, `ir/image_raw`. Published: `~/detections`, `~/label_info`, `~/segmentation/mask`,
`~/segmentation/label_info`, `~/segmentation/overlay`, `~/frame_report`, `/diagnostics`. Parameters: `parameters.py`.

Two threads. The executor's takes messages, decodes and pairs them, and lays the newest pair into a slot; the worker's
takes pairs from there, runs the pipeline and publishes. A pair that finds the slot full replaces the older one.

    python -m spectradino_ros.detector_node --ros-args --params-file config/lwir_detector.yaml
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Sequence
from time import perf_counter

from diagnostic_msgs.msg import DiagnosticArray
from rcl_interfaces.msg import SetParametersResult
from rclpy.clock import Clock, ClockType
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter

from spectradino_core.runtime.bundle import BundleError
from spectradino_core.runtime.engines import EngineError
from spectradino_core.runtime.pipeline import Pipeline
from spectradino_ros.answering import Answerer
from spectradino_ros.frames import Capture
from spectradino_ros.health import Health
from spectradino_ros.intake import Intake
from spectradino_ros.model_path import resolve_model
from spectradino_ros.notices import Notices
from spectradino_ros.outputs import Outputs
from spectradino_ros.parameters import ParameterError, Settings, When, check, declare, parameter, unknown_overrides
from spectradino_ros.process import run
from spectradino_ros.worker import NewestOnlyWorker

__all__ = ["NODE_NAME", "DetectorNode", "main"]

NODE_NAME = "detector_node"
_WATCH_S = 0.5
_DIAGNOSTICS_S = 1.0


class DetectorNode(LifecycleNode):
    """See the module's head. Raises `ParameterError` when a parameter given at start is refused."""

    def __init__(self) -> None:
        super().__init__(NODE_NAME)
        self.settings = declare(self)
        for complaint in unknown_overrides(list(getattr(self, "_parameter_overrides", {}))):
            self.get_logger().warning(complaint)
        self.add_on_set_parameters_callback(self._on_set_parameters)
        self._notices = Notices(self.get_logger(), self.settings.warning_period_s)
        self._health = Health()
        self._pipeline: Pipeline | None = None
        self._outputs: Outputs | None = None
        self._worker: NewestOnlyWorker[Capture] | None = None
        self._intake: Intake | None = None
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        # Neither warnings nor diagnostics may stop when simulated time does.
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(_WATCH_S, self._watch, clock=steady)
        self.create_timer(_DIAGNOSTICS_S, self._publish_diagnostics, clock=steady)

    @property
    def autostart(self) -> bool:
        return self.settings.autostart

    # ---- transitions ---------------------------------------------------------------------------------------------

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Opens the model and makes the output topics."""
        return self._transition("configure", self._configure, super().on_configure, state)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Starts the worker and subscribes to the cameras."""
        return self._transition("activate", self._activate, super().on_activate, state, after=self._publish_labels)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Unsubscribes and stops the worker."""
        return self._transition("deactivate", self._deactivate, super().on_deactivate, state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Lets go of the model and takes the output topics away."""
        return self._transition("clean up", self.release, super().on_cleanup, state)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """As deactivate and clean up."""
        return self._transition("shut down", self.release, super().on_shutdown, state)

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Back to the unconfigured state."""
        return self._transition("recover", self.release, super().on_error, state)

    def _transition(
        self,
        name: str,
        do: Callable[[], None],
        entities: Callable[[LifecycleState], TransitionCallbackReturn],
        state: LifecycleState,
        after: Callable[[], None] | None = None,
    ) -> TransitionCallbackReturn:
        """Runs a transition; rclpy would swallow an exception without a word."""
        try:
            do()
            result = entities(state)
            if after is not None:
                after()
            return result
        except (BundleError, EngineError, ParameterError) as error:  # their texts say what to do
            self.get_logger().error(f"cannot {name}: {error}")
        except Exception as error:
            self.get_logger().error(f"cannot {name}: {type(error).__name__}: {error}\n{traceback.format_exc()}")
        return TransitionCallbackReturn.FAILURE

    def _configure(self) -> None:
        settings = self.settings
        path = resolve_model(settings.model)
        start = perf_counter()
        pipeline = Pipeline.open(path, device=settings.device, threads=settings.threads)
        opened = perf_counter()
        warm_up_ms = pipeline.warm_up()
        info = pipeline.info
        self.get_logger().info(
            f"model {info.name} ({info.bands[0].key} + {info.infrared.key}, boxes: {', '.join(info.box_classes)}; "
            f"mask: {', '.join(info.mask_classes) or 'none'}) from {path} on {pipeline.engine.label}, input "
            f"{info.input_size[0]}x{info.input_size[1]}: opened in {opened - start:.1f} s, "
            f"first pass {warm_up_ms:.0f} ms"
        )
        self._outputs = Outputs(self, info)
        self._pipeline = pipeline

    def _activate(self) -> None:
        pipeline, outputs, settings = self._pipeline, self._outputs, self.settings
        assert pipeline is not None
        assert outputs is not None
        pipeline.reset()
        self._health.reset()
        self._notices.forget()
        answerer = Answerer(self, pipeline, outputs, lambda: self.settings, self._drops, self._health, self._notices)
        self._worker = NewestOnlyWorker(answerer.answer, answerer.failed)
        self._intake = Intake(self, settings, self._health, self._notices, self._worker.submit)
        topics = " and ".join(camera.topic for camera in self._intake.cameras.values())
        self.get_logger().info(f"active: pairs from {topics}, at most {settings.sync_slop_ms:g} ms apart")

    def _publish_labels(self) -> None:
        if self._outputs is not None and self._pipeline is not None:
            self._outputs.publish_labels(self.settings.threshold_of(self._pipeline.info))

    def _deactivate(self) -> None:
        intake, self._intake = self._intake, None
        if intake is not None:
            intake.destroy()
        worker, self._worker = self._worker, None
        if worker is not None and not worker.stop():
            self.get_logger().warning("inference still runs 10 s after deactivation: its result will be thrown away")

    def release(self) -> None:
        """Ends everything that a configured or active node holds. May be called in any state, repeatedly."""
        self._deactivate()
        outputs, self._outputs = self._outputs, None
        if outputs is not None:
            outputs.destroy()
        self._pipeline = None

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
                        f"parameter '{change.name}' takes effect when the node is configured: clean it up first, "
                        f"as with 'ros2 lifecycle set {self.get_fully_qualified_name()} cleanup'"
                    )
        except ParameterError as error:
            return SetParametersResult(successful=False, reason=str(error))
        self._apply(self.settings.with_(**values))
        return SetParametersResult(successful=True)

    def _apply(self, settings: Settings) -> None:
        before, self.settings = self.settings, settings
        self._notices.period_s = settings.warning_period_s
        if self._intake is not None:
            self._intake.apply(settings)
            if settings.score_threshold != before.score_threshold:
                self._publish_labels()

    # ---- timers --------------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        if self._intake is not None:
            self._intake.watch()

    def _publish_diagnostics(self) -> None:
        pipeline, intake = self._pipeline, self._intake
        state = "active" if intake is not None else "inactive" if pipeline is not None else "unconfigured"
        facts = {}
        if pipeline is not None:
            facts = {"model": pipeline.info.name, "engine": pipeline.engine.label}
        if intake is not None:
            facts["mode"] = intake.mode.value
            if intake.median_offset_ms is not None:
                facts["ir stamp minus rgb stamp, median [ms]"] = f"{intake.median_offset_ms:.2f}"
        message = self._health.diagnostics(
            name=f"{self.get_name()}: detector",
            node=self.get_fully_qualified_name(),
            state=state,
            facts=facts,
            inputs={} if intake is None else {key: camera.topic for key, camera in intake.cameras.items()},
            drops=self._drops(),
            timeout_s=self.settings.no_message_timeout_s,
        )
        message.header.stamp = self.get_clock().now().to_msg()
        self._diagnostics.publish(message)

    def _drops(self) -> dict[str, int]:
        """All drops of this activation by cause. May be called from any thread."""
        intake, drops = self._intake, self._health.drops()
        for cause, count in ({} if intake is None else intake.drops()).items():
            drops[cause] = drops.get(cause, 0) + count
        return drops


def main(args: Sequence[str] | None = None) -> int:
    """Runs the node until SIGINT or SIGTERM. Returns the exit code: 1 when it could not start."""
    return run(DetectorNode, args)


if __name__ == "__main__":
    sys.exit(main())
