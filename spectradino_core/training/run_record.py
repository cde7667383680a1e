"""`recipe.json`: everything that decides the result of a pretraining run, compared when the run resumes."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from spectradino_core import __version__
from spectradino_core.files import parse_json, written_atomically
from spectradino_core.training.checkpoints import ResumeError

__all__ = ["resumed_record", "versions", "write_record"]

log = logging.getLogger(__name__)

_DATA = ("manifest", "scenes", "bands", "maps")
_LENGTH = ("steps", "epochs", "batch", *_DATA)
_OPTIONS = {
    "base": ("base",),
    "checkpoint_every": ("checkpoint-every", *_LENGTH),
    "data": _DATA,
    "queue": _DATA,
    "recipe.colourise": ("no-palette",),
    "recipe.dense": ("no-dense",),
    "recipe.depth_range_m": ("depth-range",),
    "recipe.largest_alpha": ("alpha-max",),
    "recipe.rate": ("lr",),
    "recipe.weights.infrared": ("infrared-alignment",),
    "recipe.weights.rgb": ("rgb-distillation",),
    "steps": _LENGTH,
    "teacher_hash": ("teacher",),
    "validation_data": ("val-manifest", "val-scenes", "bands"),
}
"""Options that change an entry, first the one to name; an entry not listed here has its option's name."""

_NOT_COMPARED = ("changes", "groups", "sources", "system", "teacher", "validation")
_FREE = ("processes", "spectradino", "torch")
"""Recorded if they change, but not refused."""


def versions() -> dict[str, str]:
    """Return the versions of this package and of PyTorch."""
    return {"spectradino": __version__, "torch": torch.__version__}


def resumed_record(folder: Path, content: Mapping[str, Any], step: int, override: Sequence[str]) -> dict[str, Any]:
    """Return the content of `recipe.json`; of a run that resumes with the changes that `override` allows.

    Args:
        folder: folder of the run.
        content: the record of the run as it would start now.
        step: step from which the run resumes; 0: a new run, whose record is the content.
        override: names of options, without dashes, that may differ from the run's.

    Raises:
        ResumeError: options differ that are not in `override`.
        ValueError: `override` names no option.
    """
    record: dict[str, Any] = json.loads(json.dumps(content))  # as it is read again: tuples are lists
    now = _entries(record)
    unknown = sorted(set(override) - {name for entry in now for name in _names(entry)})
    if unknown:
        known = sorted({name for entry in now for name in _names(entry) if entry not in _FREE})
        raise ValueError(f"--override {unknown[0]}: no such option of a run; choose from {', '.join(known)}")
    path = folder / "recipe.json"
    if not step or not path.is_file():
        return record
    stored = parse_json(path.read_text(encoding="utf-8"), str(path))
    # A loss that an earlier version did not know had no weight.
    then = {entry: 0.0 for entry in now if entry.startswith("recipe.weights.")} | _entries(stored)
    changed = [entry for entry in now if entry in then and _differs(then[entry], now[entry])]
    refused = [entry for entry in changed if entry not in _FREE and not set(_names(entry)) & set(override)]
    if refused:
        differences = [
            f"{entry.removeprefix('recipe.')} {_short(then[entry])} (now {_short(now[entry])})" for entry in refused
        ]
        names = dict.fromkeys(_names(entry)[0] for entry in refused)
        raise ResumeError(
            f"{folder} was started with other options: {'; '.join(differences)}. Give the former ones, start in a new "
            f"folder (--out), or accept the change: --override {' '.join(names)}"
        )
    changes = list(stored.get("changes", []))
    for entry in changed:
        changes.append({"step": step, "name": entry, "from": then[entry], "to": now[entry]})
        texts = _short(then[entry]), _short(now[entry])
        log.warning("%s: %s changes at step %d from %s to %s", folder, entry, step, *texts)
    return {**stored, **record, **({"changes": changes} if changes else {})}


def write_record(folder: Path, content: Mapping[str, Any]) -> None:
    """Write `recipe.json`."""
    folder.mkdir(parents=True, exist_ok=True)
    with written_atomically(folder / "recipe.json") as scratch:
        scratch.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _entries(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the compared entries by name; those of the recipe each for itself."""
    out: dict[str, Any] = {}
    for name, value in content.items():
        if name == "recipe":
            weights = value.get("weights", {})
            out |= {f"recipe.{key}": one for key, one in value.items() if key != "weights"}
            out |= {f"recipe.weights.{key}": one for key, one in weights.items()}
        elif name not in _NOT_COMPARED:
            out[name] = value
    return out


def _names(entry: str) -> tuple[str, ...]:
    return _OPTIONS.get(entry, (entry.rsplit(".", 1)[-1].replace("_", "-"),))


def _differs(a: Any, b: Any) -> bool:
    """Compare values; of settings with several fields, those that both versions of the package have."""
    if isinstance(a, dict) and isinstance(b, dict):
        return any(_differs(a[key], b[key]) for key in a.keys() & b.keys())
    return bool(a != b)


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
