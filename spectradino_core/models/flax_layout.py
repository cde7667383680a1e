"""The Flax layout of the official Omnivorous DINO weights, converted to DINOv2's official layout.

A safetensors file whose tensors are named by their modules, joined by dots. Linear layers are `kernel`s with the input
first, and attention's are split by head, as in `flax.linen.MultiHeadDotProductAttention`. Blocks have no LayerScale,
hence gains of 1, and the position embedding has no row for CLS. Source: google-deepmind/representations4d,
`omnivorous/vit.py`.

Letters: D width, h heads, d channels per head.
"""

from __future__ import annotations

import os
import re

import torch
from torch import Tensor

from spectradino_core.models.weight_files import CheckpointError, State, shown_names

__all__ = ["POSITIONS", "to_official"]

_TOKENS = "ToTokenSequence_0"
POSITIONS = f"{_TOKENS}.posembed_input"
"""Name of the position embedding [1, G, G, D], which identifies the layout."""

_ATTENTION = "MultiHeadDotProductAttention_0"
_IN_BLOCK = {
    "LayerNorm_0": "norm1", "LayerNorm_1": "norm2", "MlpBlock_0.Dense_0": "mlp.fc1", "MlpBlock_0.Dense_1": "mlp.fc2",
    f"{_ATTENTION}.out": "attn.proj",
}  # fmt: skip
_NAMES = {"kernel": "weight", "scale": "weight", "bias": "bias"}
_BLOCK = re.compile(r"encoderblock_(\d+)\.")


def to_official(state: State, path: str | os.PathLike[str]) -> State:
    """Convert a state in the Flax layout.

    Raises:
        CheckpointError: a tensor is missing, unknown or of a wrong rank; names `path`.
    """
    left = dict(state)
    try:
        patches = left.pop(f"{_TOKENS}.embedding.kernel")  # [P, P, 3, D]
        converted = {
            "cls_token": left.pop(f"{_TOKENS}.cls"),
            "pos_embed": left.pop(POSITIONS).flatten(1, 2),
            "patch_embed.proj.weight": patches.permute(3, 2, 0, 1),
            "patch_embed.proj.bias": left.pop(f"{_TOKENS}.embedding.bias"),
            "norm.weight": left.pop("encoder_norm.scale"),
            "norm.bias": left.pop("encoder_norm.bias"),
        }
        for index in sorted({int(found[1]) for name in left if (found := _BLOCK.match(name))}):
            converted |= {f"blocks.{index}.{name}": x for name, x in _block(left, f"encoderblock_{index}").items()}
    except (KeyError, RuntimeError, IndexError) as error:
        raise CheckpointError(f"{path} is not a complete Omnivorous DINO in the Flax layout: {error}") from None
    if left:
        raise CheckpointError(f"{path} holds tensors that an Omnivorous DINO does not have: {shown_names(left)}")
    return {name: value.contiguous() for name, value in converted.items()}


def _block(left: State, block: str) -> State:
    """Take one block's tensors out of `left` and return them by their official names."""
    own: State = {}
    for theirs, ours in _IN_BLOCK.items():
        for kind in ("scale", "bias") if "Norm" in theirs else ("kernel", "bias"):
            value = left.pop(f"{block}.{theirs}.{kind}")  # kernels: [h, d, D] or [D, D']
            own[f"{ours}.{_NAMES[kind]}"] = value.flatten(0, -2).T if kind == "kernel" else value
    parts = [f"{block}.{_ATTENTION}.{part}" for part in ("query", "key", "value")]
    own["attn.qkv.weight"] = torch.cat([left.pop(f"{part}.kernel").flatten(1).T for part in parts])  # from [D, h, d]
    own["attn.qkv.bias"] = torch.cat([left.pop(f"{part}.bias").flatten() for part in parts])
    gain: Tensor = torch.ones_like(own["norm1.weight"])
    return own | {"ls1.gamma": gain, "ls2.gamma": gain.clone()}
