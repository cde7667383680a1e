"""Sliding windows: the plain model if there is one window, otherwise an average computed by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from spectradino_core.data.sample import PairedSample
from spectradino_core.evaluation.scorer import Run, score_runs
from spectradino_core.evaluation.sliding import SlidingEngine, window_starts
from spectradino_core.export.torch_engine import TorchEngine
from spectradino_core.modality import Modality
from spectradino_core.models.perception import Architecture, Perception
from spectradino_core.runtime.bundle import ModelInfo
from spectradino_core.runtime.pipeline import Pipeline
from spectradino_core.runtime.preprocess import Letterbox, infrared_input, rgb_input
from spectradino_core.thermal import ThermalContract, ThermalNormaliser

WINDOW = (56, 42)


@pytest.fixture(scope="module")
def model() -> Perception:
    torch.manual_seed(0)
    return Perception(Architecture("test", "lwir", 2, 3, pyramid_width=16, tower_depth=1)).eval()


def info() -> ModelInfo:
    return ModelInfo(
        "m", "test", (Modality.RGB, Modality.LWIR), ("a", "b"), ("x", "y", "z"), ((0, 0, 0),) * 3, WINDOW,
        ThermalContract(),
    )  # fmt: skip


def inputs(width: int, height: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    rgb = rng.normal(size=(1, 3, height, width)).astype(np.float32)
    return rgb, rng.random((1, 1, height, width)).astype(np.float32), np.ones(2, np.float32)


def test_one_window_is_the_plain_model(model):
    frames = inputs(*WINDOW)
    boxes, scores, mask = SlidingEngine(model, info(), WINDOW).run(*frames)
    plain = TorchEngine.of(model, info()).run(*frames)
    np.testing.assert_allclose(boxes, plain[0], atol=1e-5)
    np.testing.assert_allclose(scores, plain[1], atol=1e-6)
    assert (mask == plain[2]).all()


@pytest.mark.parametrize("present", [(1, 1), (1, 0)])
def test_class_scores_of_windows_are_averaged(model, present):
    size, stride = (98, 70), (28, 14)
    rgb, infrared, _ = inputs(*size)
    streams = np.array(present, np.float32)
    engine = SlidingEngine(model, info(), size, stride)
    assert engine.info.input_size == size
    mask = engine.run(rgb, infrared, streams)[2]
    total, count = np.zeros((3, size[1], size[0])), np.zeros((size[1], size[0]))
    for y in (0, 14, 28):
        for x in (0, 28, 42):
            crop = (..., slice(y, y + WINDOW[1]), slice(x, x + WINDOW[0]))
            images = {Modality.RGB: torch.from_numpy(rgb[crop]), Modality.LWIR: torch.from_numpy(infrared[crop])}
            with torch.inference_mode():
                logits = model(images, torch.from_numpy(streams)[None]).mask_logits
            full = nn.functional.interpolate(logits, size=WINDOW[::-1], mode="bilinear", align_corners=False)
            total[crop] += full[0].numpy()
            count[crop] += 1
    assert count.max() > 4
    assert count.min() == 1
    assert (mask == (total / count).argmax(axis=0)).mean() > 0.999  # float32 against float64


def test_evaluation_enlarges_the_logits_of_both_engines(model):
    rng = np.random.default_rng(0)
    rgb, infrared = rng.integers(0, 255, (84, 112, 3), np.uint8), rng.integers(0, 255, (84, 112), np.uint8)
    sample = PairedSample(rgb, infrared, mask=np.zeros((84, 112), np.uint8))
    for engine in (TorchEngine.of(model, info()), SlidingEngine(model, info(), (56, 42))):
        pipeline = Pipeline(engine)
        enlarged = pipeline(rgb, infrared).mask
        counts = score_runs({"a": Run(pipeline)}, [sample])["a"].scores().pixels.counts
        assert not pipeline.masks_from_logits
        with torch.inference_mode():
            logits = model(engine_images(rgb, infrared), torch.ones(1, 2)).mask_logits
        expected = nn.functional.interpolate(logits, size=(84, 112), mode="bilinear", align_corners=False)[0].argmax(0)
        np.testing.assert_allclose(counts[0, :3], np.bincount(expected.numpy().ravel(), minlength=3), atol=3)
        assert (enlarged != expected.numpy()).any()


def engine_images(rgb: np.ndarray, infrared: np.ndarray) -> dict[Modality, torch.Tensor]:
    box = Letterbox.fit((112, 84), WINDOW)
    inputs = rgb_input(rgb, box), infrared_input(infrared, box, ThermalNormaliser(ThermalContract()))
    return dict(zip((Modality.RGB, Modality.LWIR), (torch.from_numpy(x)[None] for x in inputs), strict=True))


def test_boxes_lie_where_their_window_does(model):
    size = (112, 84)
    boxes, scores, _ = SlidingEngine(model, info(), size, WINDOW).run(*inputs(*size))
    rgb, infrared, present = inputs(*size)
    corner = (..., slice(42, 84), slice(56, 112))
    last = TorchEngine.of(model, info()).run(rgb[corner].copy(), infrared[corner].copy(), present)
    assert len(boxes) == len(scores) == 4 * len(last[0])  # four windows
    np.testing.assert_allclose(boxes[-len(last[0]) :], last[0] + [56, 42, 56, 42], atol=1e-4)
    np.testing.assert_allclose(scores[-len(last[0]) :], last[1], atol=1e-6)


@pytest.mark.parametrize(("length", "window", "stride"), [(100, 40, 30), (40, 40, 10), (101, 40, 40), (99, 14, 1)])
def test_windows_leave_no_gap_and_stay_inside(length, window, stride):
    seen = np.zeros(length, int)
    for start in window_starts(length, window, stride):
        assert start + window <= length
        seen[start : start + window] += 1
    assert seen.min() >= 1


def test_what_can_not_slide_is_refused(model, tmp_path):
    with pytest.raises(ValueError, match="choose a larger size"):
        SlidingEngine(model, info(), (40, 40))
    with pytest.raises(ValueError, match="leaves gaps"):
        SlidingEngine(model, info(), (112, 84), (60, 14))
    with pytest.raises(ValueError, match=r"m.onnx: only a checkpoint"):
        SlidingEngine.open(tmp_path / "m.onnx", (112, 84))
