"""`spectradino bag ...`: recorded drives evaluated; one file a command beside this one."""

from __future__ import annotations

from typing import Any

from spectradino_core.commands import bag_evaluate

__all__ = ["add"]


def add(commands: Any) -> None:
    """Declares the commands.

    Args:
        commands: what `ArgumentParser.add_subparsers` returned.
    """
    command = commands.add_parser("bag", help="recorded drives (rosbag2), without a ROS installation")
    kinds = command.add_subparsers(dest="kind", required=True, metavar="WHAT")
    bag_evaluate.add(kinds)
