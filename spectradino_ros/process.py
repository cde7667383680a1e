"""Run a lifecycle node as a process: autostart, shutdown on signals, exit codes.

rclpy's own signal handlers shut the context down while the node still uses it, and a second Ctrl-C raises during the
clean-up. Here a signal only sets a flag; the node then deactivates and cleans up with a valid context.
"""

from __future__ import annotations

import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import rclpy
from rclpy.exceptions import ParameterException
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.signals import SignalHandlerOptions

from spectradino_core.runtime.engines import interrupt_builds
from spectradino_core.streams.settings import ParameterError
from spectradino_core.text import log_line
from spectradino_ros.notices import Notices

_POLL_S = 0.1
"""Maximum delay of a signal: Python runs its handlers between two calls into ROS."""
_PAUSE_S = 0.01
"""Pause after an exception from the executor, so that a repeated one does not take a whole core."""
_NOTICE_PERIOD_S = 10.0


class StopRequest:
    """Flag that SIGINT or SIGTERM was received."""

    def __init__(self) -> None:
        self.requested = False
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._receive)

    def ignore(self) -> None:
        """Ignore further signals; Python restores its handlers on exit, and a signal would then kill."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)

    def _receive(self, _number: int, _frame: Any) -> None:
        self.requested = True
        interrupt_builds()


def run(make_node: Callable[[], Any], args: Sequence[str] | None = None) -> int:
    """Create the node, a `ManagedNode` with `release`, and spin it until a stop is requested.

    Returns:
        The process's exit code: 0 after SIGINT, SIGTERM or an external shutdown; 1 if the node could not be created or
        autostart failed, or if only a new process can help. The reason was logged.
    """
    stop = StopRequest()
    try:
        rclpy.init(args=None if args is None else list(args), signal_handler_options=SignalHandlerOptions.NO)
    except Exception as error:  # an invalid command line or parameter file; ROS has no logger yet
        lacks_log = "logging directory" in str(error) or "log directory" in str(error)
        remedy = ": set HOME or ROS_LOG_DIR to a folder that can be written to" if lacks_log else ""
        print(f"detector_node cannot start: {error}{remedy}", file=sys.stderr)
        return 1
    try:
        try:
            node = make_node()
        except (ParameterError, ParameterException, rclpy_implementation.RCLError) as error:
            rclpy.logging.get_logger("detector_node").fatal(log_line(f"cannot start: {error}"))
            return 1
        try:
            return _serve(node, stop)
        finally:
            node.destroy_node()
    finally:
        rclpy.try_shutdown()
        stop.ignore()


def _serve(node: Any, stop: StopRequest) -> int:
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    try:
        if node.autostart:
            for name, transition in (("configure", node.trigger_configure), ("activate", node.trigger_activate)):
                if stop.requested:
                    return 0
                if transition() is not TransitionCallbackReturn.SUCCESS:
                    node.get_logger().fatal(f"autostart failed, could not {name}: see the error above")
                    return 1
        else:
            name = node.get_fully_qualified_name()
            node.get_logger().info(
                "unconfigured, waiting for a lifecycle manager (autostart is false); manually: "
                f"'ros2 lifecycle set {name} configure' and '... activate'"
            )
        notices = Notices(node.get_logger(), _NOTICE_PERIOD_S)
        while rclpy.ok() and not stop.requested and not node.exit_code:
            try:
                executor.spin_once(timeout_sec=_POLL_S)
            except ExternalShutdownException:
                raise
            except Exception as error:
                if not rclpy.ok():
                    break
                # Raised by rclpy on taking a message or sending a response.
                trace = traceback.format_exc()
                notices.error(
                    "executor", f"cannot handle a message or request: {type(error).__name__}: {error}\n{trace}"
                )
                time.sleep(_PAUSE_S)
        return int(node.exit_code)
    except ExternalShutdownException:
        return 0
    finally:
        executor.remove_node(node)
        executor.shutdown()
        node.release()
