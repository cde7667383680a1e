"""Commands in other environments than a developer's: closed streams, locales, permissions, signals, unfit packages."""

from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from spectradino_core.files import error_text, write_error, write_file
from spectradino_core.imports import import_problem
from tests.signals import heed_signals

PROGRAM = "import sys; from spectradino_core.cli import main; sys.exit(main())"
MAKE = "bag make --duration 1 --size 160x128 --rgb-rate 4 --ir-rate 4 --out drive.mcap"
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


def command(folder: Path, words: str, end: str = "", **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command in a shell, in a folder; `end` may redirect its streams."""
    line = (
        f"exec {sys.executable} -c 'import sys; from spectradino_core.cli import main; sys.exit(main())' {words} {end}"
    )
    return subprocess.run(
        line, shell=True, cwd=folder, env=os.environ | variables, capture_output=True, timeout=120, text=True
    )


@pytest.fixture
def labelled(tmp_path: Path) -> Path:
    """A folder of one labelled image of a class in another script."""
    folder = tmp_path / "mine"
    (folder / "rgb").mkdir(parents=True)
    cv2.imwrite(str(folder / "rgb/1.png"), np.full((32, 40, 3), 90, np.uint8))
    (folder / "rgb/1.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    (folder / "classes.txt").write_text("人\n", encoding="utf-8")
    return folder


def test_a_closed_stderr_stops_nothing(tmp_path):
    assert command(tmp_path, MAKE, "2>&-").returncode == 0
    assert (tmp_path / "drive.mcap").stat().st_size > 0


def test_names_that_the_locale_lacks_are_escaped(labelled):
    done = command(labelled, "data check --data .", **ASCII)
    assert (done.returncode, done.stderr) == (0, "")
    assert r"classes: \u4eba" in done.stdout


def test_arguments_that_the_locale_lacks_name_the_remedy(tmp_path):
    done = command(tmp_path, "data check --data 人", **ASCII)
    assert done.returncode == 1
    assert done.stderr.strip().count("\n") == 0
    assert "PYTHONUTF8=1" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_an_ended_command_leaves_nothing_behind(tmp_path, number):
    words = [sys.executable, "-c", PROGRAM, *MAKE.replace("--duration 1", "--duration 600").split()]
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(words, cwd=tmp_path, preexec_fn=heed_signals, **quiet) as process:
        end = time.monotonic() + 60
        while not list(tmp_path.iterdir()) and time.monotonic() < end:
            time.sleep(0.05)
        assert list(tmp_path.iterdir())
        process.send_signal(number)
        assert process.wait(30) == 128 + number
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("mask", [0o077, 0o027, 0o002])
def test_files_have_the_permissions_that_the_umask_gives(tmp_path, mask):
    before = os.umask(mask)
    try:
        write_file(tmp_path / "file", "text")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o666 & ~mask


def test_a_limit_on_the_size_of_files_is_no_full_disk(tmp_path):
    error = write_error(tmp_path / "model.onnx", OSError(errno.EFBIG, os.strerror(errno.EFBIG)))
    assert "ulimit -f" in str(error)
    assert "full" not in str(error)


def test_a_full_disk_of_a_library_names_the_folder_of_temporary_files(monkeypatch, tmp_path):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    text = error_text(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    assert str(tmp_path) in text
    assert "TMPDIR" in text


@pytest.fixture
def unfit(tmp_path: Path) -> Path:
    """A folder of packages with an OpenCV that was built for another NumPy."""
    package = tmp_path / "site-packages/cv2"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise ImportError('numpy.core.multiarray failed to import')\n")
    return tmp_path / "site-packages"


def test_a_package_that_does_not_fit_is_named_with_the_remedy(tmp_path, unfit):
    path = {"PYTHONPATH": f"{unfit}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    for words in ("--help", "data check --data ."):
        done = command(tmp_path, words, **path)
        assert (done.returncode, done.stderr.strip().count("\n")) == (1, 0)
        assert "cv2" in done.stderr
        assert "pip install --upgrade opencv-python-headless" in done.stderr


def test_the_package_is_that_which_raised(unfit, monkeypatch):
    monkeypatch.syspath_prepend(str(unfit))
    (unfit / "cv2").rename(unfit / "odd")
    (unfit / "spectradino_like.py").write_text("import odd\n")
    with pytest.raises(ImportError) as caught:
        __import__("spectradino_like")
    assert import_problem(caught.value).startswith("odd (unknown release) is installed but can't be imported")


def test_a_package_of_another_release_is_named_by_its_distribution():
    with pytest.raises(ImportError) as caught:
        exec("from yaml.reader import NoSuch")
    text = import_problem(caught.value)
    assert text.startswith("yaml 6")
    assert text.endswith("pip install --upgrade PyYAML")
    assert "NumPy" not in text
