"""Scores on pairs with known ground truth, for a model that detects red and hot objects."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest

from spectradino_core.data.sample import PairedSample
from spectradino_core.evaluation.scorer import ALL, Run, Scorer, score_runs
from spectradino_core.evaluation.sets import Vocabulary
from spectradino_core.evaluation.worst import WorstFrames
from spectradino_core.runtime.perception_result import Mode
from spectradino_core.runtime.pipeline import Pipeline
from tests.blob_model import make_blob_model

RED_BOX, HOT_BOX = (40, 30, 200, 150), (300, 200, 420, 330)


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory) -> Pipeline:
    return Pipeline.open(make_blob_model(tmp_path_factory.mktemp("blob") / "blob.onnx"), device="cpu")


def pair(red: bool = True, hot: bool = True, **changes) -> PairedSample:
    """A red and a hot object, each optionally invisible; both are always labelled."""
    rgb = np.full((476, 644, 3), 60, np.uint8)
    infrared = np.full((476, 644), 100, np.uint8)
    mask = np.zeros((476, 644), np.uint8)
    for seen, image, value, label, (x1, y1, x2, y2) in (
        (red, rgb, (255, 0, 0), 1, RED_BOX),
        (hot, infrared, 250, 2, HOT_BOX),
    ):
        mask[y1:y2, x1:x2] = label
        if seen:
            image[y1:y2, x1:x2] = value
    boxes = np.array([RED_BOX, HOT_BOX], np.float32)
    return replace(PairedSample(rgb, infrared, boxes, np.array([0, 1]), mask, name="pair"), **changes)


class Labels:
    def __init__(self, boxes=(), masks=()) -> None:
        self.box_classes, self.mask_classes = boxes, masks


def test_night_is_scored_apart_from_day(pipeline):
    pairs = [pair(subsets=("day",)), pair(red=False, subsets=("night",)), pair(red=False, subsets=("night",))]
    scorer = score_runs({"a": Run(pipeline)}, pairs)["a"]
    assert list(scorer.images.items()) == [(ALL, 3), ("day", 1), ("night", 2)]
    day, night, together = (scorer.scores(name) for name in ("day", "night", ALL))
    assert (day.images, night.images, together.images) == (1, 2, 3)
    assert day.detection.map50 == pytest.approx(1.0)
    assert night.detection.ap50 == pytest.approx({"red": 0.0, "hot": 1.0})
    assert together.detection.instances == {"red": 3, "hot": 3}
    assert night.segmentation.iou[pipeline.info.mask_classes[1]] == 0
    assert (together.pixels.counts == day.pixels.counts + night.pixels.counts).all()


def test_a_subset_of_everything_is_not_named_twice(pipeline):
    scorer = score_runs({"a": Run(pipeline)}, [pair(subsets=("day",))] * 2)["a"]
    assert scorer.images == {ALL: 2}


def test_every_run_sees_the_streams_that_it_shall(pipeline):
    runs = {mode.value: Run(pipeline, mode) for mode in (Mode.FUSED, Mode.RGB_ONLY, Mode.IR_ONLY)}
    found = {name: scorer.scores() for name, scorer in score_runs(runs, iter([pair()])).items()}
    assert found["fused"].detection.ap50 == pytest.approx({"red": 1.0, "hot": 1.0})
    assert found["rgb_only"].detection.ap50 == pytest.approx({"red": 1.0, "hot": 0.0})
    assert found["ir_only"].detection.ap50 == pytest.approx({"red": 0.0, "hot": 1.0})
    # at the serving threshold: each single stream misses one box
    assert found["fused"].boxes.counts[:2, 2].tolist() == [0, 0]
    assert found["rgb_only"].boxes.counts[:2, 2].tolist() == [0, 1]
    assert found["ir_only"].boxes.counts[:2, 2].tolist() == [1, 0]


def test_ignored_regions_are_not_scored(pipeline):
    only_red = pair(boxes=np.array([RED_BOX], np.float32), labels=np.array([0]))
    crowd = replace(only_red, ignored=np.array([HOT_BOX], np.float32), ignored_labels=np.array([1]))
    strict, lenient = (score_runs({"a": Run(pipeline)}, [p])["a"].scores() for p in (only_red, crowd))
    assert strict.boxes.counts[2].tolist() == [0, 1, 0]
    assert lenient.boxes.counts[2].tolist() == [0, 0, 0]
    assert lenient.detection.instances == {"red": 1, "hot": 0}


def test_without_labels_there_are_no_scores_and_the_threshold_is_put_back(pipeline):
    before = pipeline.score_threshold
    scores = score_runs({"a": Run(pipeline)}, [pair(boxes=None, labels=None, mask=None)])["a"].scores()
    assert (scores.detection, scores.boxes, scores.segmentation, scores.images) == (None, None, None, 1)
    assert pipeline.score_threshold == before
    with pytest.raises(ZeroDivisionError):
        score_runs({"a": Run(pipeline)}, (1 / 0 for _ in range(1)))
    assert pipeline.score_threshold == before


def test_labels_are_matched_by_name(pipeline):
    data = Labels(boxes=("truck", "hot", "red"), masks=("hot", "lake"))
    vocabulary = Vocabulary.between(pipeline.info, data, "a set")
    assert vocabulary.unknown == ("truck", "lake")
    boxes = np.array([[0, 0, 9, 9], HOT_BOX, RED_BOX], np.float32)
    mask = np.full((476, 644), 255, np.uint8)
    mask[0], mask[1] = 0, 1
    sample = vocabulary(pair(boxes=boxes, labels=np.array([0, 1, 2]), mask=mask))
    assert sample.labels.tolist() == [1, 0]
    assert sample.boxes.tolist() == [list(HOT_BOX), list(RED_BOX)]
    hot = pipeline.info.mask_classes.index("hot") if "hot" in pipeline.info.mask_classes else 255
    assert sample.mask[0, 0] == hot
    assert sample.mask[1, 0] == sample.mask[2, 0] == 255
    with pytest.raises(ValueError, match=r"lakes can't be used to evaluate blob.*it labels boxes of lake, the model"):
        Vocabulary.between(pipeline.info, Labels(boxes=("lake",)), "lakes")


def test_the_worst_frames_are_kept_in_order_with_what_is_wrong(pipeline):
    worst = WorstFrames(pipeline.info, pipeline.score_threshold, max_frames=2)
    pairs = [
        pair(name="perfect", mask=None),
        pair(red=False, name="one", mask=None),
        pair(red=False, hot=False, name="two", mask=None),
        pair(hot=False, name="another", mask=None),
    ]
    score_runs({"a": Run(pipeline)}, pairs, {"a": worst})
    first, second = worst.frames()
    assert first.caption == "two: 0 correct, 0 false, 2 missed (red 1, hot 1)"
    assert second.caption == "one: 1 correct, 0 false, 1 missed (red 1)"
    image = cv2.imdecode(np.frombuffer(first.jpeg, np.uint8), cv2.IMREAD_COLOR)
    assert image.shape == (476, 2 * 644, 3)


def test_wrong_pixels_are_a_part_of_a_mistake(pipeline):
    worst = WorstFrames(pipeline.info, pipeline.score_threshold)
    pairs = [pair(hot=False, name="a"), pair(boxes=None, labels=None, hot=False, name="b"), pair(name="perfect")]
    score_runs({"a": Run(pipeline)}, pairs, {"a": worst})
    first, second = worst.frames()
    share = round(100 * (second.mistakes))
    assert 0 < second.mistakes == pytest.approx(first.mistakes - 1)
    assert first.caption == f"a: 1 correct, 0 false, 1 missed (hot 1), {share} % wrong pixels"
    assert second.caption == f"b: {share} % wrong pixels"


def test_a_pair_without_a_result_counts_as_missed_and_its_mask_does_not_count(pipeline):
    info = pipeline.info
    scorer = Scorer(info.box_classes, info.mask_classes, 0.5)
    scorer.add(pair(), pipeline(pair().rgb, pair().infrared))
    scorer.add(pair(), None)
    scores = scorer.scores()
    assert (scores.images, scores.images_with_boxes, scores.images_with_masks) == (2, 2, 1)
    assert scores.detection.instances == {"red": 2, "hot": 2}
    assert scores.detection.ap50 == pytest.approx({"red": 51 / 101, "hot": 51 / 101})
    assert scores.boxes.counts[:2, 2].tolist() == [1, 1]
    assert scores.segmentation.miou == 1.0


def test_images_of_one_camera_are_scored_with_that_camera_only(pipeline):
    single = pair(present=(False, True), rgb=np.zeros((476, 644, 3), np.uint8))
    runs = {mode.value: Run(pipeline, mode) for mode in (Mode.FUSED, Mode.RGB_ONLY, Mode.IR_ONLY)}
    found = {name: scorer.scores() for name, scorer in score_runs(runs, iter([single])).items()}
    assert found["fused"].detection.ap50 == pytest.approx({"red": 0.0, "hot": 1.0})
    assert found["fused"].detection.ap50 == found["ir_only"].detection.ap50
    assert (found["rgb_only"].images, found["rgb_only"].detection) == (0, None)


def test_boxes_of_classes_that_a_set_does_not_label_are_no_mistakes(pipeline):
    partly = pair(labelled_classes=(1,))
    partly.boxes, partly.labels = partly.boxes[1:], partly.labels[1:]
    blamed = score_runs({"a": Run(pipeline)}, [replace(partly, labelled_classes=None)])["a"].scores()
    scores = score_runs({"a": Run(pipeline)}, [partly])["a"].scores()
    assert (blamed.boxes.counts[2].sum(), scores.boxes.counts[2].sum()) == (1, 0)
    assert scores.detection.ap50["hot"] == pytest.approx(1.0)
