"""From raw infrared counts to network input: the one contract that training and serving share.

A thermal frame may be 8-bit after automatic gain, 14- or 16-bit raw, or radiometric (counts that are a temperature).
Which of these a model was trained on is part of the model: the contract is stored in the model file and a frame that
does not fit it is refused aloud instead of being shown to the network as something else.

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
    """No pixel of an infrared frame is a measurement."""


@dataclass(frozen=True)
class ThermalContract:
    """How raw counts become values in [0, 1].

    Attributes:
        kind: "percentile" stretches between two percentiles of the frame; "fixed" maps a fixed range, so that equal
            temperatures look equal in every frame; "none" divides by the largest value of the frame's type.
        low, high: percentiles (0 to 100) for "percentile"; for "fixed" counts, or kelvin with `kelvin_per_count`.
        kelvin_per_count: what one count is worth on a radiometric camera (0.01 or 0.04 are usual); None: it is not one.
        min_span: the least distance, in counts, between the two percentiles; keeps a uniform scene from becoming noise.
        smoothing: share of the previous range kept at each frame of a stream (0: none), so that a hot object that
            enters does not make the whole picture jump. Training sees single frames and never smooths.
        depths: bits per pixel the model accepts, of 8 and 16.
        invalid_counts: counts that are no measurement, whatever the frame, 0 to 65535.
        recognise_invalid: whether dead pixels, borders and telemetry rows of 16-bit frames are recognised as well, see
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
            raise ThermalError(f"thermal range is empty: low {self.low} is not below high {self.high}")
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
            raise ThermalError(f"invalid counts are whole numbers in 0..65535, got {self.invalid_counts}")
        if not isinstance(self.recognise_invalid, bool):
            raise ThermalError(f"recognise_invalid is true or false, got {self.recognise_invalid!r}")

    def describe(self) -> str:
        """The contract in words, for logs: "fixed 263.15 to 323.15 K at 0.04 K per count, 16-bit"."""
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
        """The contract for JSON; fields that older software does not know are left out at their defaults."""
        data = asdict(self) | {"depths": list(self.depths), "invalid_counts": list(self.invalid_counts)}
        if not self.invalid_counts:
            del data["invalid_counts"]
        if self.recognise_invalid:
            del data["recognise_invalid"]
        return data

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> ThermalContract:
        """The contract that `to_dict` wrote.

        Raises:
            ThermalError: a field is unknown or its value is out of range.
        """
        try:
            lists = {"depths": data.get("depths", (8, 16)), "invalid_counts": data.get("invalid_counts", ())}
            return cls(**(data | {name: tuple(values) for name, values in lists.items()}))
        except (AttributeError, TypeError) as error:
            raise ThermalError(f"thermal contract not understood: {error}") from None

    def check(self, frame: np.ndarray) -> None:
        """Refuses a frame that this contract does not cover.

        Raises:
            ThermalError: the frame is not [H, W], not uint8 or uint16, or of a depth that the model was not trained on.
        """
        if frame.ndim != 2 or frame.size == 0:
            raise ThermalError(f"an infrared frame is [H, W], got shape {tuple(frame.shape)}")
        if frame.dtype not in (np.uint8, np.uint16):
            raise ThermalError(f"an infrared frame is uint8 or uint16, got {frame.dtype}")
        bits = frame.dtype.itemsize * 8
        if bits not in self.depths:
            wanted = " or ".join(f"{d}-bit" for d in self.depths)
            raise ThermalError(
                f"the model wants {wanted} infrared frames (normalisation '{self.kind}'), these are {bits}-bit: "
                "switch the camera's output format or use a model for it"
            )


@dataclass(frozen=True)
class Smoothing:
    """How the percentile range follows a stream. Training and single images don't smooth.

    A hot object multiplies the range at once, so that a plain running mean still makes the picture jump: therefore a
    frame moves the range at most so far that the grey of the scene (the quartiles of its counts) moves by `max_levels`.
    A frame of which more than half lies outside of the range is another scene (the robot turned, the camera changed its
    gain): there the range is taken anew, because a black or white picture is worse than a jump.

    Attributes:
        keep: share of the previous range kept at each frame, in [0, 1).
        max_levels: how far the grey of the scene may move from one frame to the next, of 255, > 0.
    """

    keep: float = 0.9
    max_levels: float = 3.0

    def __post_init__(self) -> None:
        if not 0 <= self.keep < 1:
            raise ThermalError(f"the share of the range that is kept must lie in [0, 1), got {self.keep}")
        if not self.max_levels > 0:
            raise ThermalError(f"the levels a frame may move the grey by must be above 0, got {self.max_levels}")


STREAM_SMOOTHING = Smoothing()
"""What the pipeline does on a stream. Whatever enters or leaves, the range has followed within about 110 frames (from
black to white at 3 levels a frame is 85), 2 to 4 s at 30 Hz."""


class ThermalNormaliser:
    """Applies one contract to a stream of frames; its only state is the smoothed range.

    Attributes:
        range: counts that became 0 and 1 in the last frame; None before the first one, and without percentiles.
        follows: whether the range follows the frames; False for a frame that it has followed already.
        invalid_fraction: pixels of the last frame given to `valid_pixels` that are no measurement, 0..1.
    """

    def __init__(self, contract: ThermalContract, smoothing: Smoothing | None = None) -> None:
        """
        Args:
            contract: what becomes of the counts.
            smoothing: how a percentile range follows the stream, with the contract's own share where that is above 0;
                None: a running mean by the contract's share alone, which by default is none.
        """
        self.contract = contract
        self.keep = contract.smoothing or (smoothing.keep if smoothing is not None else 0.0)
        self.max_step = math.inf if smoothing is None else smoothing.max_levels / 255
        self.range: tuple[float, float] | None = None
        self.follows = True
        self.invalid_fraction = 0.0
        self._invalid = InvalidCounts(contract.invalid_counts, contract.recognise_invalid)

    def reset(self) -> None:
        """Forgets the smoothed range, as after a gap in the stream."""
        self.range = None

    def valid_pixels(self, frame: np.ndarray) -> np.ndarray | None:
        """Where a frame of raw counts uint8 or uint16 [H, W] holds measurements: uint8 [H, W], 255 there, else 0.

        None: everywhere. To be asked of the camera's frame before it is scaled, which would mix what is valid and what
        is not.

        Raises:
            ThermalError: see `ThermalContract.check`.
            NoValidPixelError: it holds none.
        """
        self.contract.check(frame)
        valid = self._invalid(frame)
        self.invalid_fraction = 0.0 if valid is None else 1 - cv2.countNonZero(valid) / valid.size
        if self.invalid_fraction == 1:
            counts = sorted({int(frame.min()), int(frame.max())})
            raise NoValidPixelError(
                f"no pixel of this infrared frame is a measurement, all are {' or '.join(map(str, counts))}: check the "
                "camera's shutter, gain and cable, or set ir_invalid_counts if these counts are real"
            )
        return valid

    def __call__(self, frame: np.ndarray, valid: np.ndarray | None = None, out: np.ndarray | None = None) -> np.ndarray:
        """Raw counts uint8 or uint16 [H, W] to float32 [H, W] in [0, 1].

        Args:
            frame: the counts.
            valid: bool [H, W], where the frame holds what the camera saw; elsewhere the answer is 0 and the percentiles
                don't look. None: everywhere.
            out: float32 [H, W] to fill and return; None: fresh memory.

        Raises:
            ThermalError: see `ThermalContract.check`; or `valid` is of another size.
        """
        scaled, gain = self.above_low(frame, valid, out)
        scaled *= gain
        np.clip(scaled, 0.0, 1.0, out=scaled)
        return scaled

    def above_low(
        self, frame: np.ndarray, valid: np.ndarray | None = None, out: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.float32]:
        """The first half of a call, for networks that do the other: their product, clipped to [0, 1], is its answer.

        Arguments and errors are those of a call.

        Returns:
            float32 [H, W], counts above the low end of the range, 0 where not valid; and what one count is worth.
        """
        low, gain = self.levels(frame, valid)
        above = np.empty(frame.shape, np.float32) if out is None else out
        np.subtract(frame, low, out=above, dtype=np.float32)
        if valid is not None:
            above[~valid] = 0
        return above, gain

    def levels(self, frame: np.ndarray, valid: np.ndarray | None = None) -> tuple[np.float32, np.float32]:
        """The range of a frame: the count that becomes 0, and what one count is worth.

        Arguments and errors are those of a call.
        """
        self.contract.check(frame)
        if valid is not None and valid.shape != frame.shape:
            raise ThermalError(f"valid pixels are given as {valid.shape}, the frame is {frame.shape}")
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
        if counts.total == 0:  # nothing was seen, so nothing is learnt
            return self.range or (0.0, float(np.iinfo(frame.dtype).max))
        low, high = counts.percentile(contract.low), counts.percentile(contract.high)
        if high - low < contract.min_span:
            centre = (low + high) / 2
            low, high = centre - contract.min_span / 2, centre + contract.min_span / 2
        self.range = (low, high) if not self.keep or self.range is None else self._followed(counts, low, high)
        return self.range

    def _followed(self, counts: _Counts, low: float, high: float) -> tuple[float, float]:
        """The range that follows the last one to a frame's own `low` and `high`; see `Smoothing`."""
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
                # A step t moves this grey by t |by_low + grey (by_high - by_low)| / (span + t (by_high - by_low)).
                excess = abs(by_low + grey * (by_high - by_low)) - self.max_step * (by_high - by_low)
                if excess > 0:
                    step = min(step, self.max_step * span / excess)
        return old_low + step * (low - old_low), old_high + step * (high - old_high)


class _Counts:
    """How often each value occurs in a frame: several times faster than sorting its pixels."""

    def __init__(self, frame: np.ndarray, valid: np.ndarray | None) -> None:
        """
        Args:
            frame: uint8 or uint16 [H, W].
            valid: bool [H, W], the pixels that count; None: all.
        """
        mask = None if valid is None else valid.view(np.uint8)
        least, most, _, _ = cv2.minMaxLoc(frame, mask)
        self._least, bins = int(least), int(most) - int(least) + 1
        few = bins <= _MOST_BINS or cv2.getNumThreads() <= 1
        if few and frame.size < _EXACT_IN_FLOAT32:
            found = self._histogram(frame, bins)
            if valid is not None and not valid.all():  # OpenCV's own way with masks takes twice the time
                found -= self._histogram(frame[~valid][None], bins)
        else:
            self._least, found = 0, np.bincount((frame if valid is None else frame[valid]).ravel(), minlength=1)
        self._cumulated = np.cumsum(found, dtype=np.int64)
        self.total = int(self._cumulated[-1])

    def _histogram(self, frame: np.ndarray, bins: int) -> np.ndarray:
        return cv2.calcHist([frame], [0], None, [bins], [self._least, self._least + bins]).ravel()

    def percentile(self, percent: float) -> float:
        """A percentile, nearest rank."""
        return float(self._least + np.searchsorted(self._cumulated, max(1, math.ceil(self.total * percent / 100))))

    def within(self, low: float, high: float) -> int:
        """How many of the values lie in [low, high]."""
        return self._up_to(math.floor(high)) - self._up_to(math.ceil(low) - 1)

    def _up_to(self, value: int) -> int:
        index = min(value - self._least, len(self._cumulated) - 1)
        return int(self._cumulated[index]) if index >= 0 else 0


_MOST_BINS = 1 << 14
"""Each of OpenCV's threads fills a histogram of its own: with more bins and many threads NumPy's costs less. One thread
alone takes half of NumPy's time whatever the bins."""
_EXACT_IN_FLOAT32 = 1 << 24
"""Pixels: OpenCV gives its counts in float32."""
