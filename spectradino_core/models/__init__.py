"""The model. Read `spectradino.py` first, then `vit.py`.

| file | contents |
|---|---|
| `spectradino.py` | the paper's model: stems, adapters, modality embedding, backbone |
| `vit.py`, `dinov3.py` | plain DINOv2; what DINOv3 has beside it |
| `encoders.py` | the baseline, DINOv2 on repeated infrared; encoders to compare with or to distil from |
| `fusion.py` | concatenation, gate, cross attention |
| `pyramid.py`, `detection.py`, `segmentation.py` | ViTDet's pyramid and the heads |
| `registry.py` | heads and fusions by name, a new one is a class, a line here and a test; `Architecture` |
| `perception.py` | backbone, fusion and heads as one module |
| `checkpoints.py`, `weight_files.py`, `perception_checkpoint.py` | DINOv2's key layouts, backbones, models |
"""

from __future__ import annotations

from spectradino_core.models.spectradino import SpectraDINO, parameter_roles
from spectradino_core.models.vit import VARIANTS, Features, ViT, ViTConfig, vit_config

__all__ = ["VARIANTS", "Features", "SpectraDINO", "ViT", "ViTConfig", "parameter_roles", "vit_config"]
