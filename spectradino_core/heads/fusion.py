"""Two streams of tokens become one.

Letters: B batch, N tokens, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["ConcatFusion"]


class ConcatFusion(nn.Module):
    """Tokens side by side on the feature axis, projected back: Linear(2D to D), LayerNorm, GELU (paper, Section 4.2.1).

    A stream that is absent, or hidden during training, is stood in for by one learned token (ours: the paper always has
    both), so the same weights serve both cameras, RGB alone and infrared alone.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.project = nn.Linear(2 * width, width)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.act = nn.GELU()
        self.absent = nn.Parameter(torch.zeros(2, width))

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
        return self.act(self.norm(self.project(torch.cat(streams, dim=-1))))
