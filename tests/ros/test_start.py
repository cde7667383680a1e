"""Start and stop of the process: a failed start logs the reason and exits non-zero, a stop is quiet and exits 0."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import onnx
import pytest
from onnx import TensorProto, helper

from spectradino_ros.shared_files import find_shared
from tests.blob_model import make_blob_model
from tests.core.hostile import KINDS
from tests.ros.harness import ROOT, NodeProcess, running

# slow: a process for each; test_onnx_file, test_files and test_parameters cover the messages, test_lifecycle starting.
pytestmark = pytest.mark.slow


def fails(pattern: str, *ros_args: str, **parameters: object) -> NodeProcess:
    """Start that must fail with a matching line, exit code 1 and no traceback."""
    node = NodeProcess(*ros_args, **parameters)
    try:
        assert node.wait() == 1, node.log
    finally:
        node.stop()
    assert node.count(pattern) == 1, node.log
    assert "Traceback" not in node.log
    return node


def test_a_missing_model(tmp_path):
    path = tmp_path / "nowhere.onnx"
    node = fails(r"\[ERROR\].*cannot configure: model file .*nowhere.onnx does not exist.*'model'", model=path)
    assert node.count(r"\[FATAL\].*autostart failed") == 1


@pytest.mark.parametrize("band", ["lwir", "swir", "nir"])
def test_without_a_model_the_bundled_one_for_the_band_is_used(band):
    node = NodeProcess(infrared_band=band, device="cpu")
    try:
        node.wait_for_line(
            rf"cannot configure: no bundled model for {band.upper()}: models/{band}_box.onnx .*'model'"
            rf"|\[INFO\].*model .*\(rgb \+ {band}, .* from .*/models/{band}_box.onnx"
        )
    finally:
        node.stop()


def test_a_truncated_model(tmp_path, blob_model):
    whole = blob_model.read_bytes()
    cut = tmp_path / "cut.onnx"
    cut.write_bytes(whole[: len(whole) // 2])
    fails(r"\[ERROR\].*cannot configure: .*cut.onnx is not a readable ONNX model \(truncated or damaged", model=cut)


def test_a_file_that_is_no_model(tmp_path):
    text = tmp_path / "notes.onnx"
    text.write_text("not a model\n")
    fails(r"\[ERROR\].*cannot configure: .*notes.onnx is not a readable ONNX model", model=text)


def test_a_foreign_onnx_model(tmp_path):
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])],
        "foreign",
        [value("x", TensorProto.FLOAT, [1])],
        [value("y", TensorProto.FLOAT, [1])],
    )
    path = tmp_path / "foreign.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9), path)
    fails(r"\[ERROR\].*foreign.onnx is an ONNX model but not of SpectraDINO", model=path)


@pytest.mark.parametrize("parameter", ["model", "calibration_file"])
@pytest.mark.parametrize(("kind", "said"), [("pipe", "is a named pipe"), ("git lfs", "is a Git LFS pointer")])
def test_a_file_that_is_none(tmp_path, blob_model, parameter, kind, said):
    """The start used to block on a pipe."""
    path = tmp_path / ("m.onnx" if parameter == "model" else "rig.yaml")
    KINDS[kind](path)
    fails(rf"\[ERROR\].*cannot configure: .*{path.name} {said}", **{"model": blob_model, parameter: path})


def test_a_calibration_file_of_aliases(tmp_path, blob_model):
    """A few hundred bytes that expand to gigabytes: configuring allocated 100 MB/s without an end."""
    lines = ["a: &a [x, x, x, x, x, x, x, x, x]"]
    lines += [f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]" for old, new in zip("abcdefgh", "bcdefghi")]
    (tmp_path / "rig.yaml").write_text("\n".join([*lines, "ir_to_rgb: *i", ""]))
    fails(r"\[ERROR\].*rig.yaml uses a YAML alias", model=blob_model, calibration_file=tmp_path / "rig.yaml")


def test_a_model_with_escape_sequences_in_its_description(tmp_path, blob_model):
    model = onnx.load(blob_model)
    for prop in model.metadata_props:
        prop.value = prop.value.replace('"red"', '"\\u001b[2Jred"')
    onnx.save(model, tmp_path / "m.onnx")
    node = fails(r"\[ERROR\].*class name '\\x1b\[2Jred' has control characters", model=tmp_path / "m.onnx")
    assert "\x1b[2J" not in node.log


@pytest.mark.parametrize("parameter", ["model", "calibration_file"])
def test_an_unknown_users_home_folder(blob_model, parameter):
    node = fails(r"\[ERROR\].*~nosuchuser/x does not exist", **{"model": blob_model, parameter: "~nosuchuser/x"})
    assert "Traceback" not in node.log


def test_a_device_that_is_not_there(blob_model):
    import onnxruntime

    if "TensorrtExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this machine has TensorRT")
    fails(r"\[ERROR\].*device 'tensorrt' needs .* set device to 'cpu'", model=blob_model, device="tensorrt")


def test_a_parameter_out_of_range(blob_model):
    fails(r"\[FATAL\].*parameter 'score_threshold' must be in -1 to 1", model=blob_model, score_threshold=3.0)


def test_a_parameter_of_the_wrong_type(blob_model):
    pattern = r"\[FATAL\].*parameter 'sync_slop_ms' must be a floating-point number, got 'wide'"
    fails(pattern, model=blob_model, sync_slop_ms="wide")


def test_a_parameter_file_that_is_not_there():
    node = NodeProcess(params_file=ROOT / "config" / "nowhere.yaml")
    assert node.wait() == 1
    assert node.count("cannot start: .*nowhere.yaml") == 1
    assert "Traceback" not in node.log


def test_a_misspelt_parameter_is_named(blob_model):
    with running(model=blob_model, device="cpu", sync_slop=30.0) as node:
        assert node.count(r"\[WARN\].*parameter 'sync_slop' is unknown.*did you mean 'sync_slop_ms'") == 1


def test_it_starts_from_the_shipped_parameter_file(blob_model):
    with running(params_file=find_shared("config/detector.yaml"), model=blob_model, device="cpu") as node:
        assert node.count("unknown") == 0
        assert (
            node.count(r"model blob \(rgb \+ lwir, boxes: red, hot; mask: background, red, hot\) from .* on ONNX") == 1
        )


@pytest.mark.parametrize("signals", [["SIGINT"], ["SIGINT", "SIGINT"], ["SIGTERM"]])
def test_signals_stop_it_quietly(blob_model, signals):
    with running(model=blob_model, device="cpu") as node:
        for name in signals:
            node.send(signal.Signals[name])
            time.sleep(0.02)
        assert node.wait() == 0, node.log
        assert "Traceback" not in node.log
        assert node.count(r"\[(WARN|ERROR|FATAL)\]") == 0, node.log


def test_an_impatient_user_does_not_spoil_the_exit(blob_model):
    """Ctrl-C in a terminal reaches the node twice, from there and from launch, the second at any time."""
    with running(model=blob_model, device="cpu") as node:
        while node.running:
            node.send(signal.SIGINT)
            time.sleep(0.001)
        assert node.wait() == 0, node.log
        assert "Traceback" not in node.log


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_it_is_being_loaded_stops_it_quietly(blob_model, number):
    load = "import sys, spectradino_ros.entry as e; print('loading', flush=True); sys.exit(e.main())"
    process = subprocess.Popen(
        [sys.executable, "-c", load], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "loading\n"
    time.sleep(0.1)
    process.send_signal(number)
    output, _ = process.communicate(timeout=30)
    assert (process.returncode, output) == (0, "")


def test_a_signal_in_the_middle_of_inference_stops_it(tmp_path, peer):
    from sensor_msgs.msg import Image

    from tests.ros.harness import image, ir_pixels, rgb_pixels, wait_until

    with running("-r", "__ns:=/busy", model=make_blob_model(tmp_path / "slow.onnx", work=20), device="cpu") as node:
        publishers = [peer.node.create_publisher(Image, f"/busy/{key}/image_raw", 5) for key in ("rgb", "ir")]
        wait_until(lambda: all(p.get_subscription_count() for p in publishers), "subscriptions")
        for _ in range(5):
            stamp = peer.now()
            publishers[0].publish(image(rgb_pixels((160, 120), None), "rgb8", stamp, "rgb"))
            publishers[1].publish(image(ir_pixels((160, 120), None), "mono16", stamp, "ir"))
            time.sleep(0.03)
        node.send(signal.SIGINT)
        assert node.wait() == 0, node.log
        assert "Traceback" not in node.log


@pytest.mark.parametrize("transport", ["raw", "compressed"])
def test_one_topic_for_both_cameras_is_named(blob_model, transport):
    both = ("-r", "rgb/image_raw:=/one/camera", "-r", "ir/image_raw:=/one/camera")
    warning = r"\[WARN\].*both remapped to /one/camera: remap .*rgb_topic and ir_topic"
    with running(*both, model=blob_model, device="cpu", rgb_transport=transport) as node:
        node.wait_for_line(warning)
        assert node.count(warning) == 1
    with running(*both[:2], model=blob_model, device="cpu") as node:
        assert node.count(warning) == 0
