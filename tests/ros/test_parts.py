"""Parts of the node: throttled notices, the newest-only worker, health, messages, shared files."""

from __future__ import annotations

import platform
import subprocess
import sys
import threading
from pathlib import Path
from time import monotonic

import numpy as np
import pytest
from builtin_interfaces.msg import Time
from std_msgs.msg import Header
from vision_msgs.msg import Detection2D

from spectradino_core.runtime.bundle import BundleError
from spectradino_core.runtime.perception_result import Mode, PerceptionResult
from spectradino_core.streams.feed import Capture
from spectradino_core.streams.frames import CameraFrame
from spectradino_core.streams.result_fields import Facts, report_message
from spectradino_ros import shared_files
from spectradino_ros.notices import Notices
from spectradino_ros.outputs import detections_message, image_message, make
from spectradino_ros.shared_files import resolve_model
from spectradino_ros.worker import NewestOnlyWorker
from tests.blob_model import blob_info
from tests.ros.doubles import Lines, Seconds
from tests.ros.harness import wait_until

HEADER = Header(stamp=Time(sec=7, nanosec=8), frame_id="rgb_optical")


def test_a_notice_is_logged_once_a_period_and_suppressed_ones_are_counted():
    lines, clock = Lines(), Seconds()
    notices = Notices(lines, 10.0, clock)
    assert notices.warn("a", "first")
    assert not notices.warn("a", "second")
    assert notices.error("b", "of another key")
    clock.now += 9.9
    assert not notices.warn("a", "third")
    clock.now += 0.2
    assert notices.warn("a", "fourth")
    assert lines == [
        ("warning", "first"),
        ("error", "of another key"),
        ("warning", "fourth (2 more such lines suppressed)"),
    ]
    notices.forget()
    assert notices.warn("a", "after a new start")
    assert lines[-1] == ("warning", "after a new start")


def test_a_state_that_lasts_is_not_counted():
    lines, clock = Lines(), Seconds()
    notices = Notices(lines, 10.0, clock)
    for _ in range(30):
        notices.warn("silent", "no message", counted=False)
        clock.now += 0.5
    assert [text for _, text in lines] == ["no message", "no message"]


class Held:
    """Worker whose jobs wait until `finish`, which returns the finished ones."""

    def __init__(self) -> None:
        self.entered, self._go, self._done = threading.Event(), threading.Event(), []
        self.worker = NewestOnlyWorker(self._work, lambda error: None)

    def _work(self, job: int) -> None:
        self.entered.set()
        assert self._go.wait(10)
        self._done.append(job)

    def finish(self, count: int) -> list[int]:
        self._go.set()
        wait_until(lambda: len(self._done) >= count, "the jobs")
        assert self.worker.stop()
        return self._done


def test_the_worker_takes_the_newest_and_gives_back_what_it_replaces():
    held = Held()
    worker = held.worker
    assert worker.submit(1) == []
    assert held.entered.wait(10)
    assert worker.submit(2) == []
    assert worker.submit(3) == [2]
    assert worker.submit(4) == [3]
    assert worker.submit(5, 6) == [4, 5], "it is behind: the newest is enough"
    assert held.finish(2) == [1, 6]


def test_jobs_given_together_to_an_idle_worker_all_get_their_turn():
    held = Held()
    worker = held.worker
    assert worker.submit(1, 2) == []
    assert held.entered.wait(10)
    assert worker.submit(3) == [], "one call may come before the second has its turn"
    assert worker.submit(4) == [2, 3]
    assert held.finish(2) == [1, 4]


def test_the_worker_survives_an_exception_and_reports_it():
    errors: list[Exception] = []
    answered = threading.Event()

    def work(job: int) -> None:
        if job == 0:
            raise ZeroDivisionError("of job 0")
        answered.set()

    worker = NewestOnlyWorker(work, errors.append)
    worker.submit(0)
    while not errors:
        answered.wait(0.01)
    worker.submit(1)
    assert answered.wait(10)
    assert worker.stop()
    assert [str(error) for error in errors] == ["of job 0"]


def test_the_worker_survives_an_exception_of_the_error_handler(capsys):
    reported, done = threading.Event(), threading.Event()

    def work(job: str) -> None:
        if job == "bad":
            raise ValueError("bad frame")
        done.set()

    def failed(error: Exception) -> None:
        reported.set()
        raise RuntimeError("the log is gone")

    worker = NewestOnlyWorker(work, failed)
    worker.submit("bad")
    assert reported.wait(10)
    worker.submit("good")
    assert done.wait(10)
    assert worker.stop()
    said = capsys.readouterr().err
    assert "bad frame" in said
    assert "the log is gone" in said


def test_who_submits_stands_back_until_the_job_lets_go():
    entered, read, ended = threading.Event(), threading.Event(), threading.Event()

    def work(job: int) -> None:
        entered.set()
        assert read.wait(10)
        worker.release_waiters()
        assert ended.wait(10)
        if job == 1:
            raise ZeroDivisionError

    worker = NewestOnlyWorker(work, lambda error: None)
    worker.wait_for_release(10)  # at once: it has nothing to do
    worker.submit(0)
    start = monotonic()
    worker.wait_for_release(0.05)  # not forever
    assert monotonic() - start >= 0.04
    assert entered.is_set()
    read.set()
    worker.wait_for_release(10)
    assert not ended.is_set()  # it goes on outside of Python
    start = monotonic()
    worker.submit(1)  # which waits: nothing is gained by waiting with it
    worker.wait_for_release(10)
    assert monotonic() - start < 5
    ended.set()
    worker.wait_for_release(10)  # also if the job fails
    assert worker.stop()
    worker.wait_for_release(10)


def test_a_worker_that_cannot_be_stopped_in_time_is_reported():
    entered, go = threading.Event(), threading.Event()
    worker = NewestOnlyWorker(lambda job: (entered.set(), go.wait(10)), lambda error: None)
    worker.submit(1)
    assert entered.wait(10)
    assert not worker.stop(0.01)
    go.set()
    assert worker.stop()


def make_perception(**changes) -> PerceptionResult:
    fields = {
        "boxes": np.array([[10.5, 20.0, 30.5, 60.0], [0.0, 0.0, 5.0, 5.0]], np.float32),
        "scores": np.array([0.9, 0.25], np.float32),
        "labels": np.array([1, 0]),
        "mask": None,
        "mode": Mode.RGB_ONLY,
        "size": (64, 48),
    }
    return PerceptionResult(**fields | changes)


def test_detections_carry_centre_size_class_and_header():
    message = detections_message(make_perception(), HEADER)
    first = message.detections[0]
    assert message.header == first.header == HEADER
    assert (first.bbox.center.position.x, first.bbox.center.position.y) == (20.5, 40.0)
    assert (first.bbox.size_x, first.bbox.size_y) == (20.0, 40.0)
    assert first.results[0].hypothesis.class_id == "1"
    assert first.results[0].hypothesis.score == pytest.approx(0.9)


def test_detections_in_reused_message_parts_are_equal():
    parts: list[Detection2D] = []
    many = make_perception(
        boxes=np.arange(20, dtype=np.float32).reshape(5, 4), scores=np.linspace(0.9, 0.1, 5), labels=np.arange(5)
    )
    for found, held in ((make_perception(), 2), (many, 5), (make_perception(), 5), (many, 5)):
        assert detections_message(found, HEADER, parts) == detections_message(found, HEADER)
        assert len(parts) == held
    none = make_perception(boxes=np.empty((0, 4)), scores=np.empty(0), labels=np.empty(0, int))
    assert detections_message(none, HEADER, parts).detections == []


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other allocators have rules of their own")
def test_memory_of_a_frame_is_kept_for_the_next():
    """Allocating images again must not cost page faults: 240 per megabyte, each page to be zeroed."""
    code = """if True:
        import resource
        import numpy as np
        from spectradino_ros.detector_node import _tune_memory

        def faults_of_a_frame():
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            for _ in range(20):
                images = [np.ones(size, np.uint8) for size in (983_040, 655_360, 1_300_000)]
                del images
            return (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) / 20

        _tune_memory()
        faults_of_a_frame()
        print(faults_of_a_frame())
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert float(done.stdout) < 100


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 3)])
def test_an_image_message_holds_the_pixels_row_by_row(shape):
    pixels = np.arange(np.prod(shape) * 2, dtype=np.uint8).reshape(shape[0], -1, *shape[2:])[:, ::2]  # not contiguous
    message = image_message(pixels, "mono8" if len(shape) == 2 else "rgb8", HEADER)
    assert (message.height, message.width, message.step) == (5, 7, 7 * (shape[2] if len(shape) == 3 else 1))
    assert bytes(message.data) == pixels.tobytes()


@pytest.mark.parametrize(("latency_ms", "deadline_ms", "met"), [(50, 0, True), (50, 60, True), (61, 60, False)])
def test_the_report_states_whether_the_deadline_is_met(latency_ms, deadline_ms, met):
    facts = Facts(HEADER.stamp, None, float("nan"), False, latency_ms, {"engine": 5.0}, {"overload": 2}, deadline_ms)
    message = report_message(make, make_perception(), facts, blob_info(), HEADER)
    assert message.deadline_met is met
    assert message.mode == message.MODE_RGB_ONLY
    assert message.ir_stamp == Time()
    assert [(s.name, s.milliseconds) for s in message.steps] == [("engine", 5.0)]
    assert [(d.cause, d.count) for d in message.drops] == [("overload", 2)]
    assert message.model == "blob"


@pytest.mark.parametrize(("band", "name"), [("", "lwir_box.onnx"), ("nir", "nir_box.onnx"), ("swir", "swir_box.onnx")])
def test_a_missing_bundled_model_is_reported_with_all_searched_paths(tmp_path, monkeypatch, band, name):
    folders = [tmp_path / "first", tmp_path / "second"]
    monkeypatch.setattr(shared_files, "candidates", lambda relative: [folder / relative for folder in folders])
    places = [folder / "models" / name for folder in folders]
    with pytest.raises(BundleError, match="no bundled model.*'model'") as caught:
        resolve_model("", band)
    assert all(str(place) in str(caught.value) for place in places)
    places[1].parent.mkdir(parents=True)
    places[1].touch()
    assert resolve_model("", band) == places[1]
    assert str(resolve_model("~/mine.onnx", band)).endswith("/mine.onnx")
    assert "~" not in str(resolve_model("~/mine.onnx", band))


def test_a_bundled_model_is_given_by_its_name(tmp_path, monkeypatch):
    folders = [tmp_path / "first", tmp_path / "second"]
    monkeypatch.setattr(shared_files, "candidates", lambda relative: [folder / relative for folder in folders])
    for path in ("first/models/lwir_box.onnx", "second/models/lwir_box.onnx", "second/models/lwir_box_large.onnx"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
    (tmp_path / "second/models/lwir_box.reuse.onnx").touch()
    assert resolve_model("lwir_box") == tmp_path / "first/models/lwir_box.onnx"
    assert resolve_model("lwir_box_large", "nir") == tmp_path / "second/models/lwir_box_large.onnx"
    for path in ("./lwir_box", "models/lwir_box", "lwir_box.onnx", "..", "x" * 10_000):
        assert resolve_model(path) == Path(path)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "current").touch()
    assert resolve_model("current") == Path("current")
    with pytest.raises(BundleError, match=r"no bundled model 'lwir_box_larg': .*Available: lwir_box, lwir_box_large\."):
        resolve_model("lwir_box_larg")
    for path in ("~\0/model.onnx", "~\ud800/model.onnx"):
        with pytest.raises(BundleError, match="can't be the path of a model file"):
            resolve_model(path)


def test_an_unusable_bundled_model_is_passed_over(tmp_path, monkeypatch):
    folders = [tmp_path / "first", tmp_path / "second"]
    monkeypatch.setattr(shared_files, "candidates", lambda relative: [folder / relative for folder in folders])
    for folder in folders:
        (folder / "models").mkdir(parents=True)
    (tmp_path / "first/models/lwir_box.onnx").symlink_to(tmp_path / "removed.onnx")
    (tmp_path / "second/models/lwir_box.onnx").touch()
    assert resolve_model("") == tmp_path / "second/models/lwir_box.onnx"


def test_a_jump_of_time_at_a_dropped_capture_reaches_the_next_one(monkeypatch):
    from spectradino_ros import processing

    seen = []
    monkeypatch.setattr(processing, "find", lambda *arguments: seen.append(arguments[5:7]))
    processor = processing.CaptureProcessor.__new__(processing.CaptureProcessor)
    processor._pipeline = processor._registering = None
    processor._jumped = False
    frame = CameraFrame(Header(), lambda: np.zeros((4, 4, 3), np.uint8), "rgb")
    capture = Capture(frame, None, 0, None, None, 0, False, 7)  # paired by arrival: the stamp is zero
    processor._found(None, capture)
    processor.note_jump()
    for _ in range(2):
        processor._found(None, capture)
    assert seen == [(False, 7), (True, 7), (False, 7)]
