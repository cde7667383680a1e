"""Filters of detections and the form of class ids, set while the node runs, over DDS."""

from __future__ import annotations

import pytest
from vision_msgs.msg import LabelInfo

from tests.blob_model import HOT_SCORE, RED_SCORE
from tests.ros.harness import LATCHED, ir_pixels, rgb_pixels, running, wait_until
from tests.ros.management import Manager
from tests.ros.rig import Rig

RGB, IR = rgb_pixels((160, 120), (20, 20, 60, 50)), ir_pixels((80, 60), (40, 30, 60, 50))
RED, HOT = "0", "1"


@pytest.fixture(scope="module")
def node(blob_model):
    options = {"model": blob_model, "device": "cpu", "threads": 1, "fallback_mode": "fused_only"}
    with running("-r", "__ns:=/filters", **options) as node:
        yield node


@pytest.fixture(scope="module")
def rig(node, peer):
    rig = Rig(peer, "filters")
    rig.wait_for_node()
    return rig


def found(rig: Rig) -> list[str]:
    """Return class ids of the node's detections in one pair, highest score first."""
    detections, report = rig.answer_to(RGB, IR)
    assert report.detections == len(detections.detections)
    return [detection.results[0].hypothesis.class_id for detection in detections.detections]


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("classes", "red", [RED]),
        ("classes", " hot , red ", [HOT, RED]),
        ("class_thresholds", f"hot:{HOT_SCORE + 0.05:g}", [RED]),
        ("class_thresholds", "hot:0.1, red:1", [HOT]),
        ("max_detections", 1, [HOT]),
        ("nms_iou", 0.0, [HOT, RED]),
    ],
)
def test_a_filter_is_valid_at_once_and_its_default_restores_the_models_own(node, rig, peer, name, value, expected):
    manager = Manager(peer, node, rig.name)
    default = {"max_detections": 0, "nms_iou": -1.0}.get(name, "")
    assert found(rig) == [HOT, RED]
    assert manager.set(name, value) == (True, "")
    assert found(rig) == expected
    assert manager.set(name, default) == (True, "")
    assert found(rig) == [HOT, RED]


def test_class_ids_are_names_on_request(node, rig, peer):
    manager = Manager(peer, node, rig.name)
    assert manager.set("class_id_as", "name")[0]
    assert found(rig) == ["hot", "red"]
    assert manager.set("class_id_as", "index")[0]
    assert found(rig) == [HOT, RED]


def test_filters_combine_and_label_info_has_the_lowest_threshold_in_force(node, rig, peer):
    infos = peer.collect(LabelInfo, f"{rig.name}/label_info", LATCHED)
    manager = Manager(peer, node, rig.name)
    wait_until(lambda: infos and infos[-1].threshold == pytest.approx(0.5), "the model's own threshold")
    assert manager.set("score_threshold", RED_SCORE + 0.05)[0]
    assert found(rig) == [HOT]
    assert manager.set("class_thresholds", "red:0.3")[0]
    assert found(rig) == [HOT, RED]
    wait_until(lambda: infos[-1].threshold == pytest.approx(0.3), "the threshold of red")
    assert manager.set("classes", "hot")[0]
    assert found(rig) == [HOT]
    wait_until(lambda: infos[-1].threshold == pytest.approx(RED_SCORE + 0.05), "the threshold of hot")
    for name, value in (("score_threshold", -1.0), ("class_thresholds", ""), ("classes", "")):
        assert manager.set(name, value)[0]


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("classes", "red, blue", "names 'blue', which model blob does not have: its classes are red, hot"),
        ("class_thresholds", "blue:0.5", "names 'blue', which model blob does not have: its classes are red, hot"),
        ("classes", "red,", "must be names joined by commas"),
        ("class_thresholds", "red", "must be NAME:SCORE"),
        ("class_thresholds", "red:1.5", "scores in 0 to 1"),
        ("nms_iou", -0.5, "or -1 for the model's own"),
        ("max_detections", -1, "max_detections"),  # refused by ROS, by its range
    ],
)
def test_a_refused_filter_changes_nothing(node, rig, peer, name, value, reason):
    is_set, why = Manager(peer, node, rig.name).set(name, value)
    assert not is_set
    assert reason in why
    assert found(rig) == [HOT, RED]
