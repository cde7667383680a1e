"""Entry point of `detector_node`: handles signals during imports, names missing modules.

Importing ROS and ONNX Runtime takes a second, in which Ctrl-C would raise from within an import. The process has no
state to clean up by then, so it just exits.
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
    os._exit(0)  # not an exception, which an import may catch


def remedy(module: str) -> str:
    """Return how to install a missing module, "" if unknown.

    Args:
        module: fully qualified module name.
    """
    name = module.partition(".")[0]
    if name == "spectradino_msgs":
        return (
            "its messages are a separate package inside this one, which a plain 'colcon build' skips. Build "
            f"them with '{_BUILD}' in the workspace (without a workspace: 'make msgs'), then source "
            "install/setup.bash"
        )
    if name == "rclpy":
        return "source ROS 2 first, as in 'source /opt/ros/jazzy/setup.bash'"
    if name in ("cv2", "numpy", "yaml", "cv_bridge") or name.endswith("_msgs"):
        return f"install what package.xml lists: '{_ROSDEP}'"
    return ""


def main() -> int:
    """Run the node with the process's arguments, see `detector_node.main`; returns the exit code."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _leave)
    try:
        from spectradino_ros.command_line import refuse

        if refusal := refuse(sys.argv[1:]):
            code, text = refusal
            try:
                print(text, file=sys.stderr if code else sys.stdout, flush=True)
            except BrokenPipeError:  # `--help | head`; Python would raise again on closing stdout
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return code
        from spectradino_ros.detector_node import main as serve
    except ImportError as error:
        is_missing, name = isinstance(error, ModuleNotFoundError), error.name or ""
        if not (hint := remedy(name)) or not (is_missing or name.startswith("spectradino_msgs")):
            raise
        problem = f"the Python module {name} is missing" if is_missing else f"older messages are installed ({error})"
        print(f"detector_node cannot start: {problem}: {hint}", file=sys.stderr)
        return 1
    return serve()


if __name__ == "__main__":
    sys.exit(main())
