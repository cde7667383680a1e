"""Inference on captures and publication of the results, on the worker thread."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from time import perf_counter
from typing import Any

from rclpy.lifecycle import LifecycleNode
from std_msgs.msg import Header

from spectradino_core.calibration.registration import RegistrationError
from spectradino_core.runtime.perception_result import Mode, PerceptionResult
from spectradino_core.runtime.pipeline import Pipeline
from spectradino_core.runtime.preprocess import FrameError
from spectradino_core.runtime.recovery import DeviceLostError, RebuildInterruptedError
from spectradino_core.streams.clocks import is_uptime
from spectradino_core.streams.decode import DecodeError
from spectradino_core.streams.detecting import (
    UnreadableError,
    different_shapes,
    drop_cause,
    find,
    modes_alone,
    no_temperatures,
    own_pixels,
    unpack,
)
from spectradino_core.streams.feed import Capture
from spectradino_core.streams.frames import CameraFrame
from spectradino_core.streams.registering import Registering
from spectradino_core.streams.result_fields import Facts
from spectradino_core.streams.settings import Settings
from spectradino_core.streams.topics import IMAGES
from spectradino_core.thermal import NoValidPixelError, ThermalError
from spectradino_ros.cameras import camera_topic, stamp_ns
from spectradino_ros.health import Health
from spectradino_ros.notices import Notices
from spectradino_ros.outputs import Outputs

_CLOCK_TOLERANCE_S = 10.0
"""Stamps that differ from the node's clock by more come from another clock, not from late frames."""


class CaptureProcessor:
    """Run the pipeline on one capture at a time and publish its results; not thread-safe."""

    def __init__(
        self,
        node: LifecycleNode,
        pipeline: Pipeline,
        outputs: Outputs,
        settings: Callable[[], Settings],
        drops: Callable[[], dict[str, int]],
        health: Health,
        notices: Notices,
        registering: Registering,
        lost: Callable[[str], None],
    ) -> None:
        """
        Args:
            node: gives the clock and resolves topic names.
            pipeline, outputs: run inference and publish its results.
            settings: returns the current parameters.
            drops: returns the number of frames dropped since activation, by cause.
            health, notices: count and log.
            registering: the registration of IR frames to RGB images.
            lost: called with the reason for each capture dropped because the engine was given up.
        """
        self._lost = lost
        self._registering = registering
        self._node = node
        self._pipeline = pipeline
        self._outputs = outputs
        self._settings = settings
        self._drops = drops
        self._own_pixels = False
        self._jumped = False
        self._sizes: dict[str, tuple[int, int]] = {}
        self._health = health
        self._notices = notices
        self._topics = {key: camera_topic(node, name, settings().transport_of(key)) for key, name in IMAGES.items()}

    def process(self, capture: Capture[CameraFrame]) -> None:
        """Run inference on a capture and publish the result; exceptions go to `failed`."""
        settings, ready_s = self._settings(), capture.ready_ns / 1e9
        start = perf_counter()
        for error in unpack(settings, self._registering, capture.rgb, capture.ir):
            self._report_damaged(error)
            capture = capture.without(error.camera)
        try:
            perception = self._found(settings, capture)
        except NoValidPixelError as error:
            # The RGB image is used alone where the fallback mode permits it, and dropped with the IR frame elsewhere.
            if capture.rgb is None or Mode.RGB_ONLY not in modes_alone(settings, self._registering):
                raise
            if capture.ir is not None and not capture.ir.used:
                capture.ir.used = True
                self._health.dropped(drop_cause(error))
                self._health.invalid_pixels(1.0)
                self._notices.error("thermal", f"dropped a frame of {self._topics['ir']}: {error}")
            capture = capture.without("ir")
            perception = self._found(settings, capture)
        rgb, ir = capture.rgb, capture.ir
        ir_reused = ir is not None and ir.used
        if ir is not None:
            ir.used = True
        if perception.ir_invalid is not None:
            self._health.invalid_pixels(perception.ir_invalid)
        self._check_sizes(capture)

        header = capture.reference.header
        if perception.registered:  # RGB pixels at the stamp of the IR frame
            header = Header(stamp=header.stamp, frame_id=self._registering.rgb_frame_id)
        text = own_pixels(perception, self._topics)
        if text and not self._own_pixels:
            self._notices.warn("grid", text)
        self._own_pixels = bool(text)
        if text := no_temperatures(settings, ir, self._topics):
            self._notices.warn("temperatures", text)
        latency_ms = self._latency_ms(header, self._topics["ir" if rgb is None else "rgb"])
        found = perf_counter()
        class_ids = settings.class_ids_of(self._pipeline.info)
        self._outputs.publish_perception(perception, header, class_ids)
        if ir is not None:
            registration = self._pipeline.used_registration  # camera_info may change the other, motion shifts it
            self._outputs.publish_ir_detections(perception, ir.pixels, registration, ir.header, class_ids)
            self._outputs.publish_temperatures(perception, header, ir.header.stamp, class_ids)
        published = perf_counter()
        steps_ms = {
            "decode": sum(frame.decode_ms for frame in (rgb, None if ir_reused else ir) if frame is not None),
            "pairing": (ready_s - capture.reference.received_s) * 1e3,
            "queue": (start - ready_s) * 1e3,
            **perception.steps_ms,
            "publish": (published - found) * 1e3,
        }
        self._draw("annotations", self._outputs.publish_annotations, perception, header)
        images = [None if frame is None else frame.pixels for frame in (rgb, ir)]
        if settings.publish_overlay:
            registration = self._pipeline.registration  # of `find`; that of `registering` may be another by now
            publish = self._outputs.publish_overlay
            steps_ms |= self._draw("overlay", publish, perception, *images, registration, header)
        if rgb is not None and ir is not None:
            registration = self._pipeline.used_registration
            steps_ms |= self._draw("registration", self._outputs.publish_registration, *images, registration, header)
        facts = Facts(
            rgb_stamp=None if rgb is None else rgb.header.stamp,
            ir_stamp=None if ir is None else ir.header.stamp,
            ir_offset_ms=float("nan") if capture.error_ns is None else capture.error_ns / 1e6,
            ir_reused=ir_reused,
            latency_ms=latency_ms,
            steps_ms=steps_ms,
            drops=self._drops(),
            deadline_ms=settings.deadline_ms,
        )
        self._health.count_result(latency_ms, facts.deadline_met)
        self._outputs.publish_report(perception, facts, header)
        self._node.get_logger().debug(f"{perception.mode.value}: {len(perception)} detections, {latency_ms:.1f} ms")

    def _draw(self, view: str, publish: Callable[..., bool], *arguments: Any) -> dict[str, float]:
        """Publish a view for people, whose failure does not discard the result; returns its time in ms by its name."""
        start = perf_counter()
        try:
            if not publish(*arguments):
                return {}
        except Exception as error:
            if self._node.context.ok():  # else ROS was shut down meanwhile
                trace = traceback.format_exc()
                self._notices.error(f"view {view}", f"the view '{view}' of a result failed: {error}\n{trace}")
            return {}
        return {view: (perf_counter() - start) * 1e3}

    def _found(self, settings: Settings, capture: Capture[CameraFrame]) -> PerceptionResult:
        after_jump, self._jumped = capture.after_jump or self._jumped, False
        return find(self._pipeline, self._registering, settings, capture.rgb, capture.ir, after_jump, capture.time_ns)

    def note_jump(self) -> None:
        """Record that time jumped back at a dropped capture: the next one starts again. From any thread."""
        self._jumped = True

    def failed(self, error: Exception) -> None:
        """Count and log the capture dropped by an exception of `process`."""
        if isinstance(error, UnreadableError):
            for one in error.errors:
                self._report_damaged(one)
            return
        cause = drop_cause(error)
        if cause == "inference_failed" and not self._node.context.ok():
            return  # ROS was shut down during inference
        self._health.dropped(cause)
        both = " and ".join(self._topics.values())
        if isinstance(error, RebuildInterruptedError):
            return
        if isinstance(error, DeviceLostError):
            self._lost(str(error))
        elif isinstance(error, ThermalError):
            self._notices.error("thermal", f"dropped a frame of {self._topics['ir']}: {error}")
        elif isinstance(error, (RegistrationError, FrameError)):
            what = "pair" if isinstance(error, RegistrationError) else "frame"
            self._notices.error(cause, f"dropped a {what} of {both}: {error}")
        else:
            self._health.failed()
            trace = "".join(traceback.format_exception(type(error), error, error.__traceback__))
            self._notices.error("inference", f"inference failed, dropped one capture: {error}\n{trace}")

    def _report_damaged(self, error: DecodeError) -> None:
        """Count and log a frame that can't be decoded."""
        if error.counted:
            return
        error.counted = True
        topic = self._topics[error.camera]
        self._health.dropped(drop_cause(error))
        self._notices.warn(f"{error.cause} {topic}", f"dropped a frame of {topic}: {error}")

    def _latency_ms(self, header: Header, topic: str) -> float:
        stamp = stamp_ns(header)  # not by rclpy's Time, which refuses a negative one
        behind_s = (self._node.get_clock().now().nanoseconds - stamp) / 1e9
        if abs(behind_s) > _CLOCK_TOLERANCE_S and (stamp <= 0 or is_uptime(stamp)):
            what = f"count from a boot ({stamp / 1e9:.0f} s), not from 1970" if stamp > 0 else "are not set"
            self._notices.warn(
                "clock",
                f"stamps of {topic} {what}, so latencies are invalid: configure the camera driver to stamp with "
                "the system clock, or set use_sim_time if the stamps are simulation time",
            )
        elif abs(behind_s) > _CLOCK_TOLERANCE_S:
            self._notices.warn(
                "clock",
                f"stamps of {topic} are {abs(behind_s):.1f} s {'behind' if behind_s > 0 else 'ahead of'} "
                "this node's clock, so latencies are invalid: synchronise the clocks, or set use_sim_time for "
                "a bag played with --clock",
            )
        return behind_s * 1e3

    def _check_sizes(self, capture: Capture[CameraFrame]) -> None:
        for key, frame in (("rgb", capture.rgb), ("ir", capture.ir)):
            if frame is None or (size := frame.size) is None:
                continue
            before = self._sizes.setdefault(key, size)
            if size != before:
                self._sizes[key] = size
                current = self._registering.current
                unsized = current is not None and current.ir_size is None
                remedy = "; ir_to_rgb is in pixels and now wrong: set it for the new size" if unsized else ""
                topic = self._topics[key]
                notice = self._notices.warn if unsized else self._notices.info
                change = f"from {before[0]}x{before[1]} to {size[0]}x{size[1]} pixels"
                notice(f"size {topic}", f"image size of {topic} changed {change}{remedy}")
        if text := different_shapes(self._registering, capture.rgb, capture.ir, self._topics):
            self._notices.warn("aspect", text)
