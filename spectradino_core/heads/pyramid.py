"""ViTDet's simple feature pyramid at patch 14's true strides.

Letters: B batch, N tokens, D width, P pyramid width, h x w the patch grid, L levels.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

__all__ = ["PATCH", "PRESETS", "ChannelNorm", "SimpleFeaturePyramid", "level_sizes"]

PATCH = 14.0

PRESETS: dict[str, tuple[float, ...]] = {
    "3.5-28": (3.5, 7.0, 14.0, 28.0),
    "7-28": (7.0, 14.0, 28.0),
    "14-28": (14.0, 28.0),
    "fast": (14.0, 28.0),
}
"""Input pixels per cell of each level; "fast" is another name of "14-28". The finest sees objects of a few pixels and
costs most: the dense head's towers 256 wide take 324 GFLOP at 518 x 518 with the first, 82 with the second."""


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of a map [B, P, h, w]; one fused LayerNorm when exported."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class SimpleFeaturePyramid(nn.Module):
    """Every level made from the last map alone (Li et al., "Exploring Plain Vision Transformer Backbones", Section 3).

    Patch 14 gives strides 3.5, 7, 14 and 28 where ViTDet's patch 16 gives 4, 8, 16 and 32.
    """

    def __init__(self, width: int, out_width: int, strides: Sequence[float] = (7.0, 14.0, 28.0)) -> None:
        """
        Args:
            width: D of the tokens.
            out_width: P of every level.
            strides: input pixels per cell of each level, among 3.5, 7, 14 and 28.

        Raises:
            ValueError: a stride that patch 14 does not give.
        """
        super().__init__()
        self.strides = tuple(float(s) for s in strides)
        self.levels = nn.ModuleList(self._level(width, out_width, stride) for stride in self.strides)

    @staticmethod
    def _level(width: int, out_width: int, stride: float) -> nn.Sequential:
        half = max(out_width, width // 2)
        if stride == PATCH / 4:
            scale = [
                nn.ConvTranspose2d(width, half, 2, 2),
                ChannelNorm(half, eps=1e-6),
                nn.GELU(),
                nn.ConvTranspose2d(half, half, 2, 2),
            ]
            width = half
        elif stride == PATCH / 2:
            scale = [nn.ConvTranspose2d(width, half, 2, 2)]
            width = half
        elif stride == PATCH:
            scale = []
        elif stride == PATCH * 2:
            scale = [nn.MaxPool2d(2, 2)]  # an odd grid loses its last row: 37 halves to 18
        else:
            raise ValueError(f"stride {stride} is not one that patch 14 gives: 3.5, 7, 14, 28")
        return nn.Sequential(
            *scale,
            nn.Conv2d(width, out_width, 1, bias=False),
            ChannelNorm(out_width, eps=1e-6),
            nn.Conv2d(out_width, out_width, 3, padding=1, bias=False),
            ChannelNorm(out_width, eps=1e-6),
        )

    def forward(self, layers: Tensor | Sequence[Tensor], grid: tuple[int, int]) -> list[Tensor]:
        """Tokens over a grid (h, w) to one map [B, P, h_i, w_i] per stride.

        Args:
            layers: tokens [B, N, D] for all levels; or a sequence of such, shallow to deep, of which the last L are
                taken, one for each level, the shallowest for the finest. Where there are fewer than L, the first
                serves the finer levels too.
            grid: (h, w), N = h·w.
        """
        tokens = [layers] if isinstance(layers, Tensor) else list(layers)[-len(self.levels) :]
        tokens = [tokens[0]] * (len(self.levels) - len(tokens)) + tokens
        maps = [x.transpose(1, 2).unflatten(2, grid) for x in tokens]
        return [level(x) for level, x in zip(self.levels, maps, strict=True)]


def level_sizes(grid: tuple[int, int], strides: Sequence[float]) -> list[tuple[int, int]]:
    """(h_i, w_i) of the map of each stride over a grid of (h, w) patches."""
    return [(int(grid[0] * PATCH // stride), int(grid[1] * PATCH // stride)) for stride in strides]
