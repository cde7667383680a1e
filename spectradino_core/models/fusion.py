"""Fusion of RGB and infrared tokens: concatenation (the paper's own), a gate, and cross attention.

`registry.py` knows them by name. Letters: B batch, N tokens, D width.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Fusion(nn.Module):
    """Base class for fusing RGB and infrared tokens, either of which may be absent.

    A stream that is absent, or masked during training, is replaced by one learned placeholder token (our addition: the
    paper always has both), so the same weights work with both cameras, RGB only and infrared only. Subclasses implement
    `fuse`.

    With `has_placeholder` false it is zeros, for fusions that skip an absent stream.
    """

    absent: Tensor

    def __init__(self, width: int, has_placeholder: bool = True) -> None:
        super().__init__()
        if has_placeholder:
            self.absent = nn.Parameter(torch.zeros(2, width))
        else:
            self.register_buffer("absent", torch.zeros(2, width), persistent=False)

    def forward(self, rgb: Tensor | None, infrared: Tensor | None, present: Tensor | None = None) -> Tensor:
        """Fuse streams [B, N, D], None if not computed, to tokens [B, N, D].

        `present` [B, 2] is nonzero where the stream (rgb, infrared) is used; None: all given streams are used.
        """
        given = rgb if rgb is not None else infrared
        if given is None:
            raise ValueError("fusion needs at least one stream of tokens")
        streams = []
        for index, tokens in enumerate((rgb, infrared)):
            placeholder = self.absent[index].to(given.dtype)
            if tokens is None:
                streams.append(placeholder.expand_as(given))
            elif present is None:
                streams.append(tokens)
            else:
                streams.append(torch.where(present[:, index, None, None] > 0, tokens, placeholder))
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


class GatedFusion(Fusion):
    """`g · rgb + (1 - g) · infrared`, then LayerNorm; g in 0..1 is predicted per token.

    The paper ablates "a per-token gating weight to blend modality features" (Appendix C3); the linear gate initialised
    to one half and the LayerNorm are our choice. With a single stream the gate selects it entirely.
    """

    def __init__(self, width: int) -> None:
        super().__init__(width, has_placeholder=False)
        self.gate = nn.Linear(2 * width, 1)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        nn.init.zeros_(self.gate.weight)
        nn.init.zeros_(self.gate.bias)

    def fuse(self, rgb: Tensor, infrared: Tensor, seen: Tensor) -> Tensor:
        gate = self.gate(torch.cat((rgb, infrared), dim=-1)).sigmoid()
        only_rgb, only_infrared = (seen[:, index, None, None] > seen[:, 1 - index, None, None] for index in (0, 1))
        gate = gate.masked_fill(only_rgb, 1.0).masked_fill(only_infrared, 0.0)
        return self.norm(gate * rgb + (1 - gate) * infrared)


_HEAD_WIDTH = 64  # as in DINOv2


class CrossAttentionFusion(ConcatFusion):
    """Residual cross attention in both directions, then concatenation.

    The paper ablates "cross attention, which computes pairwise attention between modality-specific feature maps"
    (Appendix C3, its best fusion) without further details; pre-norm, one layer per direction, heads of 64 channels and
    zero initialisation (a new module equals `ConcatFusion`) are our choice. A token can attend to its counterpart some
    patches away, which tolerates imperfect alignment of the cameras.
    """

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.to_rgb = _CrossAttention(width)
        self.to_infrared = _CrossAttention(width)

    def fuse(self, rgb: Tensor, infrared: Tensor, seen: Tensor) -> Tensor:
        return super().fuse(rgb + self.to_rgb(rgb, infrared), infrared + self.to_infrared(infrared, rgb), seen)


class _CrossAttention(nn.Module):
    """Cross attention from the tokens of one stream to those of the other, [B, N, D]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = max(1, width // _HEAD_WIDTH)
        self.norm_query = nn.LayerNorm(width, eps=1e-6)
        self.norm_context = nn.LayerNorm(width, eps=1e-6)
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.project = nn.Linear(width, width)
        nn.init.zeros_(self.project.weight)
        nn.init.zeros_(self.project.bias)
        self.register_load_state_dict_pre_hook(_rename_norms)

    def forward(self, query: Tensor, context: Tensor) -> Tensor:
        q = self.query(self.norm_query(query)).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        key_value = self.key_value(self.norm_context(context)).unflatten(-1, (2, self.heads, -1))
        k, v = key_value.permute(2, 0, 3, 1, 4).unbind(0)
        return self.project(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


_FORMER_NORMS = {"norm_query": "norm_asks", "norm_context": "norm_told"}


def _rename_norms(_: nn.Module, state: dict[str, Tensor], prefix: str, *_rest: object) -> None:
    """Give the norms of a checkpoint of an earlier version their current names."""
    for name, former in _FORMER_NORMS.items():
        for kind in ("weight", "bias"):
            if f"{prefix}{former}.{kind}" in state:
                state[f"{prefix}{name}.{kind}"] = state.pop(f"{prefix}{former}.{kind}")


def former_norms(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a state with the names that the norms of cross attention had in earlier versions."""
    return {".".join(_FORMER_NORMS.get(part, part) for part in name.split(".")): x for name, x in state.items()}
