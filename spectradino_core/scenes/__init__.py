"""Synthetic scenes: a seed gives a street, rendered in RGB, NIR, SWIR and 16-bit LWIR with exact ground truth.

- `scene.py`: options, result, classes.
- `layout.py`, `traffic.py`: placement of objects and actors; `weather.py`: light and temperatures; `materials.py`:
  reflectance and heat.
- `people.py` (and bicycles), `cars.py`, `buildings.py`, `plants.py`, `furniture.py`, `street.py`: drawing;
  `motion.py`: motion of actors.
- `canvas.py`: painting by surface number; `shading.py`: surface numbers to radiance; `sensors.py`: radiance to counts.
- `render.py`: public functions; `__main__.py`: contact sheets.
"""

from __future__ import annotations

from spectradino_core.scenes.render import render_moments, render_scene, render_sequence
from spectradino_core.scenes.scene import (
    BOX_CLASSES,
    FAR_M,
    MASK_CLASSES,
    MASK_PALETTE,
    TIMES_OF_DAY,
    UNLABELLED,
    Scene,
    SceneOptions,
)

__all__ = [
    "BOX_CLASSES",
    "FAR_M",
    "MASK_CLASSES",
    "MASK_PALETTE",
    "TIMES_OF_DAY",
    "UNLABELLED",
    "Scene",
    "SceneOptions",
    "render_moments",
    "render_scene",
    "render_sequence",
]
