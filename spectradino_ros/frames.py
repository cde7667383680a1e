"""Captures for inference, and conversion of encodings by cv_bridge."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from spectradino_core.streams.frames import CameraFrame

__all__ = ["CameraFrame", "Capture", "CvBridgeConverter", "stamp_ns"]


def stamp_ns(header: Header) -> int:
    """Return a header's stamp in nanoseconds."""
    return header.stamp.sec * 1_000_000_000 + header.stamp.nanosec


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


@dataclass(frozen=True)
class Capture:
    """Input of one inference: a pair, or a frame of one camera while the other is silent.

    Attributes:
        rgb, ir: the frames; one of them may be missing.
        error_ns: IR stamp minus RGB stamp minus the constant offset; None with one frame.
        ready_s: time of pairing by `perf_counter`.
        after_jump: whether time jumped back since the previous capture, so that temporal smoothing must be reset.
        time_ns: time of the capture, see `streams.captures.Capture`.
    """

    rgb: CameraFrame | None
    ir: CameraFrame | None
    error_ns: int | None
    ready_s: float
    after_jump: bool
    time_ns: int

    def without(self, camera: str) -> Capture:
        """Return a copy without the frame of the camera "rgb" or "ir"."""
        return replace(self, error_ns=None, **{camera: None})  # type: ignore[arg-type]

    @property
    def reference(self) -> CameraFrame:
        """The frame whose header the result gets: RGB if present, else IR."""
        frame = self.rgb if self.rgb is not None else self.ir
        assert frame is not None
        return frame
