"""Synthetic streets: one seed is one scene, rendered in RGB, NIR, SWIR and 16-bit LWIR with exact truth.

What is where:

- `scene.py`: the options, the result, the classes.
- `layout.py`, `traffic.py`: what and who stands where; `weather.py`: light and temperatures; `materials.py`:
  reflectance and heat.
- `people.py`, `bicycles.py`, `cars.py`, `buildings.py`, `plants.py`, `furniture.py`, `street.py`: how each is drawn;
  `motion.py`: how they get on.
- `canvas.py`: painting by surface number; `shading.py`: surface numbers to radiance; `sensors.py`: radiance to counts.
- `render.py`: the functions people call; `sheet.py`: pictures for people.
"""

from __future__ import annotations

from spectradino_core.data.scenes.render import render_moments, render_scene, render_sequence
from spectradino_core.data.scenes.scene import (
    BOX_CLASSES,
    FAR_M,
    MASK_CLASSES,
    MASK_PALETTE,
    TIMES_OF_DAY,
    UNLABELLED,
    Scene,
    SceneOptions,
)
from spectradino_core.data.scenes.sheet import contact_sheet

__all__ = [
    "BOX_CLASSES",
    "FAR_M",
    "MASK_CLASSES",
    "MASK_PALETTE",
    "TIMES_OF_DAY",
    "UNLABELLED",
    "Scene",
    "SceneOptions",
    "contact_sheet",
    "render_moments",
    "render_scene",
    "render_sequence",
]
