"""`spectradino bag ...`: inspect, evaluate, annotate, export and make recordings; one file per command."""

from __future__ import annotations

from typing import Any

from spectradino_core.commands import bag_evaluate, bag_export, bag_info, bag_make, bag_run

__all__ = ["add"]


def add(commands: Any) -> None:
    """Add the commands to `commands`, the result of `ArgumentParser.add_subparsers`."""
    command = commands.add_parser("bag", help="work with recordings (rosbag2), without a ROS installation")
    kinds = command.add_subparsers(dest="kind", required=True, metavar="WHAT")
    bag_info.add(kinds)
    bag_evaluate.add(kinds)
    bag_run.add(kinds)
    bag_export.add(kinds)
    bag_make.add(kinds)
