"""Sensor models, from radiance and temperature to counts: blur, bloom, noise, exposure, quantisation."""

from __future__ import annotations

import cv2
import numpy as np

from spectradino_core.scenes.scene import SceneOptions
from spectradino_core.scenes.textures import TILE, noise_tile, smooth_tile
from spectradino_core.scenes.weather import Weather

_ZERO_C_IN_CENTIKELVIN = 27315.0


def expose_rgb(
    planes: list[np.ndarray], weather: Weather, options: SceneOptions, rng: np.random.Generator
) -> np.ndarray:
    """Expose three linear planes to uint8 [H, W, 3]."""
    dark = {"day": 1.0, "dusk": 1.8, "night": 3.2}[weather.time_of_day]
    planes = [_optics(plane, 0.55, options, glow=weather.lights_on) for plane in planes]
    gain = weather.exposure[:3] * weather.tint[:3]
    out = np.empty((*planes[0].shape, 3), np.uint8)
    for k, plane in enumerate(planes):
        out[..., k] = _eight_bits(plane, float(gain[k]), 1.6 * dark, options, rng)
    return out


def expose_nir(plane: np.ndarray, weather: Weather, options: SceneOptions, rng: np.random.Generator) -> np.ndarray:
    """Expose one linear plane to uint8 [H, W]."""
    dark = 1.0 if weather.time_of_day == "day" else 2.2
    plane = _optics(plane, 0.65, options, glow=weather.lights_on)
    return _eight_bits(plane, float(weather.exposure[3]), 1.8 * dark, options, rng)


def expose_swir(plane: np.ndarray, weather: Weather, options: SceneOptions, rng: np.random.Generator) -> np.ndarray:
    """Expose one linear plane to uint16 [H, W] of 14 bits, proportional to radiance."""
    plane = _optics(plane, 0.75, options, glow=weather.lights_on)
    plane *= np.float32(11000.0 * weather.exposure[4])
    plane += 180.0
    if options.noise:
        sigma = 45.0 if weather.time_of_day == "day" else 110.0
        plane += np.float32(sigma * options.noise_level) * _piece(noise_tile(), plane.shape, rng)
    return np.clip(plane, 0.0, 16383.0).astype(np.uint16)


def expose_lwir(degrees: np.ndarray, options: SceneOptions, rng: np.random.Generator) -> np.ndarray:
    """Convert degrees Celsius to uint16 [H, W] in hundredths of a kelvin, as a radiometric microbolometer does."""
    if options.blur:
        degrees = _blur(degrees, 0.85, options)
    counts = degrees * np.float32(100.0)
    counts += np.float32(_ZERO_C_IN_CENTIKELVIN)
    if options.noise:
        level = options.noise_level
        counts += np.float32(6.0 * level) * _piece(noise_tile(), counts.shape, rng)
        # Fixed-pattern noise of the column and row amplifiers, and a slow drift over the array.
        counts += (5.0 * level * rng.standard_normal(counts.shape[1])).astype(np.float32)
        counts += (3.0 * level * rng.standard_normal((counts.shape[0], 1))).astype(np.float32)
        drift = _piece(smooth_tile(), (64, 80), rng)
        counts += np.float32(18.0 * level) * cv2.resize(drift, counts.shape[::-1], interpolation=cv2.INTER_LINEAR)
    return np.clip(np.rint(counts), 0.0, 65535.0).astype(np.uint16)


def _eight_bits(
    plane: np.ndarray, gain: float, sigma: float, options: SceneOptions, rng: np.random.Generator
) -> np.ndarray:
    """Apply a square-root tone curve (evens out photon noise) with a soft shoulder, noise and rounding."""
    value = plane * np.float32(gain)
    shoulder = value + np.float32(1.0)
    value *= np.float32(1.35)
    value /= np.sqrt(1.0 + value * value, out=shoulder)
    np.sqrt(value, out=value)
    value *= np.float32(252.0)
    value += np.float32(3.0)
    if options.noise:
        value += np.float32(sigma * options.noise_level) * _piece(noise_tile(), value.shape, rng)
    return np.clip(value, 0.0, 255.0).astype(np.uint8)


def _optics(plane: np.ndarray, sigma: float, options: SceneOptions, glow: bool) -> np.ndarray:
    if not options.blur:
        return plane.copy()
    plane = _blur(plane, sigma, options)
    if glow:
        # Lens scatter: a wide faint halo around bright lamps, computed at low resolution.
        height, width = plane.shape
        small = cv2.resize(plane, (width // 4, height // 4), interpolation=cv2.INTER_AREA)
        halo = cv2.GaussianBlur(np.maximum(small - 0.6, 0.0), (0, 0), 0.012 * width)
        halo += 0.5 * cv2.GaussianBlur(small, (0, 0), 0.03 * width) * 0.06
        plane += np.float32(0.5) * cv2.resize(halo, (width, height), interpolation=cv2.INTER_LINEAR)
    return plane


def _blur(plane: np.ndarray, sigma: float, options: SceneOptions) -> np.ndarray:
    # Lens blur is an angle, not pixels: a smaller image is blurred less, but always enough to avoid aliased edges.
    return cv2.GaussianBlur(plane, (0, 0), max(0.45, sigma * options.width / 640.0))


def _piece(tile: np.ndarray, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    height, width = shape
    if height > TILE or width > TILE:
        tile = np.tile(tile, (-(-height // TILE) + 1, -(-width // TILE) + 1))
    row = int(rng.integers(0, tile.shape[0] - height + 1))
    column = int(rng.integers(0, tile.shape[1] - width + 1))
    return tile[row : row + height, column : column + width]
