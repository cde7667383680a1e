"""Light, air and temperatures of a scene, drawn from the seed for day, dusk or night.

5-vectors are per channel R, G, B, NIR, SWIR, linear, in units of a white wall in full sun; temperatures in degrees
Celsius.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from spectradino_core.scenes.scene import TIMES_OF_DAY

_DAY_SHARE, _DUSK_SHARE = 0.5, 0.17


@dataclass(frozen=True)
class Weather:
    """Weather of a scene.

    Attributes:
        sun_direction: unit vector towards the sun, world axes.
        sun, ambient: irradiance per channel from the sun and from the sky.
        sky_low, sky_high: radiance of the sky at the horizon and 40 degrees up, per channel.
        cloud: 0 clear .. 1 overcast.
        haze_per_m: extinction per metre and channel; the scattered light is a dimmed `sky_low`.
        sun_load: fraction of a material's `sun_heat` that is reached, 0..1.
        air_c, sky_c: air temperature, and apparent sky temperature overhead.
        lamp: colour of the street lamps times their strength (zero when off).
        beam: the ego car's headlights, per channel (NIR: an illuminator).
        exposure: gain of each channel's camera.
        wet: 0 dry .. 1 wet road: darker, glossier.
    """

    time_of_day: str
    sun_direction: np.ndarray
    sun: np.ndarray
    ambient: np.ndarray
    sky_low: np.ndarray
    sky_high: np.ndarray
    cloud: float
    haze_per_m: np.ndarray
    lwir_haze_per_m: float
    sun_load: float
    air_c: float
    sky_c: float
    lamp: np.ndarray
    beam: np.ndarray
    exposure: np.ndarray
    tint: np.ndarray
    wet: float

    @property
    def lights_on(self) -> bool:
        return self.time_of_day != "day"


def draw_weather(rng: np.random.Generator, time_of_day: str | None) -> Weather:
    """Draw the weather; the random draws are the same for every requested `time_of_day`."""
    u = rng.random(24)
    drawn = TIMES_OF_DAY[int(u[0] > _DAY_SHARE) + int(u[0] > _DAY_SHARE + _DUSK_SHARE)]
    time = time_of_day or drawn
    cloud = float(np.clip(1.5 * u[1] - 0.3, 0.0, 1.0))
    azimuth = 2.0 * np.pi * u[2]
    elevation = np.deg2rad(22.0 + 48.0 * u[3] if time == "day" else 4.0 + 6.0 * u[3])
    sun_direction = np.array(
        [np.cos(elevation) * np.sin(azimuth), np.sin(elevation), np.cos(elevation) * np.cos(azimuth)]
    )
    haze = 0.0006 + 0.0025 * u[4] ** 2 + (0.012 + 0.03 * u[5] if u[6] < 0.12 else 0.0)
    air = -4.0 + 36.0 * u[7] - (6.0 if time == "night" else 0.0)
    blue = np.array([0.30, 0.48, 0.85, 0.14, 0.04])
    white = np.array([0.80, 0.84, 0.90, 0.62, 0.42])
    pale = np.array([0.78, 0.82, 0.88, 0.34, 0.12])
    zero = np.zeros(5)
    clear = 1.0 - cloud
    if time == "day":
        sun = clear**0.7 * (0.55 + 0.35 * np.sin(elevation)) * np.array([1.0, 0.96, 0.88, 0.95, 0.85])
        ambient = np.array([0.27, 0.29, 0.33, 0.20, 0.14]) * (1.0 + 0.5 * cloud)
        high = clear * blue * (0.55 + 0.3 * u[8]) + cloud * white * 0.85
        low = clear * pale + cloud * white * 0.95
        load = (0.25 + 0.75 * clear) * (0.55 + 0.45 * np.sin(elevation)) * (0.4 + 0.6 * u[9])
        lamp, beam = zero, zero
        exposure = np.full(5, 0.85 + 0.7 * u[10])
        exposure[3:] *= 1.2
    elif time == "dusk":
        sun = zero
        level = 0.04 + 0.10 * u[8]
        ambient = level * np.array([0.85, 0.9, 1.15, 0.8, 0.6])
        glow = np.array([1.0, 0.62 + 0.2 * u[11], 0.42 + 0.3 * u[11], 0.8, 0.5])
        low = (2.2 * level) * (clear * glow + cloud * np.array([0.7, 0.72, 0.8, 0.5, 0.3]))
        high = (1.6 * level) * np.array([0.40, 0.50, 0.85, 0.25, 0.1])
        load = 0.12 * clear
        lamp = 0.35 * (0.3 + u[12]) * _lamp_colour(u[13])
        beam = 0.2 * np.array([1.0, 0.95, 0.85, 1.6, 0.8])
        exposure = np.full(5, 1.1 + 1.5 * u[10])
    else:
        sun = zero
        level = 0.0015 + 0.010 * u[8] ** 2
        ambient = level * np.array([0.9, 0.9, 1.0, 1.0, 4.0])
        low = level * np.array([1.5, 1.3, 1.0, 0.8, 2.0]) * (1.0 + 2.5 * u[11])
        high = level * np.array([0.7, 0.7, 0.9, 0.5, 1.5])
        load = 0.0
        lamp = 0.75 * (0.1 + u[12] ** 1.5) * _lamp_colour(u[13])
        beam = (0.12 + 0.4 * u[14]) * np.array([1.0, 0.95, 0.85, 2.5, 1.2])
        exposure = np.full(5, 1.1 + 1.5 * u[10])
        exposure[4] *= 3.0
    tint = 1.0 + 0.10 * (u[15:20] - 0.5)
    sky_c = air - 5.0 - (8.0 + 22.0 * u[20]) * (1.0 - 0.75 * cloud)
    wet = max(0.0, (u[21] - 0.8) * 5.0) if cloud > 0.4 else 0.0
    return Weather(
        time_of_day=time,
        sun_direction=sun_direction,
        sun=sun,
        ambient=ambient,
        sky_low=low,
        sky_high=high,
        cloud=cloud,
        haze_per_m=haze * np.array([1.0, 1.05, 1.15, 0.6, 0.25]),
        lwir_haze_per_m=0.0006 + 0.15 * haze,
        sun_load=float(load),
        air_c=float(air),
        sky_c=float(sky_c),
        lamp=lamp,
        beam=beam,
        exposure=exposure,
        tint=tint,
        wet=float(wet),
    )


def _lamp_colour(u: float) -> np.ndarray:
    sodium, led = np.array([1.0, 0.72, 0.38, 0.9, 0.6]), np.array([0.92, 0.95, 1.0, 0.3, 0.05])
    return sodium if u < 0.55 else led
