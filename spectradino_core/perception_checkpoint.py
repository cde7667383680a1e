"""A `Perception` on disk: weights as safetensors, with what it is and how it was made in the file's header."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file

from spectradino_core.backbone.checkpoints import read_header, read_tensors
from spectradino_core.files import written_atomically
from spectradino_core.perception import Architecture, Perception
from spectradino_core.runtime.bundle import METADATA_KEY, BundleError, ModelInfo

__all__ = ["load_perception", "save_perception", "warm_start"]

_ARCHITECTURE_KEY = "architecture"


def save_perception(path: str | Path, model: Perception, info: ModelInfo) -> None:
    """Writes weights and description in one step.

    Raises:
        OSError: not written; what was at `path` is untouched.
    """
    metadata = {METADATA_KEY: info.to_json(), _ARCHITECTURE_KEY: json.dumps(model.architecture.to_dict())}
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    with written_atomically(path) as scratch:
        save_file(tensors, scratch, metadata=metadata)


def load_perception(path: str | Path, device: str | torch.device = "cpu") -> tuple[Perception, ModelInfo]:
    """The model and description that `save_perception` wrote, in evaluation mode.

    Raises:
        BundleError: the file is not such a checkpoint, or its weights don't fit its description.
        CheckpointError: the file is missing, truncated or not safetensors.
    """
    metadata = read_header(path)
    if METADATA_KEY not in metadata or _ARCHITECTURE_KEY not in metadata:
        raise BundleError(f"{path} holds tensors but is no perception checkpoint: make one with 'spectradino finetune'")
    info = ModelInfo.from_json(metadata[METADATA_KEY], path)
    try:
        model = Perception(Architecture.from_dict(json.loads(metadata[_ARCHITECTURE_KEY])))
        model.load_state_dict(read_tensors(path))
    except (ValueError, TypeError, KeyError, RuntimeError) as error:
        raise BundleError(f"{path}: weights and description do not fit each other ({error})") from None
    return model.to(device).eval(), info


def warm_start(model: Perception, path: str | Path) -> str:
    """Weights of a trained model as the start of another, which may be for another infrared band.

    The stem, adapters and embedding of the one infrared band then start where those of the other ended: nearer to it
    than random ones are.

    Returns:
        The other model's name.

    Raises:
        BundleError, CheckpointError: the file can't be read, or its architecture differs in more than the band.
    """
    other, info = load_perception(path)
    if replace(other.architecture, infrared=model.architecture.infrared) != model.architecture:
        raise BundleError(
            f"{path} can't be the start of this model: it is {other.architecture}, wanted is {model.architecture}"
        )
    old, new = f"backbone.stems.{other.infrared.key}.", f"backbone.stems.{model.infrared.key}."
    model.load_state_dict({name.replace(old, new): tensor for name, tensor in other.state_dict().items()})
    return info.name
