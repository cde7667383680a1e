"""Values given for the node's parameters: checked with reasons, and read from a node's YAML file without ROS."""

from __future__ import annotations

import array
import difflib
import math
import os
import reprlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from spectradino_core.files import FileError, read_yaml
from spectradino_core.streams.image_message import MAX_SIDE
from spectradino_core.streams.settings import ParameterError, Settings, Spec, specs
from spectradino_core.text import printable

__all__ = ["check", "did_you_mean", "is_unchanged", "node_names_in", "settings_from_file", "shorten"]

_LONGEST_TEXT = 4096
"""Characters of a text parameter: as many as a path may have."""
_INTEGERS = 1 << 63
"""The integers of ROS end here; a YAML file can hold any."""


def check(name: str, value: Any) -> Any:
    """The value as the node uses it: an integer is accepted for a floating-point parameter.

    Raises:
        ParameterError: wrong type, not finite, out of range, not among the choices, or no such parameter.
    """
    if name not in specs():
        raise ParameterError(f"parameter '{shorten(name)}' is unknown{did_you_mean(name)}")
    spec = specs()[name]
    if spec.kind is tuple:
        return _checked_numbers(spec, value)
    if type(value) is int and abs(value) >= _INTEGERS:
        raise ParameterError(f"parameter '{name}' is a {_WORDS[spec.kind]}, got an integer of more than 64 bits")
    if spec.kind is float and type(value) is int:
        value = float(value)
    if type(value) is not spec.kind:
        raise ParameterError(f"parameter '{name}' is a {_WORDS[spec.kind]}, got {_shown(value)}")
    if spec.choices and value not in spec.choices:
        raise ParameterError(f"parameter '{name}' is one of {spec.allowed}, got {_shown(value)}")
    if isinstance(value, str) and len(value) > _LONGEST_TEXT:
        raise ParameterError(f"parameter '{name}' has at most {_LONGEST_TEXT} characters, got {len(value)}")
    if isinstance(value, str) and printable(value, _LONGEST_TEXT) != value:
        raise ParameterError(f"parameter '{name}' must not hold control characters, got {_shown(value)}")
    if isinstance(value, float) and not math.isfinite(value):
        raise ParameterError(f"parameter '{name}' must be finite, got {value}")
    if isinstance(value, (int, float)) and spec.low is not None and not spec.low <= value <= (spec.high or 0.0):
        raise ParameterError(f"parameter '{name}' lies in {spec.allowed}, got {value:g}")
    if name == "score_threshold" and isinstance(value, float) and -1.0 < value < 0.0:
        raise ParameterError(f"parameter 'score_threshold' lies in 0 to 1, or is -1 for the model's own, got {value:g}")
    return value


def _checked_numbers(spec: Spec, value: Any) -> tuple[float, ...]:
    if isinstance(value, (str, bytes)) or not isinstance(value, (Sequence, array.array)):
        raise ParameterError(f"parameter '{spec.name}' is a list of {spec.allowed}, got {_shown(value)}")
    if len(value) not in spec.lengths:
        raise ParameterError(f"parameter '{spec.name}' is a list of {spec.allowed}, got {len(value)}: {_shown(value)}")
    if not all((type(v) is float and math.isfinite(v)) or (type(v) is int and abs(v) < _INTEGERS) for v in value):
        raise ParameterError(f"parameter '{spec.name}' is a list of {spec.allowed}, all finite, got {_shown(value)}")
    if spec.name == "ir_crop" and any(not 0 <= v <= MAX_SIDE or v != int(v) for v in value):
        raise ParameterError(
            f"parameter 'ir_crop' is 4 whole numbers of 0 or above, at most {MAX_SIDE}, got {_shown(value)}"
        )
    return tuple(float(v) for v in value)


_WORDS = {float: "floating-point number", int: "whole number", bool: "truth value (true or false)", str: "text"}


_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 120
_SHORT.maxlist = _SHORT.maxtuple = _SHORT.maxarray = 10


def _shown(value: object) -> str:
    """A value as Python writes it, cut short: it may come from anywhere and be of any size."""
    return _SHORT.repr(list(value) if isinstance(value, array.array) and len(value) <= _SHORT.maxlist else value)


def shorten(value: object, limit: int = 200) -> str:
    """The text of a value that came from outside, fit for a log line: bounded, control characters escaped."""
    text = str(value)
    return printable(text, limit) + (f" ({len(text)} characters)" if len(text) > limit else "")


def is_unchanged(name: str, present: Any, given: Any) -> bool:
    """Whether a value given for a parameter is the one that it has, as the parameter's type counts: 50 equals 50.0."""
    if name not in specs():
        return type(present) is type(given) and bool(present == given)
    try:
        return bool(check(name, present) == check(name, given))
    except ParameterError:
        return False


def did_you_mean(name: str) -> str:
    near = difflib.get_close_matches(name, specs(), n=1)
    return f": did you mean '{near[0]}'?" if near else f": there are {', '.join(specs())}"


_NOT_OURS = ("use_sim_time", "start_type_description_service")
_ROS_KEY = "ros__parameters"


def settings_from_file(path: str | Path, changes: Mapping[str, Any] | None = None) -> Settings:
    """The parameters of a node's YAML file (`--params-file`), as the node would have them.

    A later block wins over an earlier one, as in ROS; the names of nodes are not looked at, unless one of them is
    `detector_node` or a wildcard: then only those count.

    Args:
        path: the file.
        changes: values that win over the file's, by name.

    Raises:
        ParameterError: the file is missing, no YAML or holds no parameters, or a value is refused; names file and
            parameter.
    """
    path = Path(os.path.expanduser(path))
    values: dict[str, Any] = {}
    for name, value in {**_parameters_in(path), **(changes or {})}.items():
        if name in _NOT_OURS or name.startswith("qos_overrides"):
            continue
        try:
            values[name] = check(name, value)
        except ParameterError as error:
            raise ParameterError(f"{path}: {error}") from None
    return Settings(**values)


def node_names_in(path: Path) -> list[str]:
    """The nodes, in full or as wildcards, for which a node's YAML file holds parameters.

    Raises:
        ParameterError: as `settings_from_file`.
    """
    return [name for name, _ in _blocks_in(path)]


def _parameters_in(path: Path) -> dict[str, Any]:
    blocks = _blocks_in(path)
    ours = [block for name, block in blocks if "*" in name or name.rpartition("/")[2] == "detector_node"]
    merged: dict[str, Any] = {}
    for block in ours or [block for _, block in blocks]:
        merged.update(block)
    return {str(name): value for name, value in merged.items()}


def _blocks_in(path: Path) -> list[tuple[str, dict[Any, Any]]]:
    try:
        data = read_yaml(path, "parameter file")
    except FileError as error:
        raise ParameterError(str(error)) from None
    blocks = _blocks(data, "")
    if not blocks:
        raise ParameterError(f"{path} holds no parameters: it needs a block 'NODE:' with '{_ROS_KEY}:' below it")
    return blocks


def _blocks(data: Any, name: str) -> list[tuple[str, dict[Any, Any]]]:
    """Name of a node and its parameters, also where namespaces are levels of their own."""
    if not isinstance(data, dict):
        return []
    found = []
    for key, value in data.items():
        if key == _ROS_KEY and isinstance(value, dict):
            found.append((name, value))
        elif key != _ROS_KEY:
            found += _blocks(value, f"{name}/{key}")
    return found
