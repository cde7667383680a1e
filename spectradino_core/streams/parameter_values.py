"""Check values of the node's parameters, and read them from a node's YAML file without ROS."""

from __future__ import annotations

import array
import difflib
import math
import os
import reprlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from spectradino_core.files import errors_as, read_yaml
from spectradino_core.streams.image_message import MAX_SIDE
from spectradino_core.streams.settings import (
    ParameterError,
    Settings,
    Spec,
    parse_class_thresholds,
    parse_classes,
    specs,
)
from spectradino_core.text import printable

_MAX_TEXT = 4096
"""Maximum length of a string parameter, which is that of a path."""
_INTEGERS = 1 << 63
"""Limit of ROS's 64-bit integers; YAML has none."""


def check(name: str, value: Any) -> Any:
    """Return a parameter's value, as given in YAML or by ROS, as the node uses it; an integer may stand for a float.

    Raises:
        ParameterError: wrong type, not finite, out of range, not among the choices, or no such parameter.
    """
    if name not in specs():
        raise ParameterError(f"parameter '{shorten(name)}' is unknown{did_you_mean(name)}")
    spec = specs()[name]
    if spec.kind is tuple:
        return _checked_numbers(spec, value)
    if spec.kind is float and type(value) is int and abs(value) < _INTEGERS:
        value = float(value)
    if fault := _fault(spec, value):
        raise ParameterError(f"parameter '{name}' must {fault}")
    if name in _PARSED:
        _PARSED[name](str(value))
    return value


def _fault(spec: Spec, value: Any) -> str:
    """Describe what a value must be and is not; "" if it is valid."""
    if type(value) is int and abs(value) >= _INTEGERS:
        return f"be {_WORDS[spec.kind]}, got an integer of more than 64 bits"
    if type(value) is not spec.kind:
        return f"be {_WORDS[spec.kind]}, got {_shown(value)}"
    if spec.choices and value not in spec.choices:
        return f"be one of {spec.allowed}, got {_shown(value)}"
    if isinstance(value, str) and len(value) > _MAX_TEXT:
        return f"have at most {_MAX_TEXT} characters, got {len(value)}"
    if isinstance(value, str) and printable(value, _MAX_TEXT) != value:
        return f"not contain control characters, got {_shown(value)}"
    if isinstance(value, float) and not math.isfinite(value):
        return f"be finite, got {value}"
    if isinstance(value, (int, float)) and spec.low is not None and not spec.low <= value <= (spec.high or 0.0):
        return f"be in {spec.allowed}, got {value:g}"
    if spec.name in ("score_threshold", "nms_iou") and isinstance(value, float) and -1.0 < value < 0.0:
        return f"be in 0 to 1, or -1 for the model's own, got {value:g}"
    return ""


_PARSED: dict[str, Callable[[str], object]] = {"classes": parse_classes, "class_thresholds": parse_class_thresholds}
"""Parameters whose text has a form of its own."""


def _checked_numbers(spec: Spec, value: Any) -> tuple[float, ...]:
    must = f"parameter '{spec.name}' must be a list of {spec.allowed}"
    if isinstance(value, (str, bytes)) or not isinstance(value, (Sequence, array.array)):
        raise ParameterError(f"{must}, got {_shown(value)}")
    if len(value) not in spec.lengths:
        raise ParameterError(f"{must}, got {len(value)}: {_shown(value)}")
    if not all((type(v) is float and math.isfinite(v)) or (type(v) is int and abs(v) < _INTEGERS) for v in value):
        raise ParameterError(f"{must}, all finite, got {_shown(value)}")
    if spec.name == "ir_crop" and any(not 0 <= v <= MAX_SIDE or v != int(v) for v in value):
        raise ParameterError(f"parameter 'ir_crop' must be 4 integers in 0 to {MAX_SIDE}, got {_shown(value)}")
    return tuple(float(v) for v in value)


_WORDS = {float: "a floating-point number", int: "an integer", bool: "a boolean (true or false)", str: "a string"}


_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 120
_SHORT.maxlist = _SHORT.maxtuple = _SHORT.maxarray = 10


def _shown(value: object) -> str:
    """Return the repr of a value, truncated."""
    return _SHORT.repr(list(value) if isinstance(value, array.array) and len(value) <= _SHORT.maxlist else value)


def shorten(value: object, limit: int = 200) -> str:
    """Return an untrusted value as text for a log line: truncated, control characters escaped."""
    text = str(value)
    return printable(text, limit) + (f" ({len(text)} characters)" if len(text) > limit else "")


def is_unchanged(name: str, present: Any, given: Any) -> bool:
    """Return whether `given` equals the parameter's present value; 50 equals 50.0."""
    if name not in specs():
        return type(present) is type(given) and bool(present == given)
    try:
        return bool(check(name, present) == check(name, given))
    except ParameterError:
        return False


def did_you_mean(name: str) -> str:
    """Return a hint for an unknown parameter: the nearest name, or all names."""
    near = difflib.get_close_matches(name, specs(), n=1)
    return f": did you mean '{near[0]}'?" if near else f": known are {', '.join(specs())}"


_OF_ROS = ("use_sim_time", "start_type_description_service")
_ROS_KEY = "ros__parameters"


def settings_from_file(path: str | Path, changes: Mapping[str, Any] | None = None) -> Settings:
    """Read the parameters of a node's YAML file (`--params-file`) as the node does.

    Later blocks override earlier ones, as in ROS, and `changes` all of them. Blocks for `detector_node` or a wildcard
    are used if there are any, else all blocks.

    Raises:
        ParameterError: the file is missing, not YAML or without parameters, or a value is invalid; the message names
            file and parameter.
    """
    path = Path(os.path.expanduser(path))
    values: dict[str, Any] = {}
    for name, value in {**_parameters_in(path), **(changes or {})}.items():
        if name in _OF_ROS or name.startswith("qos_overrides"):
            continue
        try:
            values[name] = check(name, value)
        except ParameterError as error:
            raise ParameterError(f"{path}: {error}") from None
    return Settings(**values)


def _parameters_in(path: Path) -> dict[str, Any]:
    blocks = blocks_in(path)
    of_detector = [block for name, block in blocks if "*" in name or name.rpartition("/")[2] == "detector_node"]
    merged: dict[str, Any] = {}
    for block in of_detector or [block for _, block in blocks]:
        merged.update(block)
    return {str(name): value for name, value in merged.items()}


def blocks_in(path: Path) -> list[tuple[str, dict[Any, Any]]]:
    """Return the blocks of a node's YAML file: node name, fully qualified or with wildcards, and its parameters.

    Raises:
        ParameterError: the file is missing, not YAML or without parameters.
    """
    with errors_as(ParameterError):
        data = read_yaml(path, "parameter file")
    blocks = _blocks(data, "")
    if not blocks:
        raise ParameterError(f"{path} has no parameters: add a block 'NODE:' with '{_ROS_KEY}:' below it")
    return blocks


def _blocks(data: Any, name: str) -> list[tuple[str, dict[Any, Any]]]:
    """Return node names and their parameters, also where namespaces are nested keys."""
    if not isinstance(data, dict):
        return []
    found = []
    for key, value in data.items():
        if key == _ROS_KEY and isinstance(value, dict):
            found.append((name, value))
        elif key != _ROS_KEY:
            found += _blocks(value, f"{name}/{key}")
    return found
