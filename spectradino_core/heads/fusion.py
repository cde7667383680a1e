"""Two streams of tokens become one: what every fusion shares, and the paper's own, concatenation.

The others are in `cross_attention.py` and `gated.py`; `registry.py` knows them by name.

Letters: B batch, N tokens, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["ConcatFusion", "Fusion"]


class Fusion(nn.Module):
    """A fusion of RGB and infrared tokens that also serves with one of them absent.

    A stream that is absent, or hidden during training, is stood in for by one learned token (ours: the paper always has
    both), so the same weights serve both cameras, RGB alone and infrared alone. Subclasses say in `fuse` what becomes
    of two streams.

    Args:
        width: D.
        stand_in: False: an absent stream is zeros, for fusions that leave it out by themselves.
    """

    absent: Tensor

    def __init__(self, width: int, stand_in: bool = True) -> None:
        super().__init__()
        if stand_in:
            self.absent = nn.Parameter(torch.zeros(2, width))
        else:
            self.register_buffer("absent", torch.zeros(2, width), persistent=False)

    def forward(self, rgb: Tensor | None, infrared: Tensor | None, present: Tensor | None = None) -> Tensor:
        """Fused tokens [B, N, D].

        Args:
            rgb, infrared: [B, N, D]; None where the stream was not run at all.
            present: [B, 2], nonzero where the stream (rgb, infrared) counts; None: every stream that is given counts.

        Raises:
            ValueError: neither stream is given.
        """
        given = rgb if rgb is not None else infrared
        if given is None:
            raise ValueError("fusion needs at least one stream of tokens")
        streams = []
        for index, tokens in enumerate((rgb, infrared)):
            stand_in = self.absent[index].to(given.dtype)
            if tokens is None:
                streams.append(stand_in.expand_as(given))
            elif present is None:
                streams.append(tokens)
            else:
                streams.append(torch.where(present[:, index, None, None] > 0, tokens, stand_in))
        counts = given.new_ones(len(given), 2) if present is None else (present > 0).to(given.dtype)
        seen = counts * counts.new_tensor([[rgb is not None, infrared is not None]])
        return self.fuse(streams[0], streams[1], seen)

    def fuse(self, rgb: Tensor, infrared: Tensor, seen: Tensor) -> Tensor:
        """[B, N, D] twice to [B, N, D]; seen [B, 2] is 1 where a stream is real and 0 where it is the stand-in."""
        raise NotImplementedError


class ConcatFusion(Fusion):
    """Tokens side by side on the feature axis, projected back: Linear(2D to D), LayerNorm, GELU (Section 4.2.1)."""

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.project = nn.Linear(2 * width, width)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.act = nn.GELU()

    def fuse(self, rgb: Tensor, infrared: Tensor, seen: Tensor) -> Tensor:
        return self.act(self.norm(self.project(torch.cat((rgb, infrared), dim=-1))))
