"""The launch files, run by ROS's own launch in a process of its own.

Neither launch nor launch_ros can be had by pip: this runs where a ROS distribution is installed.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("launch_ros", reason="launch_ros is not installed (it comes with a ROS distribution, not by pip)")

from spectradino_core.modality import Modality
from tests.blob_model import make_blob_model
from tests.ros.harness import PATIENCE_S, ROOT

RUN = """
import sys
from launch import LaunchDescription, LaunchService
from launch.actions import IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource

arguments = [tuple(word.split(":=", 1)) for word in sys.argv[2:]]
service = LaunchService()
source = PythonLaunchDescriptionSource(sys.argv[1])
service.include_launch_description(LaunchDescription([IncludeLaunchDescription(source, launch_arguments=arguments)]))
sys.exit(service.run())
"""


@pytest.fixture(scope="module")
def prefix(tmp_path_factory) -> Path:
    """An installation of this checkout as ROS sees one: the package in the index, its executable in lib."""
    prefix = tmp_path_factory.mktemp("prefix")
    marker = prefix / "share" / "ament_index" / "resource_index" / "packages" / "spectradino_ros"
    executable = prefix / "lib" / "spectradino_ros" / "detector_node"
    for path in (marker, executable):
        path.parent.mkdir(parents=True)
    marker.touch()
    executable.write_text(
        f"#!{sys.executable}\nimport sys\nfrom spectradino_ros.detector_node import main\nsys.exit(main())\n"
    )
    executable.chmod(0o755)
    return prefix


def launch(prefix: Path, *arguments: str, until: str | None = None, band: str = "lwir") -> tuple[int, str]:
    """Runs a launch file until a line holds `until` (then as by Ctrl-C) or it ends. Returns exit code and output."""
    paths = [str(prefix), os.environ.get("AMENT_PREFIX_PATH") or sys.prefix]
    environment = os.environ | {
        "AMENT_PREFIX_PATH": os.pathsep.join(paths),
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        "ROS_LOG_DIR": str(prefix / "log"),
    }
    words = [sys.executable, "-c", RUN, str(ROOT / "launch" / f"{band}_detector.launch.py"), *arguments]
    process = subprocess.Popen(
        words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    lines = []
    assert process.stdout is not None
    for line in process.stdout:
        lines.append(line)
        if until is not None and until in line:
            os.killpg(process.pid, signal.SIGINT)  # as a terminal does: launch and the node both get it, and again
            until = None
    return process.wait(PATIENCE_S), "".join(lines)


def test_arguments_reach_the_node(prefix, blob_model):
    code, output = launch(
        prefix,
        f"model:={blob_model}",
        "device:=cpu",
        "namespace:=robot",
        "rgb_topic:=/camera/color",
        "ir_topic:=/thermal/raw",
        "sync_slop_ms:=33",
        "ir_normalization:=none",
        until="active: ",
    )
    assert "[robot.detector_node]: active: pairs from /camera/color and /thermal/raw, at most 33 ms apart" in output
    assert "thermal: none" in output
    assert "process has finished cleanly" in output
    assert "Traceback" not in output
    assert code == 0


def test_the_parameter_file_holds_where_no_argument_is_given(prefix, blob_model, tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(f"/**:\n  ros__parameters:\n    model: {blob_model}\n    sync_slop_ms: 21\n    device: cpu\n")
    _code, output = launch(prefix, f"params_file:={file}", until="active: ")
    assert "active: pairs from /rgb/image_raw and /ir/image_raw, at most 21 ms apart" in output


@pytest.mark.parametrize("band", ["lwir", "swir", "nir"])
def test_each_band_has_its_launch_file(prefix, tmp_path, band):
    model = make_blob_model(tmp_path / "blob.onnx", bands=(Modality.RGB, Modality.parse(band)))
    code, output = launch(prefix, f"model:={model}", "device:=cpu", until="active: ", band=band)
    assert f"model blob (rgb + {band}, " in output
    assert "is unknown and has no effect" not in output
    assert code == 0


def test_a_model_for_another_band_is_refused(prefix, blob_model, tmp_path):
    for file in ("", f"params_file:={tmp_path / 'bare.yaml'}"):
        (tmp_path / "bare.yaml").write_text("/**:\n  ros__parameters:\n    device: cpu\n")
        _code, output = launch(prefix, f"model:={blob_model}", *filter(None, [file]), band="nir")
        assert "a model for another band: " in output
        assert "takes LWIR, infrared_band is 'nir'" in output
        assert "exit code 1" in output


def test_a_parameter_file_may_name_another_band(prefix, blob_model, tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(f"/**:\n  ros__parameters:\n    model: {blob_model}\n    infrared_band: lwir\n    device: cpu\n")
    _code, output = launch(prefix, f"params_file:={file}", until="active: ", band="nir")
    assert "model blob (rgb + lwir, " in output


def test_both_cameras_may_be_compressed_but_for_one(prefix, blob_model):
    arguments = (f"model:={blob_model}", "device:=cpu", "rgb_topic:=/camera/color")
    _code, output = launch(prefix, *arguments, "image_transport:=compressed", until="active: ")
    assert "active: pairs from /camera/color/compressed and /ir/image_raw/compressed" in output
    _code, output = launch(prefix, *arguments, "image_transport:=compressed", "ir_transport:=raw", until="active: ")
    assert "active: pairs from /camera/color/compressed and /ir/image_raw, " in output


def test_the_dds_profile_reaches_the_node(prefix, blob_model, monkeypatch, tmp_path):
    monkeypatch.delenv("FASTRTPS_DEFAULT_PROFILES_FILE")
    broken = tmp_path / "broken.xml"
    broken.write_text("<profiles>")
    arguments = (f"model:={blob_model}", "device:=cpu")
    # Fast DDS complains of a file that it can't read: so it does look at the one that is named.
    _code, output = launch(prefix, *arguments, f"dds_profile:={broken}", until="active: ")
    assert "XMLPARSER" in output
    _code, output = launch(prefix, *arguments, "dds_profile:=large_images", until="active: ")
    assert "XMLPARSER" not in output


def test_a_failed_start_is_said(prefix, tmp_path):
    _code, output = launch(prefix, f"model:={tmp_path}/nowhere.onnx")
    assert "nowhere.onnx does not exist" in output
    assert "process has died" in output
    assert "exit code 1" in output


@pytest.mark.parametrize(
    ("argument", "complaint"),
    [
        ("score_threshold:=7", "parameter 'score_threshold' lies in -1 to 1, got 7"),
        ("sync_slop_ms:=wide", "launch argument 'sync_slop_ms' can't be read: 'wide'"),
        ("device:=gpu", "is not valid"),
        ("image_transport:=theora", "is not valid"),
        ("dds_profile:=nowhere.xml", "'dds_profile' is large_images or an XML file, and there is none at nowhere.xml"),
    ],
)
def test_a_bad_argument_stops_the_launch(prefix, argument, complaint):
    code, output = launch(prefix, argument)
    assert code == 1
    assert complaint in output
    assert "process started" not in output
