"""Scores over labelled pairs with a model of known results."""

from __future__ import annotations

import numpy as np
import pytest

from spectradino_core.data.sample import PairedSample
from spectradino_core.data.scene_sets import FIRST_TEST_SEED, ScenePairs
from spectradino_core.evaluation.scorer import score_samples
from spectradino_core.modality import Modality
from spectradino_core.runtime.perception_result import Mode
from spectradino_core.runtime.pipeline import Pipeline
from tests.blob_model import make_blob_model

RED_BOX, HOT_BOX = (40, 30, 200, 150), (300, 200, 420, 330)


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory) -> Pipeline:
    return Pipeline.open(make_blob_model(tmp_path_factory.mktemp("blob") / "blob.onnx"), device="cpu")


def pair() -> PairedSample:
    rgb = np.full((476, 644, 3), 60, np.uint8)
    infrared = np.full((476, 644), 100, np.uint8)
    mask = np.zeros((476, 644), np.uint8)
    for image, value, (x1, y1, x2, y2) in ((rgb, (255, 0, 0), RED_BOX), (infrared, 250, HOT_BOX)):
        image[y1:y2, x1:x2] = value
    mask[RED_BOX[1] : RED_BOX[3], RED_BOX[0] : RED_BOX[2]] = 1
    mask[HOT_BOX[1] : HOT_BOX[3], HOT_BOX[0] : HOT_BOX[2]] = 2
    boxes = np.array([RED_BOX, HOT_BOX], np.float32)
    return PairedSample(rgb, infrared, boxes, np.array([0, 1]), mask)


def test_perfect_result_scores_1(pipeline):
    scores = score_samples(pipeline, [pair(), pair()])
    assert scores["pairs"] == 2
    assert scores["ap50"] == pytest.approx({"red": 1.0, "hot": 1.0})
    assert scores["map50"] == pytest.approx(1.0)
    assert scores["miou"] > 0.98


@pytest.mark.parametrize(("mode", "red", "hot"), [(Mode.RGB_ONLY, 1.0, 0.0), (Mode.IR_ONLY, 0.0, 1.0)])
def test_a_withheld_stream_is_not_seen(pipeline, mode, red, hot):
    scores = score_samples(pipeline, [pair()], mode)
    assert scores["ap50"] == pytest.approx({"red": red, "hot": hot})
    assert scores["mode"] == mode.value


def test_what_is_not_labelled_does_not_count(pipeline):
    sample = pair()
    sample.boxes = sample.labels = sample.mask = None
    scores = score_samples(pipeline, [sample])
    assert np.isnan(scores["map50"])
    assert np.isnan(scores["miou"])


def test_the_serving_threshold_is_put_back(pipeline):
    before = pipeline.score_threshold
    score_samples(pipeline, [pair()])
    assert pipeline.score_threshold == before


def test_scenes_follow_the_options():
    scenes = list(ScenePairs.held_out("report", 2, Modality.LWIR, (160, 128), "night"))
    assert [s.name for s in scenes] == [f"scene {FIRST_TEST_SEED + i} (night)" for i in range(2)]
    assert scenes[0].size == (160, 128)
    assert scenes[0].infrared.dtype == np.uint16
