"""The frames that are answered together, and what only the live node has for reading them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from spectradino_core.streams.frames import CameraFrame

__all__ = ["CameraFrame", "Capture", "CvBridgeConverter", "stamp_ns"]


def stamp_ns(header: Header) -> int:
    """A header's stamp in nanoseconds."""
    return header.stamp.sec * 1_000_000_000 + header.stamp.nanosec


class CvBridgeConverter:
    """Converts encodings that are not read without it, where cv_bridge is installed and works.

    It is imported when the first such message comes: distributions ship it built for NumPy 1, so that its import fails,
    at length, beside a NumPy 2, and most cameras never need it.
    """

    def __init__(self) -> None:
        self._bridge: Any = None

    def __call__(self, message: Image, wanted: str) -> np.ndarray:
        if self._bridge is None:
            try:
                from cv_bridge import CvBridge
            except Exception as error:  # a broken build raises whatever it likes
                raise RuntimeError(f"cv_bridge is not available: {error}") from None
            self._bridge = CvBridge()
        return self._bridge.imgmsg_to_cv2(message, wanted)


@dataclass(frozen=True)
class Capture:
    """What one answer is made from: a pair, or a frame of one camera while the other is silent.

    Attributes:
        rgb, ir: the frames; one of them may be missing.
        error_ns: infrared stamp minus colour stamp, less the constant offset; None with one frame.
        ready_s: when it was known that these frames belong together, by `perf_counter`.
        after_jump: time jumped back since the capture before, so nothing smoothed over time holds.
    """

    rgb: CameraFrame | None
    ir: CameraFrame | None
    error_ns: int | None
    ready_s: float
    after_jump: bool

    def without(self, camera: str) -> Capture:
        """The same without the frame of the camera "rgb" or "ir"."""
        return replace(self, error_ns=None, **{camera: None})  # type: ignore[arg-type]

    @property
    def reference(self) -> CameraFrame:
        """The frame whose stamp the answer has: the RGB one where there is one."""
        frame = self.rgb if self.rgb is not None else self.ir
        assert frame is not None
        return frame
