"""What the README says of parameters, topics, folders and files is so."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

START, END = "<!-- parameters: made by `python -m spectradino_ros.parameters` -->", "<!-- end of parameters -->"


@pytest.fixture(scope="module")
def readme(repository: Path) -> str:
    return (repository / "README.md").read_text(encoding="utf-8")


def test_parameter_table_is_the_nodes(readme):
    from spectradino_ros.parameters import markdown_table

    table = readme.split(START)[1].split(END)[0].strip()
    assert table == markdown_table().strip(), "run `python -m spectradino_ros.parameters` and paste its output"


def test_local_links_and_pictures_exist(readme, repository):
    links = re.findall(r"\]\((?!http)([^)#]+)\)", readme)
    assert links
    assert [link for link in links if not (repository / link).exists()] == []


def test_folders_of_the_map_exist(readme, repository):
    section = readme.split("## The folders")[1].split("\n## ")[0]
    for row in re.findall(r"^\| (`.+?) \|", section, re.M):
        base = None
        for name in re.findall(r"`([^`]+)`", row):
            candidates = [repository / name] + ([base.parent / name] if base else [])
            found = [path for path in candidates if path.exists()]
            assert found, f"{name} is in the README's map but not in the tree"
            base = found[-1]


def test_everything_in_the_tree_is_on_the_map(readme, repository):
    """Each folder that holds tracked files, and each module and folder of the core."""
    section = readme.split("## The folders")[1].split("\n## ")[0]
    tracked = subprocess.run(
        ["git", "ls-files", "-z"], cwd=repository, capture_output=True, text=True, check=False
    ).stdout.split("\0")
    if not any(tracked):
        pytest.skip("this is no git checkout, so what belongs to the tree is not known")
    wanted = set()
    for path in filter(None, tracked):
        first, *rest = path.split("/")
        if rest and not first.startswith(".") and first != "resource":  # ament's marker, a file without contents
            wanted.add(f"{first}/")
        if first == "spectradino_core" and rest[0] != "__init__.py":
            wanted.add(rest[0] if len(rest) == 1 else f"{rest[0]}/")
    named = {part for name in re.findall(r"`([^`]+)`", section) for part in name.split("/")}
    assert sorted(name for name in wanted if name.rstrip("/") not in named) == []
