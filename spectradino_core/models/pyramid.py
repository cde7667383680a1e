"""ViTDet's simple feature pyramid at multiples of the backbone's patch size.

Letters: B batch, N tokens, D width, P pyramid width, h x w patch grid, L levels.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

LEVELS = (0.25, 0.5, 1.0, 2.0)
"""Supported strides in patches, fine to coarse."""

PRESETS: dict[str, tuple[float, ...]] = {"3.5-28": LEVELS, "7-28": LEVELS[1:], "14-28": LEVELS[2:], "fast": LEVELS[2:]}
"""Strides in patches, named by their pixels for patch 14. The finest level detects objects of a few pixels and
dominates the cost of the dense head: "3.5-28" takes four times the operations of "7-28"."""


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of a map [B, P, h, w]; one fused LayerNorm when exported."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class SimpleFeaturePyramid(nn.Module):
    """Simple feature pyramid (Li et al., "Exploring Plain Vision Transformer Backbones", Section 3).

    Patch 14 gives strides 3.5, 7, 14 and 28 where ViTDet's patch 16 gives 4, 8, 16 and 32.
    """

    def __init__(self, width: int, out_width: int, strides: Sequence[float], patch: int) -> None:
        """Make a pyramid from D = `width` to P = `out_width` channels.

        Args:
            strides: stride of each level in input pixels, each one of `LEVELS` times the patch size; else ValueError.
            patch: side of the backbone's patches in pixels.
        """
        super().__init__()
        possible = [level * patch for level in LEVELS]
        if wrong := [stride for stride in strides if stride not in possible]:
            raise ValueError(
                f"stride {wrong[0]:g} is not one that patch {patch} gives: {', '.join(f'{p:g}' for p in possible)}"
            )
        self.strides = tuple(float(s) for s in strides)
        self.levels = nn.ModuleList(self._level(width, out_width, stride / patch) for stride in self.strides)

    @staticmethod
    def _level(width: int, out_width: int, patches: float) -> nn.Sequential:
        half = max(out_width, width // 2)
        scale: list[nn.Module] = []
        if patches == 0.25:
            scale = [
                nn.ConvTranspose2d(width, half, 2, 2),
                ChannelNorm(half, eps=1e-6),
                nn.GELU(),
                nn.ConvTranspose2d(half, half, 2, 2),
            ]
            width = half
        elif patches == 0.5:
            scale = [nn.ConvTranspose2d(width, half, 2, 2)]
            width = half
        elif patches == 2:
            scale = [nn.MaxPool2d(2, 2)]  # an odd grid loses its last row: 37 becomes 18
        return nn.Sequential(
            *scale,
            nn.Conv2d(width, out_width, 1, bias=False),
            ChannelNorm(out_width, eps=1e-6),
            nn.Conv2d(out_width, out_width, 3, padding=1, bias=False),
            ChannelNorm(out_width, eps=1e-6),
        )

    def forward(self, layers: Tensor | Sequence[Tensor], grid: tuple[int, int]) -> list[Tensor]:
        """Return one map [B, P, h_i, w_i] per stride.

        Args:
            layers: tokens [B, N, D] used for all levels; or a sequence of them, shallow to deep, whose last L are used
                for one level each, the shallowest for the finest. With fewer than L, the first is also used for the
                remaining finer levels.
            grid: (h, w), N = h·w.
        """
        tokens = [layers] if isinstance(layers, Tensor) else list(layers)[-len(self.levels) :]
        tokens = [tokens[0]] * (len(self.levels) - len(tokens)) + tokens
        maps = [x.transpose(1, 2).unflatten(2, grid) for x in tokens]
        return [level(x) for level, x in zip(self.levels, maps, strict=True)]


def level_sizes(size: tuple[int, int], strides: Sequence[float]) -> list[tuple[int, int]]:
    """Return the map size (h_i, w_i) of each stride for an input of (H, W) pixels."""
    return [(int(size[0] // stride), int(size[1] // stride)) for stride in strides]


def usual_strides(patch: int) -> tuple[float, ...]:
    """Return the default strides of 0.5, 1 and 2 patches: 7, 14 and 28 pixels for patch 14."""
    return tuple(patch * level for level in LEVELS[1:])
