"""Replay with the node's own decisions: identical results on repetition, and bad frames counted by cause."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from spectradino_core.bags import BagError
from spectradino_core.bags.messages import make
from spectradino_core.bags.reader import BagFrame, BagReader
from spectradino_core.bags.replay import Replay, ReplayResult
from spectradino_core.bags.writer import BagWriter
from spectradino_core.calibration.registration import Registration, RegistrationError
from spectradino_core.runtime.bundle import BundleError
from spectradino_core.runtime.perception_result import Mode
from spectradino_core.streams.calibration_file import Calibration, save_calibration
from spectradino_core.streams.detecting import open_pipeline
from spectradino_core.streams.parameter_values import settings_from_file
from spectradino_core.streams.queues import Stream
from spectradino_core.streams.settings import ParameterError, Settings
from tests.blob_model import HOT_SCORE, RED_SCORE, make_blob_model
from tests.core.bags.recorded import IR, MS, RGB, SIZE, START_NS, Row, hot, pairs, record, red

COLOURS = np.random.default_rng(0).integers(0, 256, SIZE[0] * SIZE[1] * 3).astype(np.uint8)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return make_blob_model(tmp_path_factory.mktemp("model") / "blob.onnx", SIZE)


def replayed(bag: Path, model: Path, **settings: object) -> tuple[list[ReplayResult], Replay]:
    parameters = Settings(**settings)  # type: ignore[arg-type]
    with BagReader(bag) as reader:
        replay = Replay(open_pipeline(model, parameters), parameters)
        return list(replay.run(reader)), replay


def test_frames_beyond_the_maximum_rate_are_dropped_and_counted(tmp_path, model):
    bag = record(tmp_path / "bag", pairs(20))  # 10 Hz
    answers, replay = replayed(bag, model, max_rate_hz=5.0, enabled=False)  # a replay is not disabled
    assert [a.number for a in answers] == list(range(10))
    assert [a.stamp_ns for a in answers] == [START_NS + n * 200 * MS for n in range(10)]
    assert replay.drops() == {"max_rate": 10}


def test_filters_select_detections_as_in_the_node(tmp_path, model):
    bag = record(tmp_path / "bag", pairs(3))
    for changes, labels in (
        ({}, [1, 0]),
        ({"classes": "red"}, [0]),
        ({"class_thresholds": "hot:0.95"}, [0]),
        ({"max_detections": 1}, [1]),
        ({"score_threshold": 0.95, "class_thresholds": "red:0.5"}, [0]),
    ):
        answers, _ = replayed(bag, model, **changes)
        assert [a.perception.labels.tolist() for a in answers if a.perception is not None] == [labels] * 3
    with pytest.raises(ParameterError, match="'classes' names 'person', which model blob does not have: .* red, hot"):
        replayed(bag, model, classes="person")


def summaries(answers: list[ReplayResult]) -> list[tuple]:
    """Return everything of the results except durations."""
    return [
        (
            a.number, a.mode, a.stamp_ns, a.rgb_stamp_ns, a.ir_stamp_ns, a.error_ns, a.ready_ns, a.received_ns, a.cause,
            a.error, a.drops,
            None if a.perception is None else (a.perception.boxes.tolist(), a.perception.scores.tolist()),
            None if a.perception is None or a.perception.mask is None else a.perception.mask.tobytes(),
        )
        for a in answers
    ]  # fmt: skip


def test_every_pair_gets_a_result_with_the_true_boxes(tmp_path, model):
    answers, replay = replayed(record(tmp_path / "bag", pairs(12)), model)
    assert [a.stamp_ns for a in answers] == [START_NS + n * 100 * MS for n in range(12)]
    assert {(a.mode, a.error_ns, a.frame_id, a.cause) for a in answers} == {(Mode.FUSED, 4 * MS, "camera", "")}
    for n, answer in enumerate(answers):
        assert answer.perception is not None
        x, ir_x = 4 + 3 * n % 84, 80 - 2 * n % 60
        np.testing.assert_allclose(answer.perception.boxes, [[ir_x, 50, ir_x + 20, 70], [x, 10, x + 20, 30]])
        np.testing.assert_allclose(answer.perception.scores, [HOT_SCORE, RED_SCORE])
        assert list(answer.steps_ms) == ["decode", "preprocess", "engine", "postprocess"]
        assert answer.wait_ms == pytest.approx(4.0)
    assert (replay.frames, replay.results, replay.drops()) == ({"rgb": 12, "ir": 12}, {"fused": 12}, {})


def test_the_same_from_sqlite_mcap_png_and_a_second_time(tmp_path, model):
    rows, packed = pairs(6), pairs(6, form="png")
    expected = summaries(replayed(record(tmp_path / "a.mcap", rows), model)[0])
    assert len(expected) == 6
    assert summaries(replayed(tmp_path / "a.mcap", model)[0]) == expected
    assert summaries(replayed(record(tmp_path / "b", rows, "sqlite3"), model)[0]) == expected
    assert summaries(replayed(record(tmp_path / "c", packed, "mcap", "message"), model)[0]) == expected


@pytest.mark.parametrize(
    ("topic", "form", "change", "cause"),
    [
        (RGB, "raw", {"step": 10}, "rgb_wrong_step"),
        (IR, "raw", {"data": np.empty(0, np.uint8)}, "ir_empty_image"),
        (IR, "raw", {"data": np.zeros(100, np.uint8)}, "ir_short_data"),
        (RGB, "raw", {"encoding": "yuv411"}, "rgb_unknown_encoding"),
        (IR, "raw", {"encoding": "rgb8", "step": SIZE[0] * 3, "data": COLOURS},
         "ir_colour_infrared"),
        (RGB, "png", {"data": np.frombuffer(b"\x89PNG\r\n\x1a\nrest", np.uint8)}, "rgb_corrupt_data"),
        (IR, "png", {"data": np.frombuffer(b"GIF89a" * 9, np.uint8)}, "ir_unknown_format"),
    ],
)  # fmt: skip
def test_bad_frames_are_counted_by_cause_and_the_rest_get_results(tmp_path, model, topic, form, change, cause):
    rows = pairs(8, form=form)
    bad = next(r for r in rows if r.topic.startswith(topic) and r.stamp_ns >= START_NS + 300 * MS)
    bad.change = tuple(change.items())
    answers, replay = replayed(record(tmp_path / "bag", rows), model)
    good = [a for a in answers if a.perception is not None]
    assert len(good) == (7 if topic == RGB else 8), "an RGB frame without its partner reuses the IR frame before"
    assert replay.drops()[cause] == 1
    lines = [e.text for e in replay.take_events() if e.warning]
    assert len(lines) == 1
    assert topic in lines[0] or "corrupt" in cause


def test_a_message_that_was_cut_is_counted(tmp_path, model):
    rows = pairs(5)
    rows[4].raw = b"\x00\x01\x00\x00" + b"\x00" * 40
    rows[6].raw = b"\x00\x01"
    with BagReader(record(tmp_path / "bag", rows)) as reader:
        replay = Replay(open_pipeline(model))
        assert sum(a.perception is not None for a in replay.run(reader)) == 3
        assert reader.events["rgb_bad_message"] == 1
    assert replay.drops()["rgb_bad_message"] == 1


def test_two_encodings_on_one_topic_are_both_read(tmp_path, model):
    rows = pairs(6)
    for row in rows[6:]:
        if row.topic == RGB:
            row.change = (("encoding", "bgr8"),)
        else:
            row.pixels = (row.pixels // 256).astype(np.uint8)
    answers, replay = replayed(record(tmp_path / "bag", rows), model)
    assert [a.cause for a in answers] == [""] * 6
    found = [set(a.perception.labels.tolist()) for a in answers if a.perception is not None]
    assert found == [{0, 1}] * 3 + [{1}] * 3, "red is blue in BGR"
    assert not replay.drops()


def test_cameras_with_unrelated_clocks_get_no_results_and_a_reason(tmp_path, model):
    rows = [r for r in pairs(60) if r.topic == RGB]
    late = [r for r in pairs(60) if r.topic == IR]
    for row in late:
        row.stamp_ns += 3600 * 1000 * MS
    answers, replay = replayed(record(tmp_path / "bag", rows + late), model, pair_by="stamp")
    assert not answers
    assert replay.drops()["unpaired_rgb"] > 40
    assert any("no pair in the last" in e.text for e in replay.take_events())


def test_stamps_that_go_back_are_a_jump_or_put_into_order(tmp_path, model):
    rows = pairs(10)
    rows[8].received_ns += 250 * MS  # late, so behind the newest: put right
    for row in rows[14:]:
        row.stamp_ns -= 5000 * MS  # the clock was set back
    with BagReader(record(tmp_path / "bag", rows)) as reader:
        replay = Replay(open_pipeline(model))
        answers = list(replay.run(reader))
        assert reader.events == {"rgb_backward_stamp": 1, "rgb_clock_jump": 1, "ir_clock_jump": 1}
    assert len(answers) == 10
    assert replay.feed is not None
    assert replay.feed.pairer.restarts == 1


def test_stamps_of_zero_are_dropped_as_the_node_drops_them(tmp_path, model):
    rows = pairs(4)
    for row in rows:
        row.stamp_ns = 0
    answers, replay = replayed(record(tmp_path / "bag", rows), model)
    assert not answers
    assert replay.drops() == {"zero_stamp": 8}


def test_a_camera_that_falls_silent_and_comes_back(tmp_path, model):
    rows = [r for r in pairs(60) if r.topic == RGB or not 20 <= (r.stamp_ns - START_NS) / 1e8 < 40]
    answers, replay = replayed(record(tmp_path / "bag", rows), model, stale_ms=500.0)
    modes = [a.mode for a in answers]
    assert modes[0] is Mode.FUSED
    assert modes[-1] is Mode.FUSED
    assert 12 <= modes.count(Mode.RGB_ONLY) <= 20
    changes = [e.change.mode for e in replay.take_events() if e.change is not None]
    assert changes == [Mode.RGB_ONLY, Mode.FUSED]
    strict, _ = replayed(tmp_path / "bag", model, stale_ms=500.0, fallback_mode="fused_only")
    assert {a.mode for a in strict} == {Mode.FUSED}


def test_one_camera_alone(tmp_path, model):
    rows = [r for r in pairs(40) if r.topic == IR]
    with BagReader(record(tmp_path / "bag", rows), rgb_topic="") as reader:
        answers = list(Replay(open_pipeline(model)).run(reader))
    assert {a.mode for a in answers} == {Mode.IR_ONLY}
    assert len(answers) >= 25
    assert all(a.rgb_stamp_ns is None and a.stamp_ns == a.ir_stamp_ns for a in answers)


def test_a_failing_engine_costs_one_capture(tmp_path, model):
    rows = pairs(5)
    rows[4].pixels[0, 0] = (0, 255, 0)  # on which the blob model fails
    answers, replay = replayed(record(tmp_path / "bag", rows), model)
    assert [a.cause for a in answers] == ["", "", "inference_failed", "", ""]
    assert answers[2].perception is None
    assert "failed" in answers[2].error
    assert replay.drops() == {"inference_failed": 1}


def test_the_calibration_file_gives_offset_and_homography(tmp_path, model):
    rows = pairs(8)
    for row in rows:
        if row.topic == IR:
            row.stamp_ns += 137 * MS
            row.pixels = row.pixels[::2, ::2].copy()
    bag = record(tmp_path / "bag", rows)
    assert not [a for a in replayed(bag, model)[0] if a.error_ns is not None and abs(a.error_ns) < 30 * MS]
    half = Registration.whole((SIZE[0] // 2, SIZE[1] // 2), SIZE)
    save_calibration(tmp_path / "rig.yaml", Calibration(half, time_offset_ms=137.0))
    answers, replay = replayed(bag, model, calibration_file=str(tmp_path / "rig.yaml"))
    assert {a.error_ns for a in answers} == {4 * MS}
    assert len(answers) == 8
    assert replay.registering.current == Registration(
        half.matrix, half.ir_size, half.rgb_size, str(tmp_path / "rig.yaml")
    )
    first = answers[0].perception
    assert first is not None
    np.testing.assert_allclose(first.boxes[0], [80, 50, 100, 70], atol=1.0)
    given, _ = replayed(bag, model, ir_time_offset_ms=135.0)
    assert {a.error_ns for a in given} == {6 * MS}, "a parameter wins over the file"


@pytest.mark.parametrize("uptime", [IR, RGB])
def test_a_camera_whose_stamps_count_from_its_start_is_paired_by_arrival(tmp_path, model, uptime):
    rows = pairs(30)
    for row in rows:
        if row.topic == uptime:
            row.stamp_ns += 4_211_000_000_000 - START_NS
    bag = record(tmp_path / "bag", rows)
    answers, replay = replayed(bag, model)
    fused = [answer for answer in answers if answer.mode is Mode.FUSED]
    assert len(fused) >= 20, "all but those before it was certain"
    assert {answer.error_ns for answer in fused} == {4 * MS}, "by their times of recording"
    for answer in fused:
        assert answer.stamp_ns == answer.rgb_stamp_ns, "the header is the RGB frame's own"
    assert any("times of arrival" in event.text for event in replay.take_events())
    again, _ = replayed(bag, model)
    assert summaries(again) == summaries(answers)

    by_arrival, _ = replayed(bag, model, pair_by="arrival")
    assert len(by_arrival) == 30
    assert {answer.error_ns for answer in by_arrival} == {4 * MS}
    by_stamp, _ = replayed(bag, model, pair_by="stamp", fallback_mode="fused_only")
    assert by_stamp == []


@pytest.mark.parametrize("fallback", ["auto", "rgb_grid"])
def test_infrared_alone_uses_the_rgb_grid_if_registered(tmp_path, model, fallback):
    rows = [row for n, row in enumerate(pairs(20)) if row.topic == IR or n < 12]
    for row in rows:
        if row.topic == IR:
            row.pixels = row.pixels[::2, ::2].copy()
    bag = record(tmp_path / "bag", rows)
    half = Registration.whole((SIZE[0] // 2, SIZE[1] // 2), SIZE)
    known, _ = replayed(bag, model, ir_to_rgb=half.matrix, stale_ms=300.0, fallback_mode=fallback)
    alone = [answer for answer in known if answer.mode is Mode.IR_ONLY]
    assert len(alone) > 5
    assert {answer.perception.size for answer in known} == {SIZE}
    for answer in alone:
        assert answer.perception.registered
        assert answer.perception.mask.shape == SIZE[::-1]
        n = round((answer.stamp_ns - START_NS) / (100 * MS))
        x = 80 - 2 * n % 60
        np.testing.assert_allclose(answer.perception.boxes, [[x, 50, x + 20, 70]], atol=1.5)
    plain, replay = replayed(bag, model, stale_ms=300.0, fallback_mode=fallback)
    own = [answer for answer in plain if answer.mode is Mode.IR_ONLY]
    said = [event.text for event in replay.take_events()]
    if fallback == "auto":
        assert {answer.perception.size for answer in own} == {(SIZE[0] // 2, SIZE[1] // 2)}
        assert sum("own 56x42 pixels" in text for text in said) == 1
    else:
        assert own == []
        assert any("no registration to the RGB image is known" in text for text in said)


def record_calibrated(bag, rows, transforms=()):
    """Record rows with both cameras' CameraInfo, and messages of transforms (parent, child, x, y, z)."""
    region = make("sensor_msgs/msg/RegionOfInterest", x_offset=0, y_offset=0, height=0, width=0, do_rectify=False)
    time = make("builtin_interfaces/msg/Time", sec=1, nanosec=0)
    with BagWriter(bag) as writer:
        for key in ("rgb", "ir"):
            focal = 100.0
            info = make(
                "sensor_msgs/msg/CameraInfo", header=make("std_msgs/msg/Header", stamp=time, frame_id=f"{key}_optical"),
                height=SIZE[1], width=SIZE[0], distortion_model="plumb_bob", d=np.zeros(5),
                k=np.array([focal, 0, 55.5, 0, focal, 41.5, 0, 0, 1.0]), r=np.eye(3).reshape(-1),
                p=np.array([focal, 0, 55.5, 0, 0, focal, 41.5, 0, 0, 0, 1.0, 0]), binning_x=0, binning_y=0, roi=region,
            )  # fmt: skip
            writer.add(f"/{key}/camera_info", "sensor_msgs/msg/CameraInfo")
            writer.write(f"/{key}/camera_info", info, START_NS)
        for parent, child, x, y, z in transforms:
            pose = make(
                "geometry_msgs/msg/Transform", translation=make("geometry_msgs/msg/Vector3", x=x, y=y, z=z),
                rotation=make("geometry_msgs/msg/Quaternion", x=0.0, y=0.0, z=0.0, w=1.0),
            )  # fmt: skip
            head = make("std_msgs/msg/Header", stamp=time, frame_id=parent)
            stamped = make("geometry_msgs/msg/TransformStamped", header=head, child_frame_id=child, transform=pose)
            writer.add("/tf_static", "tf2_msgs/msg/TFMessage", latched=True)
            writer.write("/tf_static", make("tf2_msgs/msg/TFMessage", transforms=[stamped]), START_NS)
        for row in rows:
            writer.add(row.topic, row.kind)
            writer.write(row.topic, row.message(), row.received_ns)
    return bag


def test_the_registration_from_camera_info(tmp_path, model):
    rows = pairs(3)
    bag = record_calibrated(tmp_path / "bag", rows)
    answers, replay = replayed(
        bag, model, registration_from_camera_info=True, extrinsic_translation=(1.0, 0.0, 0.0), plane_distance_m=10.0
    )
    assert len(answers) == 3
    assert replay.registering.current is not None
    np.testing.assert_allclose(np.reshape(replay.registering.current.matrix, (3, 3))[0, 2], 10.0)
    plain = record(tmp_path / "plain", rows)
    with pytest.raises(RegistrationError, match="needs /rgb/camera_info, which is not in the bag"):
        replayed(plain, model, registration_from_camera_info=True)


def test_extrinsics_from_the_recordings_static_transforms(tmp_path, model):
    rows, options = pairs(3), {"registration_from_camera_info": True, "extrinsics_from_tf": True}
    rgb = [("base", "rgb_optical", 0.0, 0.0, 0.0)]
    bag = record_calibrated(tmp_path / "bag", rows, [*rgb, ("base", "ir_optical", 1.0, 0.5, 0.0)])
    answers, replay = replayed(bag, model, plane_distance_m=10.0, **options)
    assert len(answers) == 3
    assert replay.registering.current is not None
    np.testing.assert_allclose(np.reshape(replay.registering.current.matrix, (3, 3))[:2, 2], (10.0, 5.0))
    hot = [
        box for answer in answers for box, label in zip(answer.perception.boxes, answer.perception.labels) if label == 1
    ]
    plain, _ = replayed(bag, model)
    unmoved = [
        box for answer in plain for box, label in zip(answer.perception.boxes, answer.perception.labels) if label
    ]
    assert len(hot) == 3
    np.testing.assert_allclose(hot, np.array(unmoved) + [10, 5, 10, 5], atol=1.5)
    with pytest.raises(RegistrationError, match="needs /tf_static .*which is not in the bag"):
        replayed(record_calibrated(tmp_path / "without", rows), model, **options)
    with pytest.raises(RegistrationError, match=r"from frame 'ir_optical' to frame 'rgb_optical'.*'ir_optical' is not"):
        replayed(record_calibrated(tmp_path / "half", rows, rgb), model, **options)


def test_parameters_from_the_nodes_own_file(repository, tmp_path):
    assert settings_from_file(repository / "config/detector.yaml") == Settings()
    file = tmp_path / "p.yaml"
    file.write_text(
        "other:\n  ros__parameters:\n    unknown: 1\n"
        "/**:\n  ros__parameters: {sync_slop_ms: 20, use_sim_time: true}\n"
        "robot:\n  detector_node:\n    ros__parameters: {stale_ms: 300.0, sync_slop_ms: 25.0}\n"
    )
    assert settings_from_file(file, {"frozen_ms": 0}) == Settings(sync_slop_ms=25.0, stale_ms=300.0, frozen_ms=0.0)
    file.write_text("node:\n  ros__parameters: {sync_slop: 20}\n")
    with pytest.raises(
        ParameterError, match=r"p.yaml: parameter 'sync_slop' is unknown: did you mean 'sync_slop_ms'\?"
    ):
        settings_from_file(file)
    for text, said in (("[1, 2", "no valid YAML"), ("a: 1", "has no parameters")):
        file.write_text(text)
        with pytest.raises(ParameterError, match=said):
            settings_from_file(file)
    with pytest.raises(ParameterError, match="parameter file .* does not exist"):
        settings_from_file(tmp_path / "none.yaml")


def test_a_model_of_another_band_is_refused(model):
    with pytest.raises(BundleError, match=r"another band: .* takes LWIR, infrared_band is 'nir'.*lwir_detector"):
        open_pipeline(model, Settings(infrared_band="nir"))


def test_frames_may_be_changed_on_their_way(tmp_path, model):
    """As needed for sweeps."""
    bag = record(tmp_path / "bag", pairs(30))
    with BagReader(bag) as reader:

        def without_infrared() -> list[BagFrame]:
            return [f for f in reader.frames() if f.stream is Stream.RGB]

        answers = list(Replay(open_pipeline(model)).run(without_infrared()))
    assert {a.mode for a in answers} == {Mode.RGB_ONLY}


def test_a_repeated_recording_gets_equal_results_twice(tmp_path, model):
    first, again = pairs(10), pairs(10)
    for row in again:
        row.received_ns += 1050 * MS
    answers, replay = replayed(record(tmp_path / "bag", first + again), model, frozen_ms=0.0)
    assert [a.stamp_ns for a in answers] == [START_NS + n * 100 * MS for n in range(10)] * 2
    for a, b in zip(answers[:10], answers[10:], strict=True):
        assert a.perception is not None
        assert b.perception is not None
        np.testing.assert_array_equal(a.perception.boxes, b.perception.boxes)
    assert replay.feed is not None
    assert replay.feed.pairer.restarts == 1


def test_a_converted_recording_is_replayed_by_its_stamps(tmp_path, model):
    """All frames have one recording time: by that clock no camera would ever fall silent."""
    rows = [r for r in pairs(60) if r.topic == RGB or not 20 <= (r.stamp_ns - START_NS) / 1e8 < 40]
    expected = [a.mode for a in replayed(record(tmp_path / "a", rows), model)[0]]
    for row in rows:
        row.received_ns = START_NS
    with BagReader(record(tmp_path / "b", rows)) as reader:
        modes = [a.mode for a in Replay(open_pipeline(model), clock="stamp").run(reader)]
        assert Mode.RGB_ONLY not in [a.mode for a in Replay(open_pipeline(model)).run(reader)]
    assert modes == expected
    assert Mode.RGB_ONLY in modes
    with pytest.raises(BagError, match="received, stamp"):
        Replay(open_pipeline(model), clock="sun")


@pytest.mark.slow
def test_memory_is_flat_over_a_long_recording(tmp_path, model):
    def rows() -> list[Row]:
        found = []
        for n in range(2000):
            stamp = START_NS + n * 33 * MS
            found += [
                Row(RGB, stamp, stamp + MS, red(n % 50)),
                Row(IR, stamp + 2 * MS, stamp + 4 * MS, hot(n % 50)),
            ]
        return found

    bag = record(tmp_path / "bag.mcap", rows())

    def held_mb() -> float:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6

    with BagReader(bag) as reader:
        replay = Replay(open_pipeline(model))
        seen = [held_mb() for _ in replay.run(reader)]
        assert reader.max_waiting < 60
    assert len(seen) == 2000
    # 84 kB a pair: keeping them all would be 170 MB
    assert max(seen[1000:]) - max(seen[200:1000]) < 8, (max(seen[200:1000]), max(seen[1000:]))


def test_identities_last_through_a_change_to_an_infrared_camera_with_another_clock(tmp_path, model):
    rows = [row for row in pairs(29) if row.topic == IR or row.stamp_ns < START_NS + 1_500 * MS]
    for row in rows:
        row.stamp_ns += 60_000 * MS * (row.topic == IR)
    same = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
    settings = {"ir_time_offset_ms": 60_000.0, "stale_ms": 300.0, "ir_to_rgb": same, "track_memory_ms": 2000.0}
    answers, _ = replayed(record(tmp_path / "bag", rows), model, tracking=True, pair_by="stamp", **settings)
    names = {mode: set() for mode in Mode}
    for answer in answers[1:]:
        assert answer.perception is not None
        assert answer.perception.track_ids is not None
        hot = answer.perception.labels == 1
        names[answer.mode] |= {name for name, is_hot in zip(answer.perception.track_ids, hot, strict=True) if is_hot}
    assert len(names[Mode.IR_ONLY]) == 1
    assert names[Mode.FUSED] == names[Mode.IR_ONLY] | {""}, "none at its first sight"


@pytest.mark.parametrize(
    "filters",
    [
        {"class_thresholds": "red:0.7, hot:0.95"},  # hot scores 0.9: a weak detection, and the best
        {"class_thresholds": "red:0.7, hot:0.95", "max_detections": 1},
        {"max_detections": 1},
        {"classes": "red"},
    ],
)
def test_tracking_publishes_the_same_detections(tmp_path, model, filters):
    bag = record(tmp_path / "bag", [row for row in pairs(12) if row.topic == IR or row.stamp_ns < START_NS + 600 * MS])
    wide = (2.0, 0.0, -112.0, 0.0, 2.0, -84.0, 0.0, 0.0, 1.0)  # some infrared results are outside the RGB image
    found = []
    for tracking in (False, True):
        answers, _ = replayed(bag, model, tracking=tracking, ir_to_rgb=wide, stale_ms=200.0, **filters)
        assert {answer.mode for answer in answers} == {Mode.FUSED, Mode.IR_ONLY}
        assert all(("tracking" in answer.steps_ms) is tracking for answer in answers)
        given = [answer.perception for answer in answers if answer.perception is not None]
        given += [perception.native for perception in given if perception.native is not None]
        found.append([(p.labels.tolist(), p.boxes.tolist(), p.scores.tolist()) for p in given])
    assert any(labels for labels, _, _ in found[0])
    assert found[1] == found[0]


def test_scored_identities_are_those_of_the_node_beyond_the_maximum_number_too(tmp_path, model):
    bag = record(tmp_path / "bag", [row for row in pairs(12) if row.topic == RGB or row.stamp_ns < START_NS + 600 * MS])
    settings = Settings(tracking=True, max_detections=1, stale_ms=200.0)  # the hot one; alone with RGB the red one
    found = []
    for floor in (None, 0.01):
        pipeline = open_pipeline(model, settings)
        with BagReader(bag) as reader:
            given = [
                a.perception for a in Replay(pipeline, settings, floor=floor).run(reader) if a.perception is not None
            ]
        served = [perception.selected(settings.are_served(perception, pipeline.info)) for perception in given]
        found.append([(perception.labels.tolist(), perception.track_ids) for perception in served])
    assert found[0][-1] == ([0], ("2",))
    assert found[1] == found[0]
