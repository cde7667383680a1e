"""`spectradino bag make`: record a bag with ground truth from synthetic scenes or a folder of pairs."""

from __future__ import annotations

import argparse
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from spectradino_core.commands.shared_options import (
    add_container,
    add_own_options,
    is_indexed,
    open_own_of,
    option,
    parse_size,
    print_remarks,
    refuse_own_options,
)
from spectradino_core.options import FRACTION, NOT_NEGATIVE, NUMBER, RATE, refuse
from spectradino_core.text import counted

_EXAMPLES = """examples:
  spectradino bag make --out drive.mcap --duration 20 --ir-time-offset-ms 37 --ir-size 320x256
  spectradino bag make --out night --time-of-day night --dropout-ir-window 5:8 --jitter-ms 4
  spectradino bag make --data /data/roadscene_rgb_lwir --split val --ir-rate 4 --out real.mcap

Next to the bag, BAG.coco.json (boxes by stamp, if there are labels; read by 'bag evaluate --labels FOLDER') and
BAG.calibration.yaml (true homography and time offset) are written. 'bag evaluate' also finds labels inside the bag."""


def add(kinds: Any) -> None:
    command = kinds.add_parser(
        "make",
        help="make a bag from synthetic scenes or paired images, with known ground truth, offsets and losses",
        description="Records a synthetic scene, or a folder of paired images, with two cameras that have given errors.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=_EXAMPLES,
    )
    option(
        command, "--data",
        ": own images, or pairs with an index_SPLIT.json (default: none, a synthetic scene is recorded)",
        former="--from", form={"type": lambda text: None if text == "scenes" else Path(text)},
    )  # fmt: skip
    option(command, "--out", " bag: a name.mcap, or a new folder", required=True, metavar="BAG")
    option(command, "--duration", " (default: 10; with --data: all pairs)")
    option(command, "--seed", " of scene, jitter and losses (default: %(default)s)", default=0)
    size: dict[str, Any] = {"type": parse_size, "metavar": "WxH"}
    option(command, "--size", "size of the images (default: 640x512; with --data: its own)", **size)
    option(command, "--ir-size", "size of the IR images (default: that of the RGB images)", **size)

    scenes = command.add_argument_group("scenes")
    option(scenes, "--time-of-day", " (default: the seed's)", choices=("day", "dusk", "night"))
    option(scenes, "--misregistration-px", "by a seeded homography (default: 0)", type=NOT_NEGATIVE, metavar="PX")
    folder = command.add_argument_group("with --data")
    option(folder, "--split", " (default: val; own images: as evaluate, test if there is one)")
    option(folder, "--limit")
    add_own_options(folder, ", also of scenes (default: by folder name, else lwir)", "--infrared")

    time = command.add_argument_group("time")
    option(time, "--rgb-rate", "default: 30; folder: that of --ir-rate", type=RATE, metavar="HZ")
    option(time, "--ir-rate", "default: 9; folder: that of --rgb-rate, else 9", type=RATE, metavar="HZ")
    option(time, "--ir-phase-ms", "delay of the first IR frame", type=NUMBER, default=0.0, metavar="MS")
    option(time, "--ir-time-offset-ms", " (default: %(default)s)", default=0.0)
    option(time, "--jitter-ms", "standard deviation of exposure times", type=NOT_NEGATIVE, default=0.0, metavar="MS")
    option(
        time,
        "--latency-ms",
        "delay to the recorder (default: %(default)s)",
        type=NOT_NEGATIVE,
        default=5.0,
        metavar="MS",
    )
    option(time, "--ir-latency-ms", "--latency-ms of the IR camera", type=NOT_NEGATIVE, metavar="MS")
    ragged = "IR starts S seconds late, RGB ends S seconds early"
    option(time, "--ragged", ragged, type=NOT_NEGATIVE, default=0.0, metavar="S")
    for key, name in (("rgb", "RGB"), ("ir", "IR")):
        lost = f"fraction of lost {name} frames, 0 to 1"
        option(time, f"--dropout-{key}", lost, type=FRACTION, default=0.0, metavar="FRACTION")
        text = "seconds without frames; may be repeated"
        option(time, f"--dropout-{key}-window", text, type=_window, action="append", default=[], metavar="FROM:TO")
    space = command.add_argument_group("space")
    option(space, "--ir-to-rgb", "homography from IR to RGB pixels, row by row", type=NUMBER, nargs=9, metavar="N")
    written = command.add_argument_group("output")
    for key, name in (("rgb", "RGB"), ("ir", "IR")):
        option(
            written, f"--{key}-format", f"format of the {name} images (default: %(default)s)",
            former=f"--{key}-encoding", default="raw", choices=("raw", "png", "jpeg"),
        )  # fmt: skip
    add_container(written)
    text = "write no labels and no true calibration, neither topics nor files"
    option(written, "--no-labels", text, former="--no-truth", action="store_true")
    command.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from tqdm import tqdm

    from spectradino_core.bags.make import CameraSchedule, MakeOptions, make_bag

    rgb_rate, ir_rate = _rates(options)
    source, duration_s = _source(options, min(rgb_rate, ir_rate))
    latency = options.latency_ms
    made = MakeOptions(
        rgb=CameraSchedule(
            rgb_rate,
            jitter_ms=options.jitter_ms,
            dropout=options.dropout_rgb,
            windows=tuple(options.dropout_rgb_window),
            stop_s=duration_s - options.ragged,
            latency_ms=latency,
        ),
        ir=CameraSchedule(
            ir_rate,
            phase_ms=options.ir_phase_ms,
            jitter_ms=options.jitter_ms,
            dropout=options.dropout_ir,
            windows=tuple(options.dropout_ir_window),
            start_s=options.ragged,
            latency_ms=latency if options.ir_latency_ms is None else options.ir_latency_ms,
            offset_ms=options.ir_time_offset_ms,
        ),
        duration_s=duration_s,
        seed=options.seed,
        rgb_form=options.rgb_format,
        ir_form=options.ir_format,
        truth=not options.no_labels,
    )
    with tqdm(unit=" frames", disable=None, file=sys.stderr) as bar:
        written = make_bag(
            source, options.out, made, options.storage, options.compression, options.overwrite, bar.update
        )
    files = ", ".join(str(path) for path in (written.labels, written.calibration) if path is not None)
    print(f"{written.bag}: {written.rgb_frames} RGB and {written.ir_frames} IR frames" + (files and f"; {files}"))
    if options.data is not None:
        print("If its frames are unrelated images, give --thermal-smoothing 0 to 'bag evaluate': 'evaluate' has none")
    return 0


def _rates(options: argparse.Namespace) -> tuple[float, float]:
    """Return the rates of both cameras in Hz; equal for still pairs, as each is one moment seen by both."""
    rgb, ir = options.rgb_rate, options.ir_rate
    if options.data is None:
        return 30.0 if rgb is None else rgb, 9.0 if ir is None else ir
    same = next((rate for rate in (ir, rgb) if rate is not None), 9.0)
    return same if rgb is None else rgb, same if ir is None else ir


def _source(options: argparse.Namespace, pairs_hz: float) -> tuple[Any, float]:
    from spectradino_core.bags.sources import FolderViews, SceneViews
    from spectradino_core.data.paired_folder import PairedFolder
    from spectradino_core.datasets.benchmark import LabelledPairs
    from spectradino_core.modality import Modality

    band = Modality.parse(options.band or "lwir")
    if options.data is None:
        refuse_own_options(options, "which --data gives", "rgb ir classes")
        refuse(options, "split limit", "has no effect without --data")
        scenes = SceneViews(
            options.seed,
            band,
            options.size or (640, 512),
            options.ir_size,
            options.ir_to_rgb,
            options.misregistration_px or 0.0,
            options.time_of_day,
        )
        return scenes, 10.0 if options.duration is None else options.duration
    refuse(options, "misregistration-px time-of-day", "is for scenes; move the images of --data with --ir-to-rgb")
    root, split = options.data, options.split or "val"
    folder: PairedFolder | LabelledPairs
    if is_indexed(root, split) or any(root.glob("index_*.json")):
        refuse_own_options(options, f"but {root} has an index that defines it", "rgb ir classes")
        folder = PairedFolder(root, split, band.key)
    else:
        own = open_own_of(options, root, band)
        print_remarks(own)
        folder = own.benchmark.open(own.root, options.split or own.benchmark.report_split)
        if skipped := sum(not all(item.present) for item in folder):
            print(f"not in the bag: {counted(skipped, 'image')} without a counterpart", file=sys.stderr)
    pairs = FolderViews(folder, pairs_hz, options.size, options.ir_size, options.ir_to_rgb, options.limit)
    return pairs, pairs.duration_s if options.duration is None else options.duration


def _window(text: str) -> tuple[float, float]:
    begin, _, end = text.partition(":")
    with suppress(ValueError):
        if 0 <= float(begin) < float(end):
            return float(begin), float(end)
    raise argparse.ArgumentTypeError(f"a window must be FROM:TO in rising seconds, such as 5:8, not {text!r}")
