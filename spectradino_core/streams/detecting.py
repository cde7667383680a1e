"""Model under the node's parameters, results of one capture, and causes of errors: the same live and in replay."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from time import perf_counter

import numpy as np

from spectradino_core.calibration.registration import RegistrationError
from spectradino_core.runtime.boxes import CANDIDATES
from spectradino_core.runtime.bundle import BundleError
from spectradino_core.runtime.engine import Engine
from spectradino_core.runtime.engines import open_engine
from spectradino_core.runtime.perception_result import Mode, PerceptionResult
from spectradino_core.runtime.pipeline import Pipeline
from spectradino_core.runtime.preprocess import FrameError
from spectradino_core.runtime.recovery import DeviceLostError, RebuildInterruptedError
from spectradino_core.runtime.rgb_grid import in_colour_pixels
from spectradino_core.runtime.temperatures import with_temperatures
from spectradino_core.runtime.tracking import WEAK
from spectradino_core.streams.decode import DecodeError
from spectradino_core.streams.frames import CameraFrame
from spectradino_core.streams.modes import FALLBACKS
from spectradino_core.streams.registering import Registering
from spectradino_core.streams.settings import Settings
from spectradino_core.thermal import NoValidPixelError, ThermalError

_ASPECT_TOLERANCE = 0.05


class UnreadableError(DecodeError):
    """No frame of a capture can be decoded and used; `errors` has one per damaged frame."""

    def __init__(self, errors: list[DecodeError]) -> None:
        super().__init__(errors[0].cause, "; ".join(map(str, errors)))
        self.camera = errors[0].camera
        self.errors = errors


def open_pipeline(model: str | Path, settings: Settings | None = None) -> Pipeline:
    """Open a model file under the node's parameters: device, threads, thermal contract and smoothing.

    Raises:
        BundleError: no such model, or it is for another band than the parameter `infrared_band`.
        EngineError: no engine here can run it.
        ThermalError: the parameters contradict each other or the model.
        ParameterError: a parameter names a class that the model does not have.
    """
    settings = settings or Settings()
    return pipeline_of(open_engine(model, settings.device, settings.threads, gpu_id=settings.gpu_id), settings, model)


def pipeline_of(engine: Engine, settings: Settings, path: str | Path) -> Pipeline:
    """Create a pipeline for an engine of the file `path` under the node's parameters; raises as `open_pipeline`."""
    band, wanted = engine.info.infrared.key, settings.infrared_band
    if wanted and band != wanted:
        raise BundleError(
            f"a model for another band: {path} takes {band.upper()}, infrared_band is '{wanted}'. Give a model for "
            f"{wanted.upper()} (parameter or launch argument 'model'), or set infrared_band to '{band}' "
            f"({band}_detector.launch.py)"
        )
    settings.check_classes(engine.info)
    pipeline = Pipeline(engine, thermal=settings.contract_of(engine.info), smoothing=settings.smoothing)
    apply_filters(pipeline, settings)
    pipeline.compensate_motion = settings.compensate_motion
    return pipeline


def apply_filters(pipeline: Pipeline, settings: Settings) -> None:
    """Set which detections of the network the pipeline keeps."""
    pipeline.score_threshold = settings.threshold_of(pipeline.info)
    pipeline.class_thresholds = settings.class_thresholds_of(pipeline.info)
    pipeline.nms_iou = settings.nms_iou_of(pipeline.info)
    pipeline.max_detections = settings.max_detections_of(pipeline.info)


def unpack(
    settings: Settings, registering: Registering, rgb: CameraFrame | None, ir: CameraFrame | None
) -> list[DecodeError]:
    """Decode the pixels of a capture; a damaged frame does not discard its valid partner, if `modes_alone` allows that.

    Returns:
        Errors of the frames that cannot be decoded, with their `camera`; empty: all can.

    Raises:
        UnreadableError: no frame is left that may be used.
    """
    errors: list[DecodeError] = []
    alone: list[Mode] = []
    for mode, frame in ((Mode.RGB_ONLY, rgb), (Mode.IR_ONLY, ir)):
        if frame is None:
            continue
        try:
            _ = frame.pixels
            alone.append(mode)
        except DecodeError as error:
            errors.append(error)
    if errors and not (set(alone) & modes_alone(settings, registering)):
        raise UnreadableError(errors)
    return errors


def modes_alone(settings: Settings, registering: Registering) -> set[Mode]:
    """Return the modes in which one camera may be used without the other, under the parameters in use."""
    allowed = set(FALLBACKS[settings.fallback_mode])
    if settings.fallback_mode == "rgb_grid" and registering.rgb_size is None:
        allowed -= {Mode.IR_ONLY}
    return allowed


def _keep_weak(pipeline: Pipeline, settings: Settings) -> None:
    """Widen the filters so that weak detections, which may continue a track, are kept too."""

    def by_class(thresholds: np.ndarray | None, threshold: float) -> np.ndarray:
        return np.full(len(info.box_classes), threshold, np.float32) if thresholds is None else thresholds

    info = pipeline.info
    weak = WEAK * by_class(settings.class_thresholds_of(info), settings.threshold_of(info))
    pipeline.class_thresholds = np.minimum(weak, by_class(pipeline.class_thresholds, pipeline.score_threshold))
    pipeline.max_detections = CANDIDATES


def find(
    pipeline: Pipeline,
    registering: Registering,
    settings: Settings,
    rgb: CameraFrame | None,
    ir: CameraFrame | None,
    after_jump: bool,
    time_ns: int,
    floor: float | None = None,
) -> PerceptionResult:
    """Detect and segment a pair, or one camera's frame, under the parameters in use.

    Infrared-only results are mapped to RGB pixels if a registration and the RGB size are known.

    Args:
        pipeline: its registration and filters are set.
        registering: provides the registration, and gets the RGB image's size.
        settings: parameters in use.
        rgb, ir: frames; one of them may be None.
        after_jump: whether time jumped back since the previous capture, so that temporal smoothing must be reset.
        time_ns: time of the capture, `Capture.time_ns`, for tracking.
        floor: also return weaker detections, down to this score, as scoring needs them; `settings.are_served` selects
            the published ones. None: only those that are.

    Raises:
        DecodeError, RegistrationError, and what `Pipeline` raises: the capture has no result, see `drop_cause`.
    """
    if after_jump:
        pipeline.reset()
    wanted = settings if floor is None else settings.down_to(floor)
    apply_filters(pipeline, wanted)
    if settings.tracking:
        _keep_weak(pipeline, settings)
    # Read once, before inference: camera_info may change them meanwhile.
    pipeline.registration = registering.check() if rgb is not None and ir is not None else registering.current
    current, size = pipeline.registration, registering.rgb_size
    if rgb is None and settings.fallback_mode == "rgb_grid" and size is None:
        raise RegistrationError("the registration, which fallback_mode rgb_grid requires, was lost meanwhile")
    perception = pipeline(None if rgb is None else rgb.pixels, None if ir is None else ir.pixels, ir)
    scale = settings.temperature_scale
    if scale is not None and ir is not None and ir.pixels.dtype == np.uint16:
        perception = with_temperatures(perception, ir.pixels, pipeline.used_registration, pipeline.thermal, scale)
    shown = np.ones(len(perception), bool)
    if settings.tracking:  # limited before the mapping, as without tracking
        shown = wanted.are_served(perception, pipeline.info)
        shown &= np.cumsum(shown) <= wanted.max_detections_of(pipeline.info)
    if rgb is not None:
        registering.note_rgb(perception.size, str(rgb.header.frame_id))
    elif current is not None and size is not None:
        perception = in_colour_pixels(perception, current, size)
    if not settings.tracking:
        return perception
    start = perf_counter()
    perception = _tracked(pipeline, settings, perception, time_ns, shown)
    perception.steps_ms = perception.steps_ms | {"tracking": (perf_counter() - start) * 1e3}
    return perception


def _tracked(
    pipeline: Pipeline, settings: Settings, perception: PerceptionResult, time_ns: int, shown: np.ndarray
) -> PerceptionResult:
    """Return the detections of a result that are shown, with identities.

    `shown`, bool [K], is of the result before it was mapped to RGB pixels.
    """
    pipeline.tracker.memory_s = settings.track_memory_ms / 1e3
    ids = pipeline.tracker(perception, settings.thresholds_of(perception, pipeline.info), time_ns)
    perception = replace(perception, track_ids=ids)
    native, mapped = perception.native, perception.of_native
    if native is None or mapped is None:
        return perception.selected(shown)
    left = iter(ids)
    native = replace(native, track_ids=tuple(next(left) if is_mapped else "" for is_mapped in mapped))
    return replace(perception.selected(shown[mapped]), native=native.selected(shown), of_native=mapped[shown])


def own_pixels(perception: PerceptionResult, topics: Mapping[str, str]) -> str:
    """Warning if results are in the infrared image's own pixels; else ""."""
    if perception.mode is not Mode.IR_ONLY or perception.registered:
        return ""
    return (
        f"only {topics.get('ir', 'ir')} is used and no registration to the RGB image is known, so detections and mask "
        f"are in its own {perception.size[0]}x{perception.size[1]} pixels and under its frame_id: give "
        "calibration_file, ir_to_rgb or registration_from_camera_info, or refuse it with fallback_mode rgb_grid"
    )


def no_temperatures(settings: Settings, ir: CameraFrame | None, topics: Mapping[str, str]) -> str:
    """Warning if temperatures are requested of an infrared frame that has none; else ""."""
    if settings.temperature_scale is None or ir is None or ir.pixels.dtype == np.uint16:
        return ""
    return (
        f"{topics['ir']} has 8-bit images, after the camera's automatic gain, so detections get no temperatures: "
        "switch the camera to 16-bit radiometric output, or set ir_kelvin_per_count to 0"
    )


def different_shapes(
    registering: Registering, rgb: CameraFrame | None, ir: CameraFrame | None, topics: Mapping[str, str]
) -> str:
    """Warning if a pair's images have different shapes and no registration is known; else ""."""
    if rgb is None or ir is None or registering.current is not None:
        return ""
    (rgb_height, rgb_width), (ir_height, ir_width) = rgb.pixels.shape[:2], ir.pixels.shape[:2]
    if abs(rgb_width * ir_height / (rgb_height * ir_width) - 1) <= _ASPECT_TOLERANCE:
        return ""
    return (
        f"{topics['ir']} has {ir_width}x{ir_height} pixels and {topics['rgb']} {rgb_width}x{rgb_height}: their shapes "
        "differ, so the infrared image is stretched over the RGB image. Give a registration (parameters "
        "calibration_file, ir_to_rgb), or crop one of them to the same field of view"
    )


_CAUSES: tuple[tuple[type[Exception], str], ...] = (
    (RebuildInterruptedError, "engine_rebuilding"),
    (DeviceLostError, "engine_lost"),
    (NoValidPixelError, "ir_no_valid_pixel"),
    (ThermalError, "ir_thermal_mismatch"),
    (RegistrationError, "registration"),
    (FrameError, "bad_frame"),
)


def drop_cause(error: Exception) -> str:
    """Return the drop counter for an exception of `find`."""
    if isinstance(error, DecodeError):
        return f"{error.camera or 'rgb'}_{error.cause}"
    return next((cause for kind, cause in _CAUSES if isinstance(error, kind)), "inference_failed")
