"""What the README says of parameters, topics, folders and files is so."""

from __future__ import annotations

import re
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


def test_every_top_level_folder_is_on_the_map(readme, repository):
    section = readme.split("## The folders")[1].split("\n## ")[0]
    for name in ("spectradino_core", "spectradino_ros", "launch", "config", "models", "msg", "tests"):
        assert name in section
