"""One capture to percepts, and what an error on the way is called: the same live and in replay."""

from __future__ import annotations

from collections.abc import Mapping

from spectradino_core.runtime.percepts import Percepts
from spectradino_core.runtime.pipeline import Pipeline
from spectradino_core.runtime.preprocess import FrameError
from spectradino_core.runtime.recovery import DeviceLostError, RebuildInterruptedError
from spectradino_core.runtime.registration import RegistrationError
from spectradino_core.streams.decode import DecodeError
from spectradino_core.streams.frames import CameraFrame
from spectradino_core.streams.registering import Registering
from spectradino_core.streams.settings import Settings
from spectradino_core.thermal import NoValidPixelError, ThermalError

__all__ = ["different_shapes", "drop_cause", "find"]

_ASPECT_TOLERANCE = 0.05


def find(
    pipeline: Pipeline,
    registering: Registering,
    settings: Settings,
    rgb: CameraFrame | None,
    ir: CameraFrame | None,
    after_jump: bool,
) -> Percepts:
    """What the pipeline finds in a pair, or in one camera's frame, under the parameters in force.

    Args:
        pipeline: its registration and threshold are set.
        registering: knows where infrared pixels lie in the colour image.
        settings: the parameters in force.
        rgb, ir: the frames; one of them may be missing.
        after_jump: time jumped back since the capture before, so nothing smoothed over time holds.

    Raises:
        DecodeError, RegistrationError, and what `Pipeline` raises: this capture can't be answered, see `drop_cause`.
    """
    if after_jump:
        pipeline.reset()
    pipeline.score_threshold = settings.threshold_of(pipeline.info)
    pipeline.registration = registering.check() if rgb is not None and ir is not None else registering.current
    return pipeline(None if rgb is None else rgb.pixels, None if ir is None else ir.pixels)


def different_shapes(
    registering: Registering, rgb: CameraFrame | None, ir: CameraFrame | None, topics: Mapping[str, str]
) -> str:
    """Says it where a pair's images have different shapes and nothing tells how one lies on the other; else "".

    Args:
        registering: knows how.
        rgb, ir: the frames.
        topics: of "rgb" and "ir", to be named.
    """
    if rgb is None or ir is None or registering.current is not None:
        return ""
    (rgb_height, rgb_width), (ir_height, ir_width) = rgb.pixels.shape[:2], ir.pixels.shape[:2]
    if abs(rgb_width * ir_height / (rgb_height * ir_width) - 1) <= _ASPECT_TOLERANCE:
        return ""
    return (
        f"{topics['ir']} has {ir_width}x{ir_height} pixels and {topics['rgb']} {rgb_width}x{rgb_height}: their shapes "
        "differ, so the infrared picture is stretched over the colour one. Say how it lies there (parameters "
        "calibration_file, ir_to_rgb), or crop one of them to the same field of view"
    )


def drop_cause(error: Exception) -> str:
    """The name of the counter for a capture that an exception of `find` cost."""
    if isinstance(error, RebuildInterruptedError):
        return "engine_rebuilding"
    if isinstance(error, DeviceLostError):
        return "engine_lost"
    if isinstance(error, DecodeError):  # of the colour frame, which is unpacked only here
        return f"rgb_{error.cause}"
    if isinstance(error, NoValidPixelError):
        return "ir_no_valid_pixel"
    if isinstance(error, ThermalError):
        return "ir_thermal_mismatch"
    if isinstance(error, RegistrationError):
        return "registration"
    if isinstance(error, FrameError):
        return "bad_frame"
    return "inference_failed"
