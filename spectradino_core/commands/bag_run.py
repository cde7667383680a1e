"""`spectradino bag run`: write a bag with what the node would have published."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from spectradino_core.commands.shared_options import (
    add_clock,
    add_container,
    add_parameters,
    add_topics,
    option,
    settings_of,
)

_EXAMPLES = """examples:
  spectradino bag run drive --model models/lwir_box.onnx --out annotated.mcap
  spectradino bag run drive.mcap --model m.onnx --out annotated --copy-images --no-overlay

The .mcap file opens in Foxglove and with `ros2 bag play`. The same command resumes a run that was stopped.
The exit status is 1, and nothing is written, if the bag gives no results."""


def add(kinds: Any) -> None:
    command = kinds.add_parser(
        "run",
        help="write what the node would publish into a new bag",
        description="Replays a bag through the node's own pairing and pipeline and writes detections, masks, overlays, "
        "modes and frame reports into a new one.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=_EXAMPLES,
    )
    command.add_argument("bag", type=Path, help="rosbag2 folder, or a .mcap or .db3 file")
    option(command, "--model", " (.onnx)", required=True)
    option(command, "--out", " bag: a name.mcap, or a new folder", required=True, metavar="BAG")
    add_topics(command)
    option(command, "--copy-images", "also copy both cameras' images", former="--inputs", action="store_true")
    draw: dict[str, Any] = {"action": argparse.BooleanOptionalAction, "default": True}
    option(command, "--overlay", "draw overlays (default: yes)", **draw)
    add_container(command)
    add_clock(command)
    add_parameters(command)
    command.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from tqdm import tqdm

    from spectradino_core.bags.annotate import AnnotateOptions, annotate

    settings = settings_of(options)
    with tqdm(unit=" frames", disable=None, file=sys.stderr) as bar:

        def tick(reader: Any) -> None:
            if bar.total is None:
                bar.total = sum(reader.topics[t].count for t in (reader.rgb_topic, reader.ir_topic) if t)
            bar.update()

        done = annotate(
            options.bag,
            options.model,
            options.out,
            AnnotateOptions(
                settings,
                rgb_topic=options.rgb_topic,
                ir_topic=options.ir_topic,
                clock=options.clock,
                overlay=options.overlay,
                inputs=options.copy_images,
                storage=options.storage,
                compression=options.compression,
                overwrite=options.overwrite,
            ),
            tick,
            lambda text: bar.write(text, file=sys.stderr),
        )
    results = ", ".join(f"{count} {mode}" for mode, count in sorted(done.results.items())) or "none"
    drops = ", ".join(f"{count} {cause}" for cause, count in done.drops.items()) or "none"
    for camera in done.cameras:
        print(camera)
    kept = f" ({done.kept} of the resumed run)" if done.kept else ""
    print(f"{done.path}: results: {results}{kept}; dropped: {drops}")
    return 0
