"""Dockerfiles, as far as they can be checked without a build: copied files exist, and names are ours."""

from __future__ import annotations

import ast
import re
import shlex
import xml.etree.ElementTree as ET
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / "docker").glob("Dockerfile.*"))
JAZZY, GPU = ROOT / "docker/Dockerfile.jazzy", ROOT / "docker/Dockerfile.gpu"
KNOWN = {"FROM", "ARG", "RUN", "WORKDIR", "COPY", "USER", "ENV", "ENTRYPOINT", "CMD"}


def instructions(path: Path) -> list[tuple[str, str]]:
    """Return keyword and rest of each instruction, with continued lines joined."""
    lines = [line for line in path.read_text().splitlines() if line.strip() and not line.startswith("#")]
    joined = re.sub(r"\\\n", " ", "\n".join(lines)).splitlines()
    return [(line.split(None, 1)[0], line.split(None, 1)[1]) for line in joined]


def run_lines(path: Path) -> str:
    return "\n".join(rest for keyword, rest in instructions(path) if keyword == "RUN")


def copied() -> dict[str, str]:
    """Return destinations below src/spectradino_ros by source."""
    found = {}
    for keyword, rest in instructions(JAZZY):
        if keyword == "COPY":
            *sources, destination = rest.split()
            for source in sources:
                found[source] = destination + Path(source).name if destination.endswith("/") else destination
    return found


def test_both_are_there():
    assert sorted([JAZZY, GPU]) == FILES


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_instructions_are_known_and_lists_are_json(path):
    found = instructions(path)
    assert found[0][0] == "FROM"
    assert {keyword for keyword, _ in found} <= KNOWN
    for keyword, rest in found:
        if keyword in ("ENTRYPOINT", "CMD"):
            assert isinstance(ast.literal_eval(rest), list)
        if keyword == "RUN":
            shlex.split(rest)  # no open quote


def test_what_is_copied_exists_lands_in_its_place_and_is_not_ignored():
    ignored = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    for source, destination in copied().items():
        assert (ROOT / source).exists(), source
        assert destination == f"src/spectradino_ros/{source}"
        assert not any(fnmatch(part, pattern) for part in Path(source).parts for pattern in ignored)


def test_everything_that_setup_reads_is_copied():
    """Otherwise the build in the image would fail, or miss a folder of the package."""
    setup = (ROOT / "setup.py").read_text()
    wanted = {"package.xml", "setup.py", "setup.cfg", "spectradino_core", "spectradino_ros", "resource"}
    wanted |= set(re.findall(r'shared\("(\w+)"', setup))
    wanted |= {"LICENSE", "README.md", "msg"}  # package.xml names the licence; the long description; a package in it
    assert wanted <= set(copied())


def test_the_workspace_is_built_as_the_readme_says():
    lines = run_lines(JAZZY)
    paths = "src src/spectradino_ros/msg"
    assert f"colcon build --base-paths {paths}" in lines
    assert f"--from-paths {paths} --ignore-src" in lines
    readme = (ROOT / "README.md").read_text()
    assert f"colcon build --base-paths {paths}" in readme
    assert f"rosdep install --from-paths {paths} --ignore-src" in readme


def test_packages_and_launch_files_are_ours():
    name = ET.parse(ROOT / "package.xml").findtext("name")
    for path in FILES:
        (command,) = [ast.literal_eval(rest) for keyword, rest in instructions(path) if keyword == "CMD"]
        assert command[:3] == ["ros2", "launch", name]
        assert (ROOT / "launch" / command[3]).is_file()


def test_pip_installs_only_onnx_runtime_and_keeps_the_distributions_numpy():
    for path, wanted in ((JAZZY, "onnxruntime"), (GPU, "onnxruntime-gpu")):
        (line,) = re.findall(r"pip install ([^&\n]+)", run_lines(path))
        words = shlex.split(line)
        assert "--break-system-packages" in words, "Ubuntu 24.04 refuses otherwise"
        packages = [re.split(r"[\[<>=$]", word)[0] for word in words if not word.startswith("-")]
        assert packages == [wanted, "numpy"]
        assert "numpy<2" in words
    assert "pip uninstall --yes --break-system-packages onnxruntime" in run_lines(GPU)


def test_the_image_for_a_gpu_stands_on_the_other():
    tag = re.search(r"docker build -f docker/Dockerfile\.jazzy -t (\S+) \.", JAZZY.read_text())
    assert tag is not None
    assert instructions(GPU)[0] == ("FROM", tag.group(1))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_arguments_of_the_launch_file_are_known(path):
    from spectradino_ros.launch_arguments import arguments, refuse_unknown

    given = re.findall(r"(\w+):=", path.read_text())
    assert given
    refuse_unknown(given, [argument.name for argument in arguments()])
