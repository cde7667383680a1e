"""Fusion of two token streams: base class and the paper's concatenation.

Other fusions are in `cross_attention.py` and `gated.py`; `registry.py` lists them by name.

Letters: B batch, N tokens, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["ConcatFusion", "Fusion"]


class Fusion(nn.Module):
    """Base class for fusing RGB and infrared tokens, either of which may be absent.

    A stream that is absent, or masked during training, is replaced by one learned placeholder token (our addition: the
    paper always has both), so the same weights work with both cameras, RGB only and infrared only. Subclasses implement
    `fuse`.

    Args:
        width: D.
        stand_in: whether the placeholder is learned; otherwise it is zeros, for fusions that skip an absent stream.
    """

    absent: Tensor

    def __init__(self, width: int, stand_in: bool = True) -> None:
        super().__init__()
        if stand_in:
            self.absent = nn.Parameter(torch.zeros(2, width))
        else:
            self.register_buffer("absent", torch.zeros(2, width), persistent=False)

    def forward(self, rgb: Tensor | None, infrared: Tensor | None, present: Tensor | None = None) -> Tensor:
        """Fuse the streams to tokens [B, N, D].

        Args:
            rgb, infrared: [B, N, D]; None for a stream that was not computed.
            present: [B, 2], nonzero where the stream (rgb, infrared) is used; None: all given streams are used.

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
        """Fuse two [B, N, D] to [B, N, D]; seen [B, 2] is 1 for a real stream and 0 for a placeholder."""
        raise NotImplementedError


class ConcatFusion(Fusion):
    """Concatenation along the feature axis, Linear(2D to D), LayerNorm, GELU (Section 4.2.1)."""

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.project = nn.Linear(2 * width, width)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.act = nn.GELU()

    def fuse(self, rgb: Tensor, infrared: Tensor, seen: Tensor) -> Tensor:
        return self.act(self.norm(self.project(torch.cat((rgb, infrared), dim=-1))))
