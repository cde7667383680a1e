"""The four bands of SpectraDINO: names, order, channels and wavelengths.

The order is the paper's modality index (Section 3.1.3), which checkpoints and model files store: it must not change.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
"""Statistics of RGB values in [0, 1], in RGB order, for normalising DINOv2's input."""


@dataclass(frozen=True)
class Band:
    """A band's number of channels, (minimum, maximum) wavelength, and phrase for help texts and model cards."""

    channels: int
    wavelength_um: tuple[float, float]
    description: str


class Modality(IntEnum):
    """Band by its index in the paper: RGB 0, NIR 1, SWIR 2, LWIR 3."""

    RGB = 0
    NIR = 1
    SWIR = 2
    LWIR = 3

    @property
    def band(self) -> Band:
        return _BANDS[self]

    @property
    def key(self) -> str:
        """Lower-case name used in manifests, model files, parameters and messages."""
        return self.name.lower()

    @classmethod
    def parse(cls, name: str | int | Modality) -> Modality:
        """Return the band with this name (case-insensitive) or index; ValueError if it is unknown."""
        try:
            return cls[name.strip().upper()] if isinstance(name, str) else cls(name)
        except (KeyError, ValueError):
            known = ", ".join(band.key for band in cls)
            raise ValueError(f"unknown band {name!r}: choose one of {known}") from None


_BANDS = {
    Modality.RGB: Band(3, (0.38, 0.75), "colour"),
    Modality.NIR: Band(1, (0.75, 1.0), "near infrared"),
    Modality.SWIR: Band(1, (1.0, 2.5), "short-wave infrared"),
    Modality.LWIR: Band(1, (8.0, 14.0), "long-wave (thermal) infrared"),
}

INFRARED = (Modality.NIR, Modality.SWIR, Modality.LWIR)
"""The infrared bands, in the round-robin order of training (Section 3.3)."""
