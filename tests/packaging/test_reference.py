"""The reference tables of docs/node.md and config/detector.yaml agree with the code (`make reference`)."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from spectradino_core.streams.settings import specs
from spectradino_core.streams.topics import INPUTS, OUTPUTS


def run(repository: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, repository / ".ci/reference.py", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_pages_are_up_to_date(repository: Path) -> None:
    checked = run(repository, "--check")
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_every_parameter_and_topic_is_on_the_page(repository: Path) -> None:
    page = (repository / "docs/node.md").read_text(encoding="utf-8")
    for spec in specs().values():
        assert f"| `{spec.name}` |" in page
        assert spec.description in page
    for topic in (*INPUTS, *OUTPUTS.values()):
        assert f"| `{topic.name}` | {topic.kind.replace('/msg/', '/')} |" in page


@pytest.fixture
def copy(repository: Path, tmp_path: Path) -> Path:
    """Repository with the generator and its inputs, whose files may be changed."""
    for name in ("spectradino_core", "spectradino_ros"):
        (tmp_path / name).symlink_to(repository / name)
    for name in (".ci/reference.py", "docs/node.md", "config/detector.yaml"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text((repository / name).read_text(encoding="utf-8"), encoding="utf-8")
    return tmp_path


def test_stale_files_are_named_and_rewritten(copy: Path) -> None:
    config = copy / "config/detector.yaml"
    fresh = config.read_text()
    config.write_text(fresh.replace("stale_ms: 1000.0", "stale_ms: 900.0"))
    checked = run(copy, "--check")
    assert checked.returncode == 1
    assert "config/detector.yaml is out of date: run make reference" in checked.stdout
    assert "docs/node.md" not in checked.stdout
    assert config.read_text() != fresh
    assert run(copy).returncode == 0
    assert config.read_text() == fresh


def test_a_page_without_its_section_is_named(copy: Path) -> None:
    page = copy / "docs/node.md"
    page.write_text(page.read_text().replace("<!-- end of parameters -->", ""))
    refused = run(copy)
    assert refused.returncode == 1
    assert "node.md needs one section" in refused.stderr


def test_values_in_the_file_are_the_defaults_as_yaml_reads_them(repository: Path) -> None:
    text = (repository / "config/detector.yaml").read_text()
    values = yaml.safe_load(text)["/**"]["ros__parameters"]
    assert values == {name: json.loads(json.dumps(specs()[name].default)) for name in values}
    assert set(specs()) - set(values) == {"infrared_band", "autostart"}


NEW_PARAMETER = """    night_gain: float = _parameter(1.5, "Gain of images at night.", bounds=(1.0, 4.0))

    def with_("""
NEW_TOPIC = """    "heat": Topic("~/heat", "sensor_msgs/msg/Image", "mono16, hottest parts", latched=True),
    "diagnostics": Topic("""
SEEN = """
from spectradino_core.bags.annotate import NODE_TOPICS
from spectradino_core.streams.settings import Settings
from spectradino_ros.entry import usage
from spectradino_ros.launch_arguments import arguments

assert Settings().night_gain == 1.5
assert "night_gain" in [argument.name for argument in arguments()]
assert "night_gain  (1 to 4; default 1.5)" in usage()
assert NODE_TOPICS["heat"] == ("sensor_msgs/msg/Image", True)
"""


def test_a_parameter_or_a_topic_is_one_row(repository: Path, tmp_path: Path) -> None:
    """As in CONTRIBUTING.md: declarations, launch argument, help, bags, page and YAML derive from it."""
    for name in ("spectradino_core", "spectradino_ros", ".ci", "docs", "config"):
        shutil.copytree(repository / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name, anchor, row in (
        ("settings", "    def with_(", NEW_PARAMETER),
        ("topics", '    "diagnostics": Topic(', NEW_TOPIC),
    ):
        source = tmp_path / f"spectradino_core/streams/{name}.py"
        text = source.read_text()
        assert text.count(anchor) == 1
        source.write_text(text.replace(anchor, row))
    assert run(tmp_path).returncode == 0
    page, config = (tmp_path / name for name in ("docs/node.md", "config/detector.yaml"))
    assert "| `night_gain` | double | `1.5` | 1 to 4 | at once | Gain of images at night. |" in page.read_text()
    assert "| `~/heat` | sensor_msgs/Image | mono16, hottest parts; latched |" in page.read_text()
    assert "    # Gain of images at night.\n    night_gain: 1.5\n" in config.read_text()
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    subprocess.run([sys.executable, "-c", SEEN], cwd=tmp_path, env=environment, check=True)
