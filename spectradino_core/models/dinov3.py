"""Differences of DINOv3 from DINOv2: rotary positions, keys without bias, and the names of its weights.

    h, w patch grid    N patch tokens: h·w    R register tokens    T all tokens: 1 + R + N    d width of a head

Instead of a position added to the tokens, every block rotates queries and keys by angles that depend on the patch: its
centre (y, x), in [-1, 1] along each side of the image, times 2π and the d/4 frequencies `ROPE_BASE`^(-4i/d). A head's
angles are those of y and then of x, and rotate channel j together with channel j + d/2. CLS and registers are not
rotated. DINOv3's own training shifts, stretches and rescales the centres at random; this augmentation is not
implemented, so training uses the positions of evaluation. Blocks and everything else are those of `vit.py`.

Source: "DINOv3" (Siméoni et al. 2025).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ROPE_BASE = 100.0
LAYER_NORM_EPS = 1e-5


class QKV(nn.Linear):
    """Projection to queries, keys and values, [..., D] to [..., 3·D], that ignores the bias of the keys.

    Between rotated queries and keys such a bias would change the attention; without rotation it has no effect.
    """

    def forward(self, x: Tensor) -> Tensor:
        width = self.in_features
        bias = torch.cat([self.bias[:width], self.bias.new_zeros(width), self.bias[2 * width :]])
        return F.linear(x, self.weight, bias)


def rotary_frequencies(head: int, device: torch.device | None = None) -> Tensor:
    """Return the frequencies of a head of d channels, fp32 [d/4]; official files store their inverses as periods."""
    return 1 / ROPE_BASE ** torch.arange(0, 1, 4 / head, device=device, dtype=torch.float32)


def rotary_table(grid: tuple[int, int], first: int, head: int, device: torch.device | None = None) -> Tensor:
    """Return the cosines and sines by which `rotate` rotates the tokens of a head, fp32 [2, T, d].

    Args:
        grid: (h, w), in patches.
        first: number of tokens before the patches (1 + R), which are not rotated.
        head: d, a multiple of 4.
    """
    frequencies = rotary_frequencies(head, device)
    centres = [2 * torch.arange(0.5, side, device=device, dtype=torch.float32) / side - 1 for side in grid]
    points = torch.stack(torch.meshgrid(*centres, indexing="ij"), dim=-1).flatten(0, 1)  # [N, 2], y and x
    angles = F.pad((2 * math.pi * points[:, :, None] * frequencies).flatten(1), (0, 0, first, 0))  # [T, d/2]
    sines = angles.sin()
    return torch.stack([angles.cos().repeat(1, 2), torch.cat([-sines, sines], dim=-1)])


def rotate(x: Tensor, table: Tensor) -> Tensor:
    """Rotate queries or keys [..., T, d] by `rotary_table`, in the table's precision."""
    cosines, sines = table
    swapped = torch.cat(x.chunk(2, dim=-1)[::-1], dim=-1)
    return (x * cosines + swapped * sines).to(x.dtype)


# ------------------------------------------------------------------------------------------------------------- weights


def rename_official(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename tensors of an official DINOv3 file to DINOv2's official names.

    The masks of the biases, which hide the keys' bias as `QKV` does, and a norm used only in training are dropped.
    """
    return {
        "register_tokens" if key == "storage_tokens" else key: value
        for key, value in state.items()
        if not key.endswith(".bias_mask") and not key.startswith("local_cls_norm.")
    }


def rename_transformers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename tensors of a DINOv3 file of the transformers library to its names for DINOv2; the keys' bias is zero."""
    gated = any(".mlp.gate_proj." in key for key in state)
    renamed = {}
    for key, value in state.items():
        if not gated:
            key = key.replace(".mlp.up_proj.", ".mlp.fc1.").replace(".mlp.down_proj.", ".mlp.fc2.")
        key = key.removeprefix("model.")
        renamed[f"encoder.{key}" if key.startswith("layer.") else key] = value
        if key.endswith(".attention.q_proj.bias"):
            renamed[f"encoder.{key.replace('.q_proj.', '.k_proj.')}"] = torch.zeros_like(value)
    return renamed
