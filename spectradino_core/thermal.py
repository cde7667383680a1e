"""Normalisation of raw infrared counts to network input, shared by training and serving.

A thermal frame may be 8-bit after automatic gain, 14- or 16-bit raw, or radiometric (counts proportional to
temperature). The contract of a model's training is stored in the model file; frames that do not fit it are refused.

Letters: H height, W width.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import cv2
import numpy as np

from spectradino_core.invalid_counts import InvalidCounts

__all__ = [
    "KINDS",
    "STREAM_SMOOTHING",
    "NoValidPixelError",
    "Smoothing",
    "ThermalContract",
    "ThermalError",
    "ThermalNormaliser",
]

KINDS = ("percentile", "fixed", "none")


class ThermalError(ValueError):
    """An infrared frame or a normalisation setting does not fit the contract."""


class NoValidPixelError(ThermalError):
    """No pixel of an infrared frame is valid."""


@dataclass(frozen=True)
class ThermalContract:
    """Mapping of raw counts to [0, 1].

    Attributes:
        kind: "percentile" stretches between two percentiles of the frame; "fixed" maps a fixed range, so that a
            temperature has the same value in every frame; "none" divides by the maximum of the frame's dtype.
        low, high: percentiles (0 to 100) for "percentile"; for "fixed" counts, or kelvin with `kelvin_per_count`.
        kelvin_per_count: kelvin per count of a radiometric camera (usually 0.01 or 0.04); None: not radiometric.
        min_span: minimum difference of the two percentiles in counts; prevents amplified noise in uniform scenes.
        smoothing: fraction of the previous range kept at each frame of a stream (0: none), so that a hot object that
            enters does not change the whole image at once. Training uses single frames without smoothing.
        depths: accepted bits per pixel, of 8 and 16.
        invalid_counts: counts that are invalid in every frame, 0 to 65535.
        recognise_invalid: also detect dead pixels, borders and telemetry rows of 16-bit frames, see
            `invalid_counts.InvalidCounts`.
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
        if self.kind not in KINDS:
            raise ThermalError(f"thermal normalisation {self.kind!r} is not one of {', '.join(KINDS)}")
        if self.kind != "none" and not self.low < self.high:
            raise ThermalError(f"the thermal range is empty: low {self.low} is not below high {self.high}")
        if self.kind == "percentile" and not (self.low >= 0 and self.high <= 100):
            raise ThermalError(f"percentiles must lie in 0..100, got {self.low} and {self.high}")
        if not 0 <= self.smoothing < 1:
            raise ThermalError(f"thermal smoothing must lie in [0, 1), got {self.smoothing}")
        if not self.depths or not set(self.depths) <= {8, 16}:
            raise ThermalError(f"thermal depths must be 8, 16 or both, got {self.depths}")
        if self.kind == "fixed" and len(set(self.depths)) != 1:
            raise ThermalError(
                f"a fixed range of counts belongs to one depth: set depths to (8,) or (16,), got {self.depths}"
            )
        if not self.min_span > 0:
            raise ThermalError(f"thermal min_span must be above 0 counts, got {self.min_span}")
        if self.kelvin_per_count is not None and not self.kelvin_per_count > 0:
            raise ThermalError(f"kelvin_per_count must be above 0, got {self.kelvin_per_count}")
        if not all(type(count) is int and 0 <= count <= 65535 for count in self.invalid_counts):
            raise ThermalError(f"invalid counts must be integers in 0..65535, got {self.invalid_counts}")
        if not isinstance(self.recognise_invalid, bool):
            raise ThermalError(f"recognise_invalid must be true or false, got {self.recognise_invalid!r}")

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
        """Read a contract written by `to_dict`.

        Raises:
            ThermalError: a field is unknown or its value is out of range.
        """
        try:
            lists = {"depths": data.get("depths", (8, 16)), "invalid_counts": data.get("invalid_counts", ())}
            return cls(**(data | {name: tuple(values) for name, values in lists.items()}))
        except (AttributeError, TypeError) as error:
            raise ThermalError(f"invalid thermal contract: {error}") from None

    def check(self, frame: np.ndarray) -> None:
        """Check that a frame fits the contract.

        Raises:
            ThermalError: the frame is not [H, W], not uint8 or uint16, or of a depth that the model was not trained on.
        """
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
        if not 0 <= self.keep < 1:
            raise ThermalError(f"keep must lie in [0, 1), got {self.keep}")
        if not self.max_levels > 0:
            raise ThermalError(f"max_levels must be above 0, got {self.max_levels}")


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
        """
        Args:
            contract: mapping of the counts.
            smoothing: smoothing of a percentile range; the contract's `smoothing` replaces its `keep` if above 0.
                None: running mean with the contract's `smoothing`, by default 0.
        """
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
        """Find the valid pixels of a frame of raw counts uint8 or uint16 [H, W].

        Must be called with the camera's frame before scaling, which would mix valid and invalid pixels.

        Returns:
            uint8 [H, W], 255 where valid, else 0; None: all pixels are valid.

        Raises:
            ThermalError: see `ThermalContract.check`.
            NoValidPixelError: no pixel is valid.
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
        """Normalise raw counts uint8 or uint16 [H, W] to float32 [H, W] in [0, 1].

        Args:
            frame: the counts.
            valid: bool [H, W], valid pixels; others become 0 and do not count in percentiles. None: all are valid.
            out: float32 [H, W] to fill and return; None: allocate.

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

        Arguments and errors are those of a call.

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
    """Histogram of a frame's values; several times faster than sorting its pixels."""

    def __init__(self, frame: np.ndarray, valid: np.ndarray | None) -> None:
        """
        Args:
            frame: uint8 or uint16 [H, W].
            valid: bool [H, W], valid pixels; None: all.
        """
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
