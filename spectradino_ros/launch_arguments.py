"""Launch arguments and their conversion to parameters and remappings; needs no ROS.

Every node parameter is an argument with the description, choices and type of its row in `settings.py`; further
arguments are namespace, topics, parameter file, ... An empty argument leaves its parameter to the parameter file; any
other value takes precedence over the file. `launch_description.py` creates the launch actions.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spectradino_core.files import FileError, check_file
from spectradino_core.streams.parameter_values import blocks_in, check, shorten
from spectradino_core.streams.settings import TRANSPORTS, ParameterError, Spec, parameter, specs
from spectradino_core.streams.topics import CAMERA_INFO, IMAGES
from spectradino_ros.shared_files import find_shared

NODE_NAME = "detector_node"

TRUTHS = {"true": True, "false": False, "True": True, "False": False}
"""Booleans as launch files write them, in YAML and in Python."""

_DEFAULT_FILE = "config/detector.yaml"
_LARGE_IMAGES = "large_images"

_ROS_NAME = re.compile(r"(~/|/)?[A-Za-z_{][\w{}]*(/[A-Za-z_{][\w{}]*)*", re.ASCII)
"""A topic or namespace; ROS replaces substitutions in braces."""

_LAUNCH_OWN = ("launch-prefix", "launch-prefix-filter", "sigterm_timeout", "sigkill_timeout", "emulate_tty")
"""Arguments of ROS's launch itself, valid in any launch file."""


@dataclass(frozen=True)
class Argument:
    """One launch argument; `choices` is empty if any text is allowed."""

    name: str
    description: str
    default: str = ""
    choices: tuple[str, ...] = ()


def arguments() -> list[Argument]:
    """Return the arguments of the launch files in the order of `--show-args`."""
    as_in_file = "Empty: as in params_file."
    general = [
        Argument("namespace", "Namespace of the node and of its topics."),
        # Empty, not its path: two included launch files share the arguments that the first one sets.
        Argument("params_file", f"YAML file with the node's parameters. Empty: the package's {_DEFAULT_FILE}."),
        Argument(
            "use_sim_time",
            f"Use the time on /clock, as published by a simulator or by a bag player with --clock. {as_in_file}",
            choices=("", *TRUTHS),
        ),
        Argument(
            "use_respawn",
            "Restart the node 2 s after it has ended by itself; with autostart it then activates itself.",
            "false",
            tuple(TRUTHS),
        ),
        Argument(
            "log_level",
            "Minimum severity of log lines, of the node and of the ROS libraries.",
            "info",
            ("debug", "info", "warn", "error", "fatal"),
        ),
        Argument("rgb_topic", "Topic of the RGB camera.", IMAGES["rgb"]),
        Argument("ir_topic", "Topic of the infrared camera.", IMAGES["ir"]),
        Argument("rgb_info_topic", "CameraInfo topic of the RGB camera. Empty: camera_info beside rgb_topic."),
        Argument("ir_info_topic", "CameraInfo topic of the infrared camera. Empty: camera_info beside ir_topic."),
        Argument(
            "image_transport",
            "Transport of the images of both cameras: raw, or <topic>/compressed or <topic>/zstd. "
            f"rgb_transport and ir_transport set it for one camera. {as_in_file}",
            choices=("", *TRANSPORTS),
        ),
        Argument(
            "dds_profile",
            f"Fast DDS profile of the node, for the images that it publishes: {_LARGE_IMAGES} (shipped) or an XML "
            "file. Against lost camera images set it for the camera drivers, in FASTRTPS_DEFAULT_PROFILES_FILE. "
            "Empty: as in the environment.",
        ),
    ]
    return general + [
        Argument(spec.name, f"{spec.description} {as_in_file}", choices=_choices(spec)) for spec in specs().values()
    ]


def _choices(spec: Spec) -> tuple[str, ...]:
    allowed = tuple(TRUTHS) if spec.kind is bool else spec.choices
    return tuple(dict.fromkeys(("", *allowed))) if allowed else ()


def refuse_unknown(given: Iterable[str], known: Iterable[str]) -> None:
    """Refuse names of launch arguments that are not `known`, which launch itself ignores.

    Raises:
        ParameterError: a name is unknown; the message has the nearest one.
    """
    known = list(known)
    for name in given:
        if name in known or name in _LAUNCH_OWN:
            continue
        near = difflib.get_close_matches(name, known, n=1)
        if name.startswith("qos_overrides."):
            hint = "set it in the parameter file (params_file)"
        else:
            hint = f"did you mean '{near[0]}'?" if near else f"known are {', '.join(known)}"
        raise ParameterError(f"launch argument '{shorten(name)}' is unknown: {hint}")


def parameter_values(given: Mapping[str, str]) -> dict[str, Any]:
    """Return the parameters set by the arguments, by name; an argument "" sets none.

    Raises:
        ParameterError: a text is not a valid value of its parameter.
    """
    values: dict[str, Any] = {}
    if given["use_sim_time"]:
        values["use_sim_time"] = TRUTHS[given["use_sim_time"]]
    if given["image_transport"]:
        values |= {"rgb_transport": given["image_transport"], "ir_transport": given["image_transport"]}
    for name in specs():
        if given[name]:
            values[name] = _parse(parameter(name), given[name])
    return values


def _parse(spec: Spec, text: str) -> Any:
    try:
        if spec.kind is bool:
            value: Any = TRUTHS[text]
        elif spec.kind is tuple:
            value = [float(word) for word in text.strip("[]() ").replace(",", " ").split()]
        else:
            value = spec.kind(text)
    except (KeyError, ValueError):
        raise ParameterError(f"launch argument '{spec.name}' can't be read: {shorten(text)!r}") from None
    checked = check(spec.name, value)
    return list(checked) if spec.kind is tuple else checked


def remappings(given: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return the remappings of both cameras' images and CameraInfo as (name in the node, topic).

    Raises:
        ParameterError: a topic or the namespace is not a valid ROS name.
    """
    found = []
    topics = [f"{key}_{what}topic" for key in ("rgb", "ir") for what in ("", "info_")]
    for argument in (*topics, "namespace"):
        may_be_empty = argument in ("rgb_info_topic", "ir_info_topic", "namespace")
        is_root = argument == "namespace" and given[argument] == "/"
        if not (_ROS_NAME.fullmatch(given[argument]) or is_root or (may_be_empty and not given[argument])):
            raise ParameterError(
                f"launch argument '{argument}' is {shorten(given[argument])!r}, which is not a valid ROS name: use "
                "letters, digits and underscores between single slashes, no digit first, as in /front/image_raw"
            )
    for key, name in IMAGES.items():
        images = given[f"{key}_topic"]
        info = given[f"{key}_info_topic"] or "".join((*images.rpartition("/")[:2], "camera_info"))
        found += [(name, images), (CAMERA_INFO[key], info)]
    return found


def parameter_file(text: str, namespace: str) -> Path:
    """Return the path of the argument `params_file`; "": the package's file.

    `namespace` is the node's, including those pushed by including launch files.

    Raises:
        ParameterError: the file does not exist, can't be read, or has no block for the node, which ROS would ignore.
    """
    path = Path(os.path.expanduser(text)) if text else find_shared(_DEFAULT_FILE)
    if not os.path.lexists(path) or path.is_dir():
        kind = "it is a folder" if os.path.lexists(path) else "there is no such file"
        raise ParameterError(f"launch argument 'params_file' is {shorten(text)!r}: {kind}")
    node = "/" + "/".join(filter(None, (namespace.strip("/"), NODE_NAME)))
    names = [name for name, _ in blocks_in(path)]
    if not any("*" in name or name.strip("/") == node.strip("/") for name in names):
        raise ParameterError(
            f"parameter file {path} has no block for {node}, only for {shorten(', '.join(names))}: "
            f"name the block '/**' or '{node}'"
        )
    return path


def dds_profile(text: str) -> Path:
    """Return the path of the argument `dds_profile`.

    Raises:
        ParameterError: the file does not exist, which Fast DDS would ignore silently, or can't be read.
    """
    shipped = text == _LARGE_IMAGES
    path = find_shared("config/fastdds_large_images.xml") if shipped else Path(os.path.expanduser(text))
    if not os.path.lexists(path):
        raise ParameterError(
            f"launch argument 'dds_profile': there is no file {path}; give {_LARGE_IMAGES} or an XML file"
        )
    try:
        return check_file(path, "settings file").resolve()
    except FileError as error:
        raise ParameterError(f"launch argument 'dds_profile': {error}") from None
