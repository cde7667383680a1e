"""Whether compensating the motion of a turning camera helps where an infrared frame is reused.

A scene is rendered twice as wide as the cameras' images, which are windows that swing over it: exactly what a small
rotation about the vertical axis does. The infrared frame is placed by its own window's position, so it lies beside the
RGB image by what the camera turned in between. Compensation moves it back, by the known motion (the most that can be
gained) or by the motion that phase correlation finds between the RGB frame at the infrared frame's time and the present
one.

Letters: h x w an image.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter

import numpy as np

from spectradino_core.bags.sources import CameraView, SceneViews
from spectradino_core.calibration.registration import Registration
from spectradino_core.data.sample import PairedSample
from spectradino_core.evaluation.page import markdown_table
from spectradino_core.evaluation.scorer import Scorer
from spectradino_core.runtime.motion import global_shift, small_grey
from spectradino_core.runtime.pipeline import Pipeline
from spectradino_core.streams.queues import Stream

SIZE = (640, 512)
RGB_HZ, IR_HZ = 30, 9
SPEEDS = (0, 200, 400)
"""Peak speed of the image [px/s]; 400 is about 40 degrees a second at a field of view of 60 degrees."""
SWING_S = 4.0
CASES = ("30 Hz infrared", "reused", "reused, compensated by the images", "reused, compensated by the known motion")
_MIN_SHOWN = 0.3


def turning_table(model: Path, seeds: Sequence[int], duration_s: float) -> str:
    """Score each case on night scenes and return a Markdown table."""
    rows, took_ms, errors_px = [], [], []
    for speed in SPEEDS:
        scorers = {case: _scorer(model) for case in CASES}
        for seed in seeds:
            run(Pipeline.open(model, "cpu", 1), seed, speed, duration_s, scorers, took_ms, errors_px)
        rows.append([f"{speed}", *(100 * scorer.scores().detection.map50 for scorer in scorers.values())])
    table = markdown_table(["peak speed [px/s]", *CASES], rows)
    found = np.percentile(errors_px, (50, 95))
    return (
        f"{table}\nError of the estimated motion: median {found[0]:.1f} px, 95 % within {found[1]:.1f} px; "
        f"{np.median(took_ms):.2f} ms an image.\n"
    )


def _scorer(model: Path) -> Scorer:
    info = Pipeline.open(model, "cpu", 1).info
    return Scorer(info.box_classes, (), info.score_threshold)


def run(
    pipeline: Pipeline, seed: int, speed: float, duration_s: float, scorers: dict[str, Scorer], took_ms: list[float],
    errors_px: list[float],
) -> None:  # fmt: skip
    """Add one recording's results to the scorers, and the estimates' times and errors."""
    rgb_s = [i / RGB_HZ for i in range(int(duration_s * RGB_HZ))]
    ir_s = [i / IR_HZ for i in range(int(duration_s * IR_HZ))]
    scene = SceneViews(seed, size=(2 * SIZE[0], SIZE[1]), time_of_day="night")
    rgb = [_window(view, speed, at) for view, at in zip(_views(scene, Stream.RGB, rgb_s), rgb_s, strict=True)]
    fast = [_window(view, speed, at).pixels for view, at in zip(_views(scene, Stream.IR, rgb_s), rgb_s, strict=True)]
    slow = [_window(view, speed, at).pixels for view, at in zip(_views(scene, Stream.IR, ir_s), ir_s, strict=True)]
    pipeline.score_threshold = 0.01
    for number, (view, at) in enumerate(zip(rgb, rgb_s, strict=True)):
        newest = max(i for i, s in enumerate(ir_s) if s <= at + 0.5 / RGB_HZ)
        true = _left(speed, ir_s[newest]) - _left(speed, at)
        begun = perf_counter()
        first = small_grey(rgb[min(round(ir_s[newest] * RGB_HZ), number)].pixels)
        x, y, _ = global_shift(first, small_grey(view.pixels))
        found = (x * SIZE[0] / first.shape[1], y * SIZE[1] / first.shape[0])
        took_ms.append(1e3 * (perf_counter() - begun))
        errors_px.append(math.hypot(found[0] - true, found[1]))
        frames = (fast[number], slow[newest], slow[newest], slow[newest])
        for case, infrared, shift in zip(CASES, frames, (None, None, found, (true, 0.0)), strict=True):
            pipeline.registration = None if shift is None else _moved(shift)
            sample = PairedSample(view.pixels, infrared, view.boxes, view.labels)
            scorers[case].add(sample, pipeline(view.pixels, infrared))


def _views(scene: SceneViews, stream: Stream, at_s: Sequence[float]) -> list[CameraView]:
    return list(scene.views(stream, [round(at * 1e9) for at in at_s]))


def _left(speed: float, at_s: float) -> float:
    """Left edge of the window at a time, in pixels of the wide image."""
    turn = 2 * math.pi / SWING_S
    return SIZE[0] / 2 + speed / turn * math.sin(turn * at_s)


def _window(view: CameraView, speed: float, at_s: float) -> CameraView:
    """Cut the window out of a wide view; objects of which little is left are no truth."""
    left = round(_left(speed, at_s))
    pixels = np.ascontiguousarray(view.pixels[:, left : left + SIZE[0]])
    if view.boxes is None or view.labels is None:
        return CameraView(pixels)
    boxes = view.boxes - np.array([left, 0, left, 0], np.float32)
    clipped = np.clip(boxes, 0, np.array(SIZE * 2, np.float32))
    width = [(b[:, 2] - b[:, 0]) * (b[:, 3] - b[:, 1]) for b in (clipped, boxes)]
    kept = width[0] > _MIN_SHOWN * np.maximum(width[1], 1e-6)
    return CameraView(pixels, clipped[kept], view.labels[kept])


def _moved(shift: tuple[float, float]) -> Registration:
    return Registration((1.0, 0.0, shift[0], 0.0, 1.0, shift[1], 0.0, 0.0, 1.0), SIZE, SIZE, "camera motion")
