"""Every source file has a docstring, and no file names a path of one machine."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("spectradino_core", "spectradino_ros", "launch", "benchmarks", "tests", ".ci")
SOURCES = sorted(p.relative_to(ROOT).as_posix() for folder in FOLDERS for p in (ROOT / folder).rglob("*.py"))


@pytest.mark.parametrize("path", ["setup.py", *SOURCES])
def test_file_opens_with_a_docstring(path: str) -> None:
    assert ast.get_docstring(ast.parse((ROOT / path).read_text()))


def test_no_file_names_a_place_of_one_machine() -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    place = re.compile(r"(?<![\w.$}])/(?:root|home/\w+|work|tmp)/[\w.]+")
    found = []
    for name in filter(None, listed.stdout.split("\0")):
        try:
            text = (ROOT / name).read_text()
        except (UnicodeDecodeError, FileNotFoundError):
            continue
        found += [f"{name}: {m.group()}" for m in place.finditer(text)]
    assert not found
