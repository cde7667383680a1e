"""Every parameter of the node once: its default, what it means, its range and when a change takes effect.

`Settings` is what the node reads. How values are checked: `parameter_values.py`; how the node declares and tells
them: `spectradino_ros/parameters.py`. A bag is replayed under the same parameters.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from enum import Enum
from typing import Any

from spectradino_core.runtime.bundle import ModelInfo
from spectradino_core.runtime.engine import DEVICES
from spectradino_core.runtime.thermal_override import NORMALIZATIONS, override_contract, override_invalid_counts
from spectradino_core.streams.captures import FeedSettings
from spectradino_core.streams.clocks import PAIR_BY
from spectradino_core.streams.infrared import FLOAT_UNITS, DecodeOptions
from spectradino_core.streams.modes import FALLBACKS
from spectradino_core.thermal import Smoothing, ThermalContract

__all__ = ["TRANSPORTS", "ParameterError", "Settings", "Spec", "When", "parameter", "specs"]

TRANSPORTS = ("raw", "compressed", "zstd")


class ParameterError(ValueError):
    """A parameter's value is refused; the message names the parameter and says what is allowed."""


class When(str, Enum):
    """When a changed value takes effect."""

    LIVE = "at once"
    CONFIGURE = "when the node is configured"
    START = "read-only"


@dataclass(frozen=True)
class Spec:
    """What is known of one parameter beside its value.

    `low` and `high` are both allowed values. A list's default is a tuple of floating-point numbers; `lengths` are those
    that it may have.
    """

    name: str
    default: Any
    description: str
    when: When
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    lengths: tuple[int, ...] = ()

    @property
    def kind(self) -> type:
        return type(self.default)

    @property
    def allowed(self) -> str:
        """The allowed values in words, empty where the type says it all."""
        if self.choices:
            return ", ".join(choice or '""' for choice in self.choices)
        if self.lengths:
            return f"{' or '.join(map(str, self.lengths))} numbers"
        return "" if self.low is None else f"{self.low:g} to {self.high:g}"


def _parameter(
    default: Any,
    description: str,
    when: When = When.LIVE,
    low: float | None = None,
    high: float | None = None,
    choices: tuple[str, ...] = (),
    lengths: tuple[int, ...] = (),
) -> Any:
    facts = {"description": description, "when": when, "low": low, "high": high, "choices": choices, "lengths": lengths}
    return field(default=default, metadata=facts)


@dataclass(frozen=True)
class Settings:
    """The node's parameters with their values. Immutable: another thread sees a change whole or not at all."""

    model: str = _parameter(
        "", "Model file (.onnx) to serve; empty: the model in the box for infrared_band.", When.CONFIGURE
    )
    infrared_band: str = _parameter(
        "",
        "Band of the infrared camera; a model for another band is refused; empty: whatever the model takes.",
        When.CONFIGURE,
        choices=("", "lwir", "swir", "nir"),
    )
    device: str = _parameter(
        "auto",
        "What runs the network. auto: CUDA where it is there and agrees with the CPU, else the CPU; never TensorRT, "
        "whose first start takes minutes. tensorrt: CUDA where it fails.",
        When.CONFIGURE,
        choices=DEVICES,
    )
    gpu_id: int = _parameter(
        0,
        "Which GPU, counted as CUDA does: from 0, of those that CUDA_VISIBLE_DEVICES leaves.",
        When.CONFIGURE,
        low=0,
        high=63,
    )
    threads: int = _parameter(
        0, "CPU threads of the network; 0 leaves it to ONNX Runtime.", When.CONFIGURE, low=0, high=256
    )
    max_engine_rebuilds: int = _parameter(
        3,
        "How often the engine is opened anew after it failed on several frames in a row, as when a GPU is lost.",
        low=0,
        high=100,
    )
    allow_cpu_fallback: bool = _parameter(
        True,
        "Go on with the CPU when rebuilding the engine did not help; false: give up, to the unconfigured state.",
    )
    rgb_transport: str = _parameter(
        "raw",
        "How the colour images come: raw: the topic itself; compressed: <topic>/compressed (JPEG, PNG or TIFF); zstd: "
        "<topic>/zstd, of zstd_image_transport.",
        When.CONFIGURE,
        choices=TRANSPORTS,
    )
    ir_transport: str = _parameter(
        "raw",
        "The same of the infrared images. For 16 bits the publisher must compress to PNG or TIFF: JPEG keeps 8.",
        When.CONFIGURE,
        choices=TRANSPORTS,
    )
    max_image_megapixels: float = _parameter(
        24.0,
        "A compressed image that claims more pixels is refused before it is unpacked [million pixels].",
        When.CONFIGURE,
        low=0.001,
        high=1000.0,
    )
    ir_crop: tuple[float, ...] = _parameter(
        (0.0,) * 4,
        "Part of each infrared image that is used: x, y, width, height [px]; width or height 0: up to the edge. For "
        "double-height frames, telemetry rows and borders. Calibration and detections of the infrared camera alone are "
        "in the pixels of that part. All 0: the whole image.",
        When.CONFIGURE,
        lengths=(4,),
    )
    ir_encoding: str = _parameter(
        "",
        "Encoding of the raw infrared images where their messages say another, as mono16 for counts that a driver "
        "sends as yuv422_yuy2. Empty: as they say.",
        When.CONFIGURE,
        choices=("", "mono8", "mono16", "16SC1", "32FC1"),
    )
    ir_float_unit: str = _parameter(
        "auto",
        "What 32FC1 infrared images hold; temperatures become counts of 0.01 K. auto: by the median: below 150 "
        "Celsius, below 2000 kelvin, else counts; images within 0 to 1 are spread over all counts.",
        When.CONFIGURE,
        choices=FLOAT_UNITS,
    )
    lazy_subscription: bool = _parameter(
        False,
        "Subscribe to the cameras only while someone subscribes to detections, masks, overlays or reports.",
    )
    score_threshold: float = _parameter(
        -1.0, "Least score of a detection, 0 to 1; -1: the model's own.", low=-1.0, high=1.0
    )
    sync_slop_ms: float = _parameter(
        50.0,
        "Largest time between the stamps of a colour and an infrared frame taken as a pair [ms].",
        low=0.1,
        high=10000.0,
    )
    ir_time_offset_ms: float = _parameter(
        0.0,
        "Constant by which the infrared camera's stamps are late against the colour camera's [ms]; it is subtracted "
        "before frames are paired. 0: the calibration file's, where it has one. For clocks that have nothing in common "
        "see pair_by.",
        low=-86400000.0,
        high=86400000.0,
    )
    learn_ir_time_offset: bool = _parameter(
        False,
        "Learn that constant, of any size, while the streams run. It comes into force once what both cameras see move "
        "confirms it, or where no delay on the way explains it; until then the one given holds. See /diagnostics.",
    )
    pair_by: str = _parameter(
        "auto",
        "Which times frames are paired by. stamp: their header stamps; arrival: when they arrive here, for cameras "
        "that stamp with the time since their start or not at all; auto: the stamps unless those of the two cameras "
        "cannot be compared. Output headers keep the camera's stamp either way.",
        choices=PAIR_BY,
    )
    fallback_mode: str = _parameter(
        "auto",
        "Which camera may answer alone while the other is silent: auto: either; fused_only: none; rgb_grid: infrared "
        "only where a registration gives its results in the RGB image's pixels, as in all other modes.",
        choices=tuple(FALLBACKS),
    )
    stale_ms: float = _parameter(
        1000.0,
        "A camera silent for longer than this is not waited for [ms]; well above the slower camera's period.",
        low=1.0,
        high=60000.0,
    )
    frozen_ms: float = _parameter(
        400.0,
        "An infrared camera that repeats one picture for so long counts as silent until the picture moves [ms], as in "
        "shutter calibration; 0: never, as for still pictures without noise.",
        low=0.0,
        high=60000.0,
    )
    ir_normalization: str = _parameter(
        "model",
        "How infrared counts become the network's input; model: as the model's file says, which it was trained with.",
        When.CONFIGURE,
        choices=NORMALIZATIONS,
    )
    ir_range_low: float = _parameter(
        0.0,
        "Lower end of the range: counts, or kelvin with ir_kelvin_per_count, for ir_normalization fixed; a percentile "
        "for percentile. Both ends 0: not given.",
        When.CONFIGURE,
        low=0.0,
        high=65535.0,
    )
    ir_range_high: float = _parameter(0.0, "Upper end of the range.", When.CONFIGURE, low=0.0, high=65535.0)
    ir_kelvin_per_count: float = _parameter(
        0.0,
        "What one count of a radiometric camera is worth [K]; 0: not given.",
        When.CONFIGURE,
        low=0.0,
        high=100.0,
    )
    ir_invalid_counts: str = _parameter(
        "model",
        "Infrared counts that are no measurement, as of dead pixels, borders and telemetry. model: as the model's file "
        "says, by default auto; auto: recognised in each 16-bit frame; none; or counts, as in 0, 65535 or auto, 4095.",
        When.CONFIGURE,
    )
    thermal_smoothing: float = _parameter(
        0.9,
        "Share of the range kept from frame to frame where it follows the picture (percentile), so that a hot object "
        "does not make it flicker; 0: each frame by itself.",
        When.CONFIGURE,
        low=0.0,
        high=0.99,
    )
    ir_to_rgb: tuple[float, ...] = _parameter(
        (0.0,) * 9,
        "Homography from infrared to colour pixels, row by row; all 0: none, the infrared picture is laid over the "
        "whole colour one.",
        When.CONFIGURE,
        lengths=(9,),
    )
    calibration_file: str = _parameter(
        "",
        "File of 'spectradino calibrate' with that homography, the sizes it is for and the time offset; empty: none.",
        When.CONFIGURE,
    )
    registration_from_camera_info: bool = _parameter(
        False,
        "Make that homography from rgb/camera_info, ir/camera_info, the extrinsics below and a plane; pairs are not "
        "answered before both have come.",
        When.CONFIGURE,
    )
    extrinsic_rotation: tuple[float, ...] = _parameter(
        (0.0, 0.0, 0.0, 1.0),
        "Rotation from the infrared to the colour camera's optical frame: quaternion x y z w, or a matrix row by row.",
        When.CONFIGURE,
        lengths=(4, 9),
    )
    extrinsic_translation: tuple[float, ...] = _parameter(
        (0.0,) * 3,
        "The infrared camera's place in the colour camera's optical frame: x right, y down, z forward [m].",
        When.CONFIGURE,
        lengths=(3,),
    )
    plane_distance_m: float = _parameter(
        10.0,
        "How far before the infrared camera the two pictures shall fall together [m]: where things usually are.",
        When.CONFIGURE,
        low=0.01,
        high=100000.0,
    )
    images_rectified: bool = _parameter(
        False,
        "The images come rectified (image_proc), so camera_info's P counts instead of K and the distortion.",
        When.CONFIGURE,
    )
    publish_overlay: bool = _parameter(
        True, "Draw and publish ~/segmentation/overlay, as long as someone subscribes to it."
    )
    deadline_ms: float = _parameter(
        0.0,
        "Budget from the colour frame's stamp to publishing [ms]; frames that miss it are counted; 0: none.",
        low=0.0,
        high=60000.0,
    )
    no_message_timeout_s: float = _parameter(
        5.0, "A camera topic that is silent for so long is named in a warning [s].", low=0.1, high=3600.0
    )
    warning_period_s: float = _parameter(
        10.0, "A warning that holds on is repeated at most this often [s].", low=0.1, high=3600.0
    )
    autostart: bool = _parameter(
        True,
        "Configure and activate at start by itself; a failure then ends the process with a code other than 0. "
        "False: a lifecycle manager does it.",
        When.START,
    )

    def with_(self, **changes: Any) -> Settings:
        """A copy with some values changed."""
        return replace(self, **changes)

    def transport_of(self, camera: str) -> str:
        """How the images of the camera "rgb" or "ir" come: one of `TRANSPORTS`."""
        return self.rgb_transport if camera == "rgb" else self.ir_transport

    @property
    def decoding(self) -> DecodeOptions:
        """How images are read."""
        x, y, width, height = map(int, self.ir_crop)
        return DecodeOptions(
            round(self.max_image_megapixels * 1e6), (x, y, width, height), self.ir_encoding, self.ir_float_unit
        )

    def threshold_of(self, info: ModelInfo) -> float:
        """The least score in force for a model."""
        return info.score_threshold if self.score_threshold < 0 else self.score_threshold

    def contract_of(self, info: ModelInfo) -> ThermalContract:
        """The thermal contract in force for a model.

        Raises:
            ThermalError: the parameters contradict each other or the model.
        """
        contract = override_contract(
            info.thermal, self.ir_normalization, self.ir_range_low, self.ir_range_high, self.ir_kelvin_per_count
        )
        contract = override_invalid_counts(contract, self.ir_invalid_counts)
        return contract if self.thermal_smoothing else replace(contract, smoothing=0.0)

    @property
    def smoothing(self) -> Smoothing | None:
        """How the thermal range follows the stream."""
        return Smoothing(keep=self.thermal_smoothing) if self.thermal_smoothing else None

    def feed(self, calibrated_offset_ms: float | None = None) -> FeedSettings:
        """How frames are paired and when one camera is enough, with the calibration file's offset if none is given."""
        return FeedSettings(
            sync_slop_ms=self.sync_slop_ms,
            ir_time_offset_ms=self.ir_time_offset_ms or calibrated_offset_ms or 0.0,
            learn_ir_time_offset=self.learn_ir_time_offset,
            pair_by=self.pair_by,
            stale_ms=self.stale_ms,
            fallback_mode=self.fallback_mode,
            frozen_ms=self.frozen_ms,
        )


def specs() -> dict[str, Spec]:
    """All parameters by name, in the order of the table."""
    return {f.name: Spec(name=f.name, default=f.default, **f.metadata) for f in fields(Settings)}


def parameter(name: str) -> Spec:
    """One parameter's facts."""
    return specs()[name]
