"""`make`: targets, and errors for missing prerequisites before anything is done."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


def make(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {k: v for k, v in os.environ.items() if k not in {"MAKEFLAGS", "MAKELEVEL", "MFLAGS", "VENV", "DATA"}}
    return subprocess.run(["make", *arguments], cwd=cwd, env=clean | environment, capture_output=True, text=True)


def test_make_alone_lists_every_target(repository: Path) -> None:
    listed = make(cwd=repository)
    assert listed.returncode == 0
    phony = re.search(r"^\.PHONY: (.*)$", (repository / "Makefile").read_text(), re.M)
    assert phony is not None
    assert sorted(re.findall(r"^  make ([a-z0-9-]+) +\S", listed.stdout, re.M)) == sorted(phony.group(1).split())
    assert {"demo", "test", "test-fast", "lint", "types", "setup", "clean"} <= set(phony.group(1).split())


def test_missing_python_is_named_with_its_package(repository: Path, tmp_path: Path) -> None:
    done = make("setup", f"VENV={tmp_path / 'venv'}", "PYTHON=python3.99", cwd=repository)
    assert done.returncode != 0
    assert "python3.99 is not installed" in done.stderr
    assert "apt install python3.99 python3.99-venv" in done.stderr
    assert not (tmp_path / "venv").exists()


def test_python_without_wheels_is_refused(repository: Path, tmp_path: Path) -> None:
    old = tmp_path / "python3.9"
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo "Python 3.9.2" && exit 0\nexit 1\n')
    old.chmod(0o755)
    done = make("setup", f"VENV={tmp_path / 'venv'}", f"PYTHON={old}", cwd=repository)
    assert done.returncode != 0
    assert "is Python 3.9.2" in done.stderr
    assert "make PYTHON=python3.11" in done.stderr


@pytest.mark.parametrize(("tool", "package"), [("cmake", "cmake"), ("g++", "build-essential")])
def test_missing_build_tool_is_named_with_its_package(
    repository: Path, tmp_path: Path, tool: str, package: str
) -> None:
    commands = tmp_path / "bin"
    commands.mkdir()
    for name in {"bash", "sh", "cmake", "gcc", "g++", "echo"} - {tool}:
        if found := shutil.which(name):
            (commands / name).symlink_to(found)
    # The environment up to the step that needs the tool counts as done.
    venv = tmp_path / "venv"
    venv.mkdir()
    for stamp in (".stamp-created", ".stamp-runtime"):
        (venv / stamp).touch()
    program = shutil.which("make")
    assert program is not None
    done = subprocess.run(
        [program, "-o", ".stamp-runtime", "msgs", f"VENV={venv}"],
        cwd=repository,
        env={"PATH": str(commands)},
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0
    assert f"{tool} is not installed" in done.stderr
    assert re.search(rf"apt install .*\b{package}", done.stderr)


def test_stages_are_not_redone(repository: Path, tmp_path: Path) -> None:
    names = ("created", "runtime", "msgs-vision", "msgs-tf2", "msgs-spectradino", "dev")
    stamps = [tmp_path / f".stamp-{name}" for name in names]
    for stamp in stamps:
        stamp.touch()
    assert make("--question", "setup", f"VENV={tmp_path}", cwd=repository).returncode == 0
    stamps[names.index("msgs-spectradino")].unlink()
    planned = make("--dry-run", "setup", f"VENV={tmp_path}", cwd=repository).stdout
    assert "msg/pip_only/build.sh" in planned
    assert not re.search(r"msg/pip_only/\w+_msgs", planned)
    assert "pip install" not in planned


def test_demo_runs_on_what_serving_needs(repository: Path, tmp_path: Path) -> None:
    planned = make("--dry-run", "demo", f"VENV={tmp_path / 'venv'}", "DATA=a folder", cwd=repository)
    assert planned.returncode == 0
    assert "[runtime,jazzy,demo]" in planned.stdout
    assert ",train" not in planned.stdout
    assert '-m spectradino_ros.demo --out demo_out --data "a folder"' in planned.stdout


def test_a_missing_python_of_the_robot_is_named(repository: Path, tmp_path: Path) -> None:
    """As with a version manager whose command exists but lacks the version."""
    shim = tmp_path / "python3.10"
    shim.write_text("#!/bin/sh\necho 'python3.10: command not found' >&2\nexit 127\n")
    shim.chmod(0o755)
    for python in (shim, "python3.99"):
        done = make("test-py310", f"VENV310={tmp_path / 'venv'}", f"PYTHON310={python}", cwd=repository)
        assert done.returncode != 0
        assert f"{python} is not a Python 3.10 that runs here" in done.stderr
        assert "make test-py310 PYTHON310=" in done.stderr
        assert not (tmp_path / "venv").exists()
