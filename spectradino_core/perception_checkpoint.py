"""A `Perception` on disk: weights as safetensors, with what it is and how it was made in the file's header."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
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
    "Started",
    "backbone_config",
    "describe_checkpoint",
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
    info, architecture = describe_checkpoint(path)
    try:
        model = Perception(architecture)
        model.load_state_dict(read_tensors(path))
    except (ValueError, RuntimeError) as error:
        raise BundleError(f"{path}: weights and description do not fit each other ({error})") from None
    return model.to(device).eval(), info


def describe_checkpoint(path: str | Path) -> tuple[ModelInfo, Architecture]:
    """What a perception checkpoint says of itself, from its header alone.

    Raises:
        BundleError, CheckpointError: see `load_perception`.
    """
    _refuse_graph(path)
    metadata = read_header(path)
    if METADATA_KEY not in metadata or _ARCHITECTURE_KEY not in metadata:
        raise BundleError(f"{path} holds tensors but is no perception checkpoint: make one with 'spectradino finetune'")
    try:
        architecture = Architecture.from_dict(parse_json(metadata[_ARCHITECTURE_KEY], "its architecture"))
    except (ValueError, TypeError, KeyError) as error:
        raise BundleError(f"{path}: weights and description do not fit each other ({printable(str(error))})") from None
    info = ModelInfo.from_json(metadata[METADATA_KEY], path)
    if info.patch != architecture.vit.patch:
        raise BundleError(
            f"{path}: its description says patches of {info.patch} pixels, its backbone {architecture.variant} has "
            f"{architecture.vit.patch}"
        )
    return info, architecture


@dataclass
class Started:
    """What a model took from another.

    Attributes:
        name: of the other model.
        taken, fresh, dropped: parts that were taken, that start at random, and that the other has in vain.
        terms: of the data that the other model was trained on; they hold for what starts from it.
    """

    name: str
    taken: list[str] = field(default_factory=list)
    fresh: list[str] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    terms: str = ""

    def __str__(self) -> str:
        parts = (("takes", self.taken), ("starts afresh", self.fresh), ("leaves", self.dropped))
        return f"{self.name}: " + "; ".join(f"{verb} {', '.join(names)}" for verb, names in parts if names)


def warm_start(
    model: Perception, path: str | Path, box_classes: Sequence[str] = (), mask_classes: Sequence[str] = ()
) -> Started:
    """Weights of a trained model as the start of another: for another infrared band, other classes or other heads.

    Backbone and fusion must be alike; of the pyramid and the heads is taken what fits. Of a head with other classes
    everything but the classes themselves is taken, and those of equal names too. The stem, adapters and embedding of
    the one infrared band start where those of the other ended: nearer to it than random ones are.

    Args:
        model: gets the weights.
        path: a checkpoint of `save_perception`.
        box_classes, mask_classes: names of the model's classes; none: those of the checkpoint, where the numbers agree.

    Raises:
        BundleError, CheckpointError: the file can't be read, or its backbone or fusion differs; names the field.
    """
    other, info = load_perception(path)
    offered, wanted = other.architecture, model.architecture
    for name in ("variant", "registers", "backbone", "fusion", "fuse_at", "fused"):
        if getattr(offered, name) != getattr(wanted, name):
            raise BundleError(
                f"{path} can't be the start of this model: its {name} is {_shown(getattr(offered, name))}, wanted is "
                f"{_shown(getattr(wanted, name))}; leave the option out to take the file's"
            )
    old, new = f"backbone.stems.{other.infrared.key}.", f"backbone.stems.{model.infrared.key}."
    state = {name.replace(old, new): tensor for name, tensor in other.state_dict().items()}
    own = dict(model.state_dict())
    started = Started(info.name, ["backbone", "fusion"], terms=str(info.provenance.get("terms") or ""))
    names = {
        "detection": (info.box_classes, tuple(box_classes) or _unnamed(info.box_classes, wanted.box_classes)),
        "segmentation": (info.mask_classes, tuple(mask_classes) or _unnamed(info.mask_classes, wanted.mask_classes)),
    }
    fitting = {"backbone", "fusion"} | _like_parts(other, model, started)
    by_class = _class_tensors(model.architecture)
    for name, tensor in own.items():
        part = name.split(".")[0]
        if part not in fitting:
            continue
        if name in by_class:
            own[name] = _rows_by_name(state[name], tensor, *names[part])
        else:
            own[name] = state[name]
    for part, (theirs, ours) in names.items():
        if part in fitting:
            fresh = [name for name in ours if name not in theirs]
            same = [name for name in ours if name in theirs]
            started.taken.append(f"{part} head ({', '.join(same) or 'no class'})")
            started.fresh += [f"class {name}" for name in fresh]
            started.dropped += [f"class {name}" for name in theirs if name not in ours]
    model.load_state_dict(own)
    return started


def _unnamed(theirs: tuple[str, ...], count: int) -> tuple[str, ...]:
    return theirs if len(theirs) == count else tuple(str(place) for place in range(count))


def _shown(value: object) -> object:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else value


def _like_parts(other: Perception, model: Perception, started: Started) -> set[str]:
    """Which of pyramid and heads both have alike; the rest is noted."""
    offered, wanted = other.architecture, model.architecture
    same_pyramid = (offered.pyramid_width, offered.strides) == (wanted.pyramid_width, wanted.strides)
    same = {
        "pyramid": same_pyramid,
        "detection": offered.detection == wanted.detection and offered.tower_depth == wanted.tower_depth,
        "segmentation": offered.segmentation == wanted.segmentation and offered.upernet_width == wanted.upernet_width,
    }
    kinds = dict(zip(("detection", "segmentation"), wanted.kinds, strict=True))
    fitting = set()
    for part, alike in same.items():
        label = part if part == "pyramid" else f"{part} head"
        there, needed = (getattr(m, part) is not None for m in (other, model))
        kind = kinds.get(part)
        if kind is not None and kind.pyramid:
            alike = alike and same_pyramid
        if there and needed and alike:
            fitting.add(part)
            started.taken += [part] if part == "pyramid" else []
        elif needed:
            started.fresh.append(label)
        elif there:
            started.dropped.append(label)
    return fitting


def _class_tensors(architecture: Architecture) -> set[str]:
    """Names of the tensors whose size goes with the number of classes."""
    with torch.device("meta"):
        shapes = [
            {name: tensor.shape for name, tensor in Perception(one).state_dict().items()}
            for one in (
                architecture,
                replace(
                    architecture,
                    box_classes=architecture.box_classes and architecture.box_classes + 1,
                    mask_classes=architecture.mask_classes and architecture.mask_classes + 1,
                ),
            )
        ]
    return {name for name, shape in shapes[0].items() if shape != shapes[1][name]}


def _rows_by_name(
    stored: torch.Tensor, fresh: torch.Tensor, theirs: Sequence[str], ours: Sequence[str]
) -> torch.Tensor:
    """The rows of the classes that both know; the others as they are. The rows are the first of the tensor's sizes."""
    rows = fresh.clone()
    for place, name in enumerate(ours):
        if name in theirs:
            rows[place] = stored[theirs.index(name)]
    return rows


def _refuse_graph(path: str | Path) -> None:
    """
    Raises:
        CheckpointError: an exported model was given where weights for training are wanted.
    """
    path = Path(path)
    if path.suffix.lower() in (".onnx", ".engine", ".plan"):
        beside = path.with_suffix(".safetensors")
        raise CheckpointError(
            f"{path} is an exported model, from which no training can start: give the .safetensors that it was "
            f"exported from{f', such as {beside}' if beside.is_file() else ''}"
        )


def weights_kind(path: str | Path) -> Literal["backbone", "model", "dinov2"]:
    """What a file of weights holds: a backbone of ours, a fine-tuned model, or neither, which leaves plain DINOv2.

    Raises:
        CheckpointError: a .safetensors that is missing or damaged.
    """
    path = Path(path)
    _refuse_graph(path)
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
    return describe_checkpoint(path)[1].vit if kind == "model" else config_of(read_dinov2(path)[0])


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
