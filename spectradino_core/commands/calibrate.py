"""`spectradino calibrate time | registration`: time offset and homography of a camera pair from recordings."""

from __future__ import annotations

import argparse
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

from spectradino_core.commands.shared_options import (
    DECODING,
    add_parameters,
    add_topics,
    option,
    settings_of,
)
from spectradino_core.options import POSITIVE, Number, claim_file, refuse

REGISTERED = 3
"""Exit status if the cameras are already registered and nothing is written."""

_NEAR_MS = 6.0

_EPILOG = """examples:
  spectradino calibrate registration drive.mcap --out rig.yaml
  spectradino calibrate time drive.mcap --out rig.yaml --add
  ros2 launch spectradino_ros lwir_detector.launch.py calibration_file:=$PWD/rig.yaml

A poor fit is refused with the reason, and nothing is written: exit status 1. If no homography is better than none,
'calibrate registration' reports within how many pixels the cameras are already registered and writes nothing: exit
status 3; the node then needs no calibration_file. If the clocks are far apart, estimate the time first, then the
registration with --add, then the time again."""


def add(commands: Any) -> None:
    command = commands.add_parser(
        "calibrate",
        help="estimate time offset and homography of two cameras from a recording",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=_EPILOG,
    )
    kinds = command.add_subparsers(dest="kind", required=True, metavar="WHAT")

    time = kinds.add_parser(
        "time",
        help="estimate the time offset of the IR camera's stamps",
        description="Estimates the constant by which the IR camera's stamps are late relative to the RGB camera's, "
        "from motion that both saw. Record half a minute in which several objects move, or turn the cameras.",
    )
    time.add_argument("source", type=Path, metavar="BAG", help="rosbag2 folder, or a .mcap or .db3 file")
    _add_reading(time)
    window = "maximum absolute offset to search [ms] (default: %(default)g)"
    option(time, "--window-ms", window, type=POSITIVE, default=1000.0)
    option(
        time,
        "--duration",
        " to read of a long bag (default: %(default)g)",
        former="--seconds",
        default=120.0,
        type=Number(float, 8.0, math.inf),
    )
    option(
        time, "--pair-by", "times to compare: header stamps, recording times, or (auto) stamps unless the two cameras' "
        "stamps are not comparable, e.g. of a camera that counts from its start",
        choices=("auto", "stamp", "arrival"), default="auto",
    )  # fmt: skip
    _add_output(time)
    time.set_defaults(run=_time)

    registration = kinds.add_parser(
        "registration",
        help="estimate the homography from IR to RGB pixels",
        description="Estimates the homography from IR to RGB pixels from structure that both bands show. Record "
        "daylight scenes with edges all over the image, mostly at the working distance.",
    )
    registration.add_argument(
        "source", type=Path, metavar="BAG|FOLDER", help="a bag, or a folder with e.g. rgb/ and lwir/ that share names"
    )
    _add_reading(registration)
    option(registration, "--limit", ", spread over the recording (default: %(default)s)", former="--pairs", default=16)
    option(registration, "--ir-time-offset-ms", " (default: with --add the file's, else 0)", former="--time-offset-ms")
    text = "RGB pixels per IR pixel to search (default: 0.4 to 1.5 of the scale that covers the RGB image)"
    option(registration, "--scale", text, type=POSITIVE, nargs=2, metavar=("MIN", "MAX"))
    text = "checkerboards before and after (default: next to --out)"
    option(registration, "--checkerboard", text, former="--picture", type=Path, metavar="PNG")
    _add_output(registration)
    registration.set_defaults(run=_registration)


def _add_reading(command: argparse.ArgumentParser) -> None:
    add_topics(command, none="")
    add_parameters(command, DECODING)


def _add_output(command: argparse.ArgumentParser) -> None:
    option(command, "--out", ": calibration file (default: only print)", metavar="YAML")
    option(command, "--add", "keep the other entries of an existing --out", action="store_true")
    option(command, "--overwrite", ": the whole file, or with --add only this entry", former="--force")


def _time(options: argparse.Namespace) -> int:
    from spectradino_core.bags.reader import BagReader
    from spectradino_core.calibration.estimation.recordings import is_by_arrival

    if options.out is None:
        refuse(options, "overwrite", "has no effect without --out")
    before = _before(options, "time_offset_ms")
    known = before.registration if before is not None else None
    decoding = settings_of(options).decoding
    with BagReader(options.source, options.rgb_topic, options.ir_topic, decoding=decoding) as reader:
        by_arrival = is_by_arrival(reader, options.pair_by)
        if by_arrival:
            print("Compared by recording times: the offset applies if frames are paired by arrival (parameter pair_by)")
        _, found = find_time_offset(reader, known, options.window_ms, options.duration, by_arrival)
        _print_refused(reader)
    print(found)
    offset = round(found.offset_ms, 3)
    if options.out is None:
        print(f"Nothing was written because --out was not given. As a parameter: ir_time_offset_ms:={offset:g}")
        return 0
    notes = f"time: {options.source.name}, spread {found.spread_ms:.1f} ms, confidence {found.confidence:.2f}"
    _write(options.out, before, notes, time_offset_ms=offset)
    return 0


def find_time_offset(
    reader: Any, registration: Any = None, window_ms: float = 1000.0, seconds: float = 120.0, by_arrival: bool = False
) -> tuple[Any, Any]:
    """Estimate a bag's time offset, from activity alone and refined with displaced patches.

    Args:
        reader: bag with both cameras.
        registration: IR to RGB pixels; None: estimated on the fly.
        window_ms, seconds: maximum absolute offset to search, and how much of the bag to read.
        by_arrival: compare recording times, not stamps.

    Raises:
        CalibrationError: no acceptable estimate.
    """
    from spectradino_core.calibration.estimation.recordings import activities_of_bag, delay_of_bag
    from spectradino_core.calibration.estimation.time_offset import estimate_time_offset, sharpened

    if registration is None:
        registration = _rough_registration(reader, window_ms, by_arrival)
    rgb, ir = activities_of_bag(reader, seconds, registration, by_arrival)
    if registration is None:
        # Without a registration, require a strong agreement: objects that pass one cell earlier than another look like
        # clocks that differ.
        rough = estimate_time_offset(rgb, ir, window_ms, min_agreement=0.3)
        return rough, rough
    rough = estimate_time_offset(rgb, ir, window_ms, max_spread_ms=20.0)
    offset, delay = rough.offset_ms, None
    for _ in range(2):
        one = delay_of_bag(reader, rgb.stamps_ns, ir.stamps_ns, offset, registration, by_arrival)
        if one is None:
            break
        delay = replace(one, ms=one.ms + offset - rough.offset_ms)
        offset += one.ms
        if abs(one.ms) < _NEAR_MS:
            break  # otherwise patches were searched too far from their position: repeat once
    return rough, sharpened(rough, delay)


def _registration(options: argparse.Namespace) -> int:
    from spectradino_core.bags.reader import BagReader
    from spectradino_core.calibration.estimation.homography import AlreadyRegisteredError, estimate_homography
    from spectradino_core.calibration.estimation.recordings import is_by_arrival, pairs_of_bag, pairs_of_folder

    if options.scale is not None and not options.scale[0] < options.scale[1]:
        raise ValueError(
            f"--scale must be two numbers, the smaller one first, got {options.scale[0]:g} {options.scale[1]:g}"
        )
    if options.out is None and options.checkerboard is None:
        refuse(options, "overwrite", "has no effect without --out or --checkerboard")
    is_folder = _is_folder_of_pairs(options.source)
    if is_folder:
        refuse(options, "rgb-topic ir-topic ir-time-offset-ms", "has no effect on a folder of images")
    before = _before(options, "registration")
    decoding = settings_of(options).decoding
    image = options.checkerboard or (None if options.out is None else options.out.with_suffix(".png"))
    if image is not None:
        claim_file(image, (".png",), options.overwrite, "--checkerboard")
    if is_folder:
        pairs = pairs_of_folder(options.source, options.limit, decoding.ir_crop)
    else:
        offset = options.ir_time_offset_ms
        if offset is None:
            offset = 0.0 if before is None else before.time_offset_ms or 0.0
        with BagReader(options.source, options.rgb_topic, options.ir_topic, decoding=decoding) as reader:
            pairs = pairs_of_bag(reader, options.limit, offset, by_arrival=is_by_arrival(reader, "auto"))
            _print_refused(reader)
    try:
        found = estimate_homography([(p.rgb, p.infrared) for p in pairs], options.scale and tuple(options.scale))
    except AlreadyRegisteredError as error:
        print(f"Nothing to correct, so nothing is written: {error}.")
        return REGISTERED
    print(found)
    if image is not None:
        _write_image(image, pairs, found.registration)
    if options.out is None:
        numbers = ", ".join(f"{value:.8g}" for value in found.registration.matrix)
        print(f"No calibration file was written because --out was not given. As a parameter: ir_to_rgb:=[{numbers}]")
        return 0
    evidence = found.evidence
    notes = (
        f"registration: {options.source.name}, {evidence.hits} of {evidence.matches} patches agree, at most "
        f"{evidence.uncertainty_px:.1f} px off at the corners (95 %)"
    )
    residual = round(evidence.residual_px, 3)
    _write(options.out, before, notes, registration=found.registration, residual_px=residual)
    return 0


def _print_refused(reader: Any) -> None:
    for camera in reader.messages_of.values():
        if camera.refused:
            print(camera)


def _rough_registration(reader: Any, window_ms: float, by_arrival: bool) -> Any:
    """Estimate a registration for comparing cells, whatever the clocks; None if there is none."""
    from spectradino_core.calibration.estimation import CalibrationError
    from spectradino_core.calibration.estimation.homography import AlreadyRegisteredError, estimate_homography
    from spectradino_core.calibration.estimation.recordings import pairs_of_bag

    try:
        pairs = pairs_of_bag(reader, 6, slop_ms=window_ms, by_arrival=by_arrival)
        found = estimate_homography([(p.rgb, p.infrared) for p in pairs])
    except AlreadyRegisteredError as error:
        print(f"The images are compared as they are: {error}.")
        return error.registration
    except CalibrationError as error:
        print(f"No registration was found, so the IR image is compared stretched over the RGB image: {error}")
        return None
    print(
        f"The images are compared by a registration estimated on the fly, residual {found.evidence.residual_px:.1f} px."
    )
    return found.registration


def _before(options: argparse.Namespace, entry: str) -> Any:
    """Load the calibration in --out to add to, or None; refuse to lose existing entries before any work."""
    from spectradino_core.streams.calibration_file import load_calibration

    if options.out is None:
        if options.add:
            raise ValueError("--add needs the file to add to: give --out")
        return None
    claim_file(options.out, (), overwrite=True)
    if not options.out.exists():
        return None
    if not options.add:
        if options.overwrite:
            return None
        raise FileExistsError(
            f"{options.out} already exists: give --add to keep its other entries, --overwrite to replace it, or "
            "another --out"
        )
    before = load_calibration(options.out)
    if getattr(before, entry) is not None and not options.overwrite:
        kind = "a time offset" if entry == "time_offset_ms" else "a homography"
        raise FileExistsError(f"{options.out} already contains {kind}: give --overwrite with --add to replace it")
    return before


def _is_folder_of_pairs(path: Path) -> bool:
    """Return whether a folder holds images: a rosbag2 folder holds metadata or storage files."""
    if not path.is_dir():
        return False
    inside = [entry.name for entry in path.iterdir()]
    return not any(name == "metadata.yaml" or name.endswith((".mcap", ".db3", ".zstd")) for name in inside)


def _write(path: Path, before: Any, note: str, **entries: Any) -> None:
    """Write a calibration file with the entries; `note` replaces the note of the same kind of `before`."""
    from spectradino_core import __version__
    from spectradino_core.streams.calibration_file import Calibration, save_calibration

    before = before or Calibration(None)
    kind = note.partition(":")[0]
    kept = [part for part in before.notes.split("; ") if part and not part.startswith(f"{kind}:")]
    made_by = f"spectradino calibrate {__version__}"
    save_calibration(path, replace(before, notes="; ".join([*kept, note]), made_by=made_by, **entries))
    print(f"{path}: pass it to the node as calibration_file")


def _write_image(path: Path, pairs: Any, registration: Any) -> None:
    from spectradino_core.calibration.estimation.recordings import before_and_after
    from spectradino_core.drawing import encoded
    from spectradino_core.files import write_file

    image = before_and_after([pairs[k] for k in sorted({0, len(pairs) // 2, len(pairs) - 1})], registration)
    write_file(path, encoded(image, ".png"))
    print(f"{path}: checkerboards before and after; edges must continue across tiles on the right")
