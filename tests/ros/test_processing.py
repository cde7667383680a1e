"""Processing of one capture: views that fail, and the registration they are drawn with."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from std_msgs.msg import Header

from spectradino_core.runtime.perception_result import Mode
from spectradino_core.runtime.pipeline import Pipeline
from spectradino_core.streams.feed import Capture
from spectradino_core.streams.frames import CameraFrame
from spectradino_core.streams.registering import Registering
from spectradino_core.streams.settings import Settings
from spectradino_ros.health import Health
from spectradino_ros.notices import Notices
from spectradino_ros.processing import CaptureProcessor
from tests.ros.doubles import Lines

VIEWS = ("publish_annotations", "publish_overlay", "publish_registration")
HALF = (2.0, 0.0, 0.0, 0.0, 2.0, 0.0, 0.0, 0.0, 1.0)


class Setup:
    """A processor on a node; `calls` are those of its outputs, `failing` ones raise."""

    def __init__(self, node: Any, model: Any, failing: tuple[str, ...] = ()) -> None:
        self.calls: dict[str, tuple] = {}
        self.lines, self.health, self.failing = Lines(), Health(), failing
        settings = Settings(ir_to_rgb=HALF)
        self.registering = Registering(settings)
        self.registering.note_rgb((160, 120), "rgb")
        self.pipeline = Pipeline.open(model, device="cpu")
        names = ("publish_perception", "publish_ir_detections", "publish_temperatures", "publish_report", *VIEWS)
        self.processor = CaptureProcessor(
            node, self.pipeline, SimpleNamespace(**{name: self._called(name) for name in names}), lambda: settings,
            dict, self.health, Notices(self.lines, 10.0), self.registering, lambda why: None,
        )  # fmt: skip

    def _called(self, name: str) -> Callable[..., bool]:
        def call(*arguments: Any) -> bool:
            self.calls[name] = arguments
            if name in self.failing:
                raise ValueError("a broken view")
            return True

        return call

    def process(self, with_rgb: bool = True) -> None:
        header = Header()
        rgb = CameraFrame(header, lambda: np.full((120, 160, 3), 90, np.uint8), "rgb") if with_rgb else None
        ir = CameraFrame(header, lambda: np.full((60, 80), 20, np.uint8), "ir")
        self.processor.process(Capture(rgb, ir, 0 if with_rgb else None, 0, 0 if with_rgb else None, 0, False, 1))


def test_views_that_fail_do_not_cost_the_report(blob_model, peer):
    setup = Setup(peer.node, blob_model, failing=VIEWS)
    for _ in range(2):
        setup.process()
    assert set(VIEWS) < set(setup.calls)
    perception, facts, _ = setup.calls["publish_report"]
    assert perception.mode is Mode.FUSED
    assert not {"overlay", "registration"} & set(facts.steps_ms)
    assert setup.health.drops() == {}
    failed = [text.partition("\n")[0] for kind, text in setup.lines if kind == "error"]
    assert failed == [
        f"the view '{name}' of a result failed: a broken view" for name in ("annotations", "overlay", "registration")
    ]


@pytest.mark.parametrize("with_rgb", [True, False])
def test_the_overlay_is_drawn_with_the_registration_of_its_result(blob_model, peer, with_rgb):
    """A new camera_info takes it away for a moment, on another thread."""
    setup = Setup(peer.node, blob_model)
    used = setup.registering.current
    setup.pipeline.on_prepared = lambda: setattr(setup.registering, "current", None)
    setup.process(with_rgb)
    perception, _rgb, _ir, registration, _header = setup.calls["publish_overlay"]
    assert used is not None
    assert registration is used
    assert perception.registered is not with_rgb
    facts = setup.calls["publish_report"][1]
    assert "overlay" in facts.steps_ms
    assert ("registration" in facts.steps_ms) is with_rgb
