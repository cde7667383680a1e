"""Normalisation of raw infrared counts to network input, shared by training and serving.

A thermal frame may be 8-bit after automatic gain, 14- or 16-bit raw, or radiometric (counts proportional to
temperature). The contract of a model's training is stored in the model file; frames that do not fit it are refused. A
user may override it where camera or site differ, if that does not contradict the model: `override_contract`.

Letters: H height, W width.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Any

import cv2
import numpy as np

from spectradino_core.invalid_counts import InvalidCounts

KINDS = ("percentile", "fixed", "none")
ABSOLUTE_ZERO = -273.15
"""Default of the parameter `ir_celsius_offset`: counts are proportional to kelvin."""

NORMALIZATIONS = ("model", *KINDS)
"""Values of the parameter `ir_normalization`."""


class ThermalError(ValueError):
    """An infrared frame or a normalisation setting does not fit the contract."""


class NoValidPixelError(ThermalError):
    """No pixel of an infrared frame is valid."""


def _require(holds: bool, problem: str) -> None:
    if not holds:
        raise ThermalError(problem)


@dataclass(frozen=True)
class ThermalContract:
    """Mapping of raw counts to [0, 1].

    Attributes:
        kind: "percentile" stretches between two percentiles of the frame; "fixed" maps a fixed range, so that a
            temperature has the same value in every frame; "none" divides by the maximum of the frame's dtype.
        low, high: percentiles (0 to 100) for "percentile"; for "fixed" counts, or kelvin with `kelvin_per_count`.
        kelvin_per_count: kelvin per count of a radiometric camera (usually 0.01 or 0.04); None: not radiometric.
        min_span: minimum difference of the two percentiles in counts; prevents amplified noise in uniform scenes.
        smoothing: fraction of the previous range kept at each frame of a stream, 0: none, as in training.
        depths: accepted bits per pixel, of 8 and 16.
        invalid_counts: counts that are invalid in every frame, 0 to 65535.
        recognise_invalid: also detect invalid pixels of 16-bit frames, see `invalid_counts.InvalidCounts`.
    """

    kind: str = "percentile"
    low: float = 1.0
    high: float = 99.0
    kelvin_per_count: float | None = None
    min_span: float = 8.0
    smoothing: float = 0.0
    depths: tuple[int, ...] = (8, 16)
    invalid_counts: tuple[int, ...] = ()
    recognise_invalid: bool = True

    def __post_init__(self) -> None:
        kind, low, high = self.kind, self.low, self.high
        _require(kind in KINDS, f"thermal normalisation {kind!r} is not one of {', '.join(KINDS)}")
        _require(kind == "none" or low < high, f"the thermal range is empty: low {low} is not below high {high}")
        in_percent = kind != "percentile" or (low >= 0 and high <= 100)
        _require(in_percent, f"percentiles must lie in 0..100, got {low} and {high}")
        _require(0 <= self.smoothing < 1, f"thermal smoothing must lie in [0, 1), got {self.smoothing}")
        depths, per_count = self.depths, self.kelvin_per_count
        _require(bool(depths) and set(depths) <= {8, 16}, f"thermal depths must be 8, 16 or both, got {depths}")
        _require(
            kind != "fixed" or len(set(depths)) == 1,
            f"a fixed range of counts belongs to one depth: set depths to (8,) or (16,), got {depths}",
        )
        _require(self.min_span > 0, f"thermal min_span must be above 0 counts, got {self.min_span}")
        _require(per_count is None or per_count > 0, f"kelvin_per_count must be above 0, got {per_count}")
        _require(
            all(type(count) is int and 0 <= count <= 65535 for count in self.invalid_counts),
            f"invalid counts must be integers in 0..65535, got {self.invalid_counts}",
        )
        recognise = self.recognise_invalid
        _require(isinstance(recognise, bool), f"recognise_invalid must be true or false, got {recognise!r}")

    def describe(self) -> str:
        """Describe the contract for logs: "fixed 263.15 to 323.15 K at 0.04 K per count, 16-bit"."""
        text = self.kind
        if self.kind == "percentile":
            text += f" {self.low:g} to {self.high:g}"
        elif self.kind == "fixed":
            unit = "counts" if self.kelvin_per_count is None else f"K at {self.kelvin_per_count:g} K per count"
            text += f" {self.low:g} to {self.high:g} {unit}"
        text += f", {' or '.join(f'{depth}-bit' for depth in self.depths)}"
        if self.invalid_counts:
            text += f", invalid counts {', '.join(map(str, self.invalid_counts))}"
        return text if self.recognise_invalid else f"{text}, no others recognised"

    def to_dict(self) -> dict[str, Any]:
        """Convert to JSON values; omits fields unknown to older versions if they have their defaults."""
        data = asdict(self) | {"depths": list(self.depths), "invalid_counts": list(self.invalid_counts)}
        if not self.invalid_counts:
            del data["invalid_counts"]
        if self.recognise_invalid:
            del data["recognise_invalid"]
        return data

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> ThermalContract:
        """Read a contract written by `to_dict`; ThermalError if a field is unknown or its value is out of range."""
        try:
            lists = {"depths": data.get("depths", (8, 16)), "invalid_counts": data.get("invalid_counts", ())}
            return cls(**(data | {name: tuple(values) for name, values in lists.items()}))
        except (AttributeError, TypeError) as error:
            raise ThermalError(f"invalid thermal contract: {error}") from None

    def check(self, frame: np.ndarray) -> None:
        """Raise ThermalError if a frame is not [H, W], not uint8 or uint16, or of a depth not in `depths`."""
        if frame.ndim != 2 or frame.size == 0:
            raise ThermalError(f"an infrared frame must be [H, W], got shape {tuple(frame.shape)}")
        if frame.dtype not in (np.uint8, np.uint16):
            raise ThermalError(f"an infrared frame must be uint8 or uint16, got {frame.dtype}")
        bits = frame.dtype.itemsize * 8
        if bits not in self.depths:
            wanted = " or ".join(f"{d}-bit" for d in self.depths)
            raise ThermalError(
                f"the model needs {wanted} infrared frames (normalisation '{self.kind}'), these are {bits}-bit: "
                "switch the camera's output format or use a model for it"
            )


def override_contract(
    model: ThermalContract,
    normalization: str = "model",
    low: float = 0.0,
    high: float = 0.0,
    kelvin_per_count: float = 0.0,
    celsius_offset: float = ABSOLUTE_ZERO,
) -> ThermalContract:
    """Apply a user's parameters to the model's contract.

    Args:
        model: the model's contract.
        normalization: parameter `ir_normalization`, one of `NORMALIZATIONS`; "model" keeps the model's own.
        low, high: parameters `ir_range_low` and `ir_range_high`: percentiles (0 to 100) for "percentile", counts for
            "fixed", or kelvin if `kelvin_per_count` is given. Both 0: the model's own, or 1 and 99 for "percentile".
        kelvin_per_count, celsius_offset: parameters `ir_kelvin_per_count` (0: not given) and `ir_celsius_offset`, the
            temperature of count 0, of this camera. With "model" they replace the scale of a range in kelvin; other
            ranges do not depend on them.

    Raises:
        ThermalError: the parameters contradict each other or the model; the message names parameter and remedy.
    """
    known = ", ".join(NORMALIZATIONS)
    _require(normalization in NORMALIZATIONS, f"ir_normalization must be one of {known}, got {normalization!r}")
    has_range, has_kelvin = (low, high) != (0.0, 0.0), kelvin_per_count != 0.0
    _require(not has_range or low < high, f"ir_range_low {low:g} must be below ir_range_high {high:g}")
    _require(
        not has_kelvin or kelvin_per_count > 0,
        f"ir_kelvin_per_count must be above 0, or 0 for an uncalibrated camera, got {kelvin_per_count:g}",
    )
    _require(
        has_kelvin or celsius_offset == ABSOLUTE_ZERO,
        f"ir_celsius_offset {celsius_offset:g} has no effect without ir_kelvin_per_count: set that too",
    )
    if normalization == "model":
        _require(
            not has_range,
            f"ir_range_low and ir_range_high have no effect with ir_normalization 'model' (the model's is "
            f"{model.describe()}): set it to 'fixed' or 'percentile', or leave the range at 0",
        )
        return _of_camera(model, kelvin_per_count, celsius_offset)
    if normalization == "none":
        _require(not has_range, "ir_normalization 'none' takes no range: leave ir_range_low and ir_range_high at 0")
        return _with_model_rules(model, ThermalContract(kind="none", depths=model.depths))
    if normalization == "percentile":
        own = model if model.kind == "percentile" else _with_model_rules(model, ThermalContract(depths=model.depths))
        _require(
            not has_range or 0 <= low < high <= 100,
            f"ir_range_low and ir_range_high must be percentiles, 0 to 100, got {low:g} and {high:g}",
        )
        return replace(own, low=low, high=high) if has_range else own
    if has_range:
        return _fixed(model, low, high, kelvin_per_count or None, celsius_offset)
    _require(
        model.kind == "fixed",
        "ir_normalization 'fixed' needs ir_range_low and ir_range_high, in counts or, with ir_kelvin_per_count, in "
        f"kelvin: the model has no fixed range ({model.describe()})",
    )
    return _of_camera(model, kelvin_per_count, celsius_offset)


def _of_camera(model: ThermalContract, kelvin_per_count: float, celsius_offset: float) -> ThermalContract:
    """Apply a camera's scale to a fixed range in kelvin; other contracts do not depend on it."""
    if not kelvin_per_count or model.kind != "fixed" or model.kelvin_per_count is None:
        return model
    return _checked_range(replace(model, kelvin_per_count=kelvin_per_count), celsius_offset)


def override_invalid_counts(contract: ThermalContract, counts: str) -> ThermalContract:
    """Replace a contract's rules for invalid counts by the parameter `ir_invalid_counts`.

    "model" keeps the contract's rules; "none": every count is valid; else invalid counts separated by commas, and
    "auto", also by itself, to recognise them in each 16-bit frame.

    Raises:
        ThermalError: invalid value; the message lists the allowed ones.
    """
    words = [word.strip() for word in counts.split(",")]
    if words == ["model"]:
        return contract
    if words == ["none"]:
        return replace(contract, invalid_counts=(), recognise_invalid=False)
    numbers = [word for word in words if word != "auto"]
    if not all(word.isascii() and word.isdigit() and len(word) <= 5 and int(word) <= 65535 for word in numbers):
        raise ThermalError(
            f"ir_invalid_counts {counts!r} is invalid: give model, auto, none or counts in 0 to 65535 separated by "
            "commas, such as '0, 65535' or 'auto, 4095'"
        )
    return replace(
        contract, invalid_counts=tuple(sorted({int(word) for word in numbers})), recognise_invalid="auto" in words
    )


def _fixed(
    model: ThermalContract, low: float, high: float, kelvin_per_count: float | None, celsius_offset: float
) -> ThermalContract:
    depth = model.depths[0] if len(model.depths) == 1 else 16 if kelvin_per_count is not None or high > 255 else 8
    _require(
        kelvin_per_count is None or depth == 16,
        f"a range in kelvin needs a 16-bit camera, but the model takes {depth}-bit frames: leave ir_kelvin_per_count "
        "at 0 and give the range in counts, or use a 16-bit model",
    )
    contract = ThermalContract(kind="fixed", low=low, high=high, kelvin_per_count=kelvin_per_count, depths=(depth,))
    return _checked_range(_with_model_rules(model, contract), celsius_offset)


def _with_model_rules(model: ThermalContract, contract: ThermalContract) -> ThermalContract:
    """Return a contract with the model's rules for invalid counts."""
    return replace(contract, invalid_counts=model.invalid_counts, recognise_invalid=model.recognise_invalid)


def _checked_range(contract: ThermalContract, celsius_offset: float) -> ThermalContract:
    """Refuse a fixed range outside the counts of the contract's depth; one in kelvin may count from another zero."""
    largest = 2 ** contract.depths[0] - 1
    per_count = contract.kelvin_per_count or 1.0
    zero = 0.0 if contract.kelvin_per_count is None else celsius_offset - ABSOLUTE_ZERO
    low, high = ((end - zero) / per_count for end in (contract.low, contract.high))
    _require(
        low >= 0 and high <= largest,
        f"the fixed range {contract.low:g} to {contract.high:g} is {low:.0f} to {high:.0f} counts, but a "
        f"{contract.depths[0]}-bit frame has 0 to {largest}: check ir_range_low, ir_range_high, "
        "ir_kelvin_per_count and ir_celsius_offset",
    )
    # A contract in kelvin counts from absolute zero.
    return replace(contract, low=low, high=high, kelvin_per_count=None) if zero else contract


@dataclass(frozen=True)
class Smoothing:
    """Smoothing of the percentile range over a stream; not used in training and for single images.

    A hot object multiplies the range, so that even with a running mean the image jumps. Each frame therefore moves the
    range at most so far that the grey values of the scene (the quartiles of its counts) change by `max_levels`. If more
    than half of a frame lies outside the range, the scene has changed (the robot turned, the camera changed its gain)
    and the range is reset, because a black or white image is worse than a jump.

    Attributes:
        keep: fraction of the previous range kept at each frame, in [0, 1).
        max_levels: maximum change of the scene's grey values between two frames, of 255, > 0.
    """

    keep: float = 0.9
    max_levels: float = 3.0

    def __post_init__(self) -> None:
        _require(0 <= self.keep < 1, f"keep must lie in [0, 1), got {self.keep}")
        _require(self.max_levels > 0, f"max_levels must be above 0, got {self.max_levels}")


STREAM_SMOOTHING = Smoothing()
"""Smoothing of the pipeline on streams. The range adapts within about 110 frames (from black to white at 3 levels per
frame takes 85), 2 to 4 s at 30 Hz."""


class ThermalNormaliser:
    """Normalisation of a stream of frames by one contract; its only state is the smoothed range.

    Attributes:
        range: counts mapped to 0 and 1 in the last frame; None before the first frame and for other kinds than
            "percentile".
        follows: frames update the range; False for a frame that has updated it already.
        invalid_fraction: fraction of invalid pixels in the last frame given to `valid_pixels`, 0..1.
    """

    def __init__(self, contract: ThermalContract, smoothing: Smoothing | None = None) -> None:
        """Normalise by a contract; its `smoothing`, if above 0, replaces `smoothing.keep`. None: running mean."""
        self.contract = contract
        self.keep = contract.smoothing or (smoothing.keep if smoothing is not None else 0.0)
        self.max_step = math.inf if smoothing is None else smoothing.max_levels / 255
        self.range: tuple[float, float] | None = None
        self.follows = True
        self.invalid_fraction = 0.0
        self._invalid = InvalidCounts(contract.invalid_counts, contract.recognise_invalid)

    def reset(self) -> None:
        """Reset the smoothed range, for example after a gap in the stream."""
        self.range = None

    def valid_pixels(self, frame: np.ndarray) -> np.ndarray | None:
        """Find the valid pixels of a camera's frame, before scaling, which would mix valid and invalid pixels.

        Returns uint8 [H, W], 255 where valid, else 0; None: all pixels are valid.

        Raises:
            ThermalError: see `ThermalContract.check`; as NoValidPixelError: no pixel is valid.
        """
        self.contract.check(frame)
        valid = self._invalid(frame)
        self.invalid_fraction = 0.0 if valid is None else 1 - cv2.countNonZero(valid) / valid.size
        if self.invalid_fraction == 1:
            counts = sorted({int(frame.min()), int(frame.max())})
            raise NoValidPixelError(
                f"no pixel of this infrared frame is valid, all are {' or '.join(map(str, counts))}: check the "
                "camera's shutter, gain and cable, or set ir_invalid_counts if these counts are real"
            )
        return valid

    def __call__(self, frame: np.ndarray, valid: np.ndarray | None = None, out: np.ndarray | None = None) -> np.ndarray:
        """Normalise raw counts uint8 or uint16 [H, W] to float32 [H, W] in [0, 1], in `out` if it is given.

        Pixels that are not `valid`, bool [H, W], become 0 and do not count in percentiles.

        Raises:
            ThermalError: see `ThermalContract.check`; or `valid` has another shape.
        """
        scaled, gain = self.above_low(frame, valid, out)
        scaled *= gain
        np.clip(scaled, 0.0, 1.0, out=scaled)
        return scaled

    def above_low(
        self, frame: np.ndarray, valid: np.ndarray | None = None, out: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.float32]:
        """First half of a call, for networks that contain the second: product of both results, clipped to [0, 1].

        Returns:
            float32 [H, W], counts above the low end of the range, 0 where invalid; and the gain per count.
        """
        low, gain = self.levels(frame, valid)
        above = np.empty(frame.shape, np.float32) if out is None else out
        np.subtract(frame, low, out=above, dtype=np.float32)
        if valid is not None:
            above[~valid] = 0
        return above, gain

    def levels(self, frame: np.ndarray, valid: np.ndarray | None = None) -> tuple[np.float32, np.float32]:
        """Return the count mapped to 0, and the gain per count. Arguments and errors are those of a call."""
        self.contract.check(frame)
        if valid is not None and valid.shape != frame.shape:
            raise ThermalError(f"valid has shape {valid.shape}, the frame {frame.shape}")
        low, high = self._range_of(frame, valid)
        return np.float32(low), np.float32(1.0 / (high - low))

    def _range_of(self, frame: np.ndarray, valid: np.ndarray | None) -> tuple[float, float]:
        contract = self.contract
        if contract.kind == "none":
            return 0.0, float(np.iinfo(frame.dtype).max)
        if contract.kind == "fixed":
            counts_per_unit = 1.0 if contract.kelvin_per_count is None else 1.0 / contract.kelvin_per_count
            return contract.low * counts_per_unit, contract.high * counts_per_unit
        if not self.follows and self.range is not None:
            return self.range
        counts = _Counts(frame, valid)
        if counts.total == 0:  # no valid pixel: the range stays
            return self.range or (0.0, float(np.iinfo(frame.dtype).max))
        low, high = counts.percentile(contract.low), counts.percentile(contract.high)
        if high - low < contract.min_span:
            centre = (low + high) / 2
            low, high = centre - contract.min_span / 2, centre + contract.min_span / 2
        self.range = (low, high) if not self.keep or self.range is None else self._followed(counts, low, high)
        return self.range

    def _followed(self, counts: _Counts, low: float, high: float) -> tuple[float, float]:
        """Return the smoothed range towards a frame's own `low` and `high`; see `Smoothing`."""
        assert self.range is not None
        old_low, old_high = self.range
        limited = math.isfinite(self.max_step)
        if limited and 2 * counts.within(old_low, old_high) < counts.total:
            return low, high
        step = 1 - self.keep
        if limited:
            by_low, by_high, span = low - old_low, high - old_high, old_high - old_low
            for percent in (25, 50, 75):
                grey = min(max((counts.percentile(percent) - old_low) / span, 0.0), 1.0)
                # A step t changes this grey by t |by_low + grey (by_high - by_low)| / (span + t (by_high - by_low)).
                excess = abs(by_low + grey * (by_high - by_low)) - self.max_step * (by_high - by_low)
                if excess > 0:
                    step = min(step, self.max_step * span / excess)
        return old_low + step * (low - old_low), old_high + step * (high - old_high)


class _Counts:
    """Histogram of a frame's valid pixels; several times faster than sorting them."""

    def __init__(self, frame: np.ndarray, valid: np.ndarray | None) -> None:
        mask = None if valid is None else valid.view(np.uint8)
        minimum, maximum, _, _ = cv2.minMaxLoc(frame, mask)
        self._minimum, bins = int(minimum), int(maximum) - int(minimum) + 1
        few = bins <= _MAX_BINS or cv2.getNumThreads() <= 1
        if few and frame.size < _EXACT_IN_FLOAT32:
            found = self._histogram(frame, bins)
            if valid is not None and not valid.all():  # OpenCV takes twice the time with a mask
                found -= self._histogram(frame[~valid][None], bins)
        else:
            self._minimum, found = 0, np.bincount((frame if valid is None else frame[valid]).ravel(), minlength=1)
        self._cumulated = np.cumsum(found, dtype=np.int64)
        self.total = int(self._cumulated[-1])

    def _histogram(self, frame: np.ndarray, bins: int) -> np.ndarray:
        return cv2.calcHist([frame], [0], None, [bins], [self._minimum, self._minimum + bins]).ravel()

    def percentile(self, percent: float) -> float:
        """Return a percentile (nearest rank)."""
        return float(self._minimum + np.searchsorted(self._cumulated, max(1, math.ceil(self.total * percent / 100))))

    def within(self, low: float, high: float) -> int:
        """Count the values in [low, high]."""
        return self._up_to(math.floor(high)) - self._up_to(math.ceil(low) - 1)

    def _up_to(self, value: int) -> int:
        index = min(value - self._minimum, len(self._cumulated) - 1)
        return int(self._cumulated[index]) if index >= 0 else 0


_MAX_BINS = 1 << 14
"""With more bins and several threads NumPy is faster, since each of OpenCV's threads fills its own histogram. A single
thread takes half of NumPy's time with any number of bins."""
_EXACT_IN_FLOAT32 = 1 << 24
"""Pixels: OpenCV's histograms are float32."""
