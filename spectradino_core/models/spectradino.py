"""SpectraDINO: one DINOv2 backbone for RGB and infrared bands (Section 3.1).

    B batch    C channels of a band (RGB 3, infrared 1)    H, W image height and width in pixels
    T all tokens    N patch tokens    D width    M bands of the model    b adapter bottleneck: D/4

    rgb  ─ RGB stem ──┐                                           ┌─ block ─ adapter ─┐
    nir  ─ IR stem ───┤                   + position embedding    │                   │
    swir ─ IR stem ───┼─ patch embedding ─ + modality embedding ──┴── depth times ────┴─ norm ─ tokens of each band
    lwir ─ IR stem ───┘

Stems, adapters and modality embeddings are per band; everything else is DINOv2, shared by all bands, in `self.vit`. All
images of a call go through the blocks as one batch. A new model with zeroed adapter outputs equals DINOv2 on RGB.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from spectradino_core.modality import Modality
from spectradino_core.models.adapters import Adapter, Routing
from spectradino_core.models.stems import make_stem
from spectradino_core.models.vit import Features, ViT, ViTConfig, check_taps, vit_config

__all__ = ["SpectraDINO", "parameter_roles"]


class SpectraDINO(nn.Module):
    """SpectraDINO backbone.

    Args:
        config: a `ViTConfig`, or the name of one in `vit.VARIANTS`.
        bands: bands of the model, at least one; stored in the order of `Modality`. A model for a robot has two.
        activation_checkpointing: recompute each block in the backward pass; saves memory, costs a forward pass.
    """

    def __init__(
        self,
        config: ViTConfig | str,
        bands: Sequence[Modality] = tuple(Modality),
        activation_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        config = vit_config(config)
        self.bands = in_order(bands)
        self.stems = nn.ModuleDict({band.key: make_stem(band) for band in self.bands})
        self.vit = ViT(config, activation_checkpointing)
        self.modality_embedding = nn.Parameter(torch.zeros(len(self.bands), config.width))
        self.adapters = nn.ModuleList(
            Adapter(len(self.bands), config.width, config.width // 4) for _ in range(config.depth)
        )

    @property
    def config(self) -> ViTConfig:
        return self.vit.config

    def forward(self, images: Mapping[Modality, Tensor], taps: Sequence[int] | None = None) -> dict[Modality, Features]:
        """Compute features of images of one or more bands in one pass.

        Args:
            images: [B_m, C_m, H, W] by band. H and W are the same for all bands and multiples of the patch size; batch
                sizes may differ. RGB is normalised with ImageNet's mean and standard deviation, IR is in [0, 1].
            taps: 0-based blocks whose patch tokens are returned in addition to the last block's (`config.taps` is the
                paper's choice).

        Returns:
            `Features` by band, in the order of `images`.

        Raises:
            ValueError: no images, a band the model does not have, a wrong shape, or a tap that is not a block.
        """
        taps = taps or ()
        check_taps(taps, self.config.depth)
        self._check(images)
        sizes = tuple(len(batch) for batch in images.values())
        device = self.modality_embedding.device
        routing = Routing(tuple(self.bands.index(band) for band in images), sizes, device)

        colours = [self.stems[band.key](batch) for band, batch in images.items()]
        tokens, grid = self.vit.embed(torch.cat(colours))
        tokens = tokens + self._modality(routing)
        tapped: dict[int, Tensor] = {}
        for index, (block, adapter) in enumerate(zip(self.vit.blocks, self.adapters, strict=True)):
            tokens = adapter(self.vit.run(block, tokens), routing)
            if index in taps:
                tapped[index] = self.vit.norm(tokens)
        tokens = self.vit.norm(tokens)

        parts = tokens.split(sizes)
        tapped_parts = [tapped[index].split(sizes) for index in taps]
        return {
            band: Features.of(parts[run], grid, [tap[run] for tap in tapped_parts]) for run, band in enumerate(images)
        }

    def _modality(self, routing: Routing) -> Tensor:
        """Modality embedding of every sample, broadcast over its tokens: [B, 1, D]."""
        rows = [self.modality_embedding[slot].expand(size, 1, -1) for slot, size in zip(routing.slots, routing.sizes)]
        return torch.cat(rows)

    def _check(self, images: Mapping[Modality, Tensor]) -> None:
        if not images:
            raise ValueError("no images: give at least one band")
        for band, batch in images.items():
            if band not in self.bands:
                held = ", ".join(held.key for held in self.bands)
                raise ValueError(f"this model has no {Modality(band).key} band: it holds {held}")
            channels = band.band.channels
            if batch.ndim != 4 or batch.shape[1] != channels or not len(batch):
                raise ValueError(f"{band.key} images must be [B, {channels}, H, W] with B > 0, not {list(batch.shape)}")
        shapes = {band.key: tuple(map(int, batch.shape[2:])) for band, batch in images.items()}
        if len(set(shapes.values())) > 1:
            raise ValueError(f"all bands of one call must have the same size, not {shapes}")

    def select_bands(self, bands: Sequence[Modality]) -> SpectraDINO:
        """Return a copy of this model with only `bands`, e.g. the two of a robot.

        Raises:
            ValueError: a band the model does not have.
        """
        bands = in_order(bands)
        missing = [band.key for band in bands if band not in self.bands]
        if missing:
            raise ValueError(f"this model has no {', '.join(missing)}: it holds {', '.join(b.key for b in self.bands)}")
        slots = [self.bands.index(band) for band in bands]
        model = copy.deepcopy(self)
        model.bands = bands
        model.stems = nn.ModuleDict({band.key: model.stems[band.key] for band in bands})
        embedding = model.modality_embedding
        model.modality_embedding = nn.Parameter(embedding.detach()[slots].clone(), embedding.requires_grad)
        for module in model.modules():
            if isinstance(module, Adapter):
                module.keep(slots)
        return model

    def freeze_grid(self, h: int, w: int) -> None:
        """Fix the position embedding to h x w patches before export: see `ViT.freeze_grid`."""
        self.vit.freeze_grid(h, w)

    def thaw_grid(self) -> None:
        """Undo `freeze_grid`."""
        self.vit.thaw_grid()


def parameter_roles(model: nn.Module) -> dict[str, str]:
    """Role of each backbone parameter, by its name in `model.named_parameters()`.

    Training stages and fine-tuning modes select parameters by these roles:

    - `stems.rgb`, `stems.nir`, `stems.swir`, `stems.lwir`
    - `adapters` (all blocks, all bands)
    - `modality_embedding`
    - `patch_embed`
    - `tokens` (CLS, registers, position embedding)
    - `blocks.0` ... `blocks.{depth - 1}`
    - `norm` (the final LayerNorm)
    """
    roles = {}
    for name, _ in model.named_parameters():
        head, *rest = name.removeprefix("vit.").split(".")
        if head in ("stems", "blocks"):
            roles[name] = f"{head}.{rest[0]}"
        elif head in ("cls_token", "register_tokens", "pos_embed"):
            roles[name] = "tokens"
        else:
            roles[name] = head
    return roles


def in_order(bands: Sequence[Modality]) -> tuple[Modality, ...]:
    """Sort `bands` in the order of `Modality`; ValueError if empty or if a band is repeated."""
    if not bands or len(set(bands)) != len(bands):
        raise ValueError(f"name at least one band, and each once: not {[Modality(band).key for band in bands]}")
    return tuple(sorted(Modality(band) for band in bands))
