"""Parts of the demo: pace, scores, plots, overlays, the synthetic folder, child processes."""

from __future__ import annotations

import json
import math
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from spectradino_core.data.paired_folder import PairedFolder
from spectradino_core.data.sample import PairedSample
from spectradino_core.evaluation.scorer import Scorer
from spectradino_core.modality import Modality
from spectradino_core.runtime.bundle import ModelInfo
from spectradino_core.runtime.perception_result import Mode, PerceptionResult
from spectradino_core.scenes import BOX_CLASSES, MASK_CLASSES, MASK_PALETTE
from spectradino_core.thermal import ThermalContract

pytest.importorskip("rclpy", reason="no ROS in this environment")

from builtin_interfaces.msg import Time
from spectradino_msgs.msg import DropCount, FrameReport, StepTime

from spectradino_ros.demo.overlays import PANEL_WIDTH, contact_sheet, pair_overlay
from spectradino_ros.demo.player import SendSchedule
from spectradino_ros.demo.processes import Child, DemoError, ros_environment
from spectradino_ros.demo.results import Outcome, Result, SentPair, replay_figures, score_figures, summary
from spectradino_ros.demo.synthetic import write_scenes

INFO = ModelInfo(
    name="none",
    variant="tiny",
    bands=(Modality.RGB, Modality.LWIR),
    box_classes=BOX_CLASSES,
    mask_classes=MASK_CLASSES,
    palette=MASK_PALETTE,
    input_size=(140, 112),
    thermal=ThermalContract(),
)


def make_perception(
    size: tuple[int, int], boxes=(), scores=(), labels=(), mask: np.ndarray | None = None
) -> PerceptionResult:
    return PerceptionResult(
        boxes=np.array(boxes, np.float32).reshape(-1, 4),
        scores=np.array(scores, np.float32),
        labels=np.array(labels, np.int64),
        mask=mask,
        mode=Mode.FUSED,
        size=size,
    )


def sample(size: tuple[int, int], boxes=None, labels=None, mask: np.ndarray | None = None) -> PairedSample:
    width, height = size
    return PairedSample(
        rgb=np.full((height, width, 3), 40, np.uint8),
        infrared=np.full((height, width), 5000, np.uint16),
        boxes=None if boxes is None else np.array(boxes, np.float32).reshape(-1, 4),
        labels=None if labels is None else np.array(labels, np.int64),
        mask=mask,
    )


class TestPace:
    def test_a_given_rate_is_kept_without_results(self) -> None:
        pace = SendSchedule(20.0)
        pace.add_round_trip(3.0)
        assert pace.interval_s == 0.05
        assert not pace.may_send(0.049, 0)
        assert pace.may_send(0.051, 99)

    def test_without_one_it_follows_the_answers(self) -> None:
        pace = SendSchedule(None)
        for _ in range(30):
            pace.add_round_trip(0.4)
        assert pace.interval_s == pytest.approx(0.5)
        assert pace.may_send(0.51, 1)
        assert not pace.may_send(0.51, 2)  # it waits for one of the two
        assert pace.may_send(3.1, 2)  # but not forever
        for _ in range(60):
            pace.add_round_trip(0.001)
        assert pace.interval_s == 0.1  # ten a second at most


class TestScores:
    def test_a_pair_without_result_counts_as_all_missed(self) -> None:
        scorer = Scorer(BOX_CLASSES, MASK_CLASSES, 0.3)
        truth = sample((40, 30), [[2, 2, 20, 20]], [2], np.full((30, 40), 3, np.uint8))
        scorer.add(truth, make_perception((40, 30), [[2, 2, 20, 20]], [0.9], [2], np.full((30, 40), 3, np.uint8)))
        scorer.add(truth, None)
        figures = score_figures(scorer.scores())
        assert figures["detection"]["pairs"] == 2
        assert figures["detection"]["true_boxes"] == 2
        assert figures["detection"]["AP50"]["car"] == pytest.approx(51 / 101, abs=1e-6)
        assert figures["detection"]["AP50"]["person"] is None
        assert figures["segmentation"]["pairs"] == 1
        assert figures["segmentation"]["mIoU"] == 1.0

    def test_what_is_unknown_is_not_scored(self) -> None:
        scorer = Scorer(BOX_CLASSES, (), 0.3)
        answer = make_perception((40, 30), [[2, 2, 20, 20]], [0.9], [2], np.zeros((30, 40), np.uint8))
        scorer.add(sample((40, 30), mask=np.zeros((30, 40), np.uint8)), answer)
        assert score_figures(scorer.scores()) == {"detection": None, "segmentation": None}


def outcome(place: int, latency_ms: float | None, mode: int = FrameReport.MODE_FUSED) -> Outcome:
    stamp = 10_000_000_000 + place * 1_000_000_000
    sent = SentPair(place, stamp, stamp + 6_000_000)
    if latency_ms is None:
        return Outcome(sent, f"p{place}", None)
    report = FrameReport(
        rgb_stamp=Time(sec=stamp // 1_000_000_000),
        mode=mode,
        latency_ms=latency_ms,
        ir_offset_ms=6.0 if mode == FrameReport.MODE_FUSED else math.nan,
        steps=[StepTime(name="decode", milliseconds=1.0), StepTime(name="engine", milliseconds=latency_ms - 5)],
        drops=[DropCount(cause="overload", count=place)],
    )
    nothing = np.zeros((0, 4)), np.zeros(0), np.zeros(0, np.int64)
    return Outcome(sent, f"p{place}", Result(report, *nothing, received_ns=stamp + round((latency_ms + 2) * 1e6)))


def test_figures_of_a_replay() -> None:
    outcomes = [outcome(0, 100.0), outcome(1, 200.0), outcome(2, None), outcome(3, 300.0, FrameReport.MODE_RGB_ONLY)]
    figures = replay_figures(outcomes, {"overload": 1}, warm_ups=3)
    assert figures["pairs"] == {"warm_up": 3, "sent": 4, "answered": 3, "unanswered": ["p2"]}
    assert figures["modes"] == {"fused": 2, "rgb_only": 1, "ir_only": 0, "stale": 0}
    assert figures["latency_ms"] == {"p50": 200.0, "p95": 290.0, "p99": 298.0}
    assert figures["received_after_ms"]["p50"] == pytest.approx(202.0, abs=0.01)
    assert figures["steps_ms_p50"] == {"decode": 1.0, "engine": 195.0}
    assert figures["ir_offset_ms_p50"] == 6.0
    assert figures["drops"] == {"overload": 1}
    model = {"name": "box", "engine": "ONNX Runtime"}
    scores = {"detection": {"AP50": {"car": 0.5, "person": None}, "mean_AP50": 0.5, "true_boxes": 4, "pairs": 2}}
    text = summary({**figures, **scores, "segmentation": None, "model": model, "rate_hz": None})
    for part in ("3 of 4 pairs", "2 fused, 1 rgb_only", "p50 200 ms", "car 0.500, person –", "1 overload"):
        assert part in text


def test_statistics_of_a_replay_without_results_are_json() -> None:
    figures = replay_figures([outcome(0, None)], {}, warm_ups=0)
    assert figures["latency_ms"] is None
    assert json.loads(json.dumps(figures, allow_nan=False))["pairs"]["answered"] == 0
    model = {"name": "box", "engine": "ONNX Runtime"}
    text = summary({**figures, "detection": None, "segmentation": None, "model": model, "rate_hz": 1.0})
    assert "0 of 1 pairs with results (none)" in text


class TestOverlays:
    @pytest.mark.parametrize("size", [(617, 459), (394, 161), (1280, 1024), (64, 512)])
    def test_a_box_lies_on_its_pixels_in_both_panels(self, size: tuple[int, int]) -> None:
        width, height = size
        box = [width * 0.25, height * 0.5, width * 0.75, height * 0.9]
        found = make_perception(size, [box, [0, 0, width, height]], [0.9, 0.1], [1, 0])
        overlay = pair_overlay(sample(size), found, INFO, "title", "facts", threshold=0.3)
        panel_height = round(height * PANEL_WIDTH / width)
        assert overlay.shape[0] > panel_height
        left, right = overlay[:panel_height, :PANEL_WIDTH], overlay[:panel_height, -PANEL_WIDTH:]
        for panel in (left, right):
            coloured = np.ptp(panel.astype(int), axis=2) > 60  # frames and text are grey
            middle = coloured[round(panel_height * 0.7)]  # a row that only the two upright sides cross
            columns = np.flatnonzero(middle)
            assert columns.min() == pytest.approx(PANEL_WIDTH * 0.25, abs=2)
            assert columns.max() == pytest.approx(PANEL_WIDTH * 0.75, abs=2)
            # the box below the threshold is not there: it would run along the edges
            assert not coloured[:, :4].any()

    def test_the_mask_is_blended_into_the_rgb_panel_only(self) -> None:
        size = (640, 512)
        found = make_perception(size, mask=np.full((512, 640), MASK_CLASSES.index("car"), np.uint8))
        overlay = pair_overlay(sample(size), found, INFO, "", "", 0.3)
        assert overlay[256, 300].tolist() == pytest.approx([26, 47, 96], abs=2)
        assert np.ptp(overlay[256, 900].astype(int)) == 0

    def test_a_missing_result_is_shown_as_a_dark_panel(self) -> None:
        size = (640, 512)
        dark = pair_overlay(sample(size), None, INFO, "", "", 0.3)
        assert dark[10, 10].tolist() == [13, 13, 13]
        assert dark[200:300, 200:400].max() > 200

    def test_tags_do_not_cover_one_another(self) -> None:
        size = (640, 512)
        crowd = [[300 + 3 * i, 200, 320 + 3 * i, 240] for i in range(12)]
        one = pair_overlay(sample(size), make_perception(size, crowd[:1], [0.9], [0]), INFO, "", "", 0.3)
        all_of_them = pair_overlay(sample(size), make_perception(size, crowd, [0.9] * 12, [0] * 12), INFO, "", "", 0.3)
        tag = np.s_[187:199, 300:370]  # above the best-scored box
        assert np.ptp(one[tag].astype(int)) > 100
        np.testing.assert_array_equal(one[tag], all_of_them[tag])

    def test_contact_sheet_holds_all_images(self) -> None:
        colours = [(10 * i + 50, 0, 0) for i in range(7)]
        images = [np.full((100 + i, 300, 3), colour, np.uint8) for i, colour in enumerate(colours)]
        sheet = contact_sheet(images, INFO, "title", "facts", columns=3, cell_width=150)
        found = {tuple(colour) for colour in np.unique(sheet.reshape(-1, 3), axis=0).tolist()}
        assert set(colours) <= found
        assert contact_sheet(images[:1], INFO, "title", "facts", cell_width=800).shape[1] < 900


def test_a_synthetic_folder_is_read_back_as_it_was_rendered(tmp_path: Path) -> None:
    from spectradino_core.scenes import SceneOptions, render_sequence
    from spectradino_ros.demo.synthetic import FIRST_SEED

    ticks: list[int] = []
    write_scenes(tmp_path, 6, Modality.LWIR, size=(160, 128), tick=lambda: ticks.append(1))
    folder = PairedFolder(tmp_path, "val", "lwir", BOX_CLASSES, MASK_CLASSES)
    assert len(folder) == len(ticks) == 6
    assert [item.time for item in folder] == ["day"] * 4 + ["dusk"] * 2
    options = SceneOptions(width=160, height=128, time_of_day="day", misregistration_px=1.0, clock_offset_ms=6.0)
    *_, second = render_sequence(FIRST_SEED, 2, 4.0, options)
    item = folder[1]
    pair = folder.load(item)
    np.testing.assert_array_equal(pair.rgb, second.images[Modality.RGB])
    np.testing.assert_array_equal(pair.infrared, second.images[Modality.LWIR])
    assert pair.infrared.dtype == np.uint16
    np.testing.assert_array_equal(pair.mask, second.mask)
    seen = second.visible >= 0.25
    assert pair.boxes is not None
    np.testing.assert_allclose(pair.boxes, second.boxes[seen], atol=1e-3)
    np.testing.assert_array_equal(pair.labels, second.labels[seen])
    assert item.ir_offset_ms == (second.stamps_ns[Modality.LWIR] - second.stamps_ns[Modality.RGB]) / 1e6


class TestChild:
    def test_an_early_end_is_reported_with_the_last_lines(self, tmp_path: Path) -> None:
        code = "import sys\nfor i in range(40): print('line', i)\nsys.exit(3)"
        child = Child("node", ["-c", code], {}, tmp_path / "node.log")
        child.process.wait(20)
        with pytest.raises(DemoError, match=r"the node ended with exit code 3.*node.log") as caught:
            child.check()
        assert "line 39" in str(caught.value)
        assert "line 24\n" not in str(caught.value)

    def test_one_that_ignores_interrupts_is_ended_all_the_same(self, tmp_path: Path) -> None:
        code = (
            "import signal, time\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nprint('up', flush=True)\ntime.sleep(60)"
        )
        child = Child("node", ["-c", code], {"PYTHONUNBUFFERED": "1"}, tmp_path / "node.log")
        end = time.monotonic() + 20
        while not child.log.read_text() and time.monotonic() < end:
            time.sleep(0.02)
        child.check()
        assert child.stop(patience_s=0.3) < 0
        with pytest.raises(DemoError, match="was ended by SIGTERM"):
            child.check()

    def test_its_environment(self, tmp_path: Path) -> None:
        with pytest.raises(DemoError, match=r"none.xml is missing"):
            ros_environment(7, tmp_path / "none.xml", tmp_path)
        (tmp_path / "profile.xml").write_text("<profiles/>")
        environment = ros_environment(7, tmp_path / "profile.xml", tmp_path)
        code = "import os; print(os.environ['ROS_DOMAIN_ID'], os.environ['ROS_AUTOMATIC_DISCOVERY_RANGE'])"
        child = Child("node", ["-c", code], environment, tmp_path / "node.log")
        assert child.process.wait(20) == 0
        assert child.log.read_text().split() == ["7", "LOCALHOST"]


def test_the_demo_needs_no_torch() -> None:
    import subprocess

    code = "import sys, spectradino_ros.demo.run, spectradino_ros.demo.player; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "False"
