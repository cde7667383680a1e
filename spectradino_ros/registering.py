"""The topics on which the cameras' calibrations come. What is made of them: `spectradino_core.streams.registering`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from spectradino_core.streams.registering import Registering
from spectradino_core.streams.topics import CAMERA_INFO

__all__ = ["Registering", "camera_info_topic"]


def camera_info_topic(node: Any, key: str, image: str) -> str:
    """The topic of a camera's calibration: `<key>/camera_info`, or if only the image was remapped the image's sibling.

    Args:
        node: resolves the names.
        key: "rgb" or "ir".
        image: the image topic's name before remapping.
    """
    name = CAMERA_INFO[key]
    resolve: Callable[..., str] = node.resolve_topic_name
    is_remapped = resolve(name) != resolve(name, only_expand=True)
    return resolve(name) if is_remapped else f"{resolve(image).rpartition('/')[0]}/camera_info"
