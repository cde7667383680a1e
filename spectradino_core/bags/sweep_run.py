"""Run one step of a sweep on one bag: the node with a camera that loses frames, lags or is misregistered.

For comparison each camera is run on its own: every remaining frame gives a result, without pairing. IR-only results are
affected by wrong stamps and registration, since ground truth is in the RGB camera's stamps and pixels.

- `dropout_rgb`, `dropout_ir`: a fraction of the camera's frames is removed, selected by seed and stamp only, so that a
  larger fraction removes the same frames and more.
- `ir_rate`: IR frames are removed so that about so many a second remain, evenly.
- `offset`: IR stamps are delayed, as by a wrong clock or a slow driver.
- `shift`: the registration maps the IR image too far to the right, in RGB pixels.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from spectradino_core.bags.evaluation_options import Options, Sweep, Unit, pipeline_of
from spectradino_core.bags.labelled_frames import LabelledFrames, stored
from spectradino_core.bags.node_run import progress_bar, save_arrays
from spectradino_core.bags.reader import BagFrame
from spectradino_core.bags.replay import Replay
from spectradino_core.bags.scored_bag import ScoredBag, open_scored
from spectradino_core.calibration.registration import Registration
from spectradino_core.evaluation.detection import SCORE_FLOOR
from spectradino_core.runtime.pipeline import Pipeline
from spectradino_core.runtime.preprocess import FrameError
from spectradino_core.runtime.rgb_grid import in_colour_pixels, shift_right
from spectradino_core.streams.decode import DecodeError
from spectradino_core.streams.detecting import apply_filters
from spectradino_core.streams.queues import Stream
from spectradino_core.thermal import ThermalError

NODE = "node"
LINES = ("fused", "rgb_only", "ir_only")
"""Lines of a sweep plot: the node with both cameras (and its fallback), and each camera on its own."""

_MS = 1_000_000
_BASE = "base"
_OF_STREAM = {"dropout_rgb": Stream.RGB, "dropout_ir": Stream.IR}


def sweep_runs(sweeps: Sequence[Sweep]) -> list[str]:
    """Return the runs that sweeps need in addition to the node's; each is one unit of work."""
    runs = [place_of(line, sweep.kind, value)[0] for sweep in sweeps for value in sweep.values for line in LINES]
    return sorted(set(runs) - {NODE})


def place_of(line: str, kind: str, value: float) -> tuple[str, str]:
    """Return the run that contains a point of a line, and the point's name in it."""
    step = f"{kind}={value:.10g}"
    if line == "fused":
        return (step, NODE) if value else (NODE, NODE)
    if line == "rgb_only":
        return "rgb_alone", step if value and kind == "dropout_rgb" else _BASE
    if value and kind in ("dropout_ir", "ir_rate"):
        return f"ir_alone,{step}", _BASE
    return "ir_alone", step if value and kind in ("offset", "shift") else _BASE


def is_kept(stream: Stream, stamp_ns: int, fraction: float, seed: int) -> bool:
    """Return whether a frame is kept when a fraction of a camera's frames is lost; the same on every machine."""
    digest = hashlib.blake2b(f"{seed} {stream.value} {stamp_ns}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >= fraction * 2.0**64


def run_sweep(unit: Unit) -> None:
    """Execute one run of `sweep_runs` and store its results at the labelled frames.

    Raises what `node_run.run_node` raises.
    """
    options = unit.options
    pipeline = pipeline_of(options)
    floor = min(SCORE_FLOOR, options.settings.threshold_of(pipeline.info))
    with open_scored(unit, pipeline.info) as bag:
        if unit.run == "rgb_alone":
            frames_of = _rgb_alone(unit, bag, pipeline, floor)
        elif unit.run.startswith("ir_alone"):
            frames_of = _ir_alone(unit, bag, pipeline, floor)
        else:
            frames_of = {NODE: _node(unit, bag, pipeline, floor)}
    evidence: dict[str, np.ndarray] = {}
    for name, labelled in frames_of.items():
        evidence |= stored(name, labelled.arrays())
    save_arrays(unit.evidence, evidence)


def _node(unit: Unit, bag: ScoredBag, pipeline: Pipeline, floor: float) -> LabelledFrames:
    kind, _, word = unit.run.partition("=")
    value, options = float(word), unit.options
    replay = _replay(bag, pipeline, options, floor)
    if kind == "shift":
        replay.registering.current = _shifted(replay.registering.current, bag, value)
    labelled = bag.labelled_frames(pipeline.info)
    results = replay.run(_degraded(replay.frames_of(bag.reader), kind, value, options.seed))
    for result in progress_bar(results, unit, bag):
        matched = bag.by_rgb_clock(result, replay)
        if matched is not None:
            labelled.add(*matched)
    return labelled


def _rgb_alone(unit: Unit, bag: ScoredBag, pipeline: Pipeline, floor: float) -> dict[str, LabelledFrames]:
    options = unit.options
    fractions = {_BASE: 0.0}
    fractions |= {
        place_of("rgb_only", s.kind, v)[1]: v for s in options.sweeps for v in s.values if v and s.kind == "dropout_rgb"
    }
    frames_of = {name: bag.labelled_frames(pipeline.info) for name in fractions}
    apply_filters(pipeline, options.settings.down_to(floor))
    frames = (frame for frame in bag.reader.frames() if frame.stream is Stream.RGB)
    for frame in progress_bar(frames, unit, bag):
        try:
            perception = pipeline(frame.decode().pixels, None)
        except (DecodeError, FrameError):
            continue  # dropped as in the node, and counted in the node's run
        for name, fraction in fractions.items():
            if is_kept(Stream.RGB, frame.stamp_ns, fraction, options.seed):
                frames_of[name].add(frame.stamp_ns, perception, bag.tolerance_ns)
    return frames_of


def _ir_alone(unit: Unit, bag: ScoredBag, pipeline: Pipeline, floor: float) -> dict[str, LabelledFrames]:
    """Replay infrared alone: once for all offsets and shifts, which move results; lost frames change the range."""
    options = unit.options
    kind, _, word = unit.run.partition(",")[2].partition("=")
    moves = {_BASE: (0.0, 0.0)}
    for sweep in options.sweeps if not kind else ():
        for value in sweep.values:
            if value and sweep.kind in ("offset", "shift"):
                move = (value, 0.0) if sweep.kind == "offset" else (0.0, value)
                moves[place_of("ir_only", sweep.kind, value)[1]] = move
    frames_of = {name: bag.labelled_frames(pipeline.info) for name in moves}
    replay = _replay(bag, pipeline, options, floor)
    apply_filters(pipeline, options.settings.down_to(floor))
    of_ir = (frame for frame in bag.reader.frames() if frame.stream is Stream.IR)
    frames = _degraded(of_ir, kind, float(word or 0.0), options.seed)
    for frame in progress_bar(frames, unit, bag):
        try:
            perception = pipeline(None, frame.decode().pixels)
        except (DecodeError, FrameError, ThermalError):
            continue
        size = bag.colour_size or perception.size
        for name, (late_ms, shift_px) in moves.items():
            found = in_colour_pixels(perception, replay.registering.current, size, shift_px)
            frames_of[name].add(frame.stamp_ns + round(late_ms * _MS) - bag.ir_offset_ns, found, bag.slop_ns)
    return frames_of


def _degraded(frames: Iterator[BagFrame], kind: str, value: float, seed: int) -> Iterator[BagFrame]:
    tick = None
    for frame in frames:
        if _OF_STREAM.get(kind) is frame.stream and not is_kept(frame.stream, frame.stamp_ns, value, seed):
            continue
        if kind == "ir_rate" and frame.stream is Stream.IR:
            before, tick = tick, math.floor(frame.stamp_ns / 1e9 * value)
            if tick == before:
                continue
        if kind == "offset" and frame.stream is Stream.IR:
            frame = replace(frame, stamp_ns=frame.stamp_ns + round(value * _MS))
        yield frame


def _shifted(registration: Registration | None, bag: ScoredBag, pixels: float) -> Registration | None:
    if len(bag.sizes) < 2:
        return registration
    sizes = bag.sizes[Stream.IR], bag.sizes[Stream.RGB]
    registration = registration or Registration.whole(*sizes)
    matrix = shift_right(pixels) @ registration.for_sizes(*sizes)
    return Registration(tuple(matrix.reshape(-1)), *sizes, f"{registration.source}, {pixels:g} px off")


def _replay(bag: ScoredBag, pipeline: Pipeline, options: Options, floor: float) -> Replay:
    replay = Replay(pipeline, options.settings, options.clock, floor)
    if replay.registering.from_camera_info:
        replay.take_camera_infos(bag.reader)
    pipeline.reset()
    return replay
