"""`spectradino bag info`: what a bag holds, and how healthy the stamps of its two cameras are."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

__all__ = ["add"]


def add(kinds: Any) -> None:
    """Declares the command.

    Args:
        kinds: what `add_subparsers` of `spectradino bag` returned.
    """
    command = kinds.add_parser(
        "info",
        help="topics, rates and the health of both cameras' stamps",
        description="Tells what a bag holds: topics, which of them are the cameras, their rates, gaps and odd stamps, "
        "and how the two streams lie to one another.",
    )
    command.add_argument("bag", type=Path, help="rosbag2 folder, or a .mcap or .db3 file")
    command.add_argument("--rgb-topic", metavar="T", help='the colour camera (default: found by name; "": none)')
    command.add_argument("--ir-topic", metavar="T", help='the infrared camera (default: found by name; "": none)')
    command.add_argument("--json", action="store_true", help="print JSON instead of text")
    command.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from spectradino_core.bags.errors import BagError
    from spectradino_core.bags.inspection import inspect
    from spectradino_core.bags.reader import BagReader

    no_cameras = ""
    try:
        reader = BagReader(options.bag, options.rgb_topic, options.ir_topic)
    except BagError as error:  # it may hold something all the same
        no_cameras = str(error)
        reader = BagReader(options.bag, cameras=False)
    with reader:
        info = inspect(reader)
    if options.json:
        print(json.dumps(info.to_dict() | {"no_cameras": no_cameras}, indent=2))
    else:
        print(_text(info))
        if no_cameras:
            print(f"\nno cameras: {no_cameras}")
    return 0


def _text(info: Any) -> str:
    lines = [f"{info.path}: {info.format}, {info.duration_s:.1f} s between the first and the last image", ""]
    width = max((len(name) for name in info.topics), default=0)
    lines += [f"  {name:<{width}}  {count:>7}  {kind}" for name, (kind, count) in info.topics.items()]
    for name, camera in info.cameras.items():
        size = "unreadable" if camera.size is None else f"{camera.size[0]}x{camera.size[1]}"
        lines += [
            "",
            f"{name}: {camera.topic} ({camera.chosen}), {size} {camera.encoding}",
            f"  {camera.frames} frames from {camera.begin_s:.2f} to {camera.end_s:.2f} s at {camera.rate_hz:.2f} Hz "
            f"(period {camera.period_ms:.1f} ms, 95 % within {camera.jitter_ms:.1f} ms of it)",
            f"  lost about {camera.lost}, gaps {camera.gaps}, the longest {camera.longest_gap_ms:.0f} ms; stamps twice "
            f"{camera.duplicates}, backward {camera.backward}, none {camera.zero}; recorded {camera.latency_ms:.1f} ms "
            "after their stamp",
        ]
    if info.offset is not None:
        lines += [
            "",
            f"together: {info.offset.overlap_s:.1f} s; ir is stamped {info.offset.median_ms:+.1f} ms off its nearest "
            f"rgb frame (median; 90 % within {info.offset.spread_ms:.1f} ms)",
        ]
    problems = [*info.damage, *info.warnings]
    lines += ["", *(f"! {text}" for text in problems)] if problems else ["", "no problems found"]
    return "\n".join(lines)
