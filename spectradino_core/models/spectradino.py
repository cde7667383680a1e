"""SpectraDINO: one DINOv2 or DINOv3 for RGB and infrared images, with a stem and adapters per band.

    B batch    C channels of a band (RGB 3, infrared 1)    H, W image height and width in pixels
    T all tokens    N patch tokens    D width    M bands of the model    b adapter bottleneck: D/4
    K groups: runs of one band in a batch

    rgb  ─ RGB stem ──┐                                           ┌─ block ─ adapter ─┐
    nir  ─ IR stem ───┤                   + position embedding    │                   │
    swir ─ IR stem ───┼─ patch embedding ─ + modality embedding ──┴── depth times ────┴─ norm ─ tokens of each band
    lwir ─ IR stem ───┘

Stems, adapters and the modality embedding belong to a band; everything else is the ViT's (`vit.py`), shared by all, in
`self.vit`. DINOv3 has no position embedding: its blocks rotate queries and keys. All images of a call, whatever their
bands, go through the blocks as one batch. With zeroed adapter outputs a fresh model equals the ViT exactly on RGB.
SpectraDINO Section 3.1; the stems' widths, kernel sizes and precision are ours, as the paper does not give them.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spectradino_core.modality import Modality
from spectradino_core.models.vit import Features, ViT, ViTConfig, check_out_indices, vit_config

HIDDEN_CHANNELS = 32


class RGBStem(nn.Conv2d):
    """1x1 convolution initialised as the identity, [B, 3, H, W] to [B, 3, H, W]."""

    def __init__(self) -> None:
        super().__init__(3, 3, kernel_size=1)
        self.weight = nn.Parameter(torch.eye(3)[:, :, None, None].clone())
        self.bias = nn.Parameter(torch.zeros(3))


class InfraredStem(nn.Module):
    """`IN(conv2(GELU(conv1(x))))`, [B, 1, H, W] to [B, 3, H, W].

    The instance norm makes the output invariant to the sensor's gain and offset. It is always computed in fp32: the
    variance of a whole image exceeds the precision of fp16.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, HIDDEN_CHANNELS, kernel_size=3, padding=1)
        self.conv2 = nn.Conv2d(HIDDEN_CHANNELS, 3, kernel_size=3, padding=1)
        self.norm = nn.InstanceNorm2d(3, affine=True)
        for conv in (self.conv1, self.conv2):
            nn.init.xavier_uniform_(conv.weight)
            assert conv.bias is not None
            nn.init.zeros_(conv.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv2(F.gelu(self.conv1(x)))
        weight, bias = (p.float()[:, None, None] for p in (self.norm.weight, self.norm.bias))
        return (_standardise(x.float(), self.norm.eps) * weight + bias).to(x.dtype)


def _standardise(x: Tensor, eps: float) -> Tensor:
    """Standardise each channel of [B, 3, H, W], averaging within rows and then over rows.

    A single fp32 sum over a whole image, as in ONNX Runtime's InstanceNormalization, has an error of 3e-5, enough to
    shift boxes by a hundredth of a pixel; with two steps the error is 1e-6.
    """
    x = x - x.mean(dim=3, keepdim=True).mean(dim=2, keepdim=True)
    variance = x.square().mean(dim=3, keepdim=True).mean(dim=2, keepdim=True)
    return x * torch.rsqrt(variance + eps)


def make_stem(band: Modality) -> nn.Module:
    return RGBStem() if band is Modality.RGB else InfraredStem()


INIT_STD = 1e-3
"""Our choice; the paper only says "small". It changes a block's output by 0.02 %; 1e-2 would change it by over 2 %."""


@dataclass(frozen=True)
class Routing:
    """Band of each sample in a batch, as slots: indices into the adapter stack (0..M-1).

    Attributes:
        slots: slot of each run of consecutive samples of one band.
        sizes: length of each run, in samples.
    """

    slots: tuple[int, ...]
    sizes: tuple[int, ...]
    device: torch.device | str = "cpu"

    @property
    def even(self) -> bool:
        """Whether all runs have the same length, so that the batch forms K groups with one matmul each."""
        return len(set(self.sizes)) == 1

    @cached_property
    def index(self) -> Tensor:
        """Slot of every sample, [B]; computed once for all blocks."""
        return torch.tensor(self.slots).repeat_interleave(torch.tensor(self.sizes)).to(self.device)

    def pick(self, stack: Tensor) -> Tensor:
        """Select matmul weights from a stack [M, ...]: [K, ...] if even, otherwise [B, ...]."""
        if not self.even:
            return stack[self.index]
        first, count = self.slots[0], len(self.slots)
        if self.slots == tuple(range(first, first + count)):
            return stack[first : first + count]  # a view, so inference copies no weights
        return torch.stack([stack[slot] for slot in self.slots])


class Adapter(nn.Module):
    """Adapters of one block, for M bands of width D: `z + W_up · GELU(W_down · z + b) + b'` with per-band weights."""

    def __init__(self, bands: int, width: int, bottleneck: int) -> None:
        super().__init__()
        self.down = nn.Parameter(torch.empty(bands, width, bottleneck).normal_(std=INIT_STD))
        self.down_bias = nn.Parameter(torch.zeros(bands, bottleneck))
        self.up = nn.Parameter(torch.empty(bands, bottleneck, width).normal_(std=INIT_STD))
        self.up_bias = nn.Parameter(torch.zeros(bands, width))

    def forward(self, z: Tensor, routing: Routing) -> Tensor:
        """[B, T, D] to [B, T, D]."""
        pick = routing.pick
        x = z.reshape(len(routing.slots), -1, z.shape[-1]) if routing.even else z  # [K, B/K·T, D] or [B, T, D]
        hidden = F.gelu(torch.baddbmm(pick(self.down_bias)[:, None], x, pick(self.down)))
        return z + torch.baddbmm(pick(self.up_bias)[:, None], hidden, pick(self.up)).reshape(z.shape)

    @torch.no_grad()
    def keep(self, slots: Sequence[int]) -> None:
        """Keep only the bands in `slots`, renumbered in that order."""
        for name, stack in list(self.named_parameters()):
            setattr(self, name, nn.Parameter(stack[list(slots)].clone(), requires_grad=stack.requires_grad))


class SpectraDINO(nn.Module):
    """SpectraDINO backbone; its bands are in the order of `Modality`. A model for a robot has two."""

    def __init__(self, config: ViTConfig | str, bands: Sequence[Modality] = tuple(Modality)) -> None:
        super().__init__()
        config = vit_config(config)
        self.bands = in_order(bands)
        self.stems = nn.ModuleDict({band.key: make_stem(band) for band in self.bands})
        self.vit = ViT(config)
        self.modality_embedding = nn.Parameter(torch.zeros(len(self.bands), config.width))
        self.adapters = nn.ModuleList(
            Adapter(len(self.bands), config.width, config.width // 4) for _ in range(config.depth)
        )

    @property
    def config(self) -> ViTConfig:
        return self.vit.config

    def forward(
        self, images: Mapping[Modality, Tensor], out_indices: Sequence[int] | None = None
    ) -> dict[Modality, Features]:
        """Compute features of images of one or more bands in one pass.

        Args:
            images: [B_m, C_m, H, W] by band. H and W are the same for all bands and multiples of the patch size; batch
                sizes may differ. RGB is normalised with ImageNet's mean and standard deviation, IR is in [0, 1].
            out_indices: 0-based blocks whose patch tokens are returned in addition to the last block's
                (`config.out_indices` is the paper's choice).

        Returns:
            `Features` by band, in the order of `images`.

        Raises:
            ValueError: no images, a band the model does not have, a wrong shape, or an index that is not a block.
        """
        out_indices = out_indices or ()
        check_out_indices(out_indices, self.config.depth)
        self._check(images)
        sizes = tuple(len(batch) for batch in images.values())
        device = self.modality_embedding.device
        routing = Routing(tuple(self.bands.index(band) for band in images), sizes, device)

        colours = [self.stems[band.key](batch) for band, batch in images.items()]
        tokens, grid = self.vit.embed(torch.cat(colours))
        tokens = tokens + self._modality(routing)
        rotation = self.vit.rotation(grid)
        intermediate: dict[int, Tensor] = {}
        for index, (block, adapter) in enumerate(zip(self.vit.blocks, self.adapters, strict=True)):
            tokens = adapter(self.vit.run(block, tokens, rotation), routing)
            if index in out_indices:
                intermediate[index] = self.vit.norm(tokens)
        tokens = self.vit.norm(tokens)

        parts = tokens.split(sizes)
        intermediate_parts = [intermediate[index].split(sizes) for index in out_indices]
        return {
            band: Features.of(parts[run], grid, [one[run] for one in intermediate_parts])
            for run, band in enumerate(images)
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
        """Return a copy of this model with only `bands`, e.g. the two of a robot; ValueError: it lacks one."""
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
        """See `ViT.freeze_grid`."""
        self.vit.freeze_grid(h, w)


def parameter_roles(model: nn.Module) -> dict[str, str]:
    """Role of each backbone parameter by name, by which training stages and fine-tuning modes select parameters.

    The roles are `stems.rgb` and those of the other bands, `adapters` (all blocks, all bands), `modality_embedding`,
    `patch_embed`, `tokens` (CLS, registers, position embedding), `blocks.0` and on, and `norm` (the final LayerNorm).
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


def train_only(model: nn.Module, names: Iterable[str]) -> None:
    """Freeze all parameters but those named."""
    names = set(names)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in names)


def in_order(bands: Sequence[Modality]) -> tuple[Modality, ...]:
    """Sort `bands` in the order of `Modality`; ValueError if empty or if a band is repeated."""
    if not bands or len(set(bands)) != len(bands):
        raise ValueError(f"name at least one band, and each once: not {[Modality(band).key for band in bands]}")
    return tuple(sorted(Modality(band) for band in bands))
