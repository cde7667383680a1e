"""`spectradino bag export`: frames of a recording as a folder for labelling and fine-tuning."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from spectradino_core.commands.shared_options import add_clock, add_parameters, add_topics, given, option, settings_of
from spectradino_core.options import FRACTION, NOT_NEGATIVE, refuse

_EXAMPLES = """examples:
  spectradino bag export drive.mcap --model models/lwir_box.onnx --out to_label --every 2
  spectradino bag export drive --model m.onnx --out hard --select disagreement --limit 200 --format yolo
  spectradino bag export drive --out images --select motion --register --calibration-file rig.yaml

Correct the labels in CVAT, Label Studio or Roboflow, put the file that comes back in the place of labels.json, and give
it to 'bag evaluate --labels' and the folder to 'finetune --data'. The exit status is 1, and nothing is written, if no
frame is selected."""


def add(kinds: Any) -> None:
    command = kinds.add_parser(
        "export",
        help="write frames with the model's detections as labels into a folder, to correct them and train on",
        description="Pairs a bag's frames as the node does and writes a selection of them as PNG images, named by "
        "their stamps, with the model's detections as labels.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=_EXAMPLES,
    )
    command.add_argument("bag", type=Path, help="rosbag2 folder, or a .mcap or .db3 file")
    option(command, "--model", " (.onnx) whose detections become labels (default: none, no labels are written)")
    option(command, "--out", " folder", required=True, metavar="DIR")
    form = "form of the labels: labels.json, or labels/ and data.yaml (default: coco)"
    option(command, "--format", form, choices=("coco", "yolo"))
    option(
        command, "--select", "frames: --every so many seconds; of these, those that differ from the one before; or of "
        "these, those in which the RGB and the IR image alone give different detections (default: %(default)s)",
        default="time", choices=("time", "motion", "disagreement"),
    )  # fmt: skip
    every = "minimum time between two frames [s] (default: %(default)s)"
    option(command, "--every", every, type=NOT_NEGATIVE, default=1.0, metavar="S")
    change = "with --select motion: minimum fraction of the image that differs, 0 to 1 (default: 0.02)"
    option(command, "--min-change", change, type=FRACTION, metavar="FRACTION")
    option(command, "--limit", " or single images; by disagreement those that disagree most, else the first")
    option(command, "--register", "warp IR images to the RGB image's pixels by the registration", action="store_true")
    option(command, "--overwrite")
    add_topics(command)
    add_clock(command)
    add_parameters(command, without=("class_id_as",))
    command.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from tqdm import tqdm

    from spectradino_core.bags.export import ExportOptions, export_frames
    from spectradino_core.bags.selection import Selection

    if options.model is None:
        refuse(options, "format", "has no effect without --model")
    if options.select != "motion":
        refuse(options, "min-change", "has no effect without --select motion")
    change = given(options, "min_change")
    wanted = ExportOptions(
        settings_of(options),
        Selection(options.select, options.every, limit=options.limit, **change),
        options.format or "coco",
        options.register,
        options.overwrite,
        rgb_topic=options.rgb_topic,
        ir_topic=options.ir_topic,
        clock=options.clock,
    )
    with tqdm(unit=" frames", disable=None, file=sys.stderr) as bar:

        def tick(reader: Any) -> None:
            if bar.total is None:
                bar.total = sum(reader.topics[t].count for t in (reader.rgb_topic, reader.ir_topic) if t)
            bar.update()

        done = export_frames(options.bag, options.out, options.model, wanted, tick)
    frames = ", ".join(f"{count} {kind}" for kind, count in done.frames.items())
    print(f"{done.path}: {frames}")
    if options.model is not None:
        labels = ", ".join(f"{count} {name}" for name, count in done.labels.items()) or "no detections"
        print(f"labels to be corrected: {labels}")
    if done.skipped:
        print("not exported: " + ", ".join(f"{count} {reason}" for reason, count in done.skipped.items()))
    if done.is_registered is False:
        print(
            "note: the IR images are in their own pixels; 'finetune' takes pairs of one view, so give --register for it"
        )
    return 0
