"""`spectradino bag evaluate`: score a model on recordings and report how their two streams pair."""

from __future__ import annotations

import argparse
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from spectradino_core.commands.shared_options import add_clock, add_parameters, add_topics, option, settings_of
from spectradino_core.options import NOT_NEGATIVE, claim_folder, names, refuse
from spectradino_core.text import log_line

_EXAMPLES = """examples:
  spectradino bag evaluate drive --model models/lwir_box.onnx --labels drive.json --out report
  spectradino bag evaluate drives/ --model m.onnx --labels labels/ --jobs 4
  spectradino bag evaluate drive.mcap --model m.onnx --label-topic /ground_truth/detections \\
      --sweep dropout=0,0.25,0.5,1 --sweep offset=0,20,50,100 --sweep shift=0,2,5,10,20

Labels are COCO files whose images give the RGB frame's header stamp: "stamp_ns" in nanoseconds, or a file_name such as
1700000000.012345678.png. Boxes are in pixels of the RGB image.

Labels recorded by 'spectradino bag make' are found automatically. Without labels everything but scores is reported.
result.json is byte-identical for every repetition on one machine's CPU, for any number of jobs.
The exit status is 1 if any bag failed, e.g. because no image can be read; the results of the others are written."""


def add(commands: Any) -> None:
    command = commands.add_parser(
        "evaluate",
        help="score a model on bags with the node's own pairing and pipeline; writes an HTML report",
        description="Replays bags through the node's own pairing and pipeline, scores the results, and reports how "
        "the two streams pair.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=_EXAMPLES,
    )
    command.add_argument(
        "bags", nargs="+", type=Path, metavar="BAG", help="rosbag2 folders, .mcap or .db3 files, folders of them, .txt"
    )
    option(command, "--model", " (.onnx)", required=True)
    option(command, "--out", " folder (default: %(default)s)", default=Path("report"), metavar="DIR")
    add_topics(command)
    add_clock(command)
    labels = command.add_argument_group("labels")
    text = "COCO file with stamps, or a folder with one BAG.json or BAG.coco.json per bag"
    option(labels, "--labels", text, type=Path, metavar="JSON")
    text = "Detection2DArray topic of the bag (default: that of 'bag make', if present; \"\": none)"
    option(labels, "--label-topic", text, former="--gt-topic", metavar="T")
    text = "mask topic of the bag (mono8, 255 unlabelled; default likewise)"
    option(labels, "--label-mask-topic", text, former="--gt-mask-topic", metavar="T")
    text = "classes of the mask's values, in order"
    option(labels, "--label-mask-classes", text, former="--gt-mask-classes", type=names, default=(), metavar="A,B")
    text = "maximum difference of a label's stamp from its RGB frame's (default: %(default)s)"
    option(labels, "--stamp-tolerance-ms", text, type=NOT_NEGATIVE, default=1.0, metavar="MS")
    option(
        command, "--sweep", "scores under degradation: dropout (of either camera; dropout_rgb, dropout_ir), offset "
        "(IR stamps late, ms), shift (IR image too far right, px), ir_rate (IR frames per second that remain)",
        action="append", default=[], metavar="NAME=V,V,..",
    )  # fmt: skip
    option(command, "--seed", " of dropped frames of a sweep (default: 0)")
    option(command, "--jobs", " (default: %(default)s)", default=1)
    text = "run jobs as local processes, or on a Ray cluster (RAY_ADDRESS) that sees the same folders"
    option(command, "--executor", text, former="--engine", default="processes", choices=("processes", "ray"))
    option(command, "--overwrite", ": recompute finished results", former="--fresh")
    option(command, "--draw", ", the worst of each bag; 0: none (default: %(default)s)", former="--pictures", default=8)
    option(command, "--save-masks", "write each mask as PNG below the output folder", action="store_true")
    add_parameters(command, without=("class_id_as",))
    command.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    missing = [name for name in ("rosbags", "matplotlib") if find_spec(name) is None]
    if missing:  # fail now, not after hours of replaying
        raise RuntimeError(f"{' and '.join(missing)} not installed: pip install 'spectradino_ros[bag,runtime]'")
    from spectradino_core.bags.evaluate import evaluate_bags, find_bags
    from spectradino_core.bags.evaluation_options import LabelSource, Options, parse_sweeps
    from spectradino_core.bags.report import summary_lines, write_report

    written = "result.json timings.json report.html sweeps.csv"
    claim_folder(options.out, written, "result.json", b'"failed"', options.overwrite)
    if not options.sweep:
        refuse(options, "seed", "has no effect without --sweep")
    settings = settings_of(options)
    if options.parameter_threads is None and options.params_file is None:
        settings = settings.with_(threads=1)  # ONNX Runtime's rounding depends on the number of threads
    labels = LabelSource(
        options.labels,
        options.label_topic,
        options.label_mask_topic,
        options.label_mask_classes,
        options.stamp_tolerance_ms,
    )
    wanted = Options(
        model=options.model,
        settings=settings,
        labels=labels,
        rgb_topic=options.rgb_topic,
        ir_topic=options.ir_topic,
        sweeps=parse_sweeps(options.sweep),
        seed=options.seed or 0,
        worst_frames=options.draw,
        masks=options.save_masks,
        clock=options.clock,
    )
    bags = find_bags(options.bags)
    found, evidence = evaluate_bags(
        bags,
        wanted,
        options.out,
        options.jobs,
        options.executor,
        options.overwrite,
        lambda text: print(log_line(text), file=sys.stderr),
    )
    write_report(options.out / "report.html", found, evidence)
    print("\n".join(summary_lines(found, [bag.name for bag in evidence])))
    print(f"\n{options.out / 'report.html'}")
    return 1 if found["failed"] else 0
