"""Files of weights, opened: safetensors, files of `torch.save`, and folders as Hugging Face's libraries write them.

People save a backbone inside other things: as `state_dict` or `model_state_dict` of a training checkpoint, as `teacher`
beside `student`, under the prefix of a larger module (`model.backbone.`), of `torch.compile` (`_orig_mod.`) or of
distributed training (`module.`). `find_backbone` takes all of these as one: nested mappings are prefixes, and the
backbone is where a CLS token and a patch embedding share one. Where several do, weights that were averaged over
training (`teacher`, `ema`) come first and a `student` last, as in DINOv2's own evaluation; what is then still undecided
is refused, for no rule would be right for everybody.
"""

from __future__ import annotations

import argparse
import logging
import os
import pathlib
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from spectradino_core.files import FileError, check_file, child_path, read_json
from spectradino_core.text import printable

__all__ = ["CheckpointError", "State", "find_backbone", "folder_config", "read_header", "read_tensors", "shown_names"]

log = logging.getLogger(__name__)

State = dict[str, Tensor]

SHOWN = 6  # names listed in an error before "and n more"
_MOST_NESTED = 16
_WRAPPERS = re.compile(r"(?<![^.])(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
_ROOTS = {  # the two tensors that make a prefix that of a backbone, by layout
    "patch_embed.proj.weight": "cls_token",
    "embeddings.patch_embeddings.projection.weight": "embeddings.cls_token",
}
_AVERAGED = re.compile(r"teacher|ema|averaged?|swa")
_STUDENT = re.compile(r"student")
_HARMLESS = (argparse.Namespace, pathlib.PosixPath, pathlib.PurePosixPath, pathlib.WindowsPath, pathlib.PureWindowsPath)
"""Classes in training checkpoints (options of the run) whose construction does nothing but hold values."""


class CheckpointError(ValueError):
    """A file is not what was asked for; the message says which file, what it is, and what to do."""


def read_header(path: str | os.PathLike[str]) -> dict[str, str]:
    """The texts that a safetensors file carries beside its tensors.

    Raises:
        CheckpointError: the file is missing, truncated or no safetensors file.
    """
    path = _checked(path)
    try:
        with safe_open(path, framework="pt") as file:
            return file.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise CheckpointError(_no_safetensors(path, error)) from error


def read_tensors(path: str | os.PathLike[str]) -> State:
    """The tensors of a safetensors file, a file of `torch.save` (of which no code is run) or a Hugging Face folder.

    Returns:
        By name; what was nested has the names of the mappings around it before its own, with points between.

    Raises:
        CheckpointError: the file is missing, truncated, a placeholder, or holds something else.
    """
    if Path(path).is_dir():
        return _of_folder(Path(path))
    path = _checked(path)
    return _of_safetensors(path) if path.suffix == ".safetensors" else _of_torch(path)


def find_backbone(tensors: Mapping[str, Tensor], path: str | os.PathLike[str]) -> State:
    """The tensors of the one backbone among `tensors`, without the prefix that its surroundings gave it.

    Where none is found, all tensors: whoever knows the layouts says what lacks.

    Raises:
        CheckpointError: there are several, and none comes first by the rule in the module's head.
    """
    tensors = {_WRAPPERS.sub("", name): value for name, value in tensors.items()}
    roots = sorted(
        name.removesuffix(patches)
        for patches, token in _ROOTS.items()
        for name in tensors
        if name.endswith(patches) and name.removesuffix(patches) + token in tensors and _ends(name, patches)
    )
    if not roots:
        return dict(tensors)
    best = min(map(_rank, roots))
    first = [root for root in roots if _rank(root) == best]
    states = [{n.removeprefix(root): v for n, v in tensors.items() if n.startswith(root)} for root in first]
    if any(not _same(states[0], other) for other in states[1:]):
        shown = ", ".join(repr(printable(root.rstrip("."), 60) or "(top)") for root in first[:SHOWN])
        raise CheckpointError(
            f"{printable(str(path))} holds {len(first)} backbones ({shown}): save the one that is meant in a file of "
            "its own, with torch.save of its state_dict"
        )
    if first[0]:
        log.info(
            "%s: the backbone is the part '%s' (%d of %d tensors)",
            path, first[0].rstrip("."), len(states[0]), len(tensors),
        )  # fmt: skip
    return states[0]


def folder_config(folder: Path) -> dict[str, Any]:
    """`config.json` of a model folder, if it is of a DINOv2.

    Raises:
        CheckpointError: it is missing, damaged or of another network.
    """
    folder = _snapshot(folder)
    if not (folder / "config.json").exists():
        inside = ", ".join(sorted(entry.name for entry in folder.iterdir())[:SHOWN])
        raise CheckpointError(
            f"{folder} is no folder of a Hugging Face model, which has a config.json (there is {printable(inside)}): "
            "give that folder, or a file of weights"
        )
    try:
        config = read_json(folder / "config.json", "settings file")
    except FileError as error:
        raise CheckpointError(str(error)) from None
    if not isinstance(config, dict):
        raise CheckpointError(f"{folder / 'config.json'} is not the configuration of a model")
    kind = str(config.get("model_type") or config.get("architecture") or "network without a name")
    plain = kind.replace("-", "_")
    if plain not in ("dinov2", "dinov2_with_registers") and not re.fullmatch(r"vit_\w+_dinov2(\.\w+)?", plain):
        raise CheckpointError(
            f"{folder} holds a {printable(kind, 60)}, not a DINOv2, which is the backbone here: give a folder such as "
            "that of facebook/dinov2-base"
        )
    return config


# --------------------------------------------------------------------------------------------------------------- files


def _checked(path: str | os.PathLike[str]) -> Path:
    path = Path(path)
    if not os.path.lexists(path) or path.is_dir():
        raise CheckpointError(f"there is no file {printable(str(path))}")
    try:
        return check_file(path, "checkpoint")
    except FileError as error:
        raise CheckpointError(str(error)) from None


def _of_safetensors(path: Path) -> State:
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - it is no mapping
    except (OSError, SafetensorError) as error:
        raise CheckpointError(_no_safetensors(path, error)) from error


def _no_safetensors(path: Path, error: Exception) -> str:
    return f"{path} is truncated or no safetensors file: {printable(str(error))}"


def _of_torch(path: Path) -> State:
    if _is_bomb(path):
        raise CheckpointError(f"{path} is compressed, which torch.save never does: refused; save it with torch.save")
    try:
        with torch.serialization.safe_globals(list(_HARMLESS)):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load documents no list: zip, pickle, end of file and runtime errors all occur
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CheckpointError(
            f"{path} is truncated, no checkpoint, or holds more than tensors ({printable(reason)}); save a plain "
            "state_dict"
        ) from error
    tensors = dict(_flat(content, "", 0)) if isinstance(content, Mapping) else {}
    if not tensors:
        raise CheckpointError(f"{path} holds a {type(content).__name__} without tensors: save a plain state_dict")
    return tensors


def _is_bomb(path: Path) -> bool:
    """Whether a zip archive unpacks to more than it is."""
    try:
        with zipfile.ZipFile(path) as archive:
            return sum(entry.file_size for entry in archive.infolist()) > path.stat().st_size
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return False  # the format before; or damaged, which torch says


def _flat(content: Mapping[Any, Any], prefix: str, depth: int) -> Iterator[tuple[str, Tensor]]:
    """The tensors in nested mappings."""
    for key, value in content.items():
        name = f"{prefix}{key}"
        if isinstance(value, Tensor):
            yield name, value
        elif isinstance(value, Mapping) and depth < _MOST_NESTED:
            yield from _flat(value, f"{name}.", depth + 1)


def _of_folder(folder: Path) -> State:
    """The weights beside a `config.json`: in one file, or in several that an index lists."""
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
        raise CheckpointError(f"{index} is no index of weights: it has no weight_map") from None
    state: State = {}
    for file in files:
        state |= read_tensors(file) if not file.is_dir() else {}
    lacking = listed["weight_map"].keys() - state.keys()
    if lacking:
        raise CheckpointError(f"{index} lists {shown_names(lacking)}, which its files lack: download the folder again")
    return state


def _snapshot(folder: Path) -> Path:
    """The folder itself, or the one version in a folder of Hugging Face's download cache."""
    if (folder / "config.json").exists() or not (folder / "snapshots").is_dir():
        return folder
    versions = sorted(entry for entry in (folder / "snapshots").iterdir() if entry.is_dir())
    if len(versions) != 1:
        raise CheckpointError(f"{folder} holds {len(versions)} versions of a model: give one of {folder}/snapshots/*")
    return versions[0]


# ---------------------------------------------------------------------------------------------------------- a backbone


def _ends(name: str, part: str) -> bool:
    """Whether `name` ends with whole words of `part`."""
    before = name.removesuffix(part)
    return not before or before.endswith(".")


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
    """The first few of many names, for an error."""
    shown = [printable(str(name), 80) for name in sorted(names)[:SHOWN]]
    return ", ".join(shown) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
