"""The command `detector_node`: help, arguments that ROS does not read, missing modules."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from spectradino_core.streams.settings import specs
from spectradino_ros.entry import outside_ros, refuse, remedy, usage
from tests.ros.harness import PATIENCE_S, ROOT

# A package of that name which says that it is missing, as one that was not built would be.
HIDDEN = "raise ModuleNotFoundError(f'No module named {__name__!r}', name=__name__)\n"


def run(*words: str, module: str = "entry", path: str = "", **variables: str) -> subprocess.CompletedProcess:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, (path, os.environ.get("PYTHONPATH"))))}
    environment |= variables
    return subprocess.run(
        [sys.executable, "-m", f"spectradino_ros.{module}", *words],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )


@pytest.mark.parametrize(("module", "word"), [("entry", "--help"), ("detector_node", "-h")])
def test_help_names_every_parameter_and_starts_nothing(module, word):
    ended = run(word, module=module)
    assert ended.returncode == 0
    assert ended.stderr == ""
    assert ended.stdout == usage() + "\n"
    for spec in specs().values():
        assert f"  {spec.name}  (" in ended.stdout
        assert spec.description in ended.stdout


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["model:=my.onnx"], "detector_node --ros-args -p model:=VALUE"),
        (["--score_treshold=0.5"], "detector_node --ros-args -p score_threshold:=VALUE"),
        (["-p", "device:=cpu"], "follow --ros-args"),
        (["rgb/image_raw:=/camera/image"], "follow --ros-args"),
        (["--ros-args", "-p", "device:=cpu", "--", "my.onnx"], "see detector_node --help"),
        (["--verbose"], "see detector_node --help"),
        (["\x1b[31mred"], "see detector_node --help"),
    ],
)
def test_a_word_that_ros_would_pass_over_is_refused(words, hint):
    code, text = refuse(words)
    assert code == 2
    assert text.startswith("detector_node: unknown argument ")
    assert hint in text
    assert len(text.splitlines()) == 1
    assert "\x1b" not in text


def test_a_refusal_goes_to_stderr():
    ended = run("\x1b[31mred")
    assert ended.returncode == 2
    assert ended.stdout == ""
    assert ended.stderr == refuse(["\x1b[31mred"])[1] + "\n"


def test_an_unknown_word_for_ros_is_refused():
    ended = run("--ros-args", "--bogus")
    assert ended.returncode == 1
    assert "detector_node cannot start: " in ended.stderr
    assert "--bogus" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_words_for_ros_are_its_own():
    assert outside_ros(["--ros-args", "-p", "a:=1", "-r", "b:=c"]) == []
    assert outside_ros(["x", "--ros-args", "-p", "a:=1", "--", "y", "--ros-args", "-h"]) == ["x", "y"]
    assert refuse(["--ros-args", "-h"]) is None
    assert refuse([]) is None


def test_a_parameter_file_that_is_none_is_refused_before_ros_opens_it(tmp_path):
    """A pipe without a writer blocked the start; for text in another encoding ROS reports 'error near line 0'."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "latin").write_bytes(b"/**: {ros__parameters: {model: \xe9}}")
    good = str(ROOT / "config" / "detector.yaml")
    for path, said in [
        (f"{tmp_path}/pipe", "is a named pipe"),
        (str(tmp_path), "is a folder"),
        (f"{tmp_path}/loop", "Too many levels of symbolic links"),
        (f"{tmp_path}/latin", "is not UTF-8 text (byte 0xe9 at 31): save it as UTF-8"),
        ("/dev/zero", "is a device"),
    ]:
        code, text = refuse(["--ros-args", "--params-file", good, "--params-file", path, "--log-level", "info"])
        assert code == 1
        assert text.startswith(f"detector_node cannot start: parameter file {path} ")
        assert said in text
    assert refuse(["--ros-args", "--params-file", good]) is None
    assert refuse(["--ros-args", "-p", "model:=x", "--params-file"]) is None
    ended = run("--ros-args", "--params-file", f"{tmp_path}/pipe")
    assert ended.returncode == 1
    assert len(ended.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["-p", "use_sim_time:=yes_please"], "'use_sim_time' to 'yes_please'"),
        (["-r", "__ns:=/a/"], "invalid node namespace"),
    ],
)
def test_what_rclpy_refuses_is_one_line(words, said):
    ended = run("--ros-args", *words)
    assert ended.returncode == 1
    assert said in ended.stderr
    assert "cannot start: " in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize(
    ("module", "command"),
    [
        ("spectradino_msgs", "colcon build --base-paths src src/spectradino_ros/msg"),
        ("vision_msgs", "rosdep install --from-paths src src/spectradino_ros/msg --ignore-src"),
        ("cv2", "rosdep install"),
    ],
)
def test_what_is_missing_is_named_with_the_command_that_installs_it(tmp_path, module, command):
    (tmp_path / module).mkdir()
    (tmp_path / module / "__init__.py").write_text(HIDDEN)
    ended = run(path=str(tmp_path))
    assert ended.returncode == 1
    assert f"detector_node cannot start: the Python module {module} is missing: " in ended.stderr
    assert command in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


def test_a_module_that_is_missing_ends_the_module_of_the_node_too(tmp_path):
    (tmp_path / "cv2").mkdir()
    (tmp_path / "cv2" / "__init__.py").write_text(HIDDEN)
    assert run(module="detector_node", path=str(tmp_path)).returncode == 1


@pytest.mark.parametrize(
    ("module", "command"), [("rclpy", "source ROS 2 first"), ("tqdm", "install what package.xml lists")]
)
def test_the_demo_names_what_is_missing(tmp_path, module, command):
    (tmp_path / module).mkdir()
    (tmp_path / module / "__init__.py").write_text(HIDDEN)
    ended = run(module="demo", path=str(tmp_path))
    assert ended.returncode == 1
    assert ended.stderr.startswith(f"the demo cannot start: the Python module {module} is missing: {command}")
    assert len(ended.stderr.splitlines()) == 1


def test_messages_of_an_older_version_are_named_with_the_command_that_builds_them(tmp_path):
    """A plain `colcon build` after an update leaves them as they were."""
    (tmp_path / "spectradino_msgs").mkdir()
    (tmp_path / "spectradino_msgs" / "__init__.py").touch()
    (tmp_path / "spectradino_msgs" / "msg.py").touch()
    ended = run(path=str(tmp_path))
    assert ended.returncode == 1
    assert "detector_node cannot start: older messages are installed (cannot import name" in ended.stderr
    assert "colcon build --base-paths src src/spectradino_ros/msg" in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


def test_the_commands_are_those_of_the_readme(repository):
    readme = (repository / "README.md").read_text()
    for module in ("spectradino_msgs", "vision_msgs"):
        assert remedy(module).split("'")[3 if module == "spectradino_msgs" else 1] in readme


def test_a_fault_of_ours_keeps_its_traceback(tmp_path):
    (tmp_path / "vision_msgs").mkdir()
    (tmp_path / "vision_msgs" / "__init__.py").write_text("import no_such_module_at_all\n")
    ended = run(path=str(tmp_path))
    assert ended.returncode == 1
    assert "no_such_module_at_all" in ended.stderr
    assert "Traceback" in ended.stderr


def test_a_package_that_does_not_fit_is_named_with_the_remedy(tmp_path):
    (tmp_path / "site-packages/cv2").mkdir(parents=True)
    (tmp_path / "site-packages/cv2/__init__.py").write_text("raise ImportError('numpy.core.multiarray failed')\n")
    ended = run(path=str(tmp_path / "site-packages"))
    assert (ended.returncode, ended.stdout) == (1, "")
    assert len(ended.stderr.splitlines()) == 1
    assert "pip install --upgrade opencv-python-headless" in ended.stderr


def test_without_a_folder_for_logs_the_variables_are_named():
    ended = run("--ros-args", "-p", "infrared_band:=lwir", ROS_LOG_DIR="/proc/none")
    assert ended.returncode == 1
    assert "set HOME or ROS_LOG_DIR" in ended.stderr.splitlines()[-1]
