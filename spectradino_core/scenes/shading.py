"""Shading, from the painted canvas to each sensor's input: linear radiance or apparent temperature.

Letters: `H height`, `W width`. Every plane is float32 [H, W].
"""

from __future__ import annotations

from functools import cached_property

import numpy as np

from spectradino_core.scenes.canvas import Canvas
from spectradino_core.scenes.layout import Street
from spectradino_core.scenes.scene import FAR_M
from spectradino_core.scenes.street import SKY_STRIPS

_SKIN_C = 34.0


class Shader:
    """Shader of one canvas; tables and depth are computed once for all bands."""

    def __init__(self, canvas: Canvas, street: Street) -> None:
        self.canvas, self.weather = canvas, street.weather
        self.table = canvas.table()
        self.columns = street.materials.columns()
        self.material = self.table[:, 0].astype(np.intp)
        self.depth = self._depth()
        eye = canvas.camera.eye
        near = sorted(street.lamps, key=lambda lamp: abs(lamp[2] - eye[2] - 15.0))
        self.lamps = near[:5] if street.weather.lamp.any() else []

    def classes(self) -> np.ndarray:
        """Return the mask, uint8 [H, W]."""
        return np.take(self.table[:, 7].astype(np.uint8), self.canvas.index)

    def instances(self) -> np.ndarray:
        """Return the number of the labelled object per pixel, uint16 [H, W]; 0: none."""
        return np.take(self.table[:, 8].astype(np.uint16), self.canvas.index)

    def radiance(self, channel: int) -> np.ndarray:
        """Return linear radiance in channel 0..4 (R, G, B, NIR, SWIR), in units of a white wall in full sun."""
        w, index = self.weather, self.canvas.index
        albedo = self.columns["albedo"][self.material, channel]
        ambient, sun = self.table[:, 1], np.maximum(self.table[:, 2], 0.0)
        lit = albedo * (ambient * w.ambient[channel] + sun * w.sun[channel])
        lit += self.columns["gloss"][self.material] * ambient * w.sky_low[channel]
        own = self.columns["emission"][self.material, channel]
        if w.time_of_day == "day":
            own = 0.4 * own
        grain = self.columns["grain"][self.material]
        strips = slice(1, SKY_STRIPS + 1)
        rise = self.table[strips, 2] ** 0.7
        lit[strips] = w.sky_low[channel] + (w.sky_high[channel] - w.sky_low[channel]) * rise
        grain[strips] = (0.05 + 0.25 * w.cloud) * (1.0 if channel < 3 else 1.6) * np.minimum(4.0 * rise, 1.0)
        level = np.take(lit.astype(np.float32), index)
        if w.lights_on:
            level += np.take(albedo.astype(np.float32), index) * self._artificial(channel)
        swing = np.take((grain / 128.0).astype(np.float32), index)
        swing *= self.canvas.grain[..., 0].astype(np.float32) - 128.0
        swing += 1.0
        level *= swing
        if own.any():
            level += np.take(own.astype(np.float32), index)
        clear = self._clear(w.haze_per_m[channel])
        veil = np.float32(0.92 * w.sky_low[channel])
        level -= veil
        level *= clear
        level += veil
        return np.maximum(level, 0.0, out=level)

    def temperature(self) -> np.ndarray:
        """Return the apparent temperature in LWIR, degrees Celsius."""
        w, index, c = self.weather, self.canvas.index, self.columns
        heat = np.abs(self.table[:, 2]) * 0.75 + 0.25
        own = w.air_c + c["night"][self.material] * (1.0 - 0.7 * w.sun_load)
        own = own + c["sun_heat"][self.material] * w.sun_load * heat + self.table[:, 3]
        own = own + c["body"][self.material] * (_SKIN_C - own)
        shine = (1.0 - c["emissivity"])[self.material] * np.clip(self.table[:, 1], 0.0, 1.0)
        own = own + shine * (0.5 * (w.air_c + w.sky_c) - own)
        strips = slice(1, SKY_STRIPS + 1)
        own[strips] = w.air_c - 3.0 + (w.sky_c - w.air_c + 3.0) * self.table[strips, 2] ** 0.45
        grain = c["thermal_grain"][self.material] / 42.0
        grain[strips] *= 0.2 + w.cloud
        degrees = np.take(own.astype(np.float32), index)
        swing = np.take(grain.astype(np.float32), index)
        swing *= self.canvas.grain[..., 1].astype(np.float32) - 128.0
        degrees += swing
        clear = self._clear(w.lwir_haze_per_m)
        degrees -= np.float32(w.air_c)
        degrees *= clear
        degrees += np.float32(w.air_c)
        return degrees

    def _depth(self) -> np.ndarray:
        index = self.canvas.index
        right, down = self.canvas.camera.rays
        inverse = np.take(self.table[:, 6].astype(np.float32), index)
        inverse += np.take(self.table[:, 5].astype(np.float32), index) * down
        inverse += np.take(self.table[:, 4].astype(np.float32), index) * right
        np.maximum(inverse, np.float32(1.0 / FAR_M), out=inverse)
        return np.divide(np.float32(1.0), inverse, out=inverse)

    def _clear(self, per_m: float) -> np.ndarray:
        clear = np.exp(self.depth * np.float32(-per_m))
        # The sky's colour already includes its haze.
        clear[(self.canvas.index <= SKY_STRIPS) & (self.canvas.index > 0)] = 1.0
        return clear

    def _artificial(self, channel: int) -> np.ndarray:
        lamps, beam = self._light_fields
        light = lamps * np.float32(self.weather.lamp[channel])
        light += beam * np.float32(self.weather.beam[channel])
        return light

    @cached_property
    def _light_fields(self) -> tuple[np.ndarray, np.ndarray]:
        """The irradiance of street lamps and ego headlights at every pixel's world position."""
        eye = self.canvas.camera.eye
        right, down = self.canvas.camera.rays
        z = np.minimum(self.depth, np.float32(300.0))
        x, y = right * z, down * z
        lamps = np.zeros_like(z)
        for lx, ly, lz in self.lamps:
            square = (x - np.float32(lx - eye[0])) ** 2
            square += (y - np.float32(eye[1] - ly)) ** 2
            square += (z - np.float32(lz - eye[2])) ** 2
            square += np.float32(4.0)
            # Inverse square law; a lamp shines mostly down.
            lamps += np.float32(45.0) / square
        spread = x / (np.float32(1.5) + np.float32(0.22) * z)
        beam = np.exp(-spread * spread)
        # Dipped beams: bright below the level of the lamps, dim above.
        beam *= np.float32(0.25) + np.float32(0.75) / (1.0 + np.exp(np.float32(-40.0) * (down + np.float32(0.005))))
        beam /= np.float32(1.0) + (z * np.float32(1.0 / 11.0)) ** 2
        return lamps, beam
