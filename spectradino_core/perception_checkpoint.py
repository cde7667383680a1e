"""A `Perception` on disk: weights as safetensors, with what it is and how it was made in the file's header."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch
from safetensors.torch import save_file

from spectradino_core.backbone import SpectraDINO, ViT, ViTConfig
from spectradino_core.backbone.checkpoints import FORMAT as BACKBONE_FORMAT
from spectradino_core.backbone.checkpoints import (
    CheckpointError,
    config_of,
    load_dinov2,
    load_spectradino,
    read_dinov2,
    read_header,
    read_tensors,
    stored_config,
)
from spectradino_core.files import parse_json, written_atomically
from spectradino_core.perception import Architecture, Perception
from spectradino_core.runtime.bundle import METADATA_KEY, BundleError, ModelInfo
from spectradino_core.text import printable

__all__ = [
    "backbone_config",
    "load_backbone",
    "load_network",
    "load_perception",
    "save_perception",
    "warm_start",
    "weights_kind",
]

log = logging.getLogger(__name__)

_ARCHITECTURE_KEY = "architecture"


def save_perception(path: str | Path, model: Perception, info: ModelInfo) -> None:
    """Writes weights and description in one step.

    Raises:
        OSError: not written; what was at `path` is untouched.
    """
    metadata = {METADATA_KEY: info.to_json(), _ARCHITECTURE_KEY: json.dumps(model.architecture.to_dict())}
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    with written_atomically(path, sum(tensor.nbytes for tensor in tensors.values())) as scratch:
        save_file(tensors, scratch, metadata=metadata)


def load_perception(path: str | Path, device: str | torch.device = "cpu") -> tuple[Perception, ModelInfo]:
    """The model and description that `save_perception` wrote, in evaluation mode.

    Raises:
        BundleError: the file is not such a checkpoint, or its weights don't fit its description.
        CheckpointError: the file is missing, truncated or not safetensors.
    """
    info, architecture = _description(path)
    try:
        model = Perception(architecture)
        model.load_state_dict(read_tensors(path))
    except (ValueError, RuntimeError) as error:
        raise BundleError(f"{path}: weights and description do not fit each other ({error})") from None
    return model.to(device).eval(), info


def _description(path: str | Path) -> tuple[ModelInfo, Architecture]:
    """What a perception checkpoint says of itself, from its header alone.

    Raises:
        BundleError, CheckpointError: see `load_perception`.
    """
    metadata = read_header(path)
    if METADATA_KEY not in metadata or _ARCHITECTURE_KEY not in metadata:
        raise BundleError(f"{path} holds tensors but is no perception checkpoint: make one with 'spectradino finetune'")
    try:
        architecture = Architecture.from_dict(parse_json(metadata[_ARCHITECTURE_KEY], "its architecture"))
    except (ValueError, TypeError, KeyError) as error:
        raise BundleError(f"{path}: weights and description do not fit each other ({printable(str(error))})") from None
    return ModelInfo.from_json(metadata[METADATA_KEY], path), architecture


def warm_start(model: Perception, path: str | Path) -> str:
    """Weights of a trained model as the start of another, which may be for another infrared band or have fewer heads.

    The stem, adapters and embedding of the one infrared band then start where those of the other ended: nearer to it
    than random ones are.

    Returns:
        The other model's name.

    Raises:
        BundleError, CheckpointError: the file can't be read, or its architecture differs in more than the band and a
            head that is not wanted.
    """
    other, info = load_perception(path)
    offered, wanted = other.architecture, model.architecture
    same = replace(offered, infrared=wanted.infrared)
    if not wanted.box_classes:
        same = replace(same, box_classes=0, detection=wanted.detection, tower_depth=wanted.tower_depth)
    if not wanted.mask_classes:
        same = replace(
            same, mask_classes=0, segmentation=wanted.segmentation, upernet_width=wanted.upernet_width
        )  # fmt: skip
    if same != wanted or same.fused != offered.fused:
        raise BundleError(f"{path} can't be the start of this model: it is {offered}, wanted is {wanted}")
    old, new = f"backbone.stems.{other.infrared.key}.", f"backbone.stems.{model.infrared.key}."
    state = {name.replace(old, new): tensor for name, tensor in other.state_dict().items()}
    own = model.state_dict()
    model.load_state_dict({name: tensor for name, tensor in state.items() if name in own})
    return info.name


def weights_kind(path: str | Path) -> Literal["backbone", "model", "dinov2"]:
    """What a file of weights holds: a backbone of ours, a fine-tuned model, or neither, which leaves plain DINOv2.

    Raises:
        CheckpointError: a .safetensors that is missing or damaged.
    """
    path = Path(path)
    header = read_header(path) if path.suffix == ".safetensors" and not path.is_dir() else {}
    if header.get("format") == BACKBONE_FORMAT:
        return "backbone"
    return "model" if _ARCHITECTURE_KEY in header else "dinov2"


def load_network(path: str | Path) -> ViT | SpectraDINO:
    """The backbone in weights of any kind: DINOv2 (file or folder), a backbone of ours, or that of a fine-tuned model.

    Raises:
        CheckpointError: the file is missing, damaged or none of these.
        BundleError: a fine-tuned model's weights don't fit its description.
    """
    kind = weights_kind(path)
    if kind == "backbone":
        return load_spectradino(path)
    if kind == "model":
        return load_perception(path)[0].encoder
    state, _ = read_dinov2(path)
    network = ViT(config_of(state))
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise CheckpointError(f"{path} is no whole DINOv2: {error}") from error
    return network


def backbone_config(path: str | Path) -> ViTConfig:
    """The shape of the ViT in a file that `load_backbone` reads; of our own files only the header is read.

    Raises:
        CheckpointError, BundleError: the file is missing, damaged or none of these.
    """
    kind = weights_kind(path)
    if kind == "backbone":
        return stored_config(path)[0]
    return _description(path)[1].vit if kind == "model" else config_of(read_dinov2(path)[0])


def load_backbone(model: Perception, path: str | Path) -> str:
    """Gives a model the weights of a backbone; its heads stay as they are.

    Args:
        model: with a SpectraDINO, or with a plain DINOv2 (the baseline, `dinov2_repeat`).
        path: a backbone of `spectradino pretrain`, whose bands must include the model's; a model of `spectradino
            finetune`, likewise; or DINOv2's own weights (a file, or a Hugging Face folder), with which stems and
            adapters stay fresh.

    Returns:
        Where the weights are from, in words.

    Raises:
        CheckpointError: the file is missing, damaged, of another variant, or lacks a band.
    """
    path, kind, target = Path(path), weights_kind(path), model.backbone
    if kind == "dinov2":
        layout = load_dinov2(target if isinstance(target, SpectraDINO) else target.vit, path)
        return f"{path.name} (DINOv2, {layout} layout)"
    source = load_spectradino(path) if kind == "backbone" else load_perception(path)[0].backbone
    if source.config != target.config:
        raise CheckpointError(f"{path} is a {source.config.title}, the model's backbone a {target.config.title}")
    if isinstance(target, SpectraDINO):
        if not isinstance(source, SpectraDINO):
            raise CheckpointError(f"{path} holds a plain DINOv2 inside a fine-tuned model: give DINOv2's own file")
        try:
            source = source.select_bands(target.bands)
        except ValueError as error:
            raise CheckpointError(f"{path}: {error}") from None
        target.load_state_dict(source.state_dict())
        stage = read_header(path).get("stage")
        return f"{path.parent.name}/{path.name} ({f'stage {stage}' if stage else 'fine-tuned'})"
    if isinstance(source, SpectraDINO):
        log.warning("%s: its blocks may have been trained further; the baseline is meant for DINOv2's own", path)
    target.vit.load_state_dict(source.vit.state_dict())
    return f"{path.parent.name}/{path.name} (its ViT alone)"
