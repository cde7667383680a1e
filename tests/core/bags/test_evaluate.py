"""`bag evaluate` on recordings with known ground truth: scores, identical bytes on repetition, failures by name."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spectradino_core.bags.evaluation_options import Sweep, parse_sweeps
from spectradino_core.cli import main
from tests.blob_model import make_blob_model
from tests.core.bags.recorded import RGB, pairs, record
from tests.core.bags.recordings import SIZE, START_NS, Recording

MS = 1_000_000

Evaluate = Callable[..., tuple[int, dict[str, Any]]]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_blob_model(tmp_path_factory.mktemp("model") / "blob.onnx", SIZE)


@pytest.fixture
def evaluate(model: Path, tmp_path: Path, undrawn: None) -> Evaluate:
    """Run the command; returns its exit status and result.json."""

    def run(*bags: Path, out: str = "report", more: Sequence[str] = ()) -> tuple[int, dict[str, Any]]:
        words = ["bag", "evaluate", *map(str, bags), "--model", str(model), "--out", str(tmp_path / out), *more]
        status = main(words)
        path = tmp_path / out / "result.json"
        return status, json.loads(path.read_text()) if path.is_file() else {}

    return run


def test_a_perfect_model_has_perfect_scores(evaluate: Evaluate, tmp_path: Path) -> None:
    recording = Recording(6)
    labels = recording.labels(tmp_path / "labels.json")
    status, result = evaluate(recording.write(tmp_path / "drive"), more=["--labels", str(labels)])
    scores = result["total"]["scores"]
    assert status == 0
    assert scores["frames"]["answered"] == scores["frames"]["fused"] == 6
    assert [scores["all"][key] for key in ("map", "map50", "map75")] == [1.0, 1.0, 1.0]
    assert scores["all"]["instances"] == {"red": 6, "hot": 6}
    assert result["total"]["pairing"]["pairs"] == 6
    assert result["total"]["drops"] == {}
    lines = [json.loads(line) for line in (tmp_path / "report/bags/drive/detections.jsonl").read_text().splitlines()]
    assert [line["stamp_ns"] for line in lines] == recording.stamps
    found = {d["class"]: d["box"] for d in lines[2]["detections"]}
    assert found == {name: list(map(float, box)) for name, *box in recording.boxes[recording.stamps[2]]}
    assert lines[2]["served"] == 2
    page = (tmp_path / "report/report.html").read_text()
    assert "drive: blob" in page
    assert "http" not in page.replace("http-equiv", "").replace('xmlns="http', "")


def test_filters_hold_in_the_scores_and_class_thresholds_in_what_is_served(
    evaluate: Evaluate, tmp_path: Path, capsys
) -> None:
    recording = Recording(6)
    labels = ["--labels", str(recording.labels(tmp_path / "labels.json"))]
    bag = recording.write(tmp_path / "drive")
    evaluate(bag, more=labels)
    lines = (tmp_path / "report/bags/drive/detections.jsonl").read_bytes()
    _, one = evaluate(bag, out="one", more=[*labels, "--classes", "red"])
    assert one["total"]["scores"]["all"]["map50"] == 0.5
    assert one["settings"]["parameters"]["classes"] == "red"
    _, high = evaluate(bag, out="high", more=[*labels, "--class-thresholds", "red:0.85"])
    assert high["total"]["scores"]["all"]["map50"] == 1.0
    served = [json.loads(line) for line in (tmp_path / "high/bags/drive/detections.jsonl").read_text().splitlines()]
    assert [(line["served"], len(line["detections"])) for line in served] == [(1, 2)] * 6
    evaluate(bag, out="same", more=[*labels, "--class-thresholds", "red:0.5,hot:0.5"])
    assert (tmp_path / "same/bags/drive/detections.jsonl").read_bytes() == lines
    status, _ = evaluate(bag, out="unknown", more=["--classes", "red,person"])
    assert status != 0
    assert "its classes are red, hot" in capsys.readouterr().err


def test_tracks_are_scored_where_the_labels_have_identities(evaluate: Evaluate, tmp_path: Path) -> None:
    drive = Recording(6)
    bag = drive.write(tmp_path / "drive", truth_topic="/truth")
    _, plain = evaluate(bag, more=["--label-topic", "/truth"])
    assert "tracking" not in plain["total"]
    _, tracked = evaluate(bag, out="tracked", more=["--label-topic", "/truth", "--tracking"])
    counts = {"labelled": 12, "found": 10, "false": 0, "switches": 0, "fragmentations": 0, "objects": 2}
    counts |= {"mostly_tracked": 2, "mostly_lost": 0, "frames": 6}
    figures = {"mota": round(10 / 12, 6), "recall": round(10 / 12, 6), "precision": 1.0}  # no identity at first sight
    assert tracked["total"]["tracking"] == counts | figures
    assert tracked["bags"][0]["tracking"] == counts
    lines = [json.loads(row) for row in (tmp_path / "tracked/bags/drive/detections.jsonl").read_text().splitlines()]
    names = [{one["class"]: one["track"] for one in line["detections"]} for line in lines]
    assert names == [{"red": "", "hot": ""}, *[names[1]] * 5]
    assert sorted(names[1].values()) == ["1", "2"]
    assert "identity switches" in (tmp_path / "tracked/report.html").read_text()
    for row in lines:
        for one in row["detections"]:
            del one["track"]
    before = (tmp_path / "report/bags/drive/detections.jsonl").read_text().splitlines()
    assert lines == [json.loads(row) for row in before]


def test_labelled_frames_without_a_result_are_frames_without_tracks(evaluate: Evaluate, tmp_path: Path) -> None:
    drive = Recording(6)
    del drive.rgb[drive.stamps[3]], drive.ir[drive.stamps[3]]
    bag = drive.write(tmp_path / "drive", truth_topic="/truth")
    _, result = evaluate(bag, more=["--label-topic", "/truth", "--tracking"])
    counts = {"labelled": 12, "found": 8, "false": 0, "switches": 0, "fragmentations": 2, "objects": 2, "frames": 6}
    tracking = result["bags"][0]["tracking"]
    assert {name: tracking[name] for name in counts} == counts
    assert (
        "a labelled frame without a result counts as one without tracks"
        in (tmp_path / "report/report.html").read_text()
    )


def test_tracks_of_a_labelled_frame_are_scored_once(evaluate: Evaluate, tmp_path: Path) -> None:
    """Without RGB there are two IR frames at each labelled one, and the second, nearer result replaces the first."""
    drive = Recording(30)
    for stamp in drive.stamps[8:]:
        del drive.rgb[stamp]
        drive.ir[stamp - 20 * MS] = drive.ir[stamp]
    bag = drive.write(tmp_path / "drive", truth_topic="/truth")
    _, result = evaluate(bag, more=["--label-topic", "/truth", "--tracking"])
    assert result["bags"][0]["answers_repeated"] > 5
    tracking = result["bags"][0]["tracking"]
    assert (tracking["frames"], tracking["labelled"]) == (30, 60)


def test_a_converted_recording_is_evaluated_by_its_stamps(evaluate: Evaluate, tmp_path: Path) -> None:
    """All recorded at one moment, as converters do; the colour camera is silent from 1 s to 4 s. `bag info` advises
    `--clock stamp`, by which the infrared camera answers alone meanwhile."""
    rows = [row for row in pairs(60) if row.topic != RGB or not 10 <= (row.stamp_ns - START_NS) // (100 * MS) < 40]
    for row in rows:
        row.received_ns = START_NS
    bag = record(tmp_path / "drive", rows)
    _, by_arrival = evaluate(bag, out="arrival")
    status, by_stamp = evaluate(bag, out="stamp", more=["--clock", "stamp"])
    assert status == 0
    assert by_arrival["total"]["pairing"]["captures_by_mode"]["ir_only"] == 0
    assert by_stamp["total"]["pairing"]["captures_by_mode"]["ir_only"] > 10
    assert by_stamp["bags"][0]["seconds"] == pytest.approx(5.904)
    assert by_stamp["total"]["mode_seconds"]["ir_only"] > 1
    assert by_stamp["settings"]["clock"] == "stamp"


def test_masks_of_previous_results_are_removed(evaluate: Evaluate, tmp_path: Path) -> None:
    evaluate(record(tmp_path / "drive", pairs(5)), more=["--save-masks"])
    other = record(tmp_path / "again" / "drive", pairs(3, first=10))
    evaluate(other, more=["--save-masks"])
    masks = sorted((tmp_path / "report/bags/drive/masks").iterdir())
    assert [mask.stem for mask in masks] == [str(START_NS + n * 100 * MS) for n in (10, 11, 12)]
    evaluate(other)
    assert not (tmp_path / "report/bags/drive/masks").exists()


def test_truth_may_come_from_the_bags_own_topics(evaluate: Evaluate, tmp_path: Path) -> None:
    bag = Recording(4).write(tmp_path / "drive", truth_topic="/gt/detections", mask_topic="/gt/mask")
    status, result = evaluate(bag, more=["--label-topic", "/gt/detections", "--label-mask-topic", "/gt/mask"])
    assert status == 0
    assert result["total"]["scores"]["all"]["map"] == 1.0
    assert result["total"]["scores"]["all"]["iou"] == {"background": 1.0, "hot": 1.0, "red": 1.0}
    assert result["bags"][0]["truth"]["source"] == "/gt/detections and /gt/mask"


def test_frames_that_were_lost_cost_recall(evaluate: Evaluate, tmp_path: Path) -> None:
    recording = Recording(10)
    del recording.rgb[recording.stamps[3]]  # not recorded
    del recording.ir[recording.stamps[6]]  # without a partner
    labels = recording.labels(tmp_path / "labels.json")
    _, result = evaluate(recording.write(tmp_path / "drive"), more=["--labels", str(labels), "--pairing", "one_to_one"])
    scores = result["total"]["scores"]
    assert {k: scores["frames"][k] for k in ("scored", "missed_recorded", "missed_not_recorded")} == {
        "scored": 10, "missed_recorded": 1, "missed_not_recorded": 1,
    }  # fmt: skip
    assert scores["all"]["map50"] == pytest.approx(81 / 101, abs=1e-6)
    assert scores["answered"]["map50"] == 1.0
    assert result["total"]["drops"] == {"unpaired_ir": 1, "unpaired_rgb": 1}


def test_pairs_are_scored_by_the_age_of_the_infrared_frame(evaluate: Evaluate, tmp_path: Path, capsys) -> None:
    """Every third IR frame is recorded; the hot object stands still, the red one is that of the RGB frame."""
    recording = Recording(12)
    for number, stamp in enumerate(recording.stamps):
        if number % 3:
            del recording.ir[stamp]
    labels = recording.labels(tmp_path / "labels.json")
    more = ["--labels", str(labels), "--sync-slop-ms", "250"]
    _, result = evaluate(recording.write(tmp_path / "drive"), more=more)
    scores = result["total"]["scores"]
    ages = {name: row["frames"] for name, row in scores["by_ir_age"].items()}
    assert ages["0 to 10 ms"] == 4
    assert sum(ages.values()) == scores["frames"]["fused"] == 12
    assert all(row["map50"] is not None for row in scores["by_ir_age"].values())
    assert scores["by_ir_age"]["0 to 10 ms"]["map50"] == 1.0
    assert "by distance in time of the IR frame" in capsys.readouterr().out


def test_a_sweep_of_the_infrared_rate_leaves_so_many_frames_a_second(evaluate: Evaluate, tmp_path: Path) -> None:
    recording = Recording(31)
    labels = recording.labels(tmp_path / "labels.json")
    more = ["--labels", str(labels), "--sweep", "ir_rate=1000,2", "--pairing", "one_to_one", "--stale-ms", "5000"]
    _, result = evaluate(recording.write(tmp_path / "drive"), more=more)
    sweep = result["sweeps"]["ir_rate"]
    assert sweep["values"] == [2.0, 1000.0]
    slow, all_of_them = (point["answered"] for point in sweep["fused"])
    assert all_of_them == 1.0
    seconds = (recording.stamps[-1] - recording.stamps[0]) / 1e9
    assert slow * 31 == pytest.approx(2 * seconds, abs=1.01)


def test_one_camera_alone_is_scored_in_its_mode(evaluate: Evaluate, tmp_path: Path) -> None:
    """RGB stops half way: after the stale time IR is used alone, and only the hot object is detected."""
    recording = Recording(30)
    for stamp in recording.stamps[15:]:
        del recording.rgb[stamp]
    labels = recording.labels(tmp_path / "labels.json")
    _, result = evaluate(recording.write(tmp_path / "drive"), more=["--labels", str(labels), "--stale-ms", "300"])
    frames, by_mode = result["total"]["scores"]["frames"], result["total"]["scores"]["by_mode"]
    assert frames["fused"] == 15
    assert frames["ir_only"] >= 10
    assert by_mode["fused"]["map"] == 1.0
    assert by_mode["ir_only"]["ap"] == {"red": 0.0, "hot": 1.0}
    assert [change["to"] for change in result["bags"][0]["mode_changes"]] == ["ir_only"]
    assert result["total"]["mode_seconds"]["ir_only"] > 1.0


def test_without_truth_there_is_everything_else(evaluate: Evaluate, tmp_path: Path, capsys: Any) -> None:
    status, result = evaluate(Recording(5, ir_late_ms=12.0).write(tmp_path / "drive"), more=["--save-masks"])
    assert status == 0
    assert result["total"]["scores"] is None
    assert result["total"]["pairing"]["error_ms"]["p50"] == 12.0
    timings = json.loads((tmp_path / "report/timings.json").read_text())
    assert {"decode", "preprocess", "engine", "postprocess", "total"} <= set(timings["steps_ms"])
    assert timings["bags"]["drive"]["steps_ms_by_mode"]["fused"]["engine"]["n"] == 5
    assert len(list((tmp_path / "report/bags/drive/masks").glob("*.png"))) == 5
    assert len(list((tmp_path / "report/bags/drive/pictures").glob("*.jpg"))) == 5
    assert "Sample frames" in (tmp_path / "report/report.html").read_text()
    assert "pairing error 12.0 ms" in capsys.readouterr().out


def test_unknown_classes_are_reported(evaluate: Evaluate, tmp_path: Path, capsys: Any) -> None:
    recording = Recording(3)

    def rename(data: dict[str, Any]) -> None:
        data["categories"][0]["name"] = "dog"

    labels = recording.labels(tmp_path / "labels.json", rename)
    _, result = evaluate(recording.write(tmp_path / "drive"), more=["--labels", str(labels)])
    assert result["bags"][0]["truth"]["unknown_classes"] == {"dog": 3}
    assert result["total"]["scores"]["all"]["instances"] == {"red": 3, "hot": 0}
    assert "dog 3" in capsys.readouterr().out


def test_the_same_recording_gives_the_same_bytes(evaluate: Evaluate, tmp_path: Path) -> None:
    recording = Recording(8, ir_late_ms=4.0)
    more = ["--labels", str(recording.labels(tmp_path / "labels.json")), "--sweep", "shift=4"]
    bags = [recording.write(tmp_path / "a/drive"), recording.write(tmp_path / "b/other", "sqlite3")]
    for number, bag in enumerate((bags[0], bags[0], bags[1])):
        assert evaluate(bag, out=f"r{number}", more=more)[0] == 0
    results = [(tmp_path / f"r{number}/result.json").read_bytes() for number in range(3)]
    assert results[0] == results[1] == results[2]
    lines = [
        (tmp_path / f"r{n}/bags" / name / "detections.jsonl").read_bytes() for n, name in ((0, "drive"), (2, "other"))
    ]
    assert lines[0] == lines[1]


@pytest.mark.skipif(find_spec("openvino") is None, reason="OpenVINO is not installed")
def test_a_drive_is_scored_in_openvino_on_request_only(
    evaluate: Evaluate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    monkeypatch.setenv("SPECTRADINO_CACHE", str(cache))
    drive = Recording(6, ir_late_ms=4.0)
    bag, labels = drive.write(tmp_path / "drive"), str(drive.labels(tmp_path / "labels.json"))
    results = []
    for number, device in enumerate(((), ("--device", "cpu"), *[("--device", "openvino")] * 2)):
        assert cache.exists() is (number > 2), "a model that OpenVINO compiles is cached"
        status, result = evaluate(bag, out=f"r{number}", more=["--labels", labels, *device])
        assert status == 0
        results.append((tmp_path / f"r{number}" / "bags/drive/detections.jsonl").read_bytes())
        assert result["total"]["scores"]["all"]["map50"] == 1
    assert results[0] == results[1]
    assert results[2] == results[3]


@pytest.mark.slow
def test_any_number_of_processes_gives_the_same_bytes_and_failures_are_named(
    evaluate: Evaluate, tmp_path: Path
) -> None:
    bags = tmp_path / "bags"
    for number in range(3):
        recording = Recording(5, START_NS + number * 10**12, seed=number)
        if number == 1:
            del recording.rgb[recording.stamps[2]]
        recording.write(bags / f"drive{number}")
        recording.labels(tmp_path / f"labels/drive{number}.json")
    (bags / "cut.mcap").write_bytes(b"\x89MCAP0\r\nnothing more")
    Recording(2).labels(tmp_path / "labels/cut.json")
    more = ["--labels", str(tmp_path / "labels"), "--sweep", "shift=5"]
    for out, jobs in (("one", 1), ("two", 2)):
        status, result = evaluate(bags, out=out, more=[*more, "--jobs", str(jobs)])
        assert status == 1
        assert [row["name"] for row in result["bags"]] == ["drive0", "drive1", "drive2"]
        assert [row["name"] for row in result["failed"]] == ["cut"]
        assert str(tmp_path) not in json.dumps(result)
    assert (tmp_path / "one/result.json").read_bytes() == (tmp_path / "two/result.json").read_bytes()
    assert (tmp_path / "one/sweeps.csv").read_bytes() == (tmp_path / "two/sweeps.csv").read_bytes()
    scores = result["total"]["scores"]
    assert scores["frames"]["scored"] == 15
    assert scores["frames"]["missed"] == 1


def test_finished_bags_are_not_scored_again(evaluate: Evaluate, tmp_path: Path, capsys: Any) -> None:
    recording = Recording(3)
    bag, labels = recording.write(tmp_path / "drive"), ["--labels", str(recording.labels(tmp_path / "labels.json"))]
    first = evaluate(bag, more=labels)
    kept = tmp_path / "report/bags/drive/node.npz"
    before = kept.stat().st_mtime_ns
    assert evaluate(bag, more=labels) == first
    assert kept.stat().st_mtime_ns == before
    assert "1 of 1 replays are finished" in capsys.readouterr().err
    for changed in (["--sync-slop-ms", "20"], ["--overwrite"]):
        evaluate(bag, more=[*labels, *changed])
        assert kept.stat().st_mtime_ns > before
        before = kept.stat().st_mtime_ns
    assert evaluate(bag, more=[*labels, "--sweep", "shift=2"])[1]["sweeps"].keys() == {"shift"}
    assert "1 of 4 replays are finished" in capsys.readouterr().err
    assert kept.stat().st_mtime_ns == before
    recording.labels(tmp_path / "labels.json", lambda data: data["annotations"].pop())
    assert (
        evaluate(bag, more=labels)[1]["total"]["scores"]["all"]["instances"]
        != first[1]["total"]["scores"]["all"]["instances"]
    )


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--labels", "missing.json"], "missing.json does not exist: --labels"),
        (["--labels", "{far}"], "none of its 3 stamps is within 1 ms .* the nearest gap is 4800.000 ms"),
        (
            ["--labels", "{folder}"],
            "has neither drive.json nor drive.coco.json .*bag drive",
        ),
        (["--label-topic", "/gt/boxes"], "no topic /gt/boxes"),
        (["--rgb-topic", "/none"], "there is no topic /none"),
    ],
)
def test_a_bag_that_can_not_be_scored_is_named_with_the_reason(
    evaluate: Evaluate, tmp_path: Path, more: list[str], said: str, capsys: Any
) -> None:
    recording = Recording(3)
    recording.labels(tmp_path / "folder/other.json")
    places = {"far": recording.labels(tmp_path / "far.json", shift_ns=5_000 * MS), "folder": tmp_path / "folder"}
    status, result = evaluate(recording.write(tmp_path / "drive"), more=[word.format(**places) for word in more])
    assert status == 1
    assert result["failed"][0]["name"] == "drive"
    assert result["bags"] == []
    assert re.search(said, result["failed"][0]["why"]), result["failed"]
    assert "failed: drive" in capsys.readouterr().out


def test_a_mask_with_an_impossible_name_is_named_with_its_image(
    evaluate: Evaluate, tmp_path: Path, capsys: Any
) -> None:
    recording = Recording(2)
    labels = recording.labels(tmp_path / "labels.json")
    coco = json.loads(labels.read_text())
    coco["images"][0]["sem_seg_file_name"] = f"{'m' * 300}.png"
    labels.write_text(json.dumps(coco))
    status, _ = evaluate(recording.write(tmp_path / "drive"), more=["--labels", str(labels)])
    assert status == 1
    assert re.search(r"drive: .*labels.json: image \d+ names the mask 'm+.png'", capsys.readouterr().out)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--infrared-band", "swir"], "takes LWIR, infrared_band is 'swir'"),
        (["--sync-slop-ms", "-1"], "sync_slop_ms"),
        (["--sweep", "dropout=0.5"], "needs ground truth"),
        (["--labels", "x.json", "--label-topic", "/gt"], "give only one of them"),
        (["--labels", "x.json", "--sweep", "fog=1"], "names dropout_rgb"),
        (["--params-file", "none.yaml"], "none.yaml"),
    ],
)
def test_what_no_bag_could_be_scored_with_is_refused_at_once(
    evaluate: Evaluate, tmp_path: Path, more: list[str], said: str, capsys: Any
) -> None:
    status, result = evaluate(Recording(2).write(tmp_path / "drive"), more=more)
    assert (status, result) == (1, {})
    assert said in capsys.readouterr().err


def test_a_recording_without_pairs_gives_a_result_that_reports_it(
    evaluate: Evaluate, tmp_path: Path, capsys: Any
) -> None:
    recording = Recording(4)
    recording.ir = {stamp + 10_000 * MS: pixels for stamp, pixels in recording.ir.items()}
    labels = recording.labels(tmp_path / "labels.json")
    bag = recording.write(tmp_path / "drive")
    status, result = evaluate(bag, more=["--labels", str(labels), "--fallback-mode", "fused_only"])
    assert status == 0
    assert result["total"]["pairing"]["captures"] == 0
    assert result["total"]["scores"]["frames"]["missed"] == 4
    assert result["total"]["scores"]["all"]["map"] == 0.0
    assert "no captures, see the drops" in capsys.readouterr().out


def test_sweeps_are_read_as_typed() -> None:
    assert parse_sweeps(["dropout=0.5,1", "offset=20,shift=2,5"]) == (
        Sweep("dropout_rgb", (0.0, 0.5, 1.0)),
        Sweep("dropout_ir", (0.0, 0.5, 1.0)),
        Sweep("offset", (0.0, 20.0)),
        Sweep("shift", (0.0, 2.0, 5.0)),
    )
    for text, said in (("dropout=2", "lie in 0 to 1"), ("0.5", "names dropout"), ("shift=a", "not a number")):
        with pytest.raises(ValueError, match=said):
            parse_sweeps([text])


def test_dropped_frames_are_the_same_everywhere() -> None:
    from spectradino_core.bags.sweep_run import is_kept
    from spectradino_core.streams.queues import Stream

    stamps = range(START_NS, START_NS + 2_000)
    kept = {share: {s for s in stamps if is_kept(Stream.IR, s, share, 0)} for share in (0.0, 0.25, 0.5, 1.0)}
    assert [len(kept[share]) for share in (0.0, 1.0)] == [2_000, 0]
    assert kept[0.5] < kept[0.25]
    np.testing.assert_allclose(len(kept[0.25]) / 2_000, 0.75, atol=0.04)
    assert {s for s in stamps if is_kept(Stream.RGB, s, 0.5, 0)} != kept[0.5]
    assert sorted(s - START_NS for s in kept[0.5])[:5] == [1, 4, 6, 8, 12]


@pytest.mark.slow
def test_a_killed_worker_costs_its_own_bag_which_is_done_when_asked_again(evaluate: Evaluate, tmp_path: Path) -> None:
    for number in range(3):
        Recording(4, START_NS + number * 10**12, seed=number).write(tmp_path / f"bags/drive{number}")

    def kill_one() -> None:
        while not (children := multiprocessing.active_children()):
            time.sleep(0.02)
        assert children[0].pid is not None
        os.kill(children[0].pid, signal.SIGKILL)

    killer = threading.Thread(target=kill_one)
    killer.start()
    status, result = evaluate(tmp_path / "bags", more=["--jobs", "2"])
    killer.join()
    assert status == 1
    (failed,) = result["failed"]
    assert failed["why"].startswith("its process was killed (SIGKILL)")
    assert sorted([failed["name"], *(row["name"] for row in result["bags"])]) == ["drive0", "drive1", "drive2"]
    assert evaluate(tmp_path / "bags")[0] == 0
    assert evaluate(tmp_path / "bags", out="undisturbed")[0] == 0
    again, straight = (tmp_path / out / "result.json" for out in ("report", "undisturbed"))
    assert again.read_bytes() == straight.read_bytes()


@pytest.mark.slow
def test_ray_gives_the_bytes_of_one_process(evaluate: Evaluate, tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="no Ray here: pip install 'spectradino_ros[ray]'")
    for number in range(2):
        Recording(4, START_NS + number * 10**12, seed=number).write(tmp_path / f"bags/drive{number}")
    for out, more in (("one", []), ("ray", ["--executor", "ray", "--jobs", "2"])):
        assert evaluate(tmp_path / "bags", out=out, more=more)[0] == 0
    assert (tmp_path / "one/result.json").read_bytes() == (tmp_path / "ray/result.json").read_bytes()


def test_a_recording_without_results_is_a_failure(evaluate: Evaluate, tmp_path: Path) -> None:
    """A pure green corner makes the blob model fail at run time."""
    recording = Recording(3)
    for pixels in recording.rgb.values():
        pixels[0, 0] = (0, 255, 0)
    status, result = evaluate(recording.write(tmp_path / "drive"))
    assert status == 1
    assert "all 3 captures failed (inference_failed: " in result["failed"][0]["why"]


def test_an_empty_recording_is_a_failure(evaluate: Evaluate, tmp_path: Path, capsys: Any) -> None:
    status, result = evaluate(Recording(0).write(tmp_path / "drive"))
    assert status == 1
    assert result["failed"][0]["name"] == "drive"
    assert "\nfailed: drive: " in (said := capsys.readouterr().out)
    assert "drive: drive" not in said
    assert "image_raw (Image, 0 messages)" in result["failed"][0]["why"]


def test_a_truncated_recording_is_scored_up_to_its_end_and_reported(
    evaluate: Evaluate, tmp_path: Path, capsys: Any
) -> None:
    recording = Recording(60)  # several chunks of a megabyte
    labels = recording.labels(tmp_path / "labels.json")
    whole = (recording.write(tmp_path / "whole") / "whole.mcap").read_bytes()
    bag = tmp_path / "cut.mcap"
    bag.write_bytes(whole[: len(whole) * 6 // 10])
    status, result = evaluate(bag, more=["--labels", str(labels)])
    assert status == 0
    truth = result["bags"][0]["truth"]
    assert 10 <= 60 - truth["outside_the_bag"] <= 40
    assert result["total"]["scores"]["answered"]["map"] == 1.0
    assert str(tmp_path) not in json.dumps(result)
    said = capsys.readouterr().out
    assert "warning: cut: is damaged or truncated" in said
    assert "labels lie before or after the recording" in said


def test_single_captures_that_fail_are_counted(evaluate: Evaluate, tmp_path: Path, capsys: Any) -> None:
    recording = Recording(3)
    recording.rgb[recording.stamps[1]][0, 0] = (0, 255, 0)
    labels = recording.labels(tmp_path / "labels.json")
    status, result = evaluate(recording.write(tmp_path / "drive"), more=["--labels", str(labels)])
    assert status == 0
    assert result["total"]["pairing"]["failed_captures"] == 1
    assert result["total"]["drops"] == {"inference_failed": 1}
    assert result["total"]["scores"]["frames"]["missed_recorded"] == 1
    assert "1 capture failed" in capsys.readouterr().out
