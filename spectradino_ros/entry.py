"""Entry point of `detector_node`: help, arguments that ROS would ignore, missing modules, signals during imports.

Importing ROS and ONNX Runtime takes a second, in which Ctrl-C would raise from within an import. The process has no
state to clean up by then, so it just exits. Nothing here needs ROS.
"""

from __future__ import annotations

import difflib
import json
import os
import re
import signal
import sys
from collections.abc import Iterator, Sequence
from typing import Any

_BUILD = "colcon build --base-paths src src/spectradino_ros/msg"
_ROSDEP = "rosdep install --from-paths src src/spectradino_ros/msg --ignore-src"
_BEGIN, _END = "--ros-args", "--"


def _leave(_number: int, _frame: Any) -> None:
    os._exit(0)  # not an exception, which an import may catch


def remedy(module: str) -> str:
    """Return how to install a missing module, given its fully qualified name; "" if unknown."""
    name = module.partition(".")[0]
    if name == "spectradino_msgs":
        return (
            "its messages are a separate package inside this one, which a plain 'colcon build' skips. Build "
            f"them with '{_BUILD}' in the workspace (without a workspace: 'make msgs'), then source "
            "install/setup.bash"
        )
    if name == "rclpy":
        return "source ROS 2 first, as in 'source /opt/ros/jazzy/setup.bash'"
    if name in ("cv2", "numpy", "yaml", "cv_bridge", "tqdm") or name.endswith("_msgs"):
        return f"install what package.xml lists: '{_ROSDEP}'"
    return ""


def _for_ros(arguments: Sequence[str]) -> Iterator[tuple[str, bool]]:
    """Yield each argument and whether ROS reads it: those from --ros-args to -- ."""
    is_for_ros = False
    for word in arguments:
        if word == _BEGIN or (is_for_ros and word == _END):
            is_for_ros = word == _BEGIN
            yield word, True
        else:
            yield word, is_for_ros


def outside_ros(arguments: Sequence[str]) -> list[str]:
    """Return the arguments that ROS does not read."""
    return [word for word, is_for_ros in _for_ros(arguments) if not is_for_ros]


def _parameter_files(arguments: Sequence[str]) -> list[str]:
    """Return the files that follow --params-file among the arguments for ROS."""
    following = [*arguments[1:], _BEGIN]
    return [
        file
        for (word, is_for_ros), file in zip(_for_ros(arguments), following)
        if is_for_ros and word == "--params-file" and file not in (_BEGIN, _END)
    ]


def refuse(arguments: Sequence[str]) -> tuple[int, str] | None:
    """Return exit code and text to print instead of starting the node with these arguments; None: start it."""
    from spectradino_core.files import FileError, read_text
    from spectradino_core.streams.parameter_values import shorten
    from spectradino_core.streams.settings import specs

    own = outside_ros(arguments)
    if "-h" in own or "--help" in own:
        return 0, usage()
    if not own:
        try:  # ROS would block on a pipe, and report another encoding as "line 0"
            for path in _parameter_files(arguments):
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
    from spectradino_core import __version__
    from spectradino_core.streams.settings import specs

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


def main() -> int:
    """Run the node with the process's arguments, see `detector_node.main`; returns the exit code."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _leave)
    try:
        if refusal := refuse(sys.argv[1:]):
            code, text = refusal
            try:
                print(text, file=sys.stderr if code else sys.stdout, flush=True)
            except BrokenPipeError:  # `--help | head`; Python would raise again on closing stdout
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return code
        from spectradino_ros.detector_node import main as serve
    except ImportError as error:
        print(f"detector_node cannot start: {import_failure(error)}", file=sys.stderr)
        return 1
    return serve()


def import_failure(error: ImportError) -> str:
    """Return what to do about a package that can't be imported; raises `error` if it is a fault of this package."""
    is_missing, name = isinstance(error, ModuleNotFoundError), error.name or ""
    hint = remedy(name)
    if is_missing and hint:
        return f"the Python module {name} is missing: {hint}"
    if hint and name.partition(".")[0].endswith("_msgs"):
        return f"older messages are installed ({error}): {hint}"
    if is_missing or name.startswith(("spectradino", "rclpy")):
        raise error
    from spectradino_core.imports import import_problem

    return import_problem(error)


if __name__ == "__main__":
    sys.exit(main())
