"""`spectradino bag ...`: drives looked at, evaluated, annotated and made up; one file a command beside this one."""

from __future__ import annotations

from typing import Any

from spectradino_core.commands import bag_evaluate, bag_info, bag_make, bag_run

__all__ = ["add"]


def add(commands: Any) -> None:
    """Declares the commands.

    Args:
        commands: what `ArgumentParser.add_subparsers` returned.
    """
    command = commands.add_parser("bag", help="recorded drives (rosbag2), without a ROS installation")
    kinds = command.add_subparsers(dest="kind", required=True, metavar="WHAT")
    bag_info.add(kinds)
    bag_evaluate.add(kinds)
    bag_run.add(kinds)
    bag_make.add(kinds)
