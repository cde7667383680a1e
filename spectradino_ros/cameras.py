"""Subscription to a camera topic, with warnings on silence, lost images and wrong QoS."""

from __future__ import annotations

import inspect
from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import Any

from rclpy.exceptions import ParameterException
from rclpy.node import Node
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy, qos_policy_name_from_kind
from rclpy.qos_overriding_options import QoSOverridingOptions
from rclpy.subscription import Subscription
from rclpy.utilities import get_rmw_implementation_identifier
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

try:
    from rclpy.event_handler import SubscriptionEventCallbacks, UnsupportedEventTypeError
except ImportError:  # its name up to and with Humble
    from rclpy.qos_event import SubscriptionEventCallbacks, UnsupportedEventTypeError

from spectradino_core.streams.clocks import lost_fraction
from spectradino_core.streams.settings import TRANSPORTS, ParameterError
from spectradino_core.streams.topics import IMAGES
from spectradino_ros.health import Health
from spectradino_ros.notices import Notices
from spectradino_ros.shared_files import find_shared

_LOSS_SECONDS = 3.0
"""Observation time before a warning of lost images."""
_TOLERATED_LOSS = 0.2
_STAMPS = 120
_PROFILE = "config/fastdds_large_images.xml"
_SEGMENT_BYTES = 400_000
"""Smaller images fit into Fast DDS's default shared-memory segment with room for others."""


def stamp_ns(header: Header) -> int:
    """Return a header's stamp in nanoseconds."""
    return header.stamp.sec * 1_000_000_000 + header.stamp.nanosec


def _remedy(image_bytes: int) -> str:
    """Remedy against lost images of `image_bytes` (0: none received yet) for the middleware in use."""
    if "fastrtps" not in get_rmw_implementation_identifier() or 0 < image_bytes < _SEGMENT_BYTES:
        return "Check whether the network or this computer is overloaded"
    try:
        profile = str(find_shared(_PROFILE))
    except FileNotFoundError:
        profile = _PROFILE
    return (
        "The sender's Fast DDS shared memory is smaller than an image by default: start the camera driver "
        f"with 'export FASTRTPS_DEFAULT_PROFILES_FILE={profile}'"
    )


def camera_topic(node: Node, name: str, transport: str = "raw") -> str:
    """Resolved name of the topic subscribed to for `name` by this transport."""
    return node.resolve_topic_name(_requested_topic(node, name, transport))


def warn_of_one_camera(node: Node) -> None:
    """Log a warning if both cameras are remapped to one topic, which is one camera used twice."""
    rgb, ir = (node.resolve_topic_name(name) for name in IMAGES.values())
    if rgb == ir:
        node.get_logger().warning(
            f"RGB and IR camera are both remapped to {rgb}: remap {' and '.join(IMAGES.values())} to "
            "different topics (launch arguments rgb_topic and ir_topic)"
        )


def _requested_topic(node: Node, name: str, transport: str) -> str:
    # As in image_transport the base topic is remapped: with `rgb/image_raw:=/cam/image` compressed images come from
    # `/cam/image/compressed`.
    return name if transport == "raw" else f"{node.resolve_topic_name(name)}/{transport}"


class Camera:
    """Subscription to one camera, from activation to deactivation, on `topic`, its name after remapping."""

    def __init__(
        self,
        node: Node,
        key: str,
        name: str,
        receive: Callable[[Any], None],
        health: Health,
        notices: Notices,
        transport: str = "raw",
    ) -> None:
        """
        Args:
            node: creates the subscription.
            key: "rgb" or "ir", as in `Health`.
            name: relative topic name before remapping.
            receive: called with each message, on the executor's thread.
            health, notices: count and log.
            transport: one of `settings.TRANSPORTS`: "raw" messages are Image, all others CompressedImage.

        Raises:
            ParameterError: the topic's qos_overrides are invalid.
        """
        self.key = key
        self.topic = camera_topic(node, name, transport)
        self._kind = Image if transport == "raw" else CompressedImage
        self._transport = transport
        self._since = monotonic()
        self._stamps: deque[int] = deque(maxlen=_STAMPS)
        self._image_bytes = 0
        self._name = name
        self._node = node
        self._receive = receive
        self._health = health
        self._notices = notices
        # Best effort matches reliable and best-effort publishers; depth 2, because only the newest frame is used.
        qos = QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=2, reliability=ReliabilityPolicy.BEST_EFFORT)
        events = {"incompatible_qos": self._incompatible_qos, "incompatible_type": self._incompatible_type}
        try:
            self._subscription = self._subscribe(qos, {**events, "message_lost": self._message_lost})
        except UnsupportedEventTypeError:  # some middlewares do not report lost messages
            self._subscription = self._subscribe(qos, events)
        except (RuntimeError, ParameterException) as error:  # rclpy on a bad policy value, and on its type
            raise ParameterError(
                f"can't subscribe to {self.topic}: {error}. Correct the QoS parameters "
                f"qos_overrides.{self.topic}.subscription.*"
            ) from None

    def destroy(self) -> None:
        """End the subscription."""
        self._node.destroy_subscription(self._subscription)

    def watch(self, timeout_s: float) -> None:
        """Warn if no message has arrived for `timeout_s` seconds, with the likely cause and remedy."""
        self._watch_losses()
        silent_s = min(self._health.seconds_silent(self.key), monotonic() - self._since)
        if silent_s < timeout_s:
            return
        kinds = [info.topic_type for info in self._node.get_publishers_info_by_topic(self.topic)]
        publishers, wanted = len(kinds), f"sensor_msgs/msg/{self._kind.__name__}"
        elsewhere = {other: camera_topic(self._node, self._name, other) for other in TRANSPORTS}
        other = next((t for t, topic in elsewhere.items() if self._node.count_publishers(topic)), "")
        if publishers == 0 and other:
            reason = f"but {elsewhere[other]} has a publisher: set the parameter {self.key}_transport to {other}"
        elif publishers == 0:
            reason = (
                f"because it has no publisher: start the camera driver, or remap '{self._name}' to the camera's topic "
                f"(launch argument {self.key}_topic, or -r {self._name}:=...)"
            )
        elif wanted not in kinds:  # Fast DDS has no event for it
            reason = (
                f"because its publisher sends {', '.join(sorted(set(kinds)))}, not {wanted}: set the parameter "
                f"{self.key}_transport"
            )
        elif self._health.total(self.key) == 0:
            reason = f"although it has {publishers} publisher(s): check that the driver is streaming. {_remedy(0)}"
        else:
            reason = f"although it has {publishers} publisher(s): check whether the camera has stopped"
        text = f"no message on {self.topic} for {silent_s:.0f} s, {reason}"
        self._notices.warn(f"silent {self.topic}", text, counted=False)

    def _watch_losses(self) -> None:
        """Warn if many of the camera's images are lost, by the gaps between their stamps."""
        if monotonic() - self._since < _LOSS_SECONDS or self._health.seconds_silent(self.key) > 1.0:
            return
        found = lost_fraction(list(self._stamps))
        if found is not None and found[0] > _TOLERATED_LOSS:
            lost, rate = found
            text = (
                f"about {lost:.0%} of the images on {self.topic} are lost: by their stamps the camera sends at "
                f"{rate:.0f} Hz, {(1 - lost) * rate:.0f} Hz arrive. {_remedy(self._image_bytes)}"
            )
            self._notices.warn(f"lost {self.topic}", text, counted=False)

    def _subscribe(self, qos: QoSProfile, events: dict[str, Any]) -> Subscription:
        known = inspect.signature(SubscriptionEventCallbacks).parameters  # Humble has no event of types
        return self._node.create_subscription(
            self._kind,
            _requested_topic(self._node, self._name, self._transport),
            self._on_message,
            qos,
            event_callbacks=SubscriptionEventCallbacks(**{k: v for k, v in events.items() if k in known}),
            qos_overriding_options=QoSOverridingOptions.with_default_policies(),
        )

    def _on_message(self, message: Any) -> None:
        self._health.arrived(self.key)
        self._stamps.append(stamp_ns(message.header))
        self._image_bytes = len(message.data)
        self._receive(message)

    def _incompatible_qos(self, event: Any) -> None:
        policy = qos_policy_name_from_kind(event.last_policy_kind)
        self._notices.warn(
            f"qos {self.topic}",
            f"a publisher of {self.topic} offers incompatible QoS ({policy}), so its messages are not received. "
            f"Change the publisher's QoS, or the parameter qos_overrides.{self.topic}.subscription.{policy.lower()}",
        )

    def _incompatible_type(self, _event: Any) -> None:
        self._notices.warn(
            f"type {self.topic}",
            f"a publisher of {self.topic} sends another type than sensor_msgs/msg/{self._kind.__name__}, "
            f"so its messages are not received. Set the parameter {self.key}_transport",
        )

    def _message_lost(self, event: Any) -> None:
        count = int(event.total_count_change)
        self._health.dropped(f"{self.key}_lost_in_transport", count)
        self._notices.warn(
            f"lost {self.topic}",
            f"{count} message(s) on {self.topic} were lost in transport or overwritten in the subscriber's queue. "
            f"{_remedy(self._image_bytes)}",
        )
