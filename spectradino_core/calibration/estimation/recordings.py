"""Sample images from bags and folders for calibration, evenly spread and few enough to fit in memory.

A bag is read twice: first the stamps, without decoding, then the chosen frames.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from spectradino_core.bags.reader import BagFrame, BagReader
from spectradino_core.calibration.checkerboard import checkerboard
from spectradino_core.calibration.estimation import CalibrationError, spread_over
from spectradino_core.calibration.estimation.displacements import WIDTH, Delay, displacements, fit_delay, moments
from spectradino_core.calibration.estimation.structure import grey_image
from spectradino_core.calibration.estimation.time_offset import Activity
from spectradino_core.calibration.registration import Registration, Size, Warp
from spectradino_core.data.images import read_colour, read_counts
from spectradino_core.drawing import text_line
from spectradino_core.streams.clocks import Clocks
from spectradino_core.streams.decode import DecodeError, DecodeOptions, cropped
from spectradino_core.streams.pairing import Pairer
from spectradino_core.streams.queues import Stream

_WINDOW_S = 20.0
_WIDEST = 960
_COLOUR = ("rgb", "vis", "visible", "color", "colour")
_INFRARED = ("lwir", "swir", "nir", "ir", "infrared", "thermal")
_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")


class ImagePair(NamedTuple):
    """Named pair of RGB uint8 [h, w, 3] and IR uint8 or uint16 [h', w']."""

    name: str
    rgb: np.ndarray
    infrared: np.ndarray


def is_by_arrival(reader: BagReader, pair_by: str) -> bool:
    """Return whether a node with this `pair_by` would compare the bag's frames by recording time."""
    clocks = Clocks(pair_by)
    for frame in reader.frames(in_stamp_order=False):
        clocks.push(frame.stream, frame.stamp_ns, frame.received_ns)
    return clocks.by_arrival


def _time_ns(frame: BagFrame, by_arrival: bool) -> int:
    return frame.received_ns if by_arrival else frame.stamp_ns


def _images_of(
    reader: BagReader,
    by_arrival: bool,
    is_wanted: Callable[[int, BagFrame], bool],
    problems: dict[Stream, str],
) -> Iterator[tuple[int, BagFrame, np.ndarray]]:
    """Yield number, frame and pixels of wanted frames; `problems` gets the last error of each camera."""
    for number, frame in enumerate(reader.frames(not by_arrival)):
        if not is_wanted(number, frame):
            continue
        try:
            pixels = frame.decode().pixels
        except DecodeError as error:
            frame.camera.refuse(error)
            problems[frame.stream] = f"{frame.topic}: {error}"
        else:
            yield number, frame, pixels


def pairs_of_bag(
    reader: BagReader, max_count: int, offset_ms: float = 0.0, slop_ms: float = 50.0, by_arrival: bool = False
) -> list[ImagePair]:
    """Return at most so many pairs spread over a bag, made by the node's own pairing; unreadable frames are skipped.

    Args:
        reader: bag with both cameras.
        max_count: maximum number of pairs, at least 1.
        offset_ms, slop_ms: IR stamp minus RGB stamp of the same moment, and maximum difference within a pair.
        by_arrival: pair by recording time.

    Raises:
        CalibrationError: no frames pair, or none of the chosen can be read; names what to check.
    """
    pairer: Pairer[int] = Pairer(slop_ms, offset_ms)
    counts: Counter[Stream] = Counter()
    made: list[tuple[int, int]] = []
    # A recording played twice into one bag has duplicate stamps: identify frames by number.
    for number, frame in enumerate(reader.frames(not by_arrival)):
        counts[frame.stream] += 1
        time_ns = frame.received_ns if by_arrival else None
        made += [(pair.rgb, pair.ir) for pair in pairer.push(frame.stream, frame.stamp_ns, number, time_ns)]
    made += [(pair.rgb, pair.ir) for pair in pairer.flush()]
    if not made:
        raise CalibrationError(
            f"{reader.path}: none of {counts[Stream.RGB]} RGB and {counts[Stream.IR]} IR frames are within "
            f"{slop_ms:g} ms of one another: measure the clock offset with 'spectradino calibrate time', or "
            "give --ir-time-offset-ms"
        )
    chosen = spread_over(made, max_count)
    wanted = {number for pair in chosen for number in pair}
    images: dict[int, np.ndarray] = {}
    stamps: dict[int, int] = {}
    problems: dict[Stream, str] = {}
    for number, frame, pixels in _images_of(reader, by_arrival, lambda number, frame: number in wanted, problems):
        images[number], stamps[number] = np.array(pixels), frame.stamp_ns
    pairs = [
        ImagePair(f"{stamps[rgb] / 1e9:.3f} s", images[rgb], images[ir])
        for rgb, ir in chosen
        if rgb in images and ir in images
    ]
    if not pairs:
        raise CalibrationError(f"{reader.path}: none of the chosen images can be read ({'; '.join(problems.values())})")
    return pairs


def pairs_of_folder(
    folder: Path, max_count: int, crop: tuple[int, int, int, int] = DecodeOptions.ir_crop
) -> list[ImagePair]:
    """Return at most so many pairs from a folder of RGB and one of IR images with the same file names, below `folder`.

    `crop`: used part of each IR image, see `DecodeOptions.ir_crop`.

    Raises:
        CalibrationError, ImageFileError: no such folders, no name in common, or an image is damaged.
    """
    rgb_folder, ir_folder = (_first_folder(folder, names) for names in (_COLOUR, _INFRARED))
    if rgb_folder is None or ir_folder is None:
        entries = folder.iterdir() if folder.is_dir() else ()
        below = sorted(entry.name for entry in entries if entry.is_dir() and _first_folder(entry, _COLOUR))
        hint = f"; give one of {', '.join(str(folder / name) for name in below)}" if below else ""
        raise CalibrationError(
            f"{folder}: a folder of pairs must contain one of {', '.join(_COLOUR)} and one of {', '.join(_INFRARED)}, "
            f"with images of the same names{hint}"
        )
    colour, infrared = _images(rgb_folder), _images(ir_folder)
    names = sorted(colour.keys() & infrared.keys())
    if not names:
        raise CalibrationError(f"{folder}: no image name in {rgb_folder.name} also exists in {ir_folder.name}")
    try:
        return [
            ImagePair(name, read_colour(colour[name]), cropped(read_counts(infrared[name]), crop))
            for name in spread_over(names, max_count)
        ]
    except DecodeError as error:
        raise CalibrationError(f"{ir_folder}: {error}") from None


def activities_of_bag(
    reader: BagReader, seconds: float = 120.0, registration: Registration | None = None, by_arrival: bool = False
) -> tuple[Activity, Activity]:
    """Return the motion activity of the RGB and the IR camera, see `Activity`.

    Args:
        reader: bag with both cameras.
        seconds: how much of a long bag is read, in stretches of 20 s spread over it.
        registration: IR to RGB pixels; None: each camera's cells are those of its own image.
        by_arrival: use recording times instead of stamps.

    Raises:
        CalibrationError, RegistrationError: no frame of a camera can be read, or the registration is for another size.
    """
    received_ns = [frame.received_ns for frame in reader.frames(not by_arrival)] or [0]
    windows = _windows(received_ns[0], received_ns[-1], seconds)
    activities: dict[Stream, Activity] = {Stream.RGB: Activity()}
    problems: dict[Stream, str] = {}
    waiting: list[tuple[int, np.ndarray]] = []  # IR frames before the first RGB frame, whose size is needed

    def is_inside(_: int, frame: BagFrame) -> bool:
        return any(low <= frame.received_ns <= high for low, high in windows)

    for _, frame, pixels in _images_of(reader, by_arrival, is_inside, problems):
        if frame.stream is Stream.RGB and Stream.IR not in activities:
            activities[Stream.IR] = Activity(registration, (pixels.shape[1], pixels.shape[0]))
            for stamp_ns, image in waiting:
                activities[Stream.IR].add(stamp_ns, image)
            waiting.clear()
        if frame.stream is Stream.IR and Stream.IR not in activities:
            if len(waiting) < 64:
                waiting.append((_time_ns(frame, by_arrival), np.array(pixels)))
            continue
        activities[frame.stream].add(_time_ns(frame, by_arrival), pixels)
    for stream in (Stream.RGB, Stream.IR):
        if stream not in activities or not len(activities[stream]):
            reason = f" ({problems[stream]})" if stream in problems else ""
            raise CalibrationError(f"{reader.path}: no {stream.value.upper()} frame can be read{reason}")
    return activities[Stream.RGB], activities[Stream.IR]


def delay_of_bag(
    reader: BagReader,
    rgb_ns: np.ndarray,
    ir_ns: np.ndarray,
    offset_ms: float,
    registration: Registration,
    by_arrival: bool = False,
) -> Delay | None:
    """Estimate the error of an offset from displaced patches, see `moments`; None if too little moves."""
    chosen = moments(rgb_ns, ir_ns, offset_ms)
    wanted = {
        Stream.RGB: {stamp for moment in chosen for stamp in moment.colour},
        Stream.IR: {stamp for moment in chosen for stamp in moment.infrared},
    }
    colour: dict[int, np.ndarray] = {}
    later: dict[int, np.ndarray] = {}  # raw IR frames, until the RGB image's size is known
    infrared: dict[int, np.ndarray] = {}
    rgb_size: Size | None = None
    valid: np.ndarray | None = None

    def is_wanted(_: int, frame: BagFrame) -> bool:
        return _time_ns(frame, by_arrival) in wanted[frame.stream]

    for _, frame, pixels in _images_of(reader, by_arrival, is_wanted, {}):
        time_ns = _time_ns(frame, by_arrival)
        if frame.stream is Stream.IR:
            later[time_ns] = np.array(pixels)
        elif rgb_size is None:
            rgb_size = (pixels.shape[1], pixels.shape[0])
        if rgb_size is None:
            continue
        size = (WIDTH, max(64, round(WIDTH * rgb_size[1] / rgb_size[0])))
        if frame.stream is Stream.RGB:
            small = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
            colour[time_ns] = grey_image(small).astype(np.float16)
        for stamp_ns, image in later.items():
            warp = Warp.of(registration, (image.shape[1], image.shape[0]), rgb_size, size)
            infrared[stamp_ns], valid = grey_image(warp(image)).astype(np.float16), warp.valid
        later.clear()
    return fit_delay(displacements(chosen, colour, infrared, valid))


def _windows(first_ns: int, last_ns: int, seconds: float) -> list[tuple[int, int]]:
    length = (last_ns - first_ns) / 1e9
    if length <= seconds:
        return [(first_ns, last_ns)]
    count = max(1, int(seconds // _WINDOW_S))
    window = seconds / count
    starts = np.linspace(0, length - window, count) if count > 1 else [(length - window) / 2]
    return [(first_ns + round(s * 1e9), first_ns + round((s + window) * 1e9)) for s in starts]


def _first_folder(folder: Path, names: tuple[str, ...]) -> Path | None:
    return next((folder / name for name in names if (folder / name).is_dir()), None)


def _images(folder: Path) -> dict[str, Path]:
    return {path.stem: path for path in sorted(folder.iterdir()) if path.suffix.lower() in _SUFFIXES}


def before_and_after(pairs: Sequence[ImagePair], registration: Registration) -> np.ndarray:
    """Draw one row per pair, without the registration left and with it right: uint8 RGB [h', w', 3].

    Raises as `checkerboard`.
    """
    rows = []
    for pair, rgb, infrared in pairs:
        boards = []
        for name, used in (("before", None), ("after", registration)):
            board = checkerboard(rgb, infrared, used)
            if board.shape[1] > _WIDEST:
                size = (_WIDEST, round(board.shape[0] * _WIDEST / board.shape[1]))
                board = cv2.resize(board, size, interpolation=cv2.INTER_AREA)
            boards.append(np.vstack([text_line(f"{name}: {pair}", board.shape[1]), board]))
        rows.append(np.hstack(boards))
    return np.vstack(rows)
