"""If a camera is lost, the other one's single-stream model beside the model file takes over in a running node."""

from __future__ import annotations

import pytest
from spectradino_msgs.msg import FrameReport

from spectradino_core.runtime.bundle import WEIGHTS_KEY, companion_path
from tests.blob_model import make_blob_model
from tests.ros.harness import ir_pixels, rgb_pixels, running, wait_until
from tests.ros.rig import Rig, Streams

# slow: it waits for cameras to fall silent; tests/core/runtime/test_companions.py covers the choice of the model.
pytestmark = pytest.mark.slow

SIZE = (160, 120)
RED, HOT = (20, 20, 60, 50), (80, 60, 120, 100)
WEIGHTS = {WEIGHTS_KEY: "a" * 64}


@pytest.fixture(scope="module")
def node(tmp_path_factory):
    """The node with two single-stream models, of which the infrared one belongs to another checkpoint."""
    model = make_blob_model(tmp_path_factory.mktemp("alone") / "blob.onnx", provenance=WEIGHTS)
    make_blob_model(companion_path(model, "rgb"), streams="rgb", provenance=WEIGHTS)
    make_blob_model(companion_path(model, "ir"), streams="ir", provenance={WEIGHTS_KEY: "b" * 64})
    with running("-r", "__ns:=/alone", model=model, device="cpu", threads=1, stale_ms=300.0) as node:
        yield node


@pytest.fixture(scope="module")
def streams(node, peer):
    rig = Rig(peer, "alone")
    rig.wait_for_node()
    with Streams(rig, rgb_pixels(SIZE, RED), ir_pixels(SIZE, HOT)).flowing() as streams:
        rig.wait_for_mode("fused")
        yield streams


def answered(rig: Rig, mode: int) -> None:
    """Wait for new results of a mode."""
    before = len(rig.reports)
    wait_until(lambda: [r.mode for r in rig.reports[before:]].count(mode) > 3, f"answers of mode {mode}")


def test_the_graph_of_one_stream_serves_while_the_other_camera_is_lost(streams):
    rig = streams.rig
    assert " only" not in rig.wait_for_fact("engine", "ONNX Runtime")
    streams.stopped = {"ir"}
    rig.wait_for_mode("rgb_only")
    wait_until(lambda: ", rgb only on CPU" in rig.facts().get("engine", ""), "the graph of rgb in the diagnostics")
    assert rig.facts()["device"] == "CPU"
    answered(rig, FrameReport.MODE_RGB_ONLY)
    assert [d.results[0].hypothesis.class_id for d in rig.detections[-1].detections] == ["0"]
    streams.stopped = set()
    rig.wait_for_mode("fused")
    answered(rig, FrameReport.MODE_FUSED)
    wait_until(lambda: " only" not in rig.facts().get("engine", " only"), "the graph of both in the diagnostics")


def test_mismatched_single_stream_model_is_rejected(node, streams):
    rig = streams.rig
    streams.stopped = {"rgb"}
    rig.wait_for_mode("ir_only")
    node.wait_for_line(r"\[WARN\].*blob\.ir\.onnx is not used \(it was exported from another checkpoint")
    answered(rig, FrameReport.MODE_IR_ONLY)
    assert [d.results[0].hypothesis.class_id for d in rig.detections[-1].detections] == ["1"]
    assert " only" not in rig.facts()["engine"]
    streams.stopped = set()
    rig.wait_for_mode("fused")
