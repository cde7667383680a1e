"""A node that runs its network in OpenVINO: by name, and by itself where it is installed."""

from __future__ import annotations

import re
from importlib.util import find_spec

import pytest

from tests.ros.harness import NodeProcess, corners, ir_pixels, rgb_pixels, running
from tests.ros.rig import Rig

# slow: a node for each; tests/core/runtime/test_openvino.py covers the engine.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("openvino") is None, reason="OpenVINO is not installed"),
]

SIZE = (160, 120)
RED, HOT = (20, 20, 60, 50), (80, 60, 120, 100)


@pytest.mark.parametrize("device", ["auto", "openvino:CPU"])
def test_pairs_are_answered_and_the_diagnostics_name_engine_and_precision(
    blob_model, peer, tmp_path, device, monkeypatch
):
    monkeypatch.setenv("SPECTRADINO_CACHE", str(tmp_path))
    name = f"with_{device.partition(':')[0]}"
    with running("-r", f"__ns:=/{name}", model=blob_model, device=device, threads=1) as node:
        rig = Rig(peer, name)
        rig.wait_for_node()
        found, _ = rig.answer_to(rgb_pixels(SIZE, RED), ir_pixels(SIZE, HOT))
        boxes = {d.results[0].hypothesis.class_id: corners(d) for d in found.detections}
        assert {label: pytest.approx(box, abs=1) for label, box in {"0": RED, "1": HOT}.items()} == boxes
        assert re.fullmatch(r"OpenVINO [\d.]+ on CPU \((bf16|fp32)\)", rig.wait_for_fact("engine", "OpenVINO"))
        assert re.fullmatch(r"CPU \((bf16|fp32)\)", rig.facts()["device"])
        assert node.count(r"\[INFO\].*model blob .* on OpenVINO .* input 644x476: opened in") == 1


def test_a_device_that_is_absent_keeps_the_node_from_starting(blob_model):
    node = NodeProcess(model=blob_model, device="openvino:NPU")
    node.wait_for_line(r"\[ERROR\].*device 'openvino:NPU' is not available: OpenVINO finds only CPU")
    assert node.wait() == 1
