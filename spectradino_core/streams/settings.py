"""Parameters of the node: default, meaning, range and when a change takes effect.

The node and bag replay read `Settings`. Values are checked in `parameter_values.py` and declared in
`spectradino_ros/parameters.py`. Launch arguments and options of the command line derive from the rows below; `make
reference` writes them into `docs/node.md` and `config/detector.yaml`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from enum import Enum
from functools import lru_cache, partial
from typing import Any

import numpy as np

from spectradino_core.modality import INFRARED
from spectradino_core.runtime.boxes import CANDIDATES
from spectradino_core.runtime.bundle import ModelInfo
from spectradino_core.runtime.engine import DEVICES
from spectradino_core.runtime.perception_result import PerceptionResult
from spectradino_core.runtime.temperatures import TemperatureScale
from spectradino_core.streams.clocks import PAIR_BY
from spectradino_core.streams.decode import FLOAT_UNITS, DecodeOptions
from spectradino_core.streams.modes import FALLBACKS
from spectradino_core.streams.pairing import PAIRING
from spectradino_core.text import printable
from spectradino_core.thermal import (
    ABSOLUTE_ZERO,
    NORMALIZATIONS,
    Smoothing,
    ThermalContract,
    override_contract,
    override_invalid_counts,
)

TRANSPORTS = ("raw", "compressed", "zstd")


class ParameterError(ValueError):
    """A parameter's value is rejected; the message names the parameter and the allowed values."""


class When(str, Enum):
    """When a changed value takes effect."""

    LIVE = "at once"
    CONFIGURE = "when the node is configured"
    START = "read-only"


@dataclass(frozen=True)
class Spec:
    """Description of one parameter.

    `low` and `high` bound its values. A list's default is a tuple of floats, `lengths` are its allowed lengths.
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
        """Description of the allowed values; empty if the type suffices."""
        if self.choices:
            return ", ".join(choice or '""' for choice in self.choices)
        if self.lengths:
            return f"{' or '.join(map(str, self.lengths))} numbers"
        return "" if self.low is None else f"{self.low:g} to {self.high:g}"


def _parameter(
    default: Any,
    description: str,
    when: When = When.LIVE,
    bounds: tuple[float, float] | None = None,
    choices: tuple[str, ...] = (),
    lengths: tuple[int, ...] = (),
) -> Any:
    low, high = bounds or (None, None)
    facts = {"description": description, "when": when, "low": low, "high": high, "choices": choices, "lengths": lengths}
    return field(default=default, metadata=facts)


_configured = partial(_parameter, when=When.CONFIGURE)


@dataclass(frozen=True)
class Settings:
    """Values of the node's parameters. Immutable, so that another thread sees a change completely or not at all."""

    model: str = _configured(
        "",
        "Model file (.onnx) to serve, or the name of a bundled model, such as lwir_box_large. Empty: the bundled model "
        "for infrared_band.",
    )
    infrared_band: str = _configured(
        "",
        "Band of the infrared camera; a model for another band is refused. Empty: any band.",
        choices=("", *(band.key for band in reversed(INFRARED))),
    )
    device: str = _configured(
        "auto",
        "Device that runs the network. auto: CUDA if it is available and agrees with the CPU, else OpenVINO on the "
        "CPU if it is installed and agrees (in the node only, so that the replay of a bag does not depend on it), else "
        "the CPU; never TensorRT, whose first start takes minutes. tensorrt: falls back to CUDA. openvino: on the "
        "CPU; openvino:GPU, openvino:NPU: Intel's.",
        choices=DEVICES,
    )
    gpu_id: int = _configured(
        0,
        "GPU index as CUDA counts: from 0, among the GPUs that CUDA_VISIBLE_DEVICES leaves visible; with openvino:GPU "
        "as OpenVINO counts.",
        bounds=(0, 63),
    )
    threads: int = _configured(0, "CPU threads of the network. 0: ONNX Runtime or OpenVINO decides.", bounds=(0, 256))
    max_engine_rebuilds: int = _parameter(
        3,
        "Maximum number of times the engine is reopened after it failed on several frames in a row, for example "
        "because a GPU was lost.",
        bounds=(0, 100),
    )
    allow_cpu_fallback: bool = _parameter(
        True, "Continue on the CPU if reopening the engine did not help. false: go to the unconfigured state."
    )
    rgb_transport: str = _configured(
        "raw",
        "Transport of the RGB images. raw: the topic itself; compressed: <topic>/compressed (JPEG, PNG or TIFF); "
        "zstd: <topic>/zstd (zstd_image_transport).",
        choices=TRANSPORTS,
    )
    ir_transport: str = _configured(
        "raw",
        "Transport of the infrared images, see rgb_transport. 16-bit images must be compressed as PNG or TIFF: "
        "JPEG keeps 8 bits.",
        choices=TRANSPORTS,
    )
    max_image_megapixels: float = _configured(
        24.0,
        "Maximum size of a compressed image, checked in its header before decoding [million pixels].",
        bounds=(0.001, 1000.0),
    )
    ir_crop: tuple[float, ...] = _configured(
        (0.0,) * 4,
        "Part of each infrared image to use: x, y, width, height [px]; width or height 0: up to the edge; all 0: "
        "the whole image. For double-height frames, telemetry rows and borders. Calibration, and detections from "
        "the infrared camera alone, are in the pixels of this part.",
        lengths=(4,),
    )
    ir_encoding: str = _configured(
        "",
        "Encoding of raw infrared images whose messages state a wrong one, for example mono16 for counts sent as "
        "yuv422_yuy2. Empty: as stated.",
        choices=("", "mono8", "mono16", "16SC1", "32FC1"),
    )
    ir_float_unit: str = _configured(
        "auto",
        "Unit of 32FC1 infrared images; temperatures are converted to counts of 0.01 K. auto: decided by the median "
        "(below 150 Celsius, below 2000 kelvin, else counts); images within 0 to 1 are scaled to all counts.",
        choices=FLOAT_UNITS,
    )
    lazy_subscription: bool = _parameter(
        False, "Subscribe to the cameras only while detections, masks, overlays or reports have a subscriber."
    )
    enabled: bool = _parameter(
        True,
        "Run inference. false: frames are dropped before decoding and counted as disabled, and ~/mode is disabled; the "
        "model stays loaded and the cameras stay subscribed to.",
    )
    max_rate_hz: float = _parameter(
        0.0,
        "Maximum rate of results [Hz]; frames beyond it are dropped before decoding and counted as max_rate. 0: no "
        "limit.",
        bounds=(0.0, 1000.0),
    )
    score_threshold: float = _parameter(
        -1.0, "Minimum score of a detection, 0 to 1. -1: the model's own threshold.", bounds=(-1.0, 1.0)
    )
    classes: str = _parameter(
        "",
        "Names of the classes to detect, as in person, car; a name that the model does not have is refused. Empty: all "
        "classes of the model. The mask keeps all of its classes.",
    )
    class_thresholds: str = _parameter(
        "", "Minimum scores of single classes in place of score_threshold, as in person:0.3, car:0.5. Empty: none."
    )
    nms_iou: float = _parameter(
        -1.0,
        "Overlap (IoU) of two boxes of one class, 0 to 1, above which the one with the lower score is dropped. -1: the "
        "model's own.",
        bounds=(-1.0, 1.0),
    )
    max_detections: int = _parameter(
        0,
        "Maximum number of detections per frame; those with the highest scores are kept. 0: the model's own.",
        bounds=(0, CANDIDATES),
    )
    class_id_as: str = _parameter(
        "index",
        "Class id of published detections (results[].hypothesis.class_id). index: the class index as a string, as in "
        "~/label_info; name: the class name.",
        choices=("index", "name"),
    )
    tracking: bool = _parameter(
        False,
        "Give detections identities (id of each Detection2D) that last through short losses and changes of the cameras "
        "in use. An object gets its identity when it is detected twice in a row; the detections themselves do not "
        "change.",
    )
    track_memory_ms: float = _parameter(
        1000.0,
        "With tracking: time for which an object that is not detected keeps its identity [ms].",
        bounds=(1.0, 60000.0),
    )
    pairing: str = _parameter(
        "latest",
        "Which infrared frame an RGB frame is fused with. latest: the newest one, which may serve several RGB frames, "
        "so that every RGB frame has a result at once; only the RGB frame nearest to an infrared frame waits for it. "
        "nearest: the nearest one, waiting up to half an infrared period. one_to_one: each infrared frame is used "
        "once, with its nearest RGB frame; the other RGB frames are dropped.",
        choices=PAIRING,
    )
    sync_slop_ms: float = _parameter(
        0.0,
        "Maximum difference between the stamps of an RGB and an infrared frame that form a pair [ms]. 0: 1.5 periods "
        "of the slower camera, at least 50 and at most 250 ms; 50 ms with pairing one_to_one.",
        bounds=(0.0, 10000.0),
    )
    compensate_motion: bool = _parameter(
        False,
        "Move an infrared frame that serves several RGB frames by the motion of the RGB image since then, for cameras "
        "that turn. Measured by phase correlation in about half a millisecond; a frame that has to be moved costs a "
        "full pass of the network.",
    )
    ir_time_offset_ms: float = _parameter(
        0.0,
        "Constant delay of the infrared stamps relative to the RGB stamps [ms]; it is subtracted before pairing. "
        "0: the calibration file's offset, if it has one. For clocks that are not comparable see pair_by.",
        bounds=(-86400000.0, 86400000.0),
    )
    learn_ir_time_offset: bool = _parameter(
        False,
        "Estimate that offset, of any size, while the streams run. It is applied once motion in both images "
        "confirms it, or if no transport delay explains it; until then the given one is used. See /diagnostics.",
    )
    pair_by: str = _parameter(
        "auto",
        "Times by which frames are paired. stamp: header stamps; arrival: times of arrival, for cameras that stamp"
        " with the time since their start or not at all; auto: stamps, unless those of the two cameras are not "
        "comparable. Output headers always keep the camera's stamp.",
        choices=PAIR_BY,
    )
    fallback_mode: str = _parameter(
        "auto",
        "Camera that may be used alone while the other is silent. auto: either; fused_only: neither; rgb_only, "
        "ir_only: this one; rgb_grid: either, but infrared only if a registration maps its results to the RGB "
        "image's pixels, as in all other modes.",
        choices=tuple(FALLBACKS),
    )
    stale_ms: float = _parameter(
        1000.0,
        "A camera that is silent for longer is not waited for [ms]. Set it well above the period of the slower camera.",
        bounds=(1.0, 60000.0),
    )
    frozen_ms: float = _parameter(
        400.0,
        "An infrared camera that repeats one image for this long counts as silent until the image changes [ms], as"
        " during shutter calibration. 0: never, for still images without noise.",
        bounds=(0.0, 60000.0),
    )
    ir_normalization: str = _configured(
        "model",
        "Conversion from infrared counts to network input. model: as in the model file, with which the model was "
        "trained.",
        choices=NORMALIZATIONS,
    )
    ir_range_low: float = _configured(
        0.0,
        "Lower end of the range. For ir_normalization fixed: counts, or kelvin if ir_kelvin_per_count is set; for "
        "percentile: a percentile. Both ends 0: not set.",
        bounds=(0.0, 65535.0),
    )
    ir_range_high: float = _configured(0.0, "Upper end of the range.", bounds=(0.0, 65535.0))
    ir_kelvin_per_count: float = _configured(
        0.0,
        "Temperature difference per count of a radiometric camera [K]: 0.01 or 0.04 for TLinear (Lepton, Boson), 0.1 "
        "for Optris, 0.01 for 32FC1 temperatures. If set, detections get temperatures (~/temperatures). 0: not set.",
        bounds=(0.0, 100.0),
    )
    ir_celsius_offset: float = _configured(
        ABSOLUTE_ZERO,
        "Temperature of count 0 of a radiometric camera [Celsius], beside ir_kelvin_per_count: -273.15 if counts are "
        "proportional to kelvin (TLinear, 32FC1), -100 for Optris.",
        bounds=(-100000.0, 100000.0),
    )
    ir_invalid_counts: str = _configured(
        "model",
        "Infrared counts that are not measurements, as of dead pixels, borders and telemetry. model: as in the model "
        "file, by default auto; auto: detected in each 16-bit frame; none; or counts, as in 0, 65535 or auto, 4095.",
    )
    thermal_smoothing: float = _configured(
        0.9,
        "Fraction of the range that is kept from frame to frame if the range follows the image (percentile), so "
        "that a hot object does not make it flicker. 0: each frame on its own.",
        bounds=(0.0, 0.99),
    )
    ir_to_rgb: tuple[float, ...] = _configured(
        (0.0,) * 9,
        "Homography from infrared to RGB pixels, row by row. All 0: none, the infrared image is stretched over the"
        " whole RGB image.",
        lengths=(9,),
    )
    calibration_file: str = _configured(
        "",
        "File written by 'spectradino calibrate' with this homography, the image sizes and the time offset. Empty:"
        " none.",
    )
    registration_from_camera_info: bool = _configured(
        False,
        "Compute this homography from rgb/camera_info, ir/camera_info, the extrinsics below and a plane; no pair "
        "is processed before both messages have arrived.",
    )
    extrinsic_rotation: tuple[float, ...] = _configured(
        (0.0, 0.0, 0.0, 1.0),
        "Rotation from the infrared to the RGB optical frame: quaternion x y z w, or a 3x3 matrix row by row.",
        lengths=(4, 9),
    )
    extrinsic_translation: tuple[float, ...] = _configured(
        (0.0,) * 3,
        "Position of the infrared camera in the RGB optical frame: x right, y down, z forward [m].",
        lengths=(3,),
    )
    extrinsics_from_tf: bool = _configured(
        False,
        "With registration_from_camera_info, take rotation and translation from /tf_static, between the frame_ids of "
        "both camera_info, instead of the two parameters above; no pair is processed before the transform is known.",
    )
    plane_distance_m: float = _configured(
        10.0,
        "Distance from the infrared camera at which the two images coincide [m]: the usual distance of objects.",
        bounds=(0.01, 100000.0),
    )
    images_rectified: bool = _configured(
        False, "The images are rectified (image_proc): use P of camera_info instead of K and the distortion."
    )
    publish_overlay: bool = _parameter(
        True, "Draw and publish ~/segmentation/overlay, raw and compressed, while it has a subscriber."
    )
    deadline_ms: float = _parameter(
        0.0,
        "Latency budget from the RGB frame's stamp to publishing [ms]; frames that miss it are counted. 0: none.",
        bounds=(0.0, 60000.0),
    )
    no_message_timeout_s: float = _parameter(
        5.0, "A camera topic that is silent for this long is named in a warning [s].", bounds=(0.1, 3600.0)
    )
    warning_period_s: float = _parameter(
        10.0, "Minimum time between two log lines of a warning that persists [s].", bounds=(0.1, 3600.0)
    )
    autostart: bool = _parameter(
        True,
        "Configure and activate at start; a failure ends the process with a non-zero code. false: a lifecycle "
        "manager does it.",
        When.START,
    )

    def with_(self, **changes: Any) -> Settings:
        """Return a copy with some values changed."""
        return replace(self, **changes)

    def transport_of(self, camera: str) -> str:
        """Return the transport of the camera "rgb" or "ir", one of `TRANSPORTS`."""
        return self.rgb_transport if camera == "rgb" else self.ir_transport

    @property
    def decoding(self) -> DecodeOptions:
        """Options for decoding images."""
        x, y, width, height = map(int, self.ir_crop)
        return DecodeOptions(
            round(self.max_image_megapixels * 1e6), (x, y, width, height), self.ir_encoding, self.ir_float_unit
        )

    def threshold_of(self, info: ModelInfo) -> float:
        """Return the minimum score in use for a model; with scores per class, the lowest of them."""
        threshold = info.score_threshold if self.score_threshold < 0 else self.score_threshold
        own = parse_class_thresholds(self.class_thresholds)
        wanted = parse_classes(self.classes) or info.box_classes
        return min((own.get(name, threshold) for name in wanted), default=threshold)

    def class_thresholds_of(self, info: ModelInfo) -> np.ndarray | None:
        """Return the minimum scores by class for a model, float32 [C], infinite for classes that are not detected.

        None if they are the same for all classes: see `threshold_of`.
        """
        if not self.classes and not self.class_thresholds:
            return None
        default = info.score_threshold if self.score_threshold < 0 else self.score_threshold
        return _by_class(default, self.classes, self.class_thresholds, info.box_classes)

    def thresholds_of(self, detections: PerceptionResult, info: ModelInfo) -> np.ndarray:
        """Return the minimum score of each detection's class, float32 [K], infinite for a class that is left out."""
        by_class = self.class_thresholds_of(info)
        if by_class is not None:
            return by_class[detections.labels]
        return np.full(len(detections), self.threshold_of(info), np.float32)

    def are_served(self, detections: PerceptionResult, info: ModelInfo) -> np.ndarray:
        """Return which detections, made with a copy `down_to` a score, these settings publish: bool [K]."""
        return detections.scores >= self.thresholds_of(detections, info)

    def nms_iou_of(self, info: ModelInfo) -> float:
        """Return the IoU in use for a model above which a box is dropped."""
        return info.nms_iou if self.nms_iou < 0 else self.nms_iou

    def max_detections_of(self, info: ModelInfo) -> int:
        """Return the maximum number of detections per frame in use for a model."""
        return self.max_detections or info.max_detections

    def class_ids_of(self, info: ModelInfo) -> Sequence[str]:
        """Return the published class ids of a model's classes; empty: their indices."""
        return info.box_classes if self.class_id_as == "name" else ()

    def down_to(self, score: float) -> Settings:
        """Return a copy with one minimum score for all classes, for scoring."""
        return self.with_(score_threshold=score, class_thresholds="")

    def check_classes(self, info: ModelInfo) -> None:
        """Check that a model has the classes that parameters name.

        Raises:
            ParameterError: a class is missing; the message lists the model's classes.
        """
        named = [("classes", name) for name in parse_classes(self.classes)]
        named += [("class_thresholds", name) for name in parse_class_thresholds(self.class_thresholds)]
        for parameter_name, name in named:
            if name not in info.box_classes:
                raise ParameterError(
                    f"parameter '{parameter_name}' names '{printable(name, 60)}', which model {info.name} does not "
                    f"have: its classes are {printable(', '.join(info.box_classes), 500) or 'none'}"
                )

    def contract_of(self, info: ModelInfo) -> ThermalContract:
        """Return the thermal contract in use for a model.

        Raises:
            ThermalError: the parameters contradict each other or the model.
        """
        kelvin, celsius = self.ir_kelvin_per_count, self.ir_celsius_offset
        low, high = self.ir_range_low, self.ir_range_high
        contract = override_contract(info.thermal, self.ir_normalization, low, high, kelvin, celsius)
        contract = override_invalid_counts(contract, self.ir_invalid_counts)
        return contract if self.thermal_smoothing else replace(contract, smoothing=0.0)

    @property
    def temperature_scale(self) -> TemperatureScale | None:
        """Temperature by infrared count; None: the camera is not radiometric."""
        return TemperatureScale(self.ir_kelvin_per_count, self.ir_celsius_offset) if self.ir_kelvin_per_count else None

    @property
    def smoothing(self) -> Smoothing | None:
        """Temporal smoothing of the thermal range."""
        return Smoothing(keep=self.thermal_smoothing) if self.thermal_smoothing else None

    @property
    def match_slop_ms(self) -> float:
        """Maximum distance of an infrared-only result from the labelled frame that it is scored at."""
        return self.sync_slop_ms or 50.0

    def calibrated(self, offset_ms: float | None) -> Settings:
        """Return a copy with the calibration file's time offset if it has one and none is given."""
        return self if self.ir_time_offset_ms else self.with_(ir_time_offset_ms=offset_ms or 0.0)


@lru_cache(maxsize=8)
def parse_classes(text: str) -> tuple[str, ...]:
    """Parse names joined by commas.

    Raises:
        ParameterError: a name is empty.
    """
    names = tuple(name.strip() for name in text.split(",")) if text.strip() else ()
    if not all(names):
        raise ParameterError(f"parameter 'classes' must be names joined by commas, got '{printable(text)}'")
    return names


@lru_cache(maxsize=8)
def parse_class_thresholds(text: str) -> Mapping[str, float]:
    """Parse minimum scores by class name, as in person:0.3, car:0.5.

    Raises:
        ParameterError: not such a list, a name occurs twice, or a score is not in 0 to 1.
    """
    found: dict[str, float] = {}
    for entry in text.split(",") if text.strip() else ():
        name, _, score = (part.strip() for part in entry.rpartition(":"))
        try:
            value = float(score)
        except ValueError:
            value = math.nan
        if not name or name in found or not 0 <= value <= 1:
            raise ParameterError(
                "parameter 'class_thresholds' must be NAME:SCORE joined by commas, each name once and scores in 0 to "
                f"1, got '{printable(entry.strip(), 60)}'"
            )
        found[name] = value
    return found


@lru_cache(maxsize=8)
def _by_class(default: float, classes: str, class_thresholds: str, names: tuple[str, ...]) -> np.ndarray:
    wanted, by_class = parse_classes(classes) or names, parse_class_thresholds(class_thresholds)
    found = [by_class.get(name, default) if name in wanted else math.inf for name in names]
    return np.array(found, np.float32)


@lru_cache(maxsize=1)
def specs() -> dict[str, Spec]:
    """Return all parameters by name, in the order of the table."""
    return {f.name: Spec(name=f.name, default=f.default, **f.metadata) for f in fields(Settings)}


def parameter(name: str) -> Spec:
    """Return the description of a parameter."""
    return specs()[name]
