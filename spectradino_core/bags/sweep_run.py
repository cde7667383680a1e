"""One step of a sweep on one bag: what the node finds when a camera loses frames, lags or is misregistered.

Beside it stand the two cameras alone: each of their frames that is left is answered by itself, without any pairing. An
infrared camera alone is wrong where its stamps or its registration are, since truth is by the colour camera's stamps
and pixels.

- `dropout_rgb`, `dropout_ir`: a share of the camera's frames is taken out, chosen by seed and stamp alone, so that each
  larger share takes the same frames and more.
- `offset`: infrared stamps are so much later than the pictures, as when its clock is wrong or its driver late.
- `shift`: the registration lays the infrared picture so many colour pixels too far to the right.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from spectradino_core.bags.evaluation_options import Options, Sweep, Unit, pipeline_of
from spectradino_core.bags.labelled_frames import LabelledFrames, stored
from spectradino_core.bags.node_run import Matcher, progress_bar, save_arrays
from spectradino_core.bags.reader import BagFrame
from spectradino_core.bags.replay import Replay
from spectradino_core.bags.scored_bag import ScoredBag, open_scored
from spectradino_core.calibration.registration import Registration
from spectradino_core.evaluation.detection import SCORE_FLOOR
from spectradino_core.runtime.pipeline import Pipeline
from spectradino_core.runtime.preprocess import FrameError
from spectradino_core.runtime.rgb_grid import in_colour_pixels, shift_right
from spectradino_core.streams.decode import DecodeError
from spectradino_core.streams.queues import Stream
from spectradino_core.thermal import ThermalError

__all__ = ["LINES", "NODE", "is_kept", "place_of", "run_sweep", "sweep_runs"]

NODE = "node"
LINES = ("fused", "rgb_only", "ir_only")
"""What is drawn: the node with both cameras (and its fallback), and each camera alone."""

_MS = 1_000_000
_BASE = "base"
_OF_STREAM = {"dropout_rgb": Stream.RGB, "dropout_ir": Stream.IR}


def sweep_runs(sweeps: Sequence[Sweep]) -> list[str]:
    """The replays that sweeps need beside the node's own; each is one piece of work."""
    runs = [place_of(line, sweep.kind, value)[0] for sweep in sweeps for value in sweep.values for line in LINES]
    return sorted(set(runs) - {NODE})


def place_of(line: str, kind: str, value: float) -> tuple[str, str]:
    """Which run holds a point of a line, and under which name in it."""
    step = f"{kind}={value:.10g}"
    if line == "fused":
        return (step, NODE) if value else (NODE, NODE)
    if line == "rgb_only":
        return "rgb_alone", step if value and kind == "dropout_rgb" else _BASE
    if value and kind == "dropout_ir":
        return f"ir_alone,{step}", _BASE
    return "ir_alone", step if value and kind in ("offset", "shift") else _BASE


def is_kept(stream: Stream, stamp_ns: int, share: float, seed: int) -> bool:
    """Whether a frame is left when a share of a camera's frames is lost: the same answer on every machine."""
    digest = hashlib.blake2b(f"{seed} {stream.value} {stamp_ns}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >= share * 2.0**64


def run_sweep(unit: Unit) -> None:
    """Does one run of `sweep_runs` and leaves what it recorded at the labelled frames in the unit's evidence.

    Raises:
        As `node_run.run_node`.
    """
    options = unit.options
    pipeline = pipeline_of(options)
    floor = min(SCORE_FLOOR, options.settings.threshold_of(pipeline.info))
    with open_scored(
        unit.bag, unit.name, pipeline.info, options.settings, options.labels, options.rgb_topic, options.ir_topic,
        options.clock,
    ) as bag:  # fmt: skip
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
    labelled, match = _labelled_frames(bag, pipeline), Matcher(bag, options)
    answers = replay.run(_worse(replay.frames_of(bag.reader), kind, value, options.seed))
    for answer in progress_bar(answers, unit, len(bag.rgb_ns)):
        judged = match.judged(answer, replay)
        if judged is not None:
            labelled.add(*judged)
    return labelled


def _rgb_alone(unit: Unit, bag: ScoredBag, pipeline: Pipeline, floor: float) -> dict[str, LabelledFrames]:
    options = unit.options
    shares = {_BASE: 0.0}
    shares |= {
        place_of("rgb_only", s.kind, v)[1]: v for s in options.sweeps for v in s.values if v and s.kind == "dropout_rgb"
    }
    frames_of = {name: _labelled_frames(bag, pipeline) for name in shares}
    pipeline.score_threshold = floor
    frames = (frame for frame in bag.reader.frames() if frame.stream is Stream.RGB)
    for frame in progress_bar(frames, unit, len(bag.rgb_ns)):
        try:
            percepts = pipeline(frame.decode().pixels, None)
        except (DecodeError, FrameError):
            continue  # as in the node; counted in its own run
        for name, share in shares.items():
            if is_kept(Stream.RGB, frame.stamp_ns, share, options.seed):
                frames_of[name].add(frame.stamp_ns, percepts, bag.tolerance_ns)
    return frames_of


def _ir_alone(unit: Unit, bag: ScoredBag, pipeline: Pipeline, floor: float) -> dict[str, LabelledFrames]:
    """Offset and shift move what was found, so one replay serves them all; lost frames change the thermal range."""
    options = unit.options
    share = float(unit.run.partition("=")[2] or 0.0)
    moves = {_BASE: (0.0, 0.0)}
    for sweep in options.sweeps if not share else ():
        for value in sweep.values:
            if value and sweep.kind in ("offset", "shift"):
                move = (value, 0.0) if sweep.kind == "offset" else (0.0, value)
                moves[place_of("ir_only", sweep.kind, value)[1]] = move
    frames_of = {name: _labelled_frames(bag, pipeline) for name in moves}
    replay = _replay(bag, pipeline, options, floor)
    offset_ns = bag.ir_offset_ns
    slop_ns = max(round(options.settings.sync_slop_ms * _MS), bag.tolerance_ns)
    pipeline.score_threshold = floor
    frames = (
        frame
        for frame in bag.reader.frames()
        if frame.stream is Stream.IR and is_kept(Stream.IR, frame.stamp_ns, share, options.seed)
    )
    for frame in progress_bar(frames, unit, len(bag.ir_ns)):
        try:
            percepts = pipeline(None, frame.decode().pixels)
        except (DecodeError, FrameError, ThermalError):
            continue
        size = bag.colour_size or percepts.size
        for name, (late_ms, shift_px) in moves.items():
            found = in_colour_pixels(percepts, replay.registering.current, size, shift_px)
            frames_of[name].add(frame.stamp_ns + round(late_ms * _MS) - offset_ns, found, slop_ns)
    return frames_of


def _worse(frames: Iterator[BagFrame], kind: str, value: float, seed: int) -> Iterator[BagFrame]:
    for frame in frames:
        if _OF_STREAM.get(kind) is frame.stream and not is_kept(frame.stream, frame.stamp_ns, value, seed):
            continue
        if kind == "offset" and frame.stream is Stream.IR:
            frame = replace(frame, stamp_ns=frame.stamp_ns + round(value * _MS))
        yield frame


def _shifted(registration: Registration | None, bag: ScoredBag, pixels: float) -> Registration | None:
    if bag.ir_size is None or bag.rgb_size is None:
        return registration
    registration = registration or Registration.whole(bag.ir_size, bag.rgb_size)
    matrix = shift_right(pixels) @ registration.for_sizes(bag.ir_size, bag.rgb_size)
    source = f"{registration.source}, {pixels:g} px off"
    return Registration(tuple(matrix.reshape(-1)), bag.ir_size, bag.rgb_size, source)


def _replay(bag: ScoredBag, pipeline: Pipeline, options: Options, floor: float) -> Replay:
    replay = Replay(pipeline, options.settings.with_(score_threshold=floor), options.clock)
    if replay.registering.from_camera_info:
        replay.take_camera_infos(bag.reader)
    pipeline.reset()
    return replay


def _labelled_frames(bag: ScoredBag, pipeline: Pipeline) -> LabelledFrames:
    assert bag.truth is not None
    return LabelledFrames(bag.truth, bag.places, pipeline.info)
