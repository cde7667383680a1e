"""Baseline for the pretraining step: a straightforward implementation with transformers' DINOv2.

`Dinov2Model` with a forward hook per block that adds the band's adapter, and separate passes for RGB and infrared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from spectradino_core.modality import Modality
from spectradino_core.models.spectradino import make_stem
from spectradino_core.models.vit import vit_config
from spectradino_core.training.stages import StageRecipe


class HookedDinov2(nn.Module):
    """Baseline student: transformers' DINOv2 with adapters attached by forward hooks."""

    net: Any
    adapters: Any

    def __init__(self, variant: str) -> None:
        super().__init__()
        self.net = plain_dinov2(variant)
        width, depth = self.net.config.hidden_size, self.net.config.num_hidden_layers
        self.stems = nn.ModuleDict({band.key: make_stem(band) for band in Modality})
        self.embeddings = nn.ParameterDict({band.key: nn.Parameter(torch.zeros(width)) for band in Modality})
        self.adapters = nn.ModuleDict(
            {
                band.key: nn.ModuleList(
                    nn.Sequential(nn.Linear(width, width // 4), nn.GELU(), nn.Linear(width // 4, width))
                    for _ in range(depth)
                )
                for band in Modality
            }
        )
        self._key = "rgb"
        self.net.embeddings.register_forward_hook(lambda module, args, out: out + self.embeddings[self._key])
        for index, layer in enumerate(self._layers()):
            layer.register_forward_hook(self._hook(index))

    def forward(self, band: Modality, image: Tensor) -> Tensor:
        """Return all tokens [B, T, D] of images [B, C, H, W]."""
        self._key = band.key
        return self.net(self.stems[band.key](image)).last_hidden_state

    def freeze(self, recipe: StageRecipe) -> None:
        """Make the parameters trainable that the stage trains in our student."""
        self.requires_grad_(True)
        self.net.requires_grad_(False)
        self.net.layernorm.requires_grad_(True)
        self.stems["rgb"].requires_grad_(recipe.rgb_stem)
        for layer in list(self._layers())[self.net.config.num_hidden_layers - recipe.unfrozen :]:
            layer.requires_grad_(True)

    def _layers(self) -> Iterator[nn.Module]:
        encoder = getattr(self.net, "encoder", self.net)
        return iter(encoder.layer if hasattr(encoder, "layer") else encoder.layers)

    def _hook(self, index: int) -> Callable[..., object]:
        def add(module: nn.Module, args: object, out: Tensor | tuple[Tensor, ...]) -> object:
            tokens = out[0] if isinstance(out, tuple) else out
            tokens = tokens + self.adapters[self._key][index](tokens)
            return (tokens, *out[1:]) if isinstance(out, tuple) else tokens

        return add


def plain_dinov2(variant: str) -> nn.Module:
    """Create transformers' DINOv2 of a variant's size with random weights; ValueError if the variant is a DINOv3."""
    from transformers import Dinov2Config, Dinov2Model

    config = vit_config(variant)
    if config.rotary:
        raise ValueError(f"the reference is transformers' DINOv2, but {variant} is a DINOv3: give s, b, l or g")
    return Dinov2Model(
        Dinov2Config(
            hidden_size=config.width,
            num_hidden_layers=config.depth,
            num_attention_heads=config.heads,
            mlp_ratio=config.mlp_ratio,
            image_size=config.pos_grid * config.patch,
            patch_size=config.patch,
            attn_implementation="sdpa",  # type: ignore[call-arg]
        )
    )
