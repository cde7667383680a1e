"""SpectraDINO backbone. Read `spectradino.py` first, then `vit.py`.

| file | contents |
|---|---|
| `spectradino.py` | the whole model: stems, DINOv2, adapters, modality embedding |
| `vit.py` | plain DINOv2 |
| `stems.py` | convolutional stem per band: image to three channels |
| `adapters.py` | bottleneck adapter after each block, one per band |
| `checkpoints.py` | DINOv2 weights in four key layouts, and SpectraDINO checkpoints |
"""

from __future__ import annotations

from spectradino_core.models.spectradino import SpectraDINO, parameter_roles
from spectradino_core.models.vit import TAPS, VARIANTS, Features, ViT, ViTConfig, vit_config

__all__ = ["TAPS", "VARIANTS", "Features", "SpectraDINO", "ViT", "ViTConfig", "parameter_roles", "vit_config"]
