"""The backbone. Read `spectradino.py` first, then `vit.py`.

| file | what it holds |
|---|---|
| `spectradino.py` | the whole model: stems, DINOv2, adapters, modality embedding |
| `vit.py` | plain DINOv2 |
| `stems.py` | an image of a band to three channels |
| `adapters.py` | the bottleneck after each block, one per band |
| `checkpoints.py` | files: DINOv2 in its four key layouts, and our own |
"""

from __future__ import annotations

from spectradino_core.backbone.spectradino import SpectraDINO, parameter_roles
from spectradino_core.backbone.vit import TAPS, VARIANTS, Features, ViT, ViTConfig, vit_config

__all__ = ["TAPS", "VARIANTS", "Features", "SpectraDINO", "ViT", "ViTConfig", "parameter_roles", "vit_config"]
