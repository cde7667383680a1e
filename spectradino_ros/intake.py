"""Intake of camera messages: they are checked and passed to `streams.feed` for pairing.

All of it runs on the executor's thread, so pixels are not decoded here: a large or malicious image would block the
services. The worker decodes them (`processing.py`). Dropped frames are counted and logged, throttled.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from time import monotonic_ns, perf_counter_ns
from typing import Any

import numpy as np
from rclpy.lifecycle import LifecycleNode
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy, qos_profile_sensor_data
from sensor_msgs.msg import CameraInfo, Image

from spectradino_core.calibration.registration import RegistrationError
from spectradino_core.runtime.perception_result import Mode
from spectradino_core.streams.feed import Capture, Feed
from spectradino_core.streams.frames import CameraFrame
from spectradino_core.streams.image_message import DecodeError
from spectradino_core.streams.jpeg import STRICT_DECODER
from spectradino_core.streams.registering import Registering
from spectradino_core.streams.settings import ParameterError, Settings
from spectradino_core.streams.throttle import Throttle
from spectradino_core.streams.topics import CAMERA_INFO, IMAGES, TF_STATIC
from spectradino_core.text import log_line
from spectradino_ros.cameras import Camera, stamp_ns
from spectradino_ros.entry import remedy
from spectradino_ros.health import Health
from spectradino_ros.notices import Notices

_STATIC_TRANSFORMS = QoSProfile(
    depth=100,  # as tf2's own listener: each publisher keeps one message for those that join late
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.TRANSIENT_LOCAL,
)


def tf_message_type() -> Any:
    """Return the type tf2_msgs/msg/TFMessage, which only extrinsics_from_tf needs.

    Raises:
        ParameterError: tf2_msgs is not installed.
    """
    try:
        from tf2_msgs.msg import TFMessage
    except ImportError as error:
        raise ParameterError(
            f"parameter 'extrinsics_from_tf' needs the ROS package tf2_msgs, which can not be imported ({error}): "
            f"{remedy('tf2_msgs')} (without a ROS distribution: 'make msgs')"
        ) from None
    return TFMessage


def camera_info_topic(node: Any, key: str) -> str:
    """Return the CameraInfo topic of "rgb" or "ir": the remapped one, else `camera_info` beside the image topic."""
    name, resolve = CAMERA_INFO[key], node.resolve_topic_name
    is_remapped = resolve(name) != resolve(name, only_expand=True)
    return str(resolve(name)) if is_remapped else f"{resolve(IMAGES[key]).rpartition('/')[0]}/camera_info"


class CvBridgeConverter:
    """Converter of encodings that are only supported through cv_bridge, if it is installed.

    cv_bridge is imported with the first such message: distributions build it for NumPy 1, so its import fails with long
    output beside NumPy 2, and most cameras do not need it.
    """

    def __init__(self) -> None:
        self._bridge: Any = None

    def __call__(self, message: Image, wanted: str) -> np.ndarray:
        if self._bridge is None:
            try:
                from cv_bridge import CvBridge
            except Exception as error:  # a broken build raises anything
                raise RuntimeError(f"cv_bridge is not available: {error}") from None
            self._bridge = CvBridge()
        return self._bridge.imgmsg_to_cv2(message, wanted)


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
        submit: Callable[..., list[Capture[CameraFrame]]],
        registering: Registering,
        on_mode: Callable[[Mode], None],
    ) -> None:
        """
        Args:
            node: creates the subscriptions.
            settings: parameters of pairing and fallback; `apply` changes them.
            health, notices: count and log.
            submit: queues captures and returns those that are dropped; their `ready_ns` is by `perf_counter_ns`.
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
        self.feed: Feed[CameraFrame] = Feed(settings.calibrated(registering.time_offset_ms), monotonic_ns())
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
                self._node,
                key,
                name,
                partial(self._on_image, key),
                self._health,
                self._notices,
                settings.transport_of(key),
            )
        if self._registering.from_camera_info:
            for key in IMAGES:
                topic, take = camera_info_topic(self._node, key), partial(self._on_camera_info, key)
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
        self.feed.apply(settings.calibrated(self._registering.time_offset_ms))
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
            self.feed.modes.rgb_grid = self._registering.rgb_size is not None
            stamp = stamp_ns(frame.header)
            self._submit_captures(self.feed.frame(key, stamp, arrival_ns, frame, frame.fingerprint, frame.small_pixels))
        except DecodeError as error:
            self._health.dropped(f"{key}_{error.cause}")
            self._notices.warn(f"{error.cause} {topic}", f"dropped a frame of {topic}: {error}")
            self._submit_captures(self.feed.refused(key, arrival_ns, error))
        except Exception as error:  # costs one frame; rclpy would end the process
            self._health.dropped("intake_failed")
            self._notices.error(f"intake {topic}", f"dropped a frame of {topic}: {error}\n{traceback.format_exc()}")

    def _on_camera_info(self, key: str, info: CameraInfo) -> None:
        had_registration = self._registering.current is not None
        if not self._register(partial(self._registering.take, key, info), f"the {key} camera's camera_info"):
            return
        topic = camera_info_topic(self._node, key)
        if had_registration and (publishers := self._node.count_publishers(topic)) > 1:
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
        except Exception:  # as for a frame
            self._notices.error(f"registration {source}", f"no registration from {source}:\n{traceback.format_exc()}")
            return False
        return True

    def _submit_captures(self, captures: list[Capture[CameraFrame]]) -> None:
        self._log_events()
        admitted = (self._throttle(capture, round(capture.reference.received_s * 1e9)) for capture in captures)
        now_ns = perf_counter_ns()
        ready = [replace(capture, ready_ns=now_ns) for capture in admitted if capture is not None]
        if ready and (dropped := self._submit(*ready)):
            self._health.dropped("overload", len(dropped))
            self._notices.warn(
                "overload",
                "dropped a frame because a newer one arrived while the model was busy: lower the cameras' frame "
                "rate or use a faster model (see step 'engine' in ~/frame_report); the newest frame is always kept",
            )

    def _log_events(self) -> None:
        for event in self.feed.take_events():
            names = ", ".join(f"{key} is {camera.topic}" for key, camera in self.cameras.items())
            if event.warning:  # rclpy allows one severity per line of code
                self._logger.warning(log_line(f"{event.text} ({names})"))
            else:
                self._logger.info(log_line(f"{event.text} ({names})"))
            if event.change is not None:
                self._on_mode(event.change.mode)
