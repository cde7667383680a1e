"""Real installations by colcon and pip: executables and files are where users look for them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

LEFT_OUT = shutil.ignore_patterns(".*", "build", "install", "log", "dist", "demo_out", "runs", "cache", "*.egg-info")


def run(command: Sequence[str | Path], cwd: Path, **environment: str) -> str:
    """Run to the end and return the output; a failure shows all of it."""
    clean = {k: v for k, v in os.environ.items() if k not in {"PYTHONPATH", "COLCON_PREFIX_PATH"}}
    done = subprocess.run(
        command, cwd=cwd, env=clean | environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def workspace(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ROS workspace with the repository under src/, as a user clones it."""
    folder = tmp_path_factory.mktemp("workspace")
    shutil.copytree(repository, folder / "src/spectradino", ignore=LEFT_OUT)
    return folder


@pytest.fixture(scope="module")
def built(workspace: Path) -> Path:
    """The workspace, built with the command of README.md."""
    colcon = Path(sys.prefix) / "bin/colcon"
    if not colcon.exists():
        pytest.skip("colcon is not in this environment")
    # The machine without a distribution: the environment stands for the underlay.
    ament = {"AMENT_PREFIX_PATH": sys.prefix, "CMAKE_PREFIX_PATH": sys.prefix}
    path = f"{Path(sys.prefix) / 'bin'}{os.pathsep}{os.environ['PATH']}"
    line = ["build", "--base-paths", "src", "src/spectradino/msg", "--event-handlers", "console_direct+"]
    run([colcon, *line, "--cmake-args", f"-DPython3_EXECUTABLE={sys.executable}"], workspace, PATH=path, **ament)
    return workspace


def test_colcon_finds_both_packages_and_never_those_for_pip(workspace: Path) -> None:
    colcon = Path(sys.prefix) / "bin/colcon"
    if not colcon.exists():
        pytest.skip("colcon is not in this environment")
    for paths in (["src", "src/spectradino/msg"], ["src", "src/spectradino/msg", "src/spectradino/msg/pip_only"]):
        found = run([colcon, "list", "--names-only", "--base-paths", *paths], workspace).split()
        assert sorted(found) == ["spectradino_msgs", "spectradino_ros"]


def test_colcon_puts_executables_where_ros2_run_looks(built: Path) -> None:
    for name in ("detector_node", "spectradino"):
        assert os.access(built / "install/spectradino_ros/lib/spectradino_ros" / name, os.X_OK)


def test_colcon_installs_the_repositorys_share_files(built: Path, repository: Path) -> None:
    share = built / "install/spectradino_ros/share"
    assert (share / "ament_index/resource_index/packages/spectradino_ros").is_file()
    assert (share / "spectradino_ros/package.xml").is_file()
    for folder, pattern in (("launch", "*.launch.py"), ("config", "*"), ("models", "*")):
        wanted = {p.name for p in (repository / folder).glob(pattern) if p.is_file()}
        assert {p.name for p in (share / "spectradino_ros" / folder).glob("*")} == wanted


def test_colcon_builds_the_messages(built: Path) -> None:
    assert (built / "install/spectradino_msgs/share/spectradino_msgs/msg/FrameReport.msg").is_file()
    program = "from spectradino_msgs.msg import FrameReport; print(FrameReport.__module__, FrameReport().steps)"
    setup = f". {built}/install/local_setup.sh && {sys.executable} -c '{program}'"
    assert run(["sh", "-c", setup], built).split() == ["spectradino_msgs.msg._frame_report", "[]"]


def test_without_its_messages_the_node_says_how_to_build_them(built: Path, tmp_path: Path) -> None:
    """As after a plain `colcon build`, which skips the package inside the package."""
    hidden = tmp_path / "spectradino_msgs"
    hidden.mkdir()
    (hidden / "__init__.py").write_text("raise ModuleNotFoundError('hidden', name=__name__)\n")
    setup = f". {built}/install/local_setup.sh && PYTHONPATH={tmp_path}:$PYTHONPATH exec"
    node = built / "install/spectradino_ros/lib/spectradino_ros/detector_node"
    ended = subprocess.run(["sh", "-c", f"{setup} {node}"], capture_output=True, text=True, timeout=60)
    assert ended.returncode == 1
    assert "colcon build --base-paths src src/spectradino_ros/msg" in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


def test_wheel_holds_every_module_and_shared_file(repository: Path, workspace: Path) -> None:
    source = workspace / "src/spectradino"
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    run([*pip, "--wheel-dir", workspace / "wheels", source], workspace)
    (wheel,) = (workspace / "wheels").glob("spectradino_ros-*-py3-none-any.whl")
    with zipfile.ZipFile(wheel) as archive:
        held = set(archive.namelist())
        (entry_points,) = (n for n in held if n.endswith("entry_points.txt"))
        commands = archive.read(entry_points).decode()
    modules = {
        p.relative_to(source).as_posix()
        for package in ("spectradino_core", "spectradino_ros")
        for p in (source / package).rglob("*.py")
    }
    assert modules <= held, "a folder without __init__.py?"
    assert {"spectradino_core/py.typed", "spectradino_ros/py.typed"} <= held
    data = wheel.name.removesuffix("-py3-none-any.whl") + ".data/data/share"
    assert f"{data}/ament_index/resource_index/packages/spectradino_ros" in held
    for folder in ("launch", "config", "models"):
        for path in (p for p in (source / folder).iterdir() if p.is_file() and not p.name.startswith(".")):
            assert f"{data}/spectradino_ros/{folder}/{path.name}" in held
    # pip makes the commands from these in bin/, whatever setup.cfg tells colcon.
    assert "spectradino = spectradino_core.cli:main" in commands
    assert not [n for n in held if "/scripts/" in n]
