"""CameraInfo topics and the type of /tf_static.

Registration from their messages: `spectradino_core.streams.registering`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from spectradino_core.streams.registering import Registering
from spectradino_core.streams.topics import CAMERA_INFO
from spectradino_ros.entry import remedy
from spectradino_ros.parameters import ParameterError

__all__ = ["Registering", "camera_info_topic", "tf_message_type"]


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


def camera_info_topic(node: Any, key: str, image: str) -> str:
    """Return a camera's CameraInfo topic.

    Args:
        node: resolves the names.
        key: "rgb" or "ir".
        image: name of the image topic before remapping.

    Returns:
        `<key>/camera_info` if it is remapped, else `camera_info` beside the image topic.
    """
    name = CAMERA_INFO[key]
    resolve: Callable[..., str] = node.resolve_topic_name
    is_remapped = resolve(name) != resolve(name, only_expand=True)
    return resolve(name) if is_remapped else f"{resolve(image).rpartition('/')[0]}/camera_info"
