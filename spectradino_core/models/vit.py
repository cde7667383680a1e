"""Plain vision transformer, DINOv2 or DINOv3: RGB images to tokens.

    B batch    H, W image height and width in pixels    P patch side (DINOv2 14, DINOv3 16)
    h, w grid: H/P and W/P    N patch tokens: h·w    R register tokens (0 or 4)
    T all tokens: 1 + R + N    D width    G side of the trained position grid (37)

Tokens are ordered [CLS, registers, patches row by row]. Parameter names are those of the official DINOv2 checkpoints;
`checkpoints.py` converts other layouts. What only DINOv3 has is in `dinov3.py`, infrared support in `spectradino.py`.

Sources: "DINOv2" (Oquab et al. 2023), "Vision Transformers Need Registers" (Darcet et al. 2023).
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from spectradino_core.models import dinov3

LAYER_NORM_EPS = 1e-6
_FEW_SCORES = 1 << 24
"""Attention scores of all heads and images in one block: 100 MB while training in bf16."""
INIT_STD = 0.02
OFFSET = 0.1  # see interpolate_pos_embed

_BOUNDS = {
    "width": (1, 16_384), "depth": (1, 512), "heads": (1, 512), "mlp_ratio": (1, 16), "patch": (1, 256),
    "registers": (0, 256), "pos_grid": (0, 1024),
}  # fmt: skip
"""Limits for configs read from files, checked before the weights are loaded."""


@dataclass(frozen=True)
class ViTConfig:
    """Architecture of a ViT with `depth` blocks of width D.

    Attributes:
        name: key in `VARIANTS`.
        mlp_ratio: hidden width of the MLP over D.
        patch: P, in pixels.
        registers: R. With registers the position embedding is interpolated by the second rule, as in the official
            models with registers.
        swiglu: gated MLP (as in the official G) instead of GELU.
        pos_grid: G; 37 is 518 / 14, DINOv2's final training size. 0: a DINOv3, which has rotary positions instead.
        layer_scale_init: initial value of both LayerScales, as in the official builders.
        omnivorous: the network of the official Omnivorous DINO weights: a DINOv2 with GELU in its tanh form, without a
            position for CLS, and with positions interpolated as in models with registers.
    """

    name: str
    width: int
    depth: int
    heads: int
    mlp_ratio: int = 4
    patch: int = 14
    registers: int = 0
    swiglu: bool = False
    pos_grid: int = 37
    layer_scale_init: float = 1.0
    omnivorous: bool = False

    def __post_init__(self) -> None:
        for name, (low, high) in _BOUNDS.items():
            value = getattr(self, name)
            if type(value) is not int or not low <= value <= high:
                raise ValueError(f"{name} must be a whole number from {low} to {high}, got {value!r}")
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")
        if self.omnivorous and (self.rotary or self.swiglu or self.registers):
            raise ValueError("an Omnivorous DINO has learned positions, GELU and no registers")
        if self.rotary and self.width // self.heads % 4:
            raise ValueError(
                f"heads of {self.width // self.heads} channels have no rotary positions: need a multiple of 4"
            )

    @property
    def rotary(self) -> bool:
        """Whether this is a DINOv3: rotary positions, keys without bias, another epsilon of the norms."""
        return not self.pos_grid

    @property
    def title(self) -> str:
        """Common name, e.g. "ViT-S/14", "ViT-G/14 with 4 registers" or "DINOv3 ViT-S+/16 with 4 registers"."""
        family = "DINOv3 " if self.rotary else ""
        tail = " of Omnivorous DINO" if self.omnivorous else ""
        tail += f" with {self.registers} registers" if self.registers else ""
        return f"{family}ViT-{re.sub('^(v3|omnivorous)_', '', self.name).capitalize()}/{self.patch}{tail}"

    def to_dict(self) -> dict[str, Any]:
        """Return the fields for JSON, without those at defaults that older versions do not know."""
        return {name: value for name, value in asdict(self).items() if name != "omnivorous" or value}

    @property
    def hidden(self) -> int:
        """Hidden width of the MLP; for the gated MLP 2/3 of it, rounded up to a multiple of 8."""
        hidden = self.mlp_ratio * self.width
        return (int(hidden * 2 / 3) + 7) // 8 * 8 if self.swiglu else hidden

    @property
    def out_indices(self) -> tuple[int, ...]:
        """0-based blocks read by dense heads: the last of each quarter, (2, 5, 8, 11) of twelve as in the paper."""
        return tuple(sorted({-(-self.depth * quarter // 4) - 1 for quarter in (1, 2, 3, 4)}))


_dinov3 = partial(ViTConfig, patch=16, registers=4, pos_grid=0)

VARIANTS = {
    "test": ViTConfig("test", width=48, depth=2, heads=3),
    "tiny": ViTConfig("tiny", width=128, depth=6, heads=2, pos_grid=16),  # ours: the bundled models
    "s": ViTConfig("s", width=384, depth=12, heads=6),
    "b": ViTConfig("b", width=768, depth=12, heads=12),
    "l": ViTConfig("l", width=1024, depth=24, heads=16),
    "g": ViTConfig("g", width=1536, depth=40, heads=24, swiglu=True),
    "omnivorous_b": ViTConfig("omnivorous_b", width=768, depth=12, heads=12, omnivorous=True),
    "v3_s": _dinov3("v3_s", width=384, depth=12, heads=6),
    "v3_s+": _dinov3("v3_s+", width=384, depth=12, heads=6, mlp_ratio=6, swiglu=True),
    "v3_b": _dinov3("v3_b", width=768, depth=12, heads=12),
    "v3_l": _dinov3("v3_l", width=1024, depth=24, heads=16),
}
"""DINOv2 without registers, which `dataclasses.replace(config, registers=4)` adds; the official Omnivorous DINO; DINOv3
("v3_") with its four registers."""


def vit_config(variant: ViTConfig | str) -> ViTConfig:
    """Return the config named `variant` ("s", "b", ...), or `variant` itself if it is a config; ValueError: unknown."""
    if isinstance(variant, ViTConfig):
        return variant
    if variant not in VARIANTS:
        raise ValueError(f"unknown ViT variant {variant!r}: choose one of {', '.join(VARIANTS)}")
    return VARIANTS[variant]


@dataclass(frozen=True)
class Features:
    """Backbone output for a batch of images of one band; all tokens are after the final LayerNorm.

    Attributes:
        cls, registers, patches: [B, D], [B, R, D], and [B, N, D] row by row.
        grid: (h, w), N = h·w.
        intermediate: patches [B, N, D] after each block in `out_indices`, in the order of `out_indices`.
    """

    cls: Tensor
    registers: Tensor
    patches: Tensor
    grid: tuple[int, int]
    intermediate: list[Tensor] = field(default_factory=list)

    @classmethod
    def of(cls, tokens: Tensor, grid: tuple[int, int], intermediate: Sequence[Tensor] = ()) -> Features:
        """Split final tokens [B, T, D], and intermediate tokens of the same shape, by kind."""
        first = tokens.shape[1] - grid[0] * grid[1]
        return cls(tokens[:, 0], tokens[:, 1:first], tokens[:, first:], grid, [one[:, first:] for one in intermediate])

    def split(self, sizes: Sequence[int]) -> list[Features]:
        """Split the batch into consecutive parts of these sizes."""
        parts = zip(self.cls.split(sizes), self.registers.split(sizes), self.patches.split(sizes))
        intermediate = [one.split(sizes) for one in self.intermediate]
        return [Features(*part, self.grid, [one[index] for one in intermediate]) for index, part in enumerate(parts)]


def layer_norm(config: ViTConfig) -> nn.LayerNorm:
    return nn.LayerNorm(config.width, eps=dinov3.LAYER_NORM_EPS if config.rotary else LAYER_NORM_EPS)


class PatchEmbed(nn.Module):
    """Split an image into patches of PxP pixels and project each, [B, 3, H, W] to [B, N, D]."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, config.width, kernel_size=config.patch, stride=config.patch)

    def forward(self, images: Tensor) -> Tensor:
        return self.proj(images).flatten(2).transpose(1, 2)


class Attention(nn.Module):
    """Multi-head self-attention, [B, T, D] to [B, T, D]."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.qkv = (dinov3.QKV if config.rotary else nn.Linear)(config.width, 3 * config.width)
        self.proj = nn.Linear(config.width, config.width)

    def forward(self, x: Tensor, rotation: Tensor | None = None) -> Tensor:
        # [B, T, 3·D] -> three of [B, heads, T, D / heads]
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        if rotation is not None:
            q, k = dinov3.rotate(q, rotation), dinov3.rotate(k, rotation)
        return self.proj(_attend(q, k, v).transpose(1, 2).flatten(2))


def _attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Softmax attention, three of [B, heads, T, D / heads] to one."""
    # In bf16 on a CPU, torch's fused backward pass takes twice as long as the same products one by one, which hold all
    # scores; hence only where these are few.
    scores = q.shape[0] * q.shape[1] * q.shape[2] ** 2
    if torch.is_grad_enabled() and q.device.type == "cpu" and q.dtype == torch.bfloat16 and scores <= _FEW_SCORES:
        return (q * q.shape[-1] ** -0.5 @ k.transpose(-2, -1)).softmax(-1) @ v
    return F.scaled_dot_product_attention(q, k, v)


class Mlp(nn.Module):
    """Two-layer MLP with GELU, [B, T, D] to [B, T, D]."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.width, config.hidden)
        self.fc2 = nn.Linear(config.hidden, config.width)
        self.gelu = "tanh" if config.omnivorous else "none"

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x), approximate=self.gelu))


class SwiGLU(nn.Module):
    """Gated MLP of ViT-G and DINOv3's S+, where the first half of `w12` gates the second, [B, T, D] to [B, T, D]."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.w12 = nn.Linear(config.width, 2 * config.hidden)
        self.w3 = nn.Linear(config.hidden, config.width)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.w12(x).chunk(2, dim=-1)
        return self.w3(F.silu(gate) * value)


class LayerScale(nn.Module):
    """Learned per-channel gain on a residual branch."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((config.width,), config.layer_scale_init))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class Block(nn.Module):
    """Pre-norm transformer block, [B, T, D] to [B, T, D]; `rotation` is that of `ViT.rotation`."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.norm1 = layer_norm(config)
        self.attn = Attention(config)
        self.ls1: nn.Module = LayerScale(config)
        self.norm2 = layer_norm(config)
        self.mlp = SwiGLU(config) if config.swiglu else Mlp(config)
        self.ls2: nn.Module = LayerScale(config)

    def forward(self, x: Tensor, rotation: Tensor | None = None) -> Tensor:
        x = x + self.ls1(self.attn(self.norm1(x), rotation))
        return x + self.ls2(self.mlp(self.norm2(x)))

    @torch.no_grad()
    def fold_layer_scale(self) -> None:
        """Fold both LayerScales into the preceding linear layers, for serving only: DINOv2's state has `gamma`."""
        mlp_out = self.mlp.w3 if isinstance(self.mlp, SwiGLU) else self.mlp.fc2
        for name, linear in (("ls1", self.attn.proj), ("ls2", mlp_out)):
            scale = getattr(self, name)
            if isinstance(scale, LayerScale):
                linear.weight.mul_(scale.gamma[:, None])
                linear.bias.mul_(scale.gamma)
                setattr(self, name, nn.Identity())


class ViT(nn.Module):
    """DINOv2 or DINOv3 vision transformer.

    Attributes:
        activation_checkpointing: recompute blocks in the backward pass: less memory for one more forward pass.
    """

    _frozen_pos: Tensor | None

    def __init__(self, config: ViTConfig | str) -> None:
        super().__init__()
        config = vit_config(config)
        self.config = config
        self.activation_checkpointing = False
        self.patch_embed = PatchEmbed(config)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.width))
        self.register_tokens = (
            nn.Parameter(torch.zeros(1, config.registers, config.width)) if config.registers else None
        )
        positions = config.pos_grid**2 + (not config.omnivorous)  # CLS first
        self.pos_embed = None if config.rotary else nn.Parameter(torch.zeros(1, positions, config.width))
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.norm = layer_norm(config)
        self._frozen_grid: tuple[int, int] | None = None
        self.register_buffer("_frozen_pos", None, persistent=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise for training from scratch, as in DINOv2."""
        if self.pos_embed is not None:
            nn.init.trunc_normal_(self.pos_embed, std=INIT_STD)
        nn.init.normal_(self.cls_token, std=1e-6)
        if self.register_tokens is not None:
            nn.init.normal_(self.register_tokens, std=1e-6)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=INIT_STD)
                nn.init.zeros_(module.bias)

    def forward(self, images: Tensor, out_indices: Sequence[int] = ()) -> Features:
        """Compute tokens of RGB images.

        Args:
            images: [B, 3, H, W], normalised with ImageNet's mean and standard deviation; H and W multiples of P.
            out_indices: 0-based blocks whose patch tokens are returned in addition to the last block's.

        Raises:
            ValueError: a wrong image shape, or an index that is not a block.
        """
        check_out_indices(out_indices, self.config.depth)
        tokens, grid = self.embed(images)
        rotation = self.rotation(grid)
        intermediate: dict[int, Tensor] = {}
        for index, block in enumerate(self.blocks):
            tokens = self.run(block, tokens, rotation)
            if index in out_indices:
                intermediate[index] = self.norm(tokens)
        return Features.of(self.norm(tokens), grid, [intermediate[index] for index in out_indices])

    def embed(self, images: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Return the first block's input [B, T, D] for images [B, 3, H, W], and the grid (h, w)."""
        grid = grid_of(images, self.config.patch)
        x = self.patch_embed(images)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1)
        if self.pos_embed is not None:
            x = x + self.position(grid).to(x.dtype)
        if self.register_tokens is not None:  # after the position embedding: registers have no position
            x = torch.cat([x[:, :1], self.register_tokens.expand(len(x), -1, -1), x[:, 1:]], dim=1)
        return x, grid

    def rotation(self, grid: tuple[int, int]) -> Tensor | None:
        """Return the second argument of the blocks for a grid of (h, w) patches: DINOv3's positions, or None."""
        return self.position(grid) if self.config.rotary else None

    def run(self, layer: nn.Module, *args: Tensor | None) -> Tensor:
        """Call `layer(*args)`, with activation checkpointing if `activation_checkpointing` is on."""
        if self.activation_checkpointing and torch.is_grad_enabled():
            return checkpoint(layer, *args, use_reentrant=False)
        return layer(*args)

    def position(self, grid: tuple[int, int]) -> Tensor:
        """Position embedding [1, 1 + N, D] for a grid of (h, w) patches, or DINOv3's `rotary_table`."""
        if self._frozen_grid is None or self._frozen_pos is None:
            if self.pos_embed is not None:
                antialias = self.config.registers > 0 or self.config.omnivorous
                position = interpolate_pos_embed(self.pos_embed, grid, antialias)
                return F.pad(position, (0, 0, 1, 0)) if self.config.omnivorous else position
            head = self.config.width // self.config.heads
            return dinov3.rotary_table(grid, 1 + self.config.registers, head, self.cls_token.device)
        if self._frozen_grid != grid:
            raise ValueError(f"this ViT is frozen to a grid of {self._frozen_grid} patches, but the input has {grid}")
        return self._frozen_pos

    @torch.no_grad()
    def freeze_grid(self, h: int, w: int) -> None:
        """Fix the positions to h x w patches, so that an exported graph does not compute them (by a bicubic resize).

        Other sizes raise an error from then on, and `pos_embed` is not read.
        """
        self._frozen_grid = self._frozen_pos = None
        self._frozen_pos = self.position((h, w)).clone()
        self._frozen_grid = (h, w)

    def fold_layer_scale(self) -> None:
        """Apply `Block.fold_layer_scale` to every block."""
        for module in self.modules():
            if isinstance(module, Block):
                module.fold_layer_scale()


def interpolate_pos_embed(pos_embed: Tensor, grid: tuple[int, int], antialias: bool) -> Tensor:
    """Interpolate the trained position embedding to another grid (h, w), as the official models do.

    Both rules resize bicubically in fp32 and leave the trained grid unchanged. Models without registers resize by the
    scale factor (h + 0.1) / G; the 0.1, which the official code added against rounding down, shifts every sample
    slightly and is needed to reproduce their features. Models with registers resize by size, with antialiasing.

    Args:
        pos_embed: [1, 1 + G², D], CLS first, to [1, 1 + h·w, D]; or without CLS.
        antialias: use the rule of the models with registers.
    """
    side = math.isqrt(pos_embed.shape[1])
    cls, patches = pos_embed[:, : -(side**2)], pos_embed[:, -(side**2) :]
    if grid == (side, side):
        return pos_embed
    trained = patches.float().unflatten(1, (side, side)).permute(0, 3, 1, 2)  # [1, D, G, G]
    if antialias:
        resized = F.interpolate(trained, size=grid, mode="bicubic", antialias=True)
    else:
        scale = ((grid[0] + OFFSET) / side, (grid[1] + OFFSET) / side)
        resized = F.interpolate(trained, scale_factor=scale, mode="bicubic")
    return torch.cat([cls, resized.flatten(2).transpose(1, 2).to(pos_embed.dtype)], dim=1)


def grid_of(images: Tensor, patch: int) -> tuple[int, int]:
    """Return the patch grid (h, w) of images [..., H, W]; ValueError: a side is not a multiple of the patch size."""
    height, width = int(images.shape[-2]), int(images.shape[-1])
    if height % patch or width % patch or not height or not width:
        near = " x ".join(str(max(1, round(side / patch)) * patch) for side in (height, width))
        raise ValueError(f"images of {height} x {width} pixels do not divide into patches of {patch}: resize to {near}")
    return height // patch, width // patch


def check_out_indices(out_indices: Sequence[int], depth: int) -> None:
    """Raise ValueError if an index is not a block of a ViT with `depth` blocks."""
    wrong = [index for index in out_indices if not 0 <= index < depth]
    if wrong:
        raise ValueError(f"no such blocks: {wrong}; this ViT's blocks are 0 to {depth - 1}")
