"""One version, one licence and one list of dependencies in all metadata."""

from __future__ import annotations

import ast
import configparser
import re
import sys
import xml.etree.ElementTree as ET
from importlib.metadata import Distribution, distributions
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[2]
MANIFESTS = [
    "package.xml", "msg/package.xml", "msg/pip_only/vision_msgs/package.xml", "msg/pip_only/tf2_msgs/package.xml",
]  # fmt: skip


def installed() -> Distribution:
    """Metadata of the installed package, not of a build by pip left in the working tree."""
    for found in distributions(name="spectradino_ros"):
        if Path(str(found.locate_file(""))).resolve() != ROOT:
            return found
    pytest.skip("the package is not installed: run `make setup`, or build the workspace")


def requirements(extra: str) -> dict[str, Requirement]:
    lines = [Requirement(line) for line in installed().requires or ()]
    # The marker as a whole, so that `python_version` conditions hold as well.
    return {canonicalize_name(r.name): r for r in lines if r.marker is not None and r.marker.evaluate({"extra": extra})}


def constraints() -> dict[str, Version]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {name: Version(version) for name, version in pins}


@pytest.mark.parametrize("path", MANIFESTS)
def test_manifest_is_valid(path: str) -> None:
    catkin = pytest.importorskip("catkin_pkg.package")
    warnings: list[str] = []
    package = catkin.parse_package(str(ROOT / path), warnings=warnings)
    package.validate(warnings=warnings)
    assert not warnings
    assert package.package_format == 3
    assert package.licenses == ["Apache-2.0"]
    assert all(re.fullmatch(r"[\w.]+@[\w.]+\.\w+", m.email) for m in package.maintainers)


@pytest.mark.parametrize("path", MANIFESTS[:2])
def test_versions_agree(path: str) -> None:
    from spectradino_core import __version__

    assert ET.parse(ROOT / path).findtext("version") == __version__ == installed().version


def test_citation_and_changelog_have_the_version() -> None:
    from spectradino_core import __version__

    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == __version__
    assert len(citation["references"]) == 2
    assert all(paper["authors"] and paper["year"] and paper["url"] for paper in citation["references"])
    released = re.findall(
        r"^(\d+\.\d+\.\d+) \((\d{4}-\d\d-\d\d)\)\n-+$", (ROOT / "CHANGELOG.rst").read_text(), re.MULTILINE
    )
    assert released[0] == (__version__, str(citation["date-released"]))


def test_hooks_run_the_pinned_tools() -> None:
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    pins = constraints()
    tools = {"ruff-pre-commit": "ruff", "mirrors-mypy": "mypy"}
    for source in config["repos"]:
        assert Version(source["rev"].removeprefix("v")) == pins[tools[source["repo"].rpartition("/")[2]]]
        for hook in source["hooks"]:
            for requirement in map(Requirement, hook.get("additional_dependencies", [])):
                assert requirement.specifier.contains(pins[requirement.name])


def test_the_workflow_runs_what_ci_runs() -> None:
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
    commands = {name: [step["run"] for step in job["steps"] if "run" in step] for name, job in workflow["jobs"].items()}
    assert commands == {"test": [".ci/run"], "experiments": ["make test-experiments"]}


def test_issue_forms_ask_for_what_is_needed() -> None:
    forms = {path.stem: yaml.safe_load(path.read_text()) for path in (ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml")}
    assert set(forms) == {"bug_report", "feature_request"}
    for form in forms.values():
        assert {"name", "description", "body"} <= set(form)
        assert all(field["attributes"]["label"] for field in form["body"])
    asked = str(forms["bug_report"])
    assert all(command in asked for command in ("ros2 topic hz", "/diagnostics", "__version__"))


@pytest.mark.parametrize("path", MANIFESTS[:2])
def test_manifest_says_where_the_project_lives(path: str) -> None:
    kinds = {u.get("type") for u in ET.parse(ROOT / path).iter("url")}
    assert kinds == {"website", "repository", "bugtracker"}


def test_licence_is_apache_2() -> None:
    text = (ROOT / "LICENSE").read_text()
    assert "Apache License" in text
    assert "Version 2.0, January 2004" in text
    assert len(text) > 11_000


def test_every_ros_package_that_is_imported_is_in_the_manifest() -> None:
    manifest = ET.parse(ROOT / "package.xml")
    declared = {d.text for tag in ("depend", "exec_depend") for d in manifest.iter(tag)}
    keys = {"cv2": "python3-opencv", "numpy": "python3-numpy", "tqdm": "python3-tqdm", "yaml": "python3-yaml"}
    # ONNX Runtime has no rosdep key of its own in every distribution.
    elsewhere = {"onnxruntime", "spectradino_core", "spectradino_ros"}
    elsewhere |= {"foxglove_msgs"}  # optional
    used: dict[str, str] = {}
    for path in [*(ROOT / "spectradino_ros").rglob("*.py"), *(ROOT / "launch").glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module]
            used |= {name.partition(".")[0]: path.name for name in names}
    missing = {
        f"{name} ({where})"
        for name, where in used.items()
        if name not in sys.stdlib_module_names | elsewhere and keys.get(name, name) not in declared
    }
    assert not missing


def test_executables_go_where_ros2_run_looks() -> None:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    assert config["install"]["install_scripts"] == config["develop"]["script_dir"] == "$base/lib/spectradino_ros"


def test_commands_exist() -> None:
    commands = {e.name: e for e in installed().entry_points if e.group == "console_scripts"}
    assert set(commands) == {"detector_node", "spectradino"}
    assert callable(commands["spectradino"].load())
    pytest.importorskip("rclpy", reason="no ROS in this environment")
    assert callable(commands["detector_node"].load())


def test_base_package_brings_nothing_into_a_ros_workspace() -> None:
    base = [Requirement(line) for line in installed().requires or () if "extra ==" not in line]
    assert [r.name for r in base] == ["setuptools"]


@pytest.mark.parametrize("extra", ["runtime", "gpu", "bag"])
def test_serving_admits_the_versions_of_each_platform(extra: str) -> None:
    # Humble and JetPack 6 (Python 3.10), and what pip brings on Jazzy and JetPack 7 (3.12).
    platforms = {
        "numpy": ["1.26.4", "2.2.6", "2.4.6"],
        "opencv-python-headless": ["4.5.5.64", "4.14.0.94", "5.0.0.1"],
        "onnxruntime": ["1.17.3", "1.23.2", "1.27.0"],
        "onnxruntime-gpu": ["1.17.1", "1.23.2", "1.27.0"],
    }
    wanted = requirements(extra)
    assert "numpy" in wanted
    for name in wanted.keys() & platforms.keys():
        for version in platforms[name]:
            assert wanted[name].specifier.contains(version), f"{extra} refuses {name} {version}"


def test_only_one_onnxruntime_at_a_time() -> None:
    assert "onnxruntime-gpu" not in requirements("runtime")
    assert "onnxruntime" not in requirements("gpu")
    assert "onnxruntime-gpu" not in constraints()


@pytest.mark.parametrize("extra", ["runtime", "jazzy", "demo", "bag", "train", "dev"])
def test_every_direct_requirement_is_pinned_within_its_range(extra: str) -> None:
    pins = constraints()
    wanted = requirements(extra)
    assert wanted
    for name, requirement in wanted.items():
        assert name in pins, f"{name} of [{extra}] is not in constraints.txt: run `make constraints`"
        assert requirement.specifier.contains(pins[name]), f"{name} is pinned to {pins[name]}, wanted {requirement}"


def test_nothing_unwanted_is_pinned() -> None:
    assert not {"torchvision", "timm", "opencv-python", "ultralytics", "lightly-train"} & set(constraints())
