"""Read weight files: safetensors, `torch.save` files and Hugging Face model folders.

A backbone is often stored inside a larger checkpoint: as `state_dict` or `model_state_dict`, as `teacher` next to
`student`, or under the prefix of a larger module (`model.backbone.`), of `torch.compile` (`_orig_mod.`) or of
distributed training (`module.`). `find_backbone` treats nested mappings as prefixes; the backbone is at a prefix that
has both a CLS token and a patch embedding. Among several, averaged weights (`teacher`, `ema`) take precedence and a
`student` comes last, as in DINOv2's own evaluation; remaining ambiguity is an error.
"""

from __future__ import annotations

import argparse
import logging
import os
import pathlib
import re
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from spectradino_core.files import FileError, check_file, child_path, errors_as, read_json
from spectradino_core.text import printable

log = logging.getLogger(__name__)

State = dict[str, Tensor]

SHOWN = 6  # maximum number of names listed in an error
_MAX_NESTED = 16
_WRAPPERS = re.compile(r"(?<![^.])(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
_ROOTS = {  # the two tensors that identify a backbone's prefix, by layout
    "patch_embed.proj.weight": "cls_token",
    "embeddings.patch_embeddings.projection.weight": "embeddings.cls_token",
    "embeddings.patch_embeddings.weight": "embeddings.cls_token",  # DINOv3
    "ToTokenSequence_0.embedding.kernel": "ToTokenSequence_0.cls",  # Flax
}
_AVERAGED = re.compile(r"teacher|ema|averaged?|swa")
_STUDENT = re.compile(r"student")
_HARMLESS = (argparse.Namespace, pathlib.PosixPath, pathlib.PurePosixPath, pathlib.WindowsPath, pathlib.PureWindowsPath)
"""Classes found in training checkpoints (run options) that are safe to construct: they only hold values."""


class CheckpointError(ValueError):
    """A weight file is unusable; the message names the file, the problem and the remedy."""


def read_header(path: str | os.PathLike[str]) -> dict[str, str]:
    """Read the metadata of a safetensors file; CheckpointError: it is missing, truncated or another kind of file."""
    with _opened(_checked(path)) as file:
        return file.metadata() or {}


def read_tensors(path: str | os.PathLike[str]) -> State:
    """Read tensors of a safetensors or `torch.save` file, running no code, or a Hugging Face folder.

    Returns:
        Tensors by name; names of nested tensors are prefixed by their mappings' keys, joined by dots.

    Raises:
        CheckpointError: the file is missing, truncated, a placeholder, or holds something else.
    """
    if Path(path).is_dir():
        return _of_folder(Path(path))
    path = _checked(path)
    if path.suffix != ".safetensors":
        return _of_torch(path)
    with _opened(path) as file:
        return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - it is no mapping


def find_backbone(tensors: Mapping[str, Tensor], path: str | os.PathLike[str]) -> State:
    """Return the tensors of the one backbone among `tensors` without its prefix; without a backbone, all tensors.

    Raises:
        CheckpointError: several backbones of equal precedence (see the module docstring).
    """
    tensors = {_WRAPPERS.sub("", name): value for name, value in tensors.items()}
    roots = sorted(
        name.removesuffix(patches)
        for patches, token in _ROOTS.items()
        for name in tensors
        if f".{name}".endswith(f".{patches}") and name.removesuffix(patches) + token in tensors
    )
    if not roots:
        return dict(tensors)
    best = min(map(_rank, roots))
    first = [root for root in roots if _rank(root) == best]
    states = [{n.removeprefix(root): v for n, v in tensors.items() if n.startswith(root)} for root in first]
    if any(not _same(states[0], other) for other in states[1:]):
        shown = ", ".join(repr(printable(root.rstrip("."), 60) or "(top)") for root in first[:SHOWN])
        raise CheckpointError(
            f"{printable(str(path))} holds {len(first)} backbones ({shown}): save the state_dict of one of them to its "
            "own file with torch.save"
        )
    if first[0]:
        log.info(
            "%s: using the backbone at '%s' (%d of %d tensors)",
            path, first[0].rstrip("."), len(states[0]), len(tensors),
        )  # fmt: skip
    return states[0]


def folder_config(folder: Path) -> dict[str, Any]:
    """Read `config.json` of a DINOv2 or DINOv3 model folder; CheckpointError: missing, damaged, another network."""
    folder = _snapshot(folder)
    if not (folder / "config.json").exists():
        inside = ", ".join(sorted(entry.name for entry in folder.iterdir())[:SHOWN])
        raise CheckpointError(
            f"{folder} is not a Hugging Face model folder: it has no config.json (found: {printable(inside)}); give "
            "that folder, or a weight file"
        )
    with errors_as(CheckpointError):
        config = read_json(folder / "config.json", "settings file")
    if not isinstance(config, dict):
        raise CheckpointError(f"{folder / 'config.json'} is not a model configuration")
    kind = str(config.get("model_type") or config.get("architecture") or "unnamed network")
    plain = kind.replace("-", "_")
    known = ("dinov2", "dinov2_with_registers", "dinov3_vit")
    if plain not in known and not re.fullmatch(r"vit_\w+_dinov2(\.\w+)?", plain):
        raise CheckpointError(
            f"{folder} holds a {printable(kind, 60)}, not a DINOv2 or DINOv3 ViT: give a folder such as "
            "facebook/dinov2-base"
        )
    return config


def _checked(path: str | os.PathLike[str]) -> Path:
    with errors_as(CheckpointError):
        return check_file(path, "checkpoint")


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (OSError, SafetensorError) as error:
        text = f"{path} is truncated or not a safetensors file: {printable(str(error))}"
        raise CheckpointError(text) from error


def _of_torch(path: Path) -> State:
    if _is_bomb(path):
        raise CheckpointError(f"{path} is compressed, which torch.save never does: save it with torch.save")
    try:
        with torch.serialization.safe_globals(list(_HARMLESS)):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load documents no list: zip, pickle, end of file and runtime errors all occur
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CheckpointError(
            f"{path} is truncated, not a checkpoint, or holds more than tensors ({printable(reason)}): save a plain "
            "state_dict"
        ) from error
    tensors = dict(_flat(content, "", 0)) if isinstance(content, Mapping) else {}
    if not tensors:
        raise CheckpointError(f"{path} holds a {type(content).__name__} without tensors: save a plain state_dict")
    return tensors


def _is_bomb(path: Path) -> bool:
    """Return whether a zip archive expands to more than its file size."""
    try:
        with zipfile.ZipFile(path) as archive:
            return sum(entry.file_size for entry in archive.infolist()) > path.stat().st_size
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return False  # the older non-zip format, or a damaged file, which torch reports


def _flat(content: Mapping[Any, Any], prefix: str, depth: int) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors in nested mappings with their prefixed names."""
    for key, value in content.items():
        name = f"{prefix}{key}"
        if isinstance(value, Tensor):
            yield name, value
        elif isinstance(value, Mapping) and depth < _MAX_NESTED:
            yield from _flat(value, f"{name}.", depth + 1)


def _of_folder(folder: Path) -> State:
    """Read the weights of a model folder: one file, or shards listed by an index."""
    folder_config(folder)
    folder = _snapshot(folder)
    for name in ("model.safetensors", "pytorch_model.bin"):
        if os.path.lexists(folder / name):
            return read_tensors(folder / name)
        index = folder / f"{name}.index.json"
        if os.path.lexists(index):
            return _of_shards(index)
    raise CheckpointError(
        f"{folder} has a config.json but no model.safetensors (nor its index, nor pytorch_model.bin): download the "
        "weights too"
    )


def _of_shards(index: Path) -> State:
    try:
        listed = read_json(index, "settings file")
        names = sorted(set(map(str, listed["weight_map"].values())))
        files = [child_path(index.parent, name) for name in names]
    except FileError as error:
        text = str(error)
        raise CheckpointError(text if str(index) in text and "paths" not in text else f"{index}: {text}") from None
    except (KeyError, TypeError, AttributeError):
        raise CheckpointError(f"{index} is not a weight index: it has no weight_map") from None
    state: State = {}
    for file in files:
        state |= read_tensors(file) if not file.is_dir() else {}
    lacking = listed["weight_map"].keys() - state.keys()
    if lacking:
        raise CheckpointError(f"{index} lists {shown_names(lacking)}, which its files lack: download the folder again")
    return state


def _snapshot(folder: Path) -> Path:
    """Return the folder itself, or the single snapshot in a folder of the Hugging Face download cache."""
    if (folder / "config.json").exists() or not (folder / "snapshots").is_dir():
        return folder
    versions = sorted(entry for entry in (folder / "snapshots").iterdir() if entry.is_dir())
    if len(versions) != 1:
        raise CheckpointError(f"{folder} holds {len(versions)} versions of a model: give one of {folder}/snapshots/*")
    return versions[0]


def _rank(root: str) -> int:
    words = [word for part in root.lower().split(".") for word in part.split("_")]
    if any(_AVERAGED.fullmatch(word) for word in words):
        return 0
    return 2 if any(_STUDENT.fullmatch(word) for word in words) else 1


def _same(one: State, other: State) -> bool:
    return one.keys() == other.keys() and all(
        value is other[name] or (value.shape == other[name].shape and torch.equal(value, other[name]))
        for name, value in one.items()
    )


def shown_names(names: Any) -> str:
    """Format the first few names for an error message."""
    shown = [printable(str(name), 80) for name in sorted(names)[:SHOWN]]
    return ", ".join(shown) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
