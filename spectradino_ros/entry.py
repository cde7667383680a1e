"""The command `detector_node`: from the first moment on a signal ends it quietly.

Importing ROS and ONNX Runtime takes a second, in which Ctrl-C would raise out of the midst of some import. Nothing has
begun by then, so the process just ends.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

__all__ = ["main"]


def _leave(_number: int, _frame: Any) -> None:
    os._exit(0)  # no exception: an import may catch it


def main() -> int:
    """Runs the node, see `detector_node.main`, on the process's arguments. Returns the exit code."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _leave)
    from spectradino_ros.detector_node import main as serve

    return serve()


if __name__ == "__main__":
    sys.exit(main())
