"""The demo as a newcomer runs it, with a model of known results: real processes, DDS and files."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.blob_model import make_blob_model

pytest.importorskip("rclpy", reason="no ROS in this environment")

from spectradino_ros.demo.run import _parse, main
from tests.signals import heed_signals

SIZES = [(617, 459), (394, 161), (640, 480), (321, 243), (640, 512), (500, 500)]


def run_demo(arguments: list[str | Path], domain: int) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "spectradino_ros.demo", "--domain", domain, *arguments]
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=200, check=False)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_blob_model(tmp_path_factory.mktemp("model") / "blob.onnx", input_size=(322, 238))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pairs of odd sizes, each with one red box in RGB and one hot box in infrared."""
    root = tmp_path_factory.mktemp("blobs")
    for kind in ("rgb", "lwir", "label"):
        (root / "val" / kind).mkdir(parents=True)
    items, images, annotations = [], [], []
    for place, (width, height) in enumerate(SIZES):
        name = f"pair_{place}"
        red = (width // 8, height // 4, width // 8 + width // 3, height // 4 + height // 2)
        hot = (width // 2 + place, height // 5, width // 2 + place + width // 4, height // 5 + height // 3)
        rgb = np.full((height, width, 3), 70, np.uint8)
        infrared = np.full((height, width), 9000, np.uint16)
        mask = np.zeros((height, width), np.uint8)
        rgb[red[1] : red[3], red[0] : red[2]] = (250, 10, 10)
        mask[red[1] : red[3], red[0] : red[2]] = 1
        infrared[hot[1] : hot[3], hot[0] : hot[2]] = 12000
        mask[hot[1] : hot[3], hot[0] : hot[2]] = 2
        paths = {kind: f"val/{kind}/{name}.png" for kind in ("rgb", "lwir", "label")}
        for kind, pixels in (("rgb", rgb[..., ::-1]), ("lwir", infrared), ("label", mask)):
            cv2.imwrite(str(root / paths[kind]), pixels)
        items.append({"id": name, "width": width, "height": height, **paths})
        if place != 2:  # one pair without known boxes
            images.append({"id": place, "file_name": paths["rgb"], "time": "night"})
            for category, (x1, y1, x2, y2) in enumerate((red, hot)):
                annotation = {"image_id": place, "category_id": category, "bbox": [x1, y1, x2 - x1, y2 - y1]}
                annotations.append(annotation | {"id": len(annotations)})
    categories = [{"id": 0, "name": "red"}, {"id": 1, "name": "hot"}]
    index = {"set": "blobs", "mask_classes": ["background", "red", "hot"], "items": items}
    (root / "index_val.json").write_text(json.dumps(index))
    truth = {"images": images, "annotations": annotations, "categories": categories}
    (root / "instances_val.json").write_text(json.dumps(truth))
    return root


def test_wrong_data_and_foreign_folders_leave_earlier_results(model: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "report.json").write_text("{}")
    (out / "node.log").write_text("[INFO] [detector_node]: of that run")
    assert main(["--out", str(out), "--data", str(tmp_path / "none"), "--model", str(model)]) == 1
    assert "none: no such folder" in capsys.readouterr().err
    (out / "node.log").write_text("of another program")
    assert main(["--out", str(out), "--model", str(model)]) == 1
    assert "holds report.json, node.log" in capsys.readouterr().err
    assert (out / "report.json").read_text() == "{}"


@pytest.mark.slow
def test_real_pairs_get_results_scores_and_overlays(data: Path, model: Path, ros_domain: int, tmp_path: Path) -> None:
    out = tmp_path / "out"
    (out / "overlays").mkdir(parents=True)
    (out / "overlays/0042.png").write_bytes(b"of an earlier run")
    (out / "overlays/mine.png").write_bytes(b"of somebody else")
    (out / "node.log").write_text("[INFO] [detector_node]: of that run")
    done = run_demo(["--out", out, "--data", data, "--model", model], ros_domain)
    assert done.returncode == 0, done.stderr
    assert "6 of 6 pairs with results (6 fused)" in done.stdout
    assert "contact_sheet.png" in done.stdout
    assert "done" in done.stderr  # the bar came to its end
    assert "100%" in done.stderr

    report = json.loads((out / "report.json").read_text())
    assert report["pairs"] == {"warm_up": 3, "sent": 6, "answered": 6, "unanswered": []}
    assert report["drops"] == {}
    assert report["data"]["set"] == "blobs"
    assert report["model"]["name"] == "blob"
    assert report["model"]["engine"].startswith(("ONNX Runtime", "OpenVINO")), "whichever auto takes here"
    assert 0 < report["latency_ms"]["p50"] <= report["latency_ms"]["p95"] <= report["latency_ms"]["p99"]
    assert report["received_after_ms"]["p50"] >= report["latency_ms"]["p50"]
    assert {"preprocess", "engine", "postprocess"} <= report["steps_ms_p50"].keys()
    # boxes came back on the pixels of six different sizes; the pair without known boxes does not count
    assert report["detection"]["AP50"] == {"red": 1.0, "hot": 1.0}
    assert (report["detection"]["pairs"], report["detection"]["true_boxes"]) == (5, 10)
    assert report["segmentation"]["pairs"] == 6
    assert report["segmentation"]["mIoU"] > 0.95

    names = sorted(path.name for path in (out / "overlays").iterdir())
    assert names == [*(f"{k:04d}.png" for k in range(6)), "mine.png"]
    for number, (width, height) in enumerate(SIZES):
        image = cv2.imread(str(out / f"overlays/{number:04d}.png"))
        assert image is not None
        assert image.shape[0] - 40 == pytest.approx(640 * height / width, abs=1)
    sheet = cv2.imread(str(out / "contact_sheet.png"))
    assert sheet is not None
    assert min(sheet.shape[:2]) > 500
    assert "active" in (out / "node.log").read_text()
    assert not list(out.glob(".work-*"))


@pytest.mark.slow
def test_synthetic_scenes_without_data(model: Path, ros_domain: int, tmp_path: Path) -> None:
    done = run_demo(["--out", tmp_path, "--limit", "5", "--model", model, "--keep-pairs"], ros_domain)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["pairs"]["answered"] == 5
    assert report["data"]["seeds"] == [9_000_000, 9_000_001]
    assert report["ir_offset_ms_p50"] == pytest.approx(6.0)  # the cameras' clocks differ, and the node says by how much
    assert report["detection"] is None  # the scene has other classes than this model
    assert report["segmentation"] is None
    assert len(list((tmp_path / "pairs/val/lwir").iterdir())) == 5


@pytest.mark.slow
def test_cameras_that_are_too_fast(data: Path, ros_domain: int, tmp_path: Path) -> None:
    slow = make_blob_model(tmp_path / "slow.onnx", input_size=(322, 238), work=12)
    done = run_demo(
        ["--out", tmp_path / "out", "--data", data, "--model", slow, "--rate", "100", "--device", "cpu"], ros_domain
    )
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "out/report.json").read_text())
    missing = report["pairs"]["unanswered"]
    assert missing
    assert report["pairs"]["answered"] == 6 - len(missing)
    assert sum(report["drops"].values()) >= len(missing)
    assert report["detection"]["AP50"]["red"] < 1.0  # what was not answered was not found


@pytest.mark.slow
def test_a_model_that_refuses_every_pair(data: Path, ros_domain: int, tmp_path: Path) -> None:
    from spectradino_core.thermal import ThermalContract

    picky = make_blob_model(tmp_path / "picky.onnx", input_size=(322, 238), thermal=ThermalContract(depths=(8,)))
    done = run_demo(["--out", tmp_path / "out", "--data", data, "--model", picky, "--limit", "2"], ros_domain)
    assert done.returncode == 1
    assert "No results were published: see the node's log" in done.stderr
    report = json.loads((tmp_path / "out/report.json").read_text())
    assert report["pairs"]["answered"] == 0
    assert report["latency_ms"] is None
    assert report["pairs"]["warm_up"] == 1
    assert report["drops"] == {"ir_thermal_mismatch": 3}  # that of the warm-up among them
    assert "8-bit" in (tmp_path / "out/node.log").read_text()


def children(pid: int) -> dict[str, int]:
    """Return process ids of a process's children by module."""
    listing = subprocess.run(
        ["ps", "-o", "pid=,args=", "--ppid", str(pid)], capture_output=True, text=True, check=False
    )
    found = (line.split(maxsplit=1) for line in listing.stdout.splitlines())
    return {name: int(number) for number, args in found for name in ("detector_node", "player") if name in args}


@pytest.fixture
def running(data: Path, model: Path, ros_domain: int, tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """A demo in the middle of a long replay."""
    out = tmp_path / "out"
    arguments = ["--out", out, "--data", data, "--model", model, "--rate", 0.2, "--domain", ros_domain]
    command = [sys.executable, "-m", "spectradino_ros.demo", *map(str, arguments)]
    demo = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=heed_signals
    )  # fmt: skip
    end = time.monotonic() + 60
    while len(children(demo.pid)) < 2 and time.monotonic() < end:
        assert demo.poll() is None
        time.sleep(0.1)
    yield demo, out
    if demo.poll() is None:
        demo.kill()
    demo.communicate()


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_stopped_in_the_middle_it_leaves_no_process_behind(running, number: signal.Signals, code: int) -> None:
    demo, out = running
    theirs = children(demo.pid)
    assert theirs.keys() == {"detector_node", "player"}
    demo.send_signal(number)
    _, stderr = demo.communicate(timeout=40)
    assert demo.returncode == code
    assert "Traceback" not in stderr
    assert not [pid for pid in theirs.values() if Path(f"/proc/{pid}").exists()]
    assert not list(out.glob(".work-*"))


@pytest.mark.slow
def test_a_node_that_dies_is_reported(running) -> None:
    demo, out = running
    os.kill(children(demo.pid)["detector_node"], signal.SIGKILL)
    _, stderr = demo.communicate(timeout=40)
    assert demo.returncode == 1
    assert "the detector node was ended by SIGKILL" in stderr
    assert str(out / "node.log") in stderr
    assert "active: pairs from" in stderr  # the last thing it said
    assert "Traceback" not in stderr


@pytest.mark.slow  # processes; test_demo_parts.py covers the inputs
def test_wrong_arguments_name_what_was_looked_for(data: Path, model: Path, tmp_path: Path) -> None:
    done = run_demo(["--out", tmp_path, "--data", tmp_path, "--model", model], 1)
    assert done.returncode == 1
    assert "looked for index_val.json" in done.stderr
    assert "lwir" in done.stderr
    done = run_demo(["--out", tmp_path, "--data", data, "--model", tmp_path / "none.onnx"], 1)
    assert done.returncode == 1
    assert "none.onnx does not exist" in done.stderr
    for words in (["--rate", "-1"], ["--limit", "0"]):
        with pytest.raises(SystemExit) as ended:
            _parse(words)
        assert ended.value.code == 2


def test_a_reader_who_leaves_the_help_is_no_error():
    command = [sys.executable, "-m", "spectradino_ros.demo", "--help"]
    environment = os.environ | {"PYTHONUNBUFFERED": ""}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment)
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    with process.stderr as stream:
        assert stream.read() == b""
    assert process.wait() == 141
