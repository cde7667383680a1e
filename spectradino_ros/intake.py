"""Intake of camera messages: they are checked and passed to `streams.feed` for pairing.

All of it runs on the executor's thread, so pixels are not decoded here: a large or malicious image would block the
services. The worker decodes them (`processing.py`). Dropped frames are counted and logged, throttled.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable
from functools import partial
from time import monotonic_ns, perf_counter
from typing import Any

from rclpy.lifecycle import LifecycleNode
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy, qos_profile_sensor_data
from sensor_msgs.msg import CameraInfo

from spectradino_core.calibration.registration import RegistrationError
from spectradino_core.runtime.perception_result import Mode
from spectradino_core.streams import feed
from spectradino_core.streams.decode import DecodeError
from spectradino_core.streams.jpeg import STRICT_DECODER
from spectradino_core.streams.throttle import Throttle
from spectradino_core.streams.topics import IMAGES, TF_STATIC
from spectradino_core.text import log_line
from spectradino_ros.cameras import Camera
from spectradino_ros.frames import CameraFrame, Capture, CvBridgeConverter, stamp_ns
from spectradino_ros.health import Health
from spectradino_ros.notices import Notices
from spectradino_ros.parameters import Settings
from spectradino_ros.registering import Registering, camera_info_topic, tf_message_type

__all__ = ["Intake"]

_STATIC_TRANSFORMS = QoSProfile(
    depth=100,  # as tf2's own listener: each publisher keeps one message for those that join late
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.TRANSIENT_LOCAL,
)


class Intake:
    """Subscriptions to both cameras, from activation to deactivation.

    Attributes:
        cameras: by "rgb" and "ir".
        feed: pairs frames and chooses the mode; read it on the executor's thread only, except its `drops`.
    """

    def __init__(
        self,
        node: LifecycleNode,
        settings: Settings,
        health: Health,
        notices: Notices,
        submit: Callable[..., list[Capture]],
        registering: Registering,
        on_mode: Callable[[Mode], None],
    ) -> None:
        """
        Args:
            node: creates the subscriptions.
            settings: parameters of pairing and fallback; `apply` changes them.
            health: counts messages and drops.
            notices: logs warnings and errors, throttled.
            submit: queues captures and returns those that are dropped.
            registering: takes CameraInfo messages if configured, and has the calibrated time offset.
            on_mode: called with each new mode.

        Raises:
            ParameterError: the QoS parameters of a topic are invalid; no subscription remains.
        """
        self._node = node
        self._logger = node.get_logger()
        self._health = health
        self._notices = notices
        self._submit = submit
        self._registering = registering
        self._on_mode = on_mode
        self._converter = CvBridgeConverter()
        self._timeout_s = settings.no_message_timeout_s
        self._decoding = settings.decoding
        self._large: set[str] = set()
        self.feed: feed.Feed[CameraFrame] = feed.Feed(settings.feed(registering.time_offset_ms), monotonic_ns())
        self._throttle = Throttle(settings.enabled, settings.max_rate_hz)
        self.cameras: dict[str, Camera] = {}
        self._calibrations: list[Any] = []
        try:
            self._subscribe(settings)
        except BaseException:
            self.destroy()  # otherwise the first camera would stay subscribed
            raise

    def _subscribe(self, settings: Settings) -> None:
        if not STRICT_DECODER and "compressed" in (settings.rgb_transport, settings.ir_transport):
            self._logger.info(
                "simplejpeg is not installed, so OpenCV decodes JPEG and damaged images are recognised by its printed "
                "warnings: pip install simplejpeg"
            )
        for key, name in IMAGES.items():
            self.cameras[key] = Camera(
                self._node, key, name, self._receiver(key), self._health, self._notices, settings.transport_of(key)
            )
        if self._registering.from_camera_info:
            for key, image in IMAGES.items():
                topic, take = camera_info_topic(self._node, key, image), partial(self._on_camera_info, key)
                self._calibrations.append(
                    self._node.create_subscription(CameraInfo, topic, take, qos_profile_sensor_data)
                )
        if self._registering.from_tf:
            self._calibrations.append(
                self._node.create_subscription(
                    tf_message_type(), TF_STATIC, self._on_static_transforms, _STATIC_TRANSFORMS
                )
            )

    def destroy(self) -> None:
        """End the subscriptions."""
        for camera in self.cameras.values():
            camera.destroy()
        for subscription in self._calibrations:
            self._node.destroy_subscription(subscription)

    def apply(self, settings: Settings) -> None:
        """Apply changed settings and keep the state of the streams."""
        self.feed.apply(settings.feed(self._registering.time_offset_ms))
        self._timeout_s = settings.no_message_timeout_s
        self._throttle.enabled, self._throttle.max_rate_hz = settings.enabled, settings.max_rate_hz
        self._log_events()

    def drops(self) -> dict[str, int]:
        """Number of frames dropped before pairing, by it or by the throttle, by cause; thread-safe."""
        return self.feed.drops() | self._throttle.drops()

    def watch(self) -> None:
        """Check for silent cameras and expired frames; called periodically."""
        for camera in self.cameras.values():
            camera.watch(self._timeout_s)
        self._submit_captures(self.feed.watch(monotonic_ns()))

    def _receiver(self, key: str) -> Callable[[Any], None]:
        return lambda message: self._on_image(key, message)

    def _on_image(self, key: str, message: Any) -> None:
        arrival_ns = monotonic_ns()
        topic = self.cameras[key].topic
        try:
            frame = CameraFrame.decode(key, message, self._converter, self._decoding)
            if key == "rgb" and frame.size is not None:
                self._registering.note_rgb(frame.size, frame.header.frame_id)
            if frame.is_large and self.feed.settings.learn_ir_time_offset and key not in self._large:
                self._large.add(key)
                self._logger.warning(
                    f"compressed images of {topic} are too large to be compared with the other camera's, so they can't "
                    "confirm a learnt time offset: set ir_time_offset_ms, or let the camera send less than 4 megapixels"
                )
            self.feed.registration = self._registering.current
            self.feed.rgb_grid = self._registering.rgb_size is not None
            stamp = stamp_ns(frame.header)
            self._submit_captures(self.feed.frame(key, stamp, arrival_ns, frame, frame.look, frame.glance))
        except DecodeError as error:
            self._health.dropped(f"{key}_{error.cause}")
            self._notices.warn(f"{error.cause} {topic}", f"dropped a frame of {topic}: {error}")
            self._submit_captures(self.feed.refused(key, arrival_ns, error))
        except Exception as error:  # costs one frame; rclpy would end the process
            self._health.dropped("intake_failed")
            trace = "".join(traceback.format_exception(type(error), error, error.__traceback__))
            self._notices.error(f"intake {topic}", f"dropped a frame of {topic}: {error}\n{trace}")

    def _on_camera_info(self, key: str, info: CameraInfo) -> None:
        had_one = self._registering.current is not None
        if not self._register(partial(self._registering.take, key, info), f"the {key} camera's camera_info"):
            return
        topic = camera_info_topic(self._node, key, IMAGES[key])
        if had_one and (publishers := self._node.count_publishers(topic)) > 1:
            self._notices.warn(
                f"publishers {topic}",
                f"{publishers} publishers send different calibrations on {topic}, and the registration uses the "
                f"newest: remap {key}/camera_info to this camera's topic (launch argument {key}_info_topic)",
            )

    def _on_static_transforms(self, message: Any) -> None:
        self._register(partial(self._registering.take_transforms, message.transforms), TF_STATIC)

    def _register(self, take: Callable[[], bool], source: str) -> bool:
        """Take a message of the registration; returns whether it changed the registration or was refused."""
        try:
            if not take():
                return False
            self._notices.info("registration made", f"registration made: {self._registering.describe()}")
        except RegistrationError as error:
            self._notices.error("no registration", f"no registration: {error}")
        except Exception as error:  # as for a frame
            trace = "".join(traceback.format_exception(type(error), error, error.__traceback__))
            self._notices.error(f"registration {source}", f"no registration from {source}:\n{trace}")
            return False
        return True

    def _submit_captures(self, captures: list[feed.Capture[CameraFrame]]) -> None:
        self._log_events()
        admitted = [c for c in map(self._admit, captures) if c is not None]
        if not admitted:
            return
        now_s = perf_counter()
        dropped = self._submit(*(Capture(c.rgb, c.ir, c.error_ns, now_s, c.after_jump, c.time_ns) for c in admitted))
        if dropped:
            self._health.dropped("overload", len(dropped))
            self._notices.warn(
                "overload",
                "dropped a frame because a newer one arrived while the model was busy: lower the cameras' frame "
                "rate or use a faster model (see step 'engine' in ~/frame_report); the newest frame is always kept",
            )

    def _admit(self, capture: feed.Capture[CameraFrame]) -> feed.Capture[CameraFrame] | None:
        frame = capture.rgb if capture.rgb is not None else capture.ir
        assert frame is not None
        return self._throttle(capture, round(frame.received_s * 1e9))

    def _log_events(self) -> None:
        for event in self.feed.take_events():
            names = ", ".join(f"{key} is {camera.topic}" for key, camera in self.cameras.items())
            if event.warning:  # rclpy allows one severity per line of code
                self._logger.warning(log_line(f"{event.text} ({names})"))
            else:
                self._logger.info(log_line(f"{event.text} ({names})"))
            if event.change is not None:
                self._on_mode(event.change.mode)
