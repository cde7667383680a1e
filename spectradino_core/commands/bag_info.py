"""`spectradino bag info`: contents of a bag and health of its two cameras' stamps."""

from __future__ import annotations

import argparse
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from spectradino_core.commands.shared_options import DECODING, add_parameters, add_topics, option, settings_of

_REPORT = "spectradino_msgs/msg/FrameReport"


def add(kinds: Any) -> None:
    command = kinds.add_parser(
        "info",
        help="show topics, rates and the health of both cameras' stamps",
        description="Reports what a bag contains: topics, which of them are the cameras, their rates, gaps and "
        "anomalous stamps, and the time offset between the two streams.",
        epilog="The exit status is 1 if the bag holds no messages, or none of its cameras' images can be read.",
    )
    command.add_argument("bag", type=Path, help="rosbag2 folder, or a .mcap or .db3 file")
    add_topics(command)
    option(command, "--json", "print JSON instead of text", action="store_true")
    add_parameters(command, DECODING)
    command.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from spectradino_core.bags import BagError
    from spectradino_core.bags.inspection import inspect
    from spectradino_core.bags.reader import BagReader

    decoding = settings_of(options).decoding
    no_cameras, is_results = "", False
    try:
        reader = BagReader(options.bag, options.rgb_topic, options.ir_topic, decoding=decoding)
    except BagError as error:  # it may still hold one camera, or something else
        reader = _open_available_cameras(options)
        results = _results_alone(reader)
        is_results, no_cameras = bool(results), results or str(error)
    with reader:
        info = inspect(reader)
    if options.json:
        print(json.dumps(info.to_dict() | {"no_cameras": no_cameras}, indent=2))
    else:
        print(_text(info, no_cameras))
    is_empty = not any(count for _, count in info.topics.values())
    is_unreadable = bool(info.cameras) and all(camera.is_unreadable for camera in info.cameras.values())
    has_images = any("/Image" in kind or "/CompressedImage" in kind for kind, _ in info.topics.values())
    is_requested = bool(options.rgb_topic or options.ir_topic)
    is_lost = bool(no_cameras) and not info.cameras and (has_images or is_requested) and not is_results
    return 1 if is_empty or is_unreadable or is_lost else 0


def _open_available_cameras(options: argparse.Namespace) -> Any:
    """Open the bag with the only camera found in it, or else without cameras."""
    from spectradino_core.bags import BagError
    from spectradino_core.bags.reader import BagReader

    for rgb_topic, ir_topic in ((options.rgb_topic, ""), ("", options.ir_topic)):
        with suppress(BagError):
            return BagReader(options.bag, rgb_topic, ir_topic, decoding=settings_of(options).decoding)
    return BagReader(options.bag, cameras=False)


def _results_alone(reader: Any) -> str:
    """Describe a bag that holds the node's results without images; "" for any other bag."""
    reports = sum(topic.count for topic in reader.topics.values() if topic.kind == _REPORT)
    if not reports or reader.rgb_topic or reader.ir_topic:
        return ""
    return (
        f"it holds what the node publishes ({reports} frame reports), not the cameras' images; record them with "
        "'spectradino bag run --copy-images'"
    )


def _text(info: Any, no_cameras: str) -> str:
    span = f", {info.duration_s:.1f} s between the first and the last image" if info.cameras else ""
    lines = [f"{info.path}: {info.format}{span}", ""]
    width = max((len(name) for name in info.topics), default=0)
    lines += [f"  {name:<{width}}  {count:>7}  {kind}" for name, (kind, count) in info.topics.items()]
    for name, camera in info.cameras.items():
        size = "unreadable" if camera.size is None else f"{camera.size[0]}x{camera.size[1]}"
        lines += [
            "",
            f"{name}: {camera.topic} ({camera.chosen}), {size} {camera.encoding}",
            f"  {camera.messages} messages, {sum(camera.refused.values())} refused; {camera.looked_at} inspected",
            f"  {camera.frames} frames from {camera.begin_s:.2f} to {camera.end_s:.2f} s at {camera.rate_hz:.2f} Hz "
            f"(period {camera.period_ms:.1f} ms, 95 % within {camera.jitter_ms:.1f} ms of it)",
            f"  lost about {camera.lost}, gaps {camera.gaps}, longest {camera.longest_gap_ms:.0f} ms; stamps duplicate "
            f"{camera.duplicates}, backward {camera.backward}, zero {camera.zero}; recorded {camera.latency_ms:.1f} ms "
            "after their stamp",
        ]
    if info.offset is not None:
        lines += [
            "",
            f"together: {info.offset.overlap_s:.1f} s; ir is stamped {info.offset.median_ms:+.1f} ms off its nearest "
            f"rgb frame (median; 90 % within {info.offset.spread_ms:.1f} ms)",
        ]
    missing = [no_cameras if info.cameras else f"no cameras: {no_cameras}"] if no_cameras else []
    problems = [*info.damage, *info.warnings, *missing]
    lines += ["", *(f"! {text}" for text in problems)] if problems else ["", "no problems found"]
    return "\n".join(lines)
