"""The command `detector_node`: from the first moment on a signal ends it quietly, and what it lacks is named.

Importing ROS and ONNX Runtime takes a second, in which Ctrl-C would raise out of the midst of some import. Nothing has
begun by then, so the process just ends.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

__all__ = ["main", "remedy"]

_BUILD = "colcon build --base-paths src src/spectradino_ros/msg"
_ROSDEP = "rosdep install --from-paths src src/spectradino_ros/msg --ignore-src"


def _leave(_number: int, _frame: Any) -> None:
    os._exit(0)  # no exception: an import may catch it


def remedy(module: str) -> str:
    """What installs a module that is missing, empty where that is not known.

    Args:
        module: name of the module, with those of its packages.
    """
    name = module.partition(".")[0]
    if name == "spectradino_msgs":
        return (
            "its messages are a package of their own inside this one, which a plain 'colcon build' leaves out. Build "
            f"them with '{_BUILD}' in the workspace (without a workspace: 'make msgs'), then source "
            "install/setup.bash"
        )
    if name == "rclpy":
        return "source ROS 2 first, as in 'source /opt/ros/jazzy/setup.bash'"
    if name in ("cv2", "numpy", "yaml", "cv_bridge") or name.endswith("_msgs"):
        return f"install what package.xml lists: '{_ROSDEP}'"
    return ""


def main() -> int:
    """Runs the node, see `detector_node.main`, on the process's arguments. Returns the exit code."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _leave)
    try:
        from spectradino_ros.command_line import refuse

        if answer := refuse(sys.argv[1:]):
            code, text = answer
            try:
                print(text, file=sys.stderr if code else sys.stdout, flush=True)
            except BrokenPipeError:  # `--help | head`; Python would complain again when it closes the output
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return code
        from spectradino_ros.detector_node import main as serve
    except ModuleNotFoundError as error:
        if not (hint := remedy(error.name or "")):
            raise
        print(f"detector_node cannot start: the Python module {error.name} is missing: {hint}", file=sys.stderr)
        return 1
    return serve()


if __name__ == "__main__":
    sys.exit(main())
