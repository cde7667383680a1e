"""Load and save backbone weights: DINOv2 in five key layouts, DINOv3 in two, and SpectraDINO checkpoints.

`weight_files.py` reads the tensors and locates the backbone under any prefix. The layout is detected from the keys and
converted to the official one, which `vit.py` uses:

- official: `blocks.0.attn.qkv`; training checkpoints chunk the blocks, `blocks.c.i`.
- timm: as official, but SwiGLU is `fc1`/`fc2`, registers are `reg_token`, and with registers the CLS position is added
  into `cls_token`.
- transformers: `encoder.layer.0.attention.q_proj`; separate q, k, v and separate SwiGLU gate and value.
- transformers, older: `encoder.layer.0.attention.attention.query`; separate q, k, v, SwiGLU `weights_in`/`weights_out`.
- Flax: `encoderblock_0.MultiHeadDotProductAttention_0.query.kernel`, the official Omnivorous DINO. In all layouts, a
  position embedding without a row for CLS marks that network.

DINOv3 is read in the official layout (`storage_tokens`, `rope_embed.periods`) and in that of transformers
(`layer.0.attention.q_proj`); `dinov3.py` has the differences. Where a name says DINOv2, DINOv3 is meant too.
SpectraDINO checkpoints are safetensors files with the config and the bands in their metadata.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from spectradino_core.files import parse_json, written_atomically
from spectradino_core.modality import Modality
from spectradino_core.models import dinov3
from spectradino_core.models.spectradino import SpectraDINO
from spectradino_core.models.vit import VARIANTS, LayerScale, ViT, ViTConfig
from spectradino_core.models.weight_files import (
    CheckpointError,
    State,
    find_backbone,
    folder_config,
    read_header,
    read_tensors,
    shown_names,
)
from spectradino_core.text import printable

FORMAT = "spectradino-backbone/1"


def load_dinov2(model: ViT | SpectraDINO, path: str | os.PathLike[str]) -> str:
    """Load plain DINOv2 or DINOv3 weights into a ViT, or the ViT of a SpectraDINO; return the name of their layout.

    Raises:
        CheckpointError: the file is missing, unreadable, neither DINOv2 nor DINOv3, of another variant, or incomplete.
    """
    vit = model.vit if isinstance(model, SpectraDINO) else model
    state, layout = read_dinov2(path)
    stored, expected = config_of(state), vit.config
    if any(getattr(stored, name) != getattr(expected, name) for name in _SHAPE_FIELDS):
        raise CheckpointError(f"{path} holds a {_describe(stored)}, but the model is a {_describe(expected)}")
    load_state(vit, state, path)
    return layout


def read_dinov2(path: str | os.PathLike[str]) -> tuple[State, str]:
    """Read DINOv2 or DINOv3 weights under the names of `vit.ViT`; return them and the name of their layout."""
    state = find_backbone(read_tensors(path), path)
    if _POSITIONS in state:
        layout, state = "Flax", _from_flax(state, path)
    elif "storage_tokens" in state:
        layout, state = "official", _with_stacked_gate(dinov3.rename_official(state))
    elif "embeddings.patch_embeddings.weight" in state:
        layout, state = "transformers", _from_transformers(dinov3.rename_transformers(state))
    elif any(".attention.attention.query." in key for key in state):
        layout, state = "transformers, older", _from_transformers(state)
    elif any(".attention.q_proj." in key for key in state):
        layout, state = "transformers", _from_transformers(state)
    elif "reg_token" in state or _is_gated(state):
        layout, state = "timm", _from_timm(state)
    else:
        layout, state = "official", {_BLOCK_CHUNK.sub(r"blocks.\1.", key): value for key, value in state.items()}
    state.pop("mask_token", None)  # only DINO's own training uses it
    known = {"cls_token", "patch_embed.proj.weight", "blocks.0.norm1.weight"} <= state.keys()
    if not known or not {"pos_embed", "register_tokens"} & state.keys():
        raise CheckpointError(
            f"{path} holds no DINOv2 or DINOv3 in a known layout (official, transformers; DINOv2 also timm, Omnivorous "
            f"DINO in Flax): its tensors are named {shown_names(state)}"
        )
    if (problem := _problem(state)) or (problem := _problem_of_folder(state, Path(path))):
        raise CheckpointError(f"{path} is not a {'DINOv2' if 'pos_embed' in state else 'DINOv3'}: {problem}")
    state.pop(_PERIODS, None)
    return state, layout


_PERIODS = "rope_embed.periods"


def _problem(state: State) -> str:
    """Reason why tensors with the names of a ViT are not one, or ""; shapes are untrusted until this passes."""
    blocks = {key.split(".")[1] for key in state if key.startswith("blocks.")}
    if blocks != {str(number) for number in range(len(blocks))}:
        return f"its blocks are not numbered from 0 ({shown_names(blocks)})"
    if "blocks.0.ls1.gamma" not in state:
        return "its blocks have no LayerScale, which DINO's first version, MAE and supervised ViTs lack"
    for key, value in state.items():
        if not value.is_floating_point():
            return f"{printable(key)} holds {value.dtype}, not floating-point numbers (quantised?)"
        if value.numel() * value.element_size() > value.untyped_storage().nbytes():
            return f"{printable(key)} claims a larger shape ({list(value.shape)}) than its data"
    wanted = {"cls_token": 3, "pos_embed": 3, "patch_embed.proj.weight": 4, "register_tokens": 3}
    for key, dimensions in wanted.items():
        if key in state and (state[key].dim() != dimensions or not state[key].numel()):
            return f"{key} is {list(state[key].shape)}"
    height, width = state["patch_embed.proj.weight"].shape[2:]
    positions = state["pos_embed"].shape[1] if "pos_embed" in state else 1
    if height != width or positions - math.isqrt(positions) ** 2 > 1:
        return f"its patches ({height} x {width} pixels) or its {positions - 1} positions are not square"
    try:
        config = config_of(state)
    except ValueError as error:
        return str(error)
    if (periods := state.get(_PERIODS)) is not None:
        ours = 1 / dinov3.rotary_frequencies(config.width // config.heads)
        if periods.shape != ours.shape or not torch.allclose(periods.float(), ours, rtol=1e-2):  # stored in bf16
            return f"its rotary periods are not those of base {dinov3.ROPE_BASE:g} and {config.heads} heads"
    return ""


def _problem_of_folder(state: State, path: Path) -> str:
    """Reason why a model folder's config contradicts the weights in what shapes do not show, or ""."""
    if not path.is_dir():
        return ""
    stored, heads = folder_config(path), config_of(state).heads
    if stored.get("num_attention_heads") not in (None, heads):
        return f"config.json says {stored['num_attention_heads']} attention heads, this width has {heads}"
    if (base := stored.get("rope_theta")) not in (None, dinov3.ROPE_BASE):
        return f"config.json says rotary positions of base {base}, not {dinov3.ROPE_BASE:g}"
    return ""


def config_of(state: Mapping[str, Tensor]) -> ViTConfig:
    """Infer the config of weights in the official layout from their shapes.

    The number of heads comes from the variant of the same width; an unknown width gets heads of 64 channels, as in all
    DINOv2 models, and the name "?".
    """
    width = state["cls_token"].shape[-1]
    depth = 1 + max(int(key.split(".")[1]) for key in state if key.startswith("blocks."))
    swiglu = "blocks.0.mlp.w12.weight" in state
    positions = state["pos_embed"].shape[1] if "pos_embed" in state else 0
    grid = math.isqrt(positions)
    omnivorous = positions == grid**2 > 0
    kind = (width, swiglu, not grid, omnivorous)
    like = [one for one in VARIANTS.values() if (one.width, one.swiglu, one.rotary, one.omnivorous) == kind]
    base = like[0] if like else ViTConfig("?", width, depth, max(1, width // 64), swiglu=swiglu, omnivorous=omnivorous)
    return dataclasses.replace(
        base,
        depth=depth,
        patch=state["patch_embed.proj.weight"].shape[-1],
        registers=state["register_tokens"].shape[1] if "register_tokens" in state else 0,
        pos_grid=grid,
    )


_SHAPE_FIELDS = ("width", "depth", "patch", "registers", "swiglu", "pos_grid", "omnivorous")


def _describe(config: ViTConfig) -> str:
    """ "ViT-B/14 (width 768, 12 blocks, no registers, GELU, positions 37 x 37)"."""
    registers = f"{config.registers} registers" if config.registers else "no registers"
    mlp = "SwiGLU" if config.swiglu else "GELU"
    positions = "rotary positions" if config.rotary else f"positions {config.pos_grid} x {config.pos_grid}"
    title = dataclasses.replace(config, registers=0).title
    return f"{title} (width {config.width}, {config.depth} blocks, {registers}, {mlp}, {positions})"


# ------------------------------------------------------------------------------------------------------- key layouts

_BLOCK_CHUNK = re.compile(r"^blocks\.\d+\.(\d+)\.")  # blocks.chunk.index, where the index counts over all chunks

_TRANSFORMERS = [
    (r"^embeddings\.(cls_token|mask_token|register_tokens)$", r"\1"),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^embeddings\.patch_embeddings\.(?:projection\.)?", "patch_embed.proj."),
    (r"^layernorm\.", "norm."),
    (r"^encoder\.layer\.", "blocks."),
    (r"\.layer_scale([12])\.lambda1$", r".ls\1.gamma"),
    (r"\.attention\.(?:o_proj|output\.dense)\.", ".attn.proj."),
    (r"\.attention\.(?:attention\.)?(?:q_proj|query)\.", ".attn.q."),
    (r"\.attention\.(?:attention\.)?(?:k_proj|key)\.", ".attn.k."),
    (r"\.attention\.(?:attention\.)?(?:v_proj|value)\.", ".attn.v."),
    (r"\.mlp\.weights_in\.", ".mlp.w12."),
    (r"\.mlp\.(?:weights_out|down_proj)\.", ".mlp.w3."),
    (r"\.mlp\.gate_proj\.", ".mlp.w1."),
    (r"\.mlp\.up_proj\.", ".mlp.w2."),
]


def _from_transformers(state: State) -> State:
    """Convert either transformers layout to the official one."""
    renamed = {}
    for key, value in state.items():
        for pattern, name in _TRANSFORMERS:
            key = re.sub(pattern, name, key)
        renamed[key] = value
    return _with_stacked_gate(_stack(renamed, ("attn.q", "attn.k", "attn.v"), "attn.qkv"))


def _with_stacked_gate(state: State) -> State:
    return _stack(state, ("mlp.w1", "mlp.w2"), "mlp.w12")


def _stack(state: State, parts: Sequence[str], whole: str) -> State:
    """Concatenate the linear layers `parts` into `whole`; incomplete sets are unchanged."""
    stacked = dict(state)
    for key in state:
        if f".{parts[0]}." in key:
            keys = [key.replace(f".{parts[0]}.", f".{part}.") for part in parts]
            if all(part in state for part in keys):
                stacked[key.replace(f".{parts[0]}.", f".{whole}.")] = torch.cat([stacked.pop(part) for part in keys])
    return stacked


def _from_timm(state: State) -> State:
    """Convert timm's layout to the official one."""
    state = dict(state)
    if _is_gated(state):
        state = {key.replace(".mlp.fc1.", ".mlp.w12.").replace(".mlp.fc2.", ".mlp.w3."): v for key, v in state.items()}
    if "reg_token" in state:
        state["register_tokens"] = state.pop("reg_token")
    positions = state.get("pos_embed")
    if positions is not None and round(positions.shape[1] ** 0.5) ** 2 == positions.shape[1]:
        # A full square has no row for CLS, whose position is already part of cls_token.
        state["pos_embed"] = torch.cat([torch.zeros_like(positions[:, :1]), positions], dim=1)
    return state


def _is_gated(state: State) -> bool:
    """Return whether the MLPs are timm's SwiGLU: `fc1` outputs gate and value, `fc2` reads their product."""
    fc1, fc2 = state.get("blocks.0.mlp.fc1.weight"), state.get("blocks.0.mlp.fc2.weight")
    return fc1 is not None and fc2 is not None and fc1.shape[0] == 2 * fc2.shape[1]


_TOKENS = "ToTokenSequence_0"
_POSITIONS = f"{_TOKENS}.posembed_input"  # [1, G, G, D]
_ATTENTION = "MultiHeadDotProductAttention_0"
_FLAX_LAYERS = {
    "LayerNorm_0": "norm1", "LayerNorm_1": "norm2", "MlpBlock_0.Dense_0": "mlp.fc1", "MlpBlock_0.Dense_1": "mlp.fc2",
    f"{_ATTENTION}.out": "attn.proj",
}  # fmt: skip
_FLAX_NAMES = {"kernel": "weight", "scale": "weight", "bias": "bias"}
_FLAX_BLOCK = re.compile(r"encoderblock_(\d+)\.")


def _from_flax(state: State, path: str | os.PathLike[str]) -> State:
    """Convert the Flax layout of the official Omnivorous DINO.

    Linear layers are `kernel`s with the input first, attention's split by head. Blocks have no LayerScale, hence gains
    of 1. Source: google-deepmind/representations4d, `omnivorous/vit.py`.
    """
    left = dict(state)
    try:
        patches = left.pop(f"{_TOKENS}.embedding.kernel")  # [P, P, 3, D]
        converted = {
            "cls_token": left.pop(f"{_TOKENS}.cls"),
            "pos_embed": left.pop(_POSITIONS).flatten(1, 2),
            "patch_embed.proj.weight": patches.permute(3, 2, 0, 1),
            "patch_embed.proj.bias": left.pop(f"{_TOKENS}.embedding.bias"),
            "norm.weight": left.pop("encoder_norm.scale"),
            "norm.bias": left.pop("encoder_norm.bias"),
        }
        for index in sorted({int(found[1]) for name in left if (found := _FLAX_BLOCK.match(name))}):
            converted |= {f"blocks.{index}.{name}": x for name, x in _flax_block(left, f"encoderblock_{index}").items()}
    except (KeyError, RuntimeError, IndexError) as error:
        raise CheckpointError(f"{path} is not a complete Omnivorous DINO in the Flax layout: {error}") from None
    if left:
        raise CheckpointError(f"{path} holds tensors that an Omnivorous DINO does not have: {shown_names(left)}")
    return {name: value.contiguous() for name, value in converted.items()}


def _flax_block(left: State, block: str) -> State:
    """Take one block's tensors out of `left` and return them by their official names."""
    own: State = {}
    for source, target in _FLAX_LAYERS.items():
        for kind in ("scale", "bias") if "Norm" in source else ("kernel", "bias"):
            value = left.pop(f"{block}.{source}.{kind}")  # kernels: [h, d, D] or [D, D']
            own[f"{target}.{_FLAX_NAMES[kind]}"] = value.flatten(0, -2).T if kind == "kernel" else value
    parts = [f"{block}.{_ATTENTION}.{part}" for part in ("query", "key", "value")]
    own["attn.qkv.weight"] = torch.cat([left.pop(f"{part}.kernel").flatten(1).T for part in parts])  # from [D, h, d]
    own["attn.qkv.bias"] = torch.cat([left.pop(f"{part}.bias").flatten() for part in parts])
    gain: Tensor = torch.ones_like(own["norm1.weight"])
    return own | {"ls1.gamma": gain, "ls2.gamma": gain.clone()}


# ------------------------------------------------------------------------------------------------------ own checkpoints


def save_state(module: nn.Module, path: str | os.PathLike[str], metadata: Mapping[str, str] | None = None) -> None:
    """Save a module atomically as safetensors; a plain ViT in DINOv2's official layout, which `load_dinov2` reads."""
    state = {name: value.detach().cpu().contiguous() for name, value in module.state_dict().items()}
    with written_atomically(path, sum(value.nbytes for value in state.values())) as scratch:
        save_file(state, scratch, dict(metadata) if metadata else None)


def save_spectradino(
    model: SpectraDINO, path: str | os.PathLike[str], metadata: Mapping[str, str] | None = None
) -> None:
    """Save a backbone atomically with "format", "config", "bands" and further entries as metadata."""
    if sum(isinstance(module, LayerScale) for module in model.modules()) != 2 * model.config.depth:
        raise ValueError("the LayerScales of this model are folded for serving: save the original model")
    own = {
        "format": FORMAT,
        "config": json.dumps(model.config.to_dict()),
        "bands": ",".join(band.key for band in model.bands),
    }
    reserved = own.keys() & (metadata or {}).keys()
    if reserved:
        raise ValueError(f"metadata keys {', '.join(sorted(reserved))} are reserved")
    save_state(model, path, own | dict(metadata or {}))


def load_spectradino(path: str | os.PathLike[str]) -> SpectraDINO:
    """Load a backbone saved by `save_spectradino` on the CPU, in training mode.

    Raises:
        CheckpointError: the file is missing, unreadable, not a SpectraDINO backbone, or lacks weights.
    """
    config, stored_bands = stored_config(path)
    try:
        model = SpectraDINO(config, stored_bands)
    except ValueError as error:
        raise CheckpointError(_not_understood(path, error)) from error
    load_state(model, read_tensors(path), path)
    return model


def stored_config(path: str | os.PathLike[str]) -> tuple[ViTConfig, list[Modality]]:
    """Read config and bands of a SpectraDINO backbone from the file's header."""
    metadata = read_metadata(path)
    try:
        config = ViTConfig(**parse_json(metadata["config"], "its config"))
        return config, [Modality.parse(key) for key in metadata["bands"].split(",")]
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(_not_understood(path, error)) from error


def _not_understood(path: str | os.PathLike[str], error: Exception) -> str:
    return f"{path} holds metadata that this version does not understand: {printable(str(error))}"


def read_metadata(path: str | os.PathLike[str]) -> dict[str, str]:
    """Read a SpectraDINO backbone's metadata: "format", "config" (JSON), "bands" ("rgb,lwir") and added entries."""
    metadata = read_header(path)
    if metadata.get("format") != FORMAT:
        found = printable(repr(metadata.get("format")), 60)
        raise CheckpointError(
            f"{path} is not a SpectraDINO backbone of format {FORMAT} (found {found}); "
            "load plain DINOv2 weights with load_dinov2"
        )
    return metadata


def load_state(module: nn.Module, state: State, path: str | os.PathLike[str]) -> None:
    """Load a state strictly; CheckpointError: lists all mismatches."""
    wanted = module.state_dict()
    faults = []
    if missing := wanted.keys() - state.keys():
        faults.append(f"missing {shown_names(missing)}")
    if unexpected := state.keys() - wanted.keys():
        faults.append(f"unexpected {shown_names(unexpected)}")
    for key in sorted(wanted.keys() & state.keys()):
        if wanted[key].shape != state[key].shape:
            faults.append(f"{key} is {list(state[key].shape)} and should be {list(wanted[key].shape)}")
    if faults:
        raise CheckpointError(f"{path} does not fit the model: {'; '.join(faults)}")
    module.load_state_dict(state)
