"""Load and save `Perception` checkpoints: safetensors with the model description in the header."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import torch

from spectradino_core.files import parse_json
from spectradino_core.models import SpectraDINO, ViT, ViTConfig
from spectradino_core.models.checkpoints import FORMAT as BACKBONE_FORMAT
from spectradino_core.models.checkpoints import (
    CheckpointError,
    config_of,
    load_dinov2,
    load_spectradino,
    load_state,
    read_dinov2,
    save_state,
    stored_config,
)
from spectradino_core.models.perception import Architecture, Perception
from spectradino_core.models.weight_files import read_header, read_tensors
from spectradino_core.runtime.bundle import METADATA_KEY, BundleError, ModelInfo
from spectradino_core.text import printable

log = logging.getLogger(__name__)

_ARCHITECTURE_KEY = "architecture"


def save_perception(path: str | Path, model: Perception, info: ModelInfo) -> None:
    """Save weights and description atomically; errors as by `save_state`."""
    save_state(model, path, {METADATA_KEY: info.to_json(), _ARCHITECTURE_KEY: json.dumps(model.architecture.to_dict())})


def load_perception(path: str | Path, device: str | torch.device = "cpu") -> tuple[Perception, ModelInfo]:
    """Load a model saved by `save_perception`, in evaluation mode, and its description.

    Raises:
        BundleError, CheckpointError: the file is missing, damaged, or not a perception checkpoint.
    """
    info, architecture = describe_checkpoint(path)
    try:
        model = Perception(architecture)
        model.load_state_dict(read_tensors(path))
    except (ValueError, RuntimeError) as error:
        raise BundleError(f"{path}: weights and description do not match ({error})") from None
    return model.to(device).eval(), info


def describe_checkpoint(path: str | Path) -> tuple[ModelInfo, Architecture]:
    """Read description and architecture from a checkpoint's header; errors as by `load_perception`."""
    _refuse_graph(path)
    metadata = read_header(path)
    if METADATA_KEY not in metadata or _ARCHITECTURE_KEY not in metadata:
        raise BundleError(f"{path} is not a perception checkpoint: create one with 'spectradino finetune'")
    try:
        architecture = Architecture.from_dict(parse_json(metadata[_ARCHITECTURE_KEY], "its architecture"))
    except (ValueError, TypeError, KeyError) as error:
        raise BundleError(f"{path}: weights and description do not match ({printable(str(error))})") from None
    info = ModelInfo.from_json(metadata[METADATA_KEY], path)
    if info.patch != architecture.vit.patch:
        raise BundleError(
            f"{path}: its description says patches of {info.patch} pixels, its backbone {architecture.variant} has "
            f"{architecture.vit.patch}"
        )
    return info, architecture


@dataclass
class Started:
    """Report of a warm start: parts loaded (taken), left at their random initialisation (fresh), and unused (dropped).

    `terms` are those of the source model's training data, which also apply to the new model.
    """

    name: str
    taken: list[str] = field(default_factory=list)
    fresh: list[str] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    terms: str = ""

    def __str__(self) -> str:
        parts = (("loads", self.taken), ("initialises", self.fresh), ("skips", self.dropped))
        return f"{self.name}: " + "; ".join(f"{verb} {', '.join(names)}" for verb, names in parts if names)


def warm_start(
    model: Perception, path: str | Path, box_classes: Sequence[str] = (), mask_classes: Sequence[str] = ()
) -> Started:
    """Initialise a model from a trained one with another infrared band, other classes or other heads.

    Backbone and fusion must be the same; pyramid and heads are loaded if compatible. In a head with other classes, the
    class weights are loaded for equal names only. Stem, adapters and embedding of the infrared band are initialised
    from those of the other band, which is better than random.

    Args:
        model, path: model to initialise, and a checkpoint saved by `save_perception`.
        box_classes, mask_classes: names of the model's classes; empty: those of the checkpoint if the numbers agree.

    Raises:
        BundleError, CheckpointError: the file is unreadable, or its backbone or fusion differs; names the field.
    """
    other, info = load_perception(path)
    source, target = other.architecture, model.architecture
    for name in ("variant", "registers", "backbone", "fusion", "fuse_at", "fused"):
        stored, current = getattr(source, name), getattr(target, name)
        if stored != current:
            raise BundleError(
                f"{path} cannot initialise this model: its {name} is {_shown(stored)}, not {_shown(current)}; omit the "
                "option to use the file's"
            )
    old, new = f"backbone.stems.{other.infrared.key}.", f"backbone.stems.{model.infrared.key}."
    state = {name.replace(old, new): tensor for name, tensor in other.state_dict().items()}
    own = dict(model.state_dict())
    started = Started(info.name, ["backbone", "fusion"], terms=str(info.provenance.get("terms") or ""))
    names = {
        "detection": (info.box_classes, tuple(box_classes) or _unnamed(info.box_classes, target.box_classes)),
        "segmentation": (info.mask_classes, tuple(mask_classes) or _unnamed(info.mask_classes, target.mask_classes)),
    }
    fitting = {"backbone", "fusion"} | _compatible_parts(other, model, started)
    by_class = _class_tensors(model.architecture)
    for name, tensor in own.items():
        part = name.split(".")[0]
        if part not in fitting:
            continue
        own[name] = _rows_by_name(state[name], tensor, *names[part]) if name in by_class else state[name]
    for part, (stored, current) in names.items():
        if part in fitting:
            fresh = [name for name in current if name not in stored]
            same = [name for name in current if name in stored]
            started.taken.append(f"{part} head ({', '.join(same) or 'no class'})")
            started.fresh += [f"class {name}" for name in fresh]
            started.dropped += [f"class {name}" for name in stored if name not in current]
    model.load_state_dict(own)
    return started


def _unnamed(classes: tuple[str, ...], count: int) -> tuple[str, ...]:
    return classes if len(classes) == count else tuple(str(place) for place in range(count))


def _shown(value: object) -> object:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else value


def _compatible_parts(other: Perception, model: Perception, started: Started) -> set[str]:
    """Compatible parts among pyramid and heads; the others are recorded in `started`."""
    source, target = other.architecture, model.architecture
    same_pyramid = (source.pyramid_width, source.strides) == (target.pyramid_width, target.strides)
    same = {
        "pyramid": same_pyramid,
        "detection": source.detection == target.detection and source.tower_depth == target.tower_depth,
        "segmentation": source.segmentation == target.segmentation and source.upernet_width == target.upernet_width,
    }
    kinds = dict(zip(("detection", "segmentation"), target.kinds, strict=True))
    fitting = set()
    for part, alike in same.items():
        label = part if part == "pyramid" else f"{part} head"
        available, needed = (getattr(m, part) is not None for m in (other, model))
        kind = kinds.get(part)
        if kind is not None and kind.pyramid:
            alike = alike and same_pyramid
        if available and needed and alike:
            fitting.add(part)
            started.taken += [part] if part == "pyramid" else []
        elif needed:
            started.fresh.append(label)
        elif available:
            started.dropped.append(label)
    return fitting


def _class_tensors(architecture: Architecture) -> set[str]:
    """Return the names of the tensors whose size depends on the number of classes."""
    boxes, masks = architecture.box_classes, architecture.mask_classes
    larger = replace(architecture, box_classes=boxes and boxes + 1, mask_classes=masks and masks + 1)
    with torch.device("meta"):
        own, other = Perception(architecture).state_dict(), Perception(larger).state_dict()
    return {name for name, tensor in own.items() if tensor.shape != other[name].shape}


def _rows_by_name(
    stored: torch.Tensor, fresh: torch.Tensor, source: Sequence[str], target: Sequence[str]
) -> torch.Tensor:
    """Copy `fresh` with the stored rows (first dimension) of the classes known to both."""
    rows = fresh.clone()
    for place, name in enumerate(target):
        if name in source:
            rows[place] = stored[source.index(name)]
    return rows


def _refuse_graph(path: str | Path) -> None:
    """Raise CheckpointError for an exported model, which cannot be trained."""
    path = Path(path)
    if path.suffix.lower() in (".onnx", ".engine", ".plan"):
        beside = path.with_suffix(".safetensors")
        raise CheckpointError(
            f"{path} is an exported model, which cannot be trained: give the .safetensors it was exported from"
            f"{f', such as {beside}' if beside.is_file() else ''}"
        )


def weights_kind(path: str | Path) -> Literal["backbone", "model", "dinov2"]:
    """Kind of a weight file: a SpectraDINO backbone, a fine-tuned model, or otherwise plain DINOv2."""
    path = Path(path)
    _refuse_graph(path)
    header = read_header(path) if path.suffix == ".safetensors" and not path.is_dir() else {}
    if header.get("format") == BACKBONE_FORMAT:
        return "backbone"
    return "model" if _ARCHITECTURE_KEY in header else "dinov2"


def load_network(path: str | Path) -> ViT | SpectraDINO:
    """Load the backbone of a DINOv2 (file or folder), a SpectraDINO backbone or a fine-tuned model.

    Raises:
        CheckpointError, BundleError: the file is missing, damaged or none of these.
    """
    kind = weights_kind(path)
    if kind == "backbone":
        return load_spectradino(path)
    if kind == "model":
        return load_perception(path)[0].encoder
    state, _ = read_dinov2(path)
    network = ViT(config_of(state))
    load_state(network, state, path)
    return network


def backbone_config(path: str | Path) -> ViTConfig:
    """Read the ViT config of a file for `load_backbone`, if possible from the header only."""
    kind = weights_kind(path)
    if kind == "backbone":
        return stored_config(path)[0]
    return describe_checkpoint(path)[1].vit if kind == "model" else config_of(read_dinov2(path)[0])


def load_backbone(model: Perception, path: str | Path) -> str:
    """Load backbone weights into a model, whose heads are unchanged, and return a description of the source.

    Args:
        model: model with a SpectraDINO, or with a plain DINOv2 (the baseline, `dinov2_repeat`).
        path: a backbone of `spectradino pretrain` or a model of `spectradino finetune`, whose bands must include the
            model's; or DINOv2 weights (a file or a Hugging Face folder), which leave stems and adapters as they are.

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
            raise CheckpointError(f"{path} is a fine-tuned model with a plain DINOv2: give the DINOv2 weights instead")
        try:
            target.load_state_dict(source.select_bands(target.bands).state_dict())
        except ValueError as error:
            raise CheckpointError(f"{path}: {error}") from error
        stage = read_header(path).get("stage")
        return f"{path.parent.name}/{path.name} ({f'stage {stage}' if stage else 'fine-tuned'})"
    if isinstance(source, SpectraDINO):
        log.warning("%s: its blocks may differ from DINOv2's, which the baseline is meant for", path)
    target.vit.load_state_dict(source.vit.state_dict())
    return f"{path.parent.name}/{path.name} (ViT only)"
