"""The launch files' arguments and what they mean to the node, without ROS's launch.

Every node parameter is an argument: its description, choices and reading come from its row in `settings.py`. Beside
them stand the usual ones of a launch file (namespace, topics, parameter file, ...). An argument that is left empty
does not touch its parameter, so that the parameter file decides; one that is given wins over the file.
`launch_description.py` makes launch actions of all this.
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
from spectradino_core.streams.parameter_values import node_names_in
from spectradino_core.streams.topics import CAMERA_INFO, IMAGES
from spectradino_ros.parameters import TRANSPORTS, ParameterError, Spec, check, parameter, shorten, specs
from spectradino_ros.shared_files import find_shared

__all__ = [
    "NODE_NAME",
    "Argument",
    "arguments",
    "dds_profile",
    "parameter_file",
    "parameter_values",
    "refuse_unknown",
    "remappings",
    "truth",
]

NODE_NAME = "detector_node"

_TRUTHS = {"true": True, "false": False, "True": True, "False": False}
"""How launch files write truth values: YAML's way and Python's."""

_DEFAULT_FILE = "config/detector.yaml"
_LARGE_IMAGES = "large_images"

_ROS_NAME = re.compile(r"(~/|/)?[A-Za-z_{][\w{}]*(/[A-Za-z_{][\w{}]*)*", re.ASCII)
"""A topic or namespace; words in braces are replaced by ROS."""

_LAUNCH_OWN = ("launch-prefix", "launch-prefix-filter", "sigterm_timeout", "sigkill_timeout", "emulate_tty")
"""Arguments that ROS's launch itself reads, in any launch file."""


@dataclass(frozen=True)
class Argument:
    """One launch argument. `default` is its text when it is not given; `choices` is empty where any text will do."""

    name: str
    description: str
    default: str = ""
    choices: tuple[str, ...] = ()


def arguments() -> list[Argument]:
    """Arguments of the launch files, in the order in which they are listed."""
    as_in_file = "Empty: as in params_file."
    general = [
        Argument("namespace", "Namespace of the node and of its topics."),
        # Empty, not its path: one launch may include two bands, and they share what the first one sets.
        Argument("params_file", f"YAML file with the node's parameters. Empty: the package's {_DEFAULT_FILE}."),
        Argument(
            "use_sim_time",
            f"Take the time from /clock, as a simulator or a bag player with --clock publishes it. {as_in_file}",
            choices=("", *_TRUTHS),
        ),
        Argument(
            "use_respawn",
            "Start the node again 2 s after it has ended by itself. With autostart it comes up again.",
            "false",
            tuple(_TRUTHS),
        ),
        Argument(
            "log_level",
            "Minimum severity of the log lines, of the node and of ROS below it.",
            "info",
            ("debug", "info", "warn", "error", "fatal"),
        ),
        Argument("rgb_topic", "Topic of the RGB camera.", IMAGES["rgb"]),
        Argument("ir_topic", "Topic of the infrared camera.", IMAGES["ir"]),
        Argument("rgb_info_topic", "Topic of the RGB camera's CameraInfo. Empty: camera_info beside rgb_topic."),
        Argument("ir_info_topic", "Topic of the infrared camera's CameraInfo. Empty: camera_info beside ir_topic."),
        Argument(
            "image_transport",
            "How the images of both cameras come: raw, or from <topic>/compressed or <topic>/zstd. "
            f"rgb_transport and ir_transport set one camera's. {as_in_file}",
            choices=("", *TRANSPORTS),
        ),
        Argument(
            "dds_profile",
            f"Fast DDS profile of the node, for what it publishes: {_LARGE_IMAGES}, which is shipped, or an XML "
            "file. Against lost camera images it is the drivers that need it, in FASTRTPS_DEFAULT_PROFILES_FILE. "
            "Empty: as in the environment.",
        ),
    ]
    return general + [
        Argument(spec.name, f"{spec.description} {as_in_file}", choices=_choices(spec)) for spec in specs().values()
    ]


def _choices(spec: Spec) -> tuple[str, ...]:
    allowed = tuple(_TRUTHS) if spec.kind is bool else spec.choices
    return tuple(dict.fromkeys(("", *allowed))) if allowed else ()


def refuse_unknown(given: Iterable[str], known: Iterable[str]) -> None:
    """Refuse arguments that no launch file knows; launch itself passes over them.

    Args:
        given: names of arguments that were given to this launch file.
        known: names that it declares.

    Raises:
        ParameterError: one is unknown; the nearest name is given.
    """
    known = list(known)
    for name in given:
        if name in known or name in _LAUNCH_OWN:
            continue
        near = difflib.get_close_matches(name, known, n=1)
        if name.startswith("qos_overrides."):
            hint = "set it in the parameter file (params_file)"
        else:
            hint = f"did you mean '{near[0]}'?" if near else f"there are {', '.join(known)}"
        raise ParameterError(f"launch argument '{shorten(name)}' is unknown: {hint}")


def truth(text: str) -> bool:
    """A truth value from its text in a launch file."""
    return _TRUTHS[text]


def parameter_values(given: Mapping[str, str]) -> dict[str, Any]:
    """The parameters that the arguments set, by name; those that were left empty are not in it.

    Args:
        given: texts of the arguments by name, empty where not given.

    Raises:
        ParameterError: a text is no value of its parameter.
    """
    values: dict[str, Any] = {}
    if given["use_sim_time"]:
        values["use_sim_time"] = truth(given["use_sim_time"])
    if given["image_transport"]:
        values |= {"rgb_transport": given["image_transport"], "ir_transport": given["image_transport"]}
    for name in specs():
        if given[name]:
            values[name] = _parse(parameter(name), given[name])
    return values


def _parse(spec: Spec, text: str) -> Any:
    try:
        if spec.kind is bool:
            value: Any = _TRUTHS[text]
        elif spec.kind is tuple:
            value = [float(word) for word in text.strip("[]() ").replace(",", " ").split()]
        else:
            value = spec.kind(text)
    except (KeyError, ValueError):
        raise ParameterError(f"launch argument '{spec.name}' can't be read: {shorten(text)!r}") from None
    checked = check(spec.name, value)
    return list(checked) if spec.kind is tuple else checked


def remappings(given: Mapping[str, str]) -> list[tuple[str, str]]:
    """Images and CameraInfo of both cameras: the names in the node and their topics.

    Raises:
        ParameterError: a topic or the namespace is not one in ROS, over which the node would stumble.
    """
    found = []
    topics = [f"{key}_{what}topic" for key in ("rgb", "ir") for what in ("", "info_")]
    for argument in (*topics, "namespace"):
        may_be_empty = argument in ("rgb_info_topic", "ir_info_topic", "namespace")
        is_root = argument == "namespace" and given[argument] == "/"
        if not (_ROS_NAME.fullmatch(given[argument]) or is_root or (may_be_empty and not given[argument])):
            raise ParameterError(
                f"launch argument '{argument}' is {shorten(given[argument])!r}, which is no ROS name: letters, digits "
                "and underscores between single slashes, no digit first, as in /front/image_raw"
            )
    for key, name in IMAGES.items():
        images = given[f"{key}_topic"]
        info = given[f"{key}_info_topic"] or "".join((*images.rpartition("/")[:2], "camera_info"))
        found += [(name, images), (CAMERA_INFO[key], info)]
    return found


def parameter_file(text: str, namespace: str) -> Path:
    """The file meant by the argument `params_file`.

    Args:
        text: the argument; empty: the package's file.
        namespace: the node's, with what the launch file's surroundings put before it.

    Raises:
        ParameterError: there is none, it cannot be read, or none of its blocks is for the node, which ROS would pass
            over.
    """
    path = Path(os.path.expanduser(text)) if text else find_shared(_DEFAULT_FILE)
    if not os.path.lexists(path) or path.is_dir():
        kind = "it is a folder" if os.path.lexists(path) else "there is no such file"
        raise ParameterError(f"launch argument 'params_file' is {shorten(text)!r}: {kind}")
    node = "/" + "/".join(filter(None, (namespace.strip("/"), NODE_NAME)))
    names = node_names_in(path)
    if not any("*" in name or name.strip("/") == node.strip("/") for name in names):
        raise ParameterError(
            f"parameter file {path} holds nothing for {node}: its blocks are for {shorten(', '.join(names))}. "
            f"Name the block '/**' or '{node}'"
        )
    return path


def dds_profile(text: str) -> Path:
    """The file meant by the argument `dds_profile`.

    Raises:
        ParameterError: there is no such file, which Fast DDS would pass over without a word, or it can't be read.
    """
    shipped = text == _LARGE_IMAGES
    path = find_shared("config/fastdds_large_images.xml") if shipped else Path(os.path.expanduser(text))
    if not os.path.lexists(path):
        raise ParameterError(
            f"launch argument 'dds_profile' is {_LARGE_IMAGES} or an XML file, and there is none at {path}"
        )
    try:
        return check_file(path, "settings file").resolve()
    except FileError as error:
        raise ParameterError(f"launch argument 'dds_profile': {error}") from None
