"""`spectradino bag ...`: inspect, evaluate, annotate, export and make recordings; one file per command."""

from __future__ import annotations

from typing import Any

from spectradino_core.commands import bag_evaluate, bag_export, bag_info, bag_make, bag_run


def add(commands: Any) -> None:
    command = commands.add_parser("bag", help="work with recordings (rosbag2), without a ROS installation")
    kinds = command.add_subparsers(dest="kind", required=True, metavar="WHAT")
    for module in (bag_info, bag_evaluate, bag_run, bag_export, bag_make):
        module.add(kinds)
