"""Values given for the node's parameters: checked with reasons, and read from a node's YAML file without ROS."""

from __future__ import annotations

import array
import difflib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from spectradino_core.files import FileError, read_yaml
from spectradino_core.streams.settings import ParameterError, Settings, Spec, specs
from spectradino_core.text import printable

__all__ = ["check", "did_you_mean", "settings_from_file"]


def check(name: str, value: Any) -> Any:
    """The value as the node uses it: an integer is accepted for a floating-point parameter.

    Raises:
        ParameterError: wrong type, not finite, out of range, not among the choices, or no such parameter.
    """
    if name not in specs():
        raise ParameterError(f"parameter '{printable(name)}' is unknown{did_you_mean(name)}")
    spec = specs()[name]
    if spec.kind is tuple:
        return _checked_numbers(spec, value)
    if spec.kind is float and type(value) is int:
        value = float(value)
    if type(value) is not spec.kind:
        raise ParameterError(f"parameter '{name}' is a {_WORDS[spec.kind]}, got {printable(repr(value))}")
    if spec.choices and value not in spec.choices:
        raise ParameterError(f"parameter '{name}' is one of {spec.allowed}, got {printable(repr(value))}")
    if isinstance(value, float) and not math.isfinite(value):
        raise ParameterError(f"parameter '{name}' must be finite, got {value}")
    if isinstance(value, (int, float)) and spec.low is not None and not spec.low <= value <= (spec.high or 0.0):
        raise ParameterError(f"parameter '{name}' lies in {spec.allowed}, got {value:g}")
    if name == "score_threshold" and isinstance(value, float) and -1.0 < value < 0.0:
        raise ParameterError(f"parameter 'score_threshold' lies in 0 to 1, or is -1 for the model's own, got {value:g}")
    return value


def _checked_numbers(spec: Spec, value: Any) -> tuple[float, ...]:
    if isinstance(value, (str, bytes)) or not isinstance(value, (Sequence, array.array)):
        raise ParameterError(f"parameter '{spec.name}' is a list of {spec.allowed}, got {printable(repr(value))}")
    shown = printable(str(list(value)))
    if not all(type(v) in (int, float) and math.isfinite(v) for v in value):
        raise ParameterError(f"parameter '{spec.name}' is a list of {spec.allowed}, all finite, got {shown}")
    if len(value) not in spec.lengths:
        raise ParameterError(f"parameter '{spec.name}' is a list of {spec.allowed}, got {len(value)}: {shown}")
    if spec.name == "ir_crop" and any(v < 0 or v != int(v) for v in value):
        raise ParameterError(f"parameter 'ir_crop' is 4 whole numbers of 0 or above, got {shown}")
    return tuple(float(v) for v in value)


_WORDS = {float: "floating-point number", int: "whole number", bool: "truth value (true or false)", str: "text"}


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
    path = Path(path).expanduser()
    values: dict[str, Any] = {}
    for name, value in {**_parameters_in(path), **(changes or {})}.items():
        if name in _NOT_OURS or name.startswith("qos_overrides"):
            continue
        try:
            values[name] = check(name, value)
        except ParameterError as error:
            raise ParameterError(f"{path}: {error}") from None
    return Settings(**values)


def _parameters_in(path: Path) -> dict[str, Any]:
    try:
        data = read_yaml(path, "parameter file")
    except FileError as error:
        raise ParameterError(str(error)) from None
    blocks = list(_blocks(data, ""))
    ours = [block for name, block in blocks if "*" in name or name.rpartition("/")[2] == "detector_node"]
    found = ours or [block for _, block in blocks]
    if not found:
        raise ParameterError(f"{path} holds no parameters: it needs a block 'NODE:' with '{_ROS_KEY}:' below it")
    merged: dict[str, Any] = {}
    for block in found:
        merged.update(block)
    return {str(name): value for name, value in merged.items()}


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
