"""Command line of `detector_node`: help, and arguments that ROS would ignore. Needs no ROS."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Sequence

from spectradino_core import __version__
from spectradino_core.files import FileError, read_text
from spectradino_ros.parameters import shorten, specs

__all__ = ["outside_ros", "parameter_files", "refuse", "usage"]

_HELP = ("-h", "--help")
_BEGIN, _END = "--ros-args", "--"


def outside_ros(words: Sequence[str]) -> list[str]:
    """Return the arguments that ROS does not read: all except those from --ros-args to --."""
    found, is_for_ros = [], False
    for word in words:
        if is_for_ros:
            is_for_ros = word != _END
        elif word == _BEGIN:
            is_for_ros = True
        else:
            found.append(word)
    return found


def parameter_files(words: Sequence[str]) -> list[str]:
    """Return the parameter files given to ROS, by --params-file after --ros-args."""
    found, is_for_ros = [], False
    for word, following in zip(words, [*words[1:], _BEGIN]):
        is_for_ros = word != _END if is_for_ros else word == _BEGIN
        if is_for_ros and word == "--params-file" and following not in (_BEGIN, _END):
            found.append(following)
    return found


def refuse(words: Sequence[str]) -> tuple[int, str] | None:
    """Check the command line before the node starts.

    Args:
        words: the arguments, without the program's name.

    Returns:
        Exit code and text to print instead of starting the node, or None to start it.
    """
    own = outside_ros(words)
    if any(word in _HELP for word in own):
        return 0, usage()
    if not own:
        try:  # ROS would block on a pipe, and report another encoding as "line 0"
            for path in parameter_files(words):
                read_text(path, "parameter file")
        except FileError as error:
            return 1, f"detector_node cannot start: {error}"
        return None
    word = own[0]
    name = re.split(":?=", word.lstrip("-"), maxsplit=1)[0]
    near = difflib.get_close_matches(name, specs(), n=1)
    if near:
        hint = f"parameters follow --ros-args: detector_node --ros-args -p {near[0]}:=VALUE"
    elif ":=" in word or word in ("-p", "-r", "--params-file", "--remap", "--param", "--log-level"):
        hint = "parameters, remappings and log levels follow --ros-args"
    else:
        hint = "see detector_node --help"
    return 2, f"detector_node: unknown argument {shorten(word)!r}: {hint}"


def usage() -> str:
    """Return the help text, with every parameter."""
    lines = [
        f"detector_node {__version__}: lifecycle node for detections and masks from an RGB and an infrared camera.",
        "",
        "usage: ros2 run spectradino_ros detector_node [--help] [--ros-args ...]",
        "",
        "after --ros-args:",
        "  --params-file FILE         parameters from a YAML file, as in config/detector.yaml",
        "  -p NAME:=VALUE             one parameter",
        "  -r rgb/image_raw:=TOPIC    topic of the RGB camera",
        "  -r ir/image_raw:=TOPIC     topic of the infrared camera",
        "  -r __ns:=/NAMESPACE        namespace of the node and its topics",
        "  --log-level LEVEL          debug, info, warn, error or fatal",
        "",
        "parameters:",
    ]
    for spec in specs().values():
        default = json.dumps(spec.default)  # the same as in YAML
        facts = "; ".join(filter(None, (spec.allowed, f"default {default}")))
        lines += [f"  {spec.name}  ({facts})", f"      {spec.description}"]
    return "\n".join(lines)
