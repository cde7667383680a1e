"""Launch files, run by ROS's own launch in its own process.

Neither launch nor launch_ros is on PyPI: this runs where a ROS distribution is installed.
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
from tests.ros.documents import python_blocks
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
    """Installation of this checkout as ROS sees it: the package in the index, its executable in lib."""
    prefix = tmp_path_factory.mktemp("prefix")
    marker = prefix / "share" / "ament_index" / "resource_index" / "packages" / "spectradino_ros"
    executable = prefix / "lib" / "spectradino_ros" / "detector_node"
    for path in (marker, executable):
        path.parent.mkdir(parents=True)
    marker.touch()
    share = prefix / "share" / "spectradino_ros"
    share.mkdir()
    (share / "launch").symlink_to(ROOT / "launch")
    executable.write_text(
        f"#!{sys.executable}\nimport sys\nfrom spectradino_ros.detector_node import main\nsys.exit(main())\n"
    )
    executable.chmod(0o755)
    return prefix


def launch(
    prefix: Path, *arguments: str, until: str | None = None, band: str = "lwir", file: Path | None = None
) -> tuple[int, str]:
    """Run a launch file until a line contains `until` (then stop it as by Ctrl-C) or it ends; returns exit code and
    output."""
    paths = [str(prefix), os.environ.get("AMENT_PREFIX_PATH") or sys.prefix]
    environment = os.environ | {
        "AMENT_PREFIX_PATH": os.pathsep.join(paths),
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        "ROS_LOG_DIR": str(prefix / "log"),
    }
    words = [sys.executable, "-c", RUN, str(file or ROOT / "launch" / f"{band}_detector.launch.py"), *arguments]
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


def test_any_parameter_can_be_given(prefix, blob_model):
    homography = "[2.0, 0.0, 0.5, 0.0, 2.0, 0.5, 0.0, 0.0, 1.0]"
    arguments = ("device:=cpu", "threads:=1", "learn_ir_time_offset:=True", f"ir_to_rgb:={homography}")
    _code, output = launch(prefix, f"model:={blob_model}", *arguments, until="active: ")
    assert "registration: parameter ir_to_rgb" in output
    _code, output = launch(prefix, "model:=123", "device:=cpu")
    assert "model file 123 does not exist" in output, "a text, though it looks like a number"


def test_the_parameter_file_decides_on_autostart(prefix, blob_model, tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(f"/**:\n  ros__parameters:\n    model: {blob_model}\n    device: gpu\n    autostart: false\n")
    _code, output = launch(prefix, f"params_file:={file}", "autostart:=true", "device:=cpu", until="active: ")
    assert "active: " in output
    file.write_text(file.read_text().replace("gpu", "cpu"))
    code, output = launch(prefix, f"params_file:={file}", until="waiting for a lifecycle manager")
    assert "active: " not in output
    assert code == 0


PARENT = """
from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, GroupAction, IncludeLaunchDescription, OpaqueFunction
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import PushRosNamespace

def include(band, arguments):
    return IncludeLaunchDescription(
        PythonLaunchDescriptionSource("FOLDER/" + band + "_detector.launch.py"), launch_arguments=arguments
    )

def generate_launch_description():
    return LaunchDescription([
        DeclareLaunchArgument("score_thresh", default_value="0.3"),
        DeclareLaunchArgument("camera", default_value="front"),
        INCLUDES
    ])
"""


def parent(tmp_path: Path, includes: str) -> Path:
    """Launch file that includes ours and has its own arguments, one of which looks like one of ours."""
    file = tmp_path / "robot.launch.py"
    file.write_text(PARENT.replace("FOLDER", str(ROOT / "launch")).replace("INCLUDES", includes))
    return file


@pytest.mark.parametrize(
    "arguments",
    [
        "{'model': MODEL, 'device': 'cpu', 'score_threshold': LaunchConfiguration('score_thresh')}.items()",
        "[*context.launch_configurations.items(), ('model', MODEL), ('device', 'cpu')]",
    ],
    ids=["its own", "all that there are"],
)
def test_arguments_of_a_file_that_includes_ours_are_not_unknown(prefix, blob_model, tmp_path, arguments):
    call = f"OpaqueFunction(function=lambda context: [include('lwir', {arguments})])"
    file = parent(tmp_path, call.replace("MODEL", repr(str(blob_model))))
    code, output = launch(prefix, "camera:=rear", "unheard_of:=1", file=file, until="active: ")
    assert "active: " in output
    assert "is unknown" not in output
    assert code == 0


def test_a_typing_error_where_ours_is_included_is_refused(prefix, tmp_path):
    file = parent(tmp_path, "include('lwir', {'scor_threshold': '0.5'}.items())")
    code, output = launch(prefix, file=file)
    assert code == 1
    assert "launch argument 'scor_threshold' is unknown: did you mean 'score_threshold'?" in output
    xml = tmp_path / "robot.launch.xml"
    ours = ROOT / "launch" / "lwir_detector.launch.py"
    xml.write_text(f'<launch><include file="{ours}"><arg name="{{}}" value="cpu"/></include></launch>'.format("devise"))
    run = RUN.replace("PythonLaunchDescriptionSource", "AnyLaunchDescriptionSource")
    ended = subprocess.run(
        [sys.executable, "-c", run, str(xml)], capture_output=True, text=True, timeout=PATIENCE_S, cwd=ROOT
    )
    assert "launch argument 'devise' is unknown: did you mean 'device'?" in ended.stdout + ended.stderr


def test_two_bands_in_one_launch_and_a_namespace_from_outside(prefix, tmp_path):
    """Values of the first inclusion must not reach the second: launch files share their arguments."""
    lines = []
    for band in ("lwir", "nir"):
        model = make_blob_model(tmp_path / f"{band}.onnx", bands=(Modality.RGB, Modality.parse(band)))
        lines.append(
            f"GroupAction([PushRosNamespace('robot'), include('{band}', "
            f"{{'model': '{model}', 'device': 'cpu', 'namespace': '{band}'}}.items())], scoped=True),"
        )
    lines[0] = lines[0].replace("scoped=True", "scoped=False")
    _code, output = launch(prefix, file=parent(tmp_path, "\n".join(lines)), until="nir.detector_node]: active: ")
    assert "[robot.lwir.detector_node]: model blob (rgb + lwir, " in output
    assert "nir.detector_node]: model blob (rgb + nir, " in output


def snippet(words: str) -> str:
    """Return the launch file in the documentation that contains `words`."""
    (found,) = [block for block in python_blocks(ROOT / "docs/node.md") if words in block]
    return found


@pytest.mark.parametrize("autostart", [False, True])
def test_the_usual_pattern_for_lifecycle_nodes_as_it_is_documented(prefix, tmp_path, autostart):
    file = tmp_path / "lifecycle.launch.py"
    file.write_text(snippet("LifecycleNode(").replace('"autostart": False', f'"autostart": {autostart}'))
    until = "Failed to make transition" if autostart else "active: "
    code, output = launch(prefix, file=file, until=until)
    assert output.count("active: pairs from /camera/image_raw and /thermal/image_raw") == 1
    assert ("refused the transition 'configure'" in output) == autostart
    assert "Traceback" not in output
    assert "process has died" not in output
    assert code == 0


def test_the_documented_inclusion(prefix, tmp_path):
    file = tmp_path / "robot.launch.py"
    file.write_text(snippet('"namespace": "front"'))
    code, output = launch(prefix, file=file, until="active: ")
    assert "[front.detector_node]: active: pairs from /front/color/image_raw and /front/thermal/image_raw" in output
    assert code == 0


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


def test_a_failed_start_is_reported(prefix, tmp_path):
    _code, output = launch(prefix, f"model:={tmp_path}/nowhere.onnx")
    assert "nowhere.onnx does not exist" in output
    assert "process has died" in output
    assert "exit code 1" in output


@pytest.mark.parametrize(
    ("argument", "complaint"),
    [
        ("score_threshold:=7", "parameter 'score_threshold' must be in -1 to 1, got 7"),
        ("sync_slop_ms:=wide", "launch argument 'sync_slop_ms' can't be read: 'wide'"),
        ("learn_ir_time_ofset:=true", "'learn_ir_time_ofset' is unknown: did you mean 'learn_ir_time_offset'?"),
        ("params_file:=/no/file", "launch argument 'params_file' is '/no/file': there is no such file"),
        ("params_file:=~nosuchuser/x.yaml", "'params_file' is '~nosuchuser/x.yaml': there is no such file"),
        ("params_file:=/dev/zero", "parameter file /dev/zero is a device, not a regular file"),
        ("rgb_topic:=", "launch argument 'rgb_topic' is '', which is not a valid ROS name"),
        (
            "ir_topic:=/my camera/image",
            "launch argument 'ir_topic' is '/my camera/image', which is not a valid ROS name",
        ),
        ("namespace:=/front/", "launch argument 'namespace' is '/front/', which is not a valid ROS name"),
        ("device:=gpu", "is not valid"),
        ("image_transport:=theora", "is not valid"),
        ("dds_profile:=nowhere.xml", "'dds_profile': there is no file nowhere.xml; give large_images or an XML file"),
    ],
)
def test_a_bad_argument_stops_the_launch(prefix, argument, complaint):
    code, output = launch(prefix, argument)
    assert code == 1
    assert complaint in output
    assert "process started" not in output
