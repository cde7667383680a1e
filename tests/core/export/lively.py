"""A model of random weights for comparisons; files of tests that use it share its traced graph."""

from __future__ import annotations

import torch

from spectradino_core.models.perception import Perception


def lively(recipe, sharp: bool = True) -> Perception:
    """Module with scores and classes that differ from place to place, and `sharp` attention, far from uniform.

    Six blocks of sharp attention enlarge rounding beyond the tolerance of trained models.
    """
    torch.manual_seed(0)
    model = Perception(recipe.architecture).eval()
    with torch.no_grad():
        for tensor in (model.fusion.absent, model.segmentation.classify.weight):
            tensor.normal_(std=0.1)
        model.segmentation.classify.bias.normal_(std=0.5)  # classes that differ, as in a trained mask
        model.detection.regress.weight.normal_(std=0.01)
        model.detection.classify.weight.normal_(std=0.05 if sharp else 0.15)
        model.detection.classify.bias.fill_(-1.5)
        model.detection.regress.bias.normal_(std=0.3)
        for block in model.backbone.vit.blocks if sharp else ():
            block.attn.qkv.weight.normal_(std=0.3)
    return model
