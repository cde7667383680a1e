"""From raw infrared counts to network input: the one contract that training and serving share.

A thermal frame may be 8-bit after automatic gain, 14- or 16-bit raw, or radiometric (counts that are a temperature).
Which of these a model was trained on is part of the model: the contract is stored in the model file and a frame that
does not fit it is refused aloud instead of being shown to the network as something else.

Letters: H height, W width.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

__all__ = ["KINDS", "ThermalContract", "ThermalError", "ThermalNormaliser"]

KINDS = ("percentile", "fixed", "none")


class ThermalError(ValueError):
    """An infrared frame or a normalisation setting does not fit the contract."""


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
    """

    kind: str = "percentile"
    low: float = 1.0
    high: float = 99.0
    kelvin_per_count: float | None = None
    min_span: float = 8.0
    smoothing: float = 0.0
    depths: tuple[int, ...] = (8, 16)

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

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"depths": list(self.depths)}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> ThermalContract:
        """The contract that `to_dict` wrote.

        Raises:
            ThermalError: a field is unknown or its value is out of range.
        """
        try:
            return cls(**(data | {"depths": tuple(data.get("depths", (8, 16)))}))
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


class ThermalNormaliser:
    """Applies one contract to a stream of frames; its only state is the smoothed range."""

    def __init__(self, contract: ThermalContract) -> None:
        self.contract = contract
        self.range: tuple[float, float] | None = None

    def reset(self) -> None:
        """Forgets the smoothed range, as after a gap in the stream."""
        self.range = None

    def __call__(self, frame: np.ndarray) -> np.ndarray:
        """Raw counts uint8 or uint16 [H, W] to float32 [H, W] in [0, 1].

        Raises:
            ThermalError: see `ThermalContract.check`.
        """
        self.contract.check(frame)
        low, high = self._range_of(frame)
        scaled = (frame.astype(np.float32) - np.float32(low)) * np.float32(1.0 / (high - low))
        return np.clip(scaled, 0.0, 1.0, out=scaled)

    def _range_of(self, frame: np.ndarray) -> tuple[float, float]:
        contract = self.contract
        if contract.kind == "none":
            return 0.0, float(np.iinfo(frame.dtype).max)
        if contract.kind == "fixed":
            counts_per_unit = 1.0 if contract.kelvin_per_count is None else 1.0 / contract.kelvin_per_count
            return contract.low * counts_per_unit, contract.high * counts_per_unit
        low, high = _percentiles(frame, contract.low, contract.high)
        if high - low < contract.min_span:
            centre = (low + high) / 2
            low, high = centre - contract.min_span / 2, centre + contract.min_span / 2
        if contract.smoothing and self.range is not None:
            keep = contract.smoothing
            low, high = keep * self.range[0] + (1 - keep) * low, keep * self.range[1] + (1 - keep) * high
        self.range = (low, high)
        return low, high


def _percentiles(frame: np.ndarray, low: float, high: float) -> tuple[float, float]:
    """Two percentiles (nearest rank) of an integer frame, from its histogram: several times faster than sorting."""
    counts = np.cumsum(np.bincount(frame.ravel()))
    total = counts[-1]
    first = np.searchsorted(counts, max(1, np.ceil(total * low / 100)))
    last = np.searchsorted(counts, max(1, np.ceil(total * high / 100)))
    return float(first), float(last)
