"""Materials: reflectance in the five reflective channels, and thermal properties.

Channels of every 5-vector: R, G, B, NIR, SWIR (linear, 0..1). Values match the order of magnitude of public spectral
libraries: leaves are bright in NIR, dyed cloth is bright in NIR whatever its colour, skin and water are dark in SWIR.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

Channels = tuple[float, float, float, float, float]
"""Red, green, blue, NIR, SWIR."""


@dataclass(frozen=True)
class Material:
    """Optical and thermal properties of a material.

    Attributes:
        albedo: reflectance per channel.
        emission: own radiance per channel (lamps), in units of a white wall in full sun.
        gloss: fraction of the sky's light it mirrors (glass, paint).
        emissivity: in LWIR; the remainder mirrors the sky.
        sun_heat: kelvin above air in full sun.
        night: kelvin above air without sun.
        body: fraction of the way from air to skin temperature (34 degC).
        grain: texture strength in reflectance.
        thermal_grain: texture strength in kelvin.
    """

    albedo: Channels
    emission: Channels = (0.0, 0.0, 0.0, 0.0, 0.0)
    gloss: float = 0.0
    emissivity: float = 0.95
    sun_heat: float = 8.0
    night: float = 0.0
    body: float = 0.0
    grain: float = 0.15
    thermal_grain: float = 0.5


_STANDARD: dict[str, Material] = {
    "sky": Material((0, 0, 0, 0, 0), grain=0.25, thermal_grain=2.2),
    "asphalt": Material((0.11, 0.11, 0.115, 0.13, 0.16), sun_heat=13, night=2.4, grain=0.4, thermal_grain=0.9),
    "worn_asphalt": Material((0.17, 0.165, 0.16, 0.19, 0.22), sun_heat=14, night=3.0, grain=0.3, thermal_grain=0.8),
    "concrete": Material((0.34, 0.33, 0.30, 0.38, 0.42), sun_heat=12, night=2.0, grain=0.2, thermal_grain=0.7),
    "paving": Material((0.27, 0.22, 0.19, 0.33, 0.38), sun_heat=13, night=2.0, grain=0.3, thermal_grain=0.7),
    "curb": Material((0.42, 0.41, 0.39, 0.45, 0.45), sun_heat=9, night=1.0),
    "marking": Material((0.75, 0.75, 0.72, 0.75, 0.65), sun_heat=10, night=1.6, grain=0.25),
    "yellow_marking": Material((0.70, 0.48, 0.10, 0.75, 0.65), sun_heat=11, night=1.6, grain=0.25),
    "grass": Material((0.075, 0.12, 0.04, 0.46, 0.22), sun_heat=4, night=-2.0, grain=0.5, thermal_grain=1.2),
    "dry_grass": Material((0.30, 0.24, 0.13, 0.45, 0.40), sun_heat=10, night=-1.5, grain=0.45, thermal_grain=1.5),
    "soil": Material((0.20, 0.15, 0.10, 0.30, 0.40), sun_heat=14, night=-0.5, grain=0.35, thermal_grain=1.2),
    "trunk": Material((0.12, 0.09, 0.065, 0.30, 0.30), sun_heat=5, night=0.8, grain=0.5),
    "pole": Material((0.22, 0.22, 0.21, 0.28, 0.30), emissivity=0.8, sun_heat=6, night=-0.5),
    "sign_red": Material((0.5, 0.03, 0.03, 0.6, 0.5), emissivity=0.85, sun_heat=5, night=-1.0, gloss=0.1),
    "sign_blue": Material((0.02, 0.10, 0.45, 0.5, 0.5), emissivity=0.85, sun_heat=5, night=-1.0, gloss=0.1),
    "sign_yellow": Material((0.75, 0.50, 0.03, 0.7, 0.5), emissivity=0.85, sun_heat=5, night=-1.0, gloss=0.1),
    "sign_white": Material((0.75, 0.75, 0.75, 0.75, 0.6), emissivity=0.85, sun_heat=4, night=-1.0, gloss=0.1),
    "bin": Material((0.04, 0.10, 0.07, 0.25, 0.20), sun_heat=10, night=-0.5),
    "window": Material((0.04, 0.045, 0.05, 0.05, 0.04), gloss=0.14, emissivity=0.80, sun_heat=2, night=1.5, grain=0.3),
    "lit_window": Material(
        (0.3, 0.25, 0.2, 0.3, 0.3), (0.55, 0.40, 0.2, 0.45, 0.4), emissivity=0.85, night=4.0, sun_heat=2, grain=0.15
    ),
    "door": Material((0.12, 0.06, 0.04, 0.3, 0.3), night=1.0, sun_heat=6),
    "roof": Material((0.20, 0.11, 0.08, 0.28, 0.33), sun_heat=18, night=-2.5, grain=0.3),
    "tyre": Material((0.028, 0.028, 0.03, 0.04, 0.05), sun_heat=9, night=0.5, grain=0.05),
    "rim": Material((0.35, 0.35, 0.36, 0.4, 0.4), gloss=0.2, emissivity=0.6, sun_heat=3),
    "plastic": Material((0.03, 0.03, 0.032, 0.06, 0.1), sun_heat=12, night=-0.5, grain=0.05),
    "glass": Material(
        (0.02, 0.022, 0.025, 0.025, 0.02), gloss=0.05, emissivity=0.70, sun_heat=2, night=-1.5, grain=0.3
    ),
    "shade": Material((0.018, 0.018, 0.019, 0.02, 0.03), sun_heat=0, night=0.5, grain=0.05),
    "lens": Material((0.55, 0.55, 0.55, 0.5, 0.4), gloss=0.3, emissivity=0.85, sun_heat=3),
    "lamp_white": Material((0.8, 0.8, 0.8, 0.8, 0.8), (5.0, 4.7, 4.0, 5.0, 4.0), night=12.0, grain=0.0),
    "lamp_sodium": Material((0.8, 0.8, 0.8, 0.8, 0.8), (5.0, 3.0, 0.9, 5.0, 4.0), night=25.0, grain=0.0),
    "tail_lens": Material((0.30, 0.02, 0.02, 0.5, 0.4), gloss=0.2, emissivity=0.9, sun_heat=4),
    "tail_lit": Material((0.30, 0.02, 0.02, 0.5, 0.4), (1.6, 0.06, 0.04, 0.5, 0.1), sun_heat=4, night=3.0, grain=0.0),
    "signal_red": Material((0.4, 0.05, 0.05, 0.5, 0.4), (3.0, 0.15, 0.08, 0.6, 0.1), night=3.0, grain=0.0),
    "signal_green": Material((0.1, 0.4, 0.3, 0.5, 0.4), (0.1, 2.2, 1.5, 0.4, 0.1), night=3.0, grain=0.0),
    "plate": Material((0.65, 0.65, 0.6, 0.6, 0.5), sun_heat=3),
    "hair": Material((0.035, 0.025, 0.02, 0.12, 0.14), body=0.45, sun_heat=5, grain=0.1),
    "shoe": Material((0.05, 0.045, 0.04, 0.2, 0.2), body=0.12, sun_heat=5, grain=0.1),
    "wire": Material((0.03, 0.03, 0.03, 0.05, 0.05), sun_heat=3),
    "hot_metal": Material((0.2, 0.2, 0.2, 0.25, 0.25), sun_heat=2, night=18.0),
}


@dataclass
class MaterialTable:
    """Materials of one scene: the standard ones by name, then those drawn for it (paint, cloth, skin, leaves)."""

    rows: list[Material] = field(default_factory=lambda: list(_STANDARD.values()))

    def __getitem__(self, name: str) -> int:
        return _NUMBER[name]

    def add(self, colour: np.ndarray, nir: float, swir: float, **properties: Any) -> int:
        """Append a material and return its number.

        Args:
            colour: reflectance [3] in R, G, B.
            nir, swir: reflectance in these bands.
            **properties: attributes of `Material`.
        """
        red, green, blue = colour.tolist()
        self.rows.append(Material((red, green, blue, float(nir), float(swir)), **properties))
        return len(self.rows) - 1

    def columns(self) -> dict[str, np.ndarray]:
        """Return every attribute as a float32 array over materials: [n] or, per channel, [n, 5]."""
        return {
            name: np.array([getattr(row, name) for row in self.rows], dtype=np.float32)
            for name in Material.__dataclass_fields__
        }


_NUMBER = {name: number for number, name in enumerate(_STANDARD)}
