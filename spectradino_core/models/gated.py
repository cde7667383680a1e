"""Gated fusion: a learned weight per token between RGB and infrared.

Letters: B batch, N tokens, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from spectradino_core.models.fusion import Fusion

__all__ = ["GatedFusion"]


class GatedFusion(Fusion):
    """`g · rgb + (1 - g) · infrared`, then LayerNorm; g in 0..1 is predicted per token.

    The paper ablates "a per-token gating weight to blend modality features" (Appendix C3); the linear gate initialised
    to one half and the LayerNorm are our choice. With a single stream the gate selects it entirely.
    """

    def __init__(self, width: int) -> None:
        super().__init__(width, stand_in=False)
        self.gate = nn.Linear(2 * width, 1)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        nn.init.zeros_(self.gate.weight)
        nn.init.zeros_(self.gate.bias)

    def fuse(self, rgb: Tensor, infrared: Tensor, seen: Tensor) -> Tensor:
        gate = self.gate(torch.cat((rgb, infrared), dim=-1)).sigmoid()
        only_rgb, only_infrared = (seen[:, index, None, None] > seen[:, 1 - index, None, None] for index in (0, 1))
        gate = gate.masked_fill(only_rgb, 1.0).masked_fill(only_infrared, 0.0)
        return self.norm(gate * rgb + (1 - gate) * infrared)
