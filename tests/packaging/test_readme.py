"""Links and file names on every page exist, and the table of folders is complete."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

PAGES = sorted(
    p for pattern in ("*.md", "docs/*.md", "benchmarks/**/*.md", "msg/**/*.md") for p in REPOSITORY.glob(pattern)
)
_CODE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", _CODE.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)
    texts = [re.sub(r"[^\w\- ]", "", re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", h.lower())) for h in headings]
    return {text.strip().replace(" ", "-") for text in texts}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_local_links_and_images_exist(page: Path) -> None:
    text = _CODE.sub("", page.read_text(encoding="utf-8"))
    broken = []
    for link in re.findall(r"\]\((?!https?:)([^)\s]+)\)", text):
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []


def test_readme_links_every_page_of_the_documentation() -> None:
    linked = set(re.findall(r"\]\((docs/[^)#]+\.md)", (REPOSITORY / "README.md").read_text(encoding="utf-8")))
    assert linked == {f"docs/{page.name}" for page in (REPOSITORY / "docs").glob("*.md")}


def tracked() -> list[str]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    names = [name for name in listed.stdout.split("\0") if name]
    if not names:
        pytest.skip("this is no git checkout, so what belongs to the tree is not known")
    return names


def test_pages_and_settings_that_sources_name_exist() -> None:
    """For example `see docs/node.md` in messages, comments and scripts."""
    missing = []
    for name in tracked():
        path = REPOSITORY / name
        if path.suffix not in {".py", ".md", ".yaml", ".yml", ".xml", ".sh", ".cfg"} and path.name != "Makefile":
            continue
        if path.exists():
            found = re.findall(r"(?<![\w./])((?:docs|config)/\w+\.(?:md|yaml))\b", path.read_text(encoding="utf-8"))
            missing += [f"{name}: {page}" for page in found if not (REPOSITORY / page).exists()]
    assert missing == []


@pytest.fixture(scope="module")
def tree() -> str:
    """The table of folders in docs/architecture.md."""
    page = (REPOSITORY / "docs/architecture.md").read_text(encoding="utf-8")
    return page.split("## Folders")[1].split("\n## ")[0]


def test_folders_of_the_map_exist(tree: str) -> None:
    for row in re.findall(r"^\| (`.+?) \|", tree, re.MULTILINE):
        base = None
        for name in re.findall(r"`([^`]+)`", row):
            candidates = [REPOSITORY / name] + ([base.parent / name] if base else [])
            found = [path for path in candidates if path.exists()]
            assert found, f"{name} is on the map but not in the tree"
            base = found[-1]


def test_everything_in_the_tree_is_on_the_map(tree: str) -> None:
    """Each folder with tracked files, and each module and folder of the core."""
    wanted = set()
    for path in tracked():
        first, *rest = path.split("/")
        if rest and not first.startswith(".") and first != "resource":  # ament's marker, a file without contents
            wanted.add(f"{first}/")
        if first == "spectradino_core" and rest[0] not in ("__init__.py", "py.typed"):
            wanted.add(rest[0] if len(rest) == 1 else f"{rest[0]}/")
    named = {part for name in re.findall(r"`([^`]+)`", tree) for part in name.split("/")}
    assert sorted(name for name in wanted if name.rstrip("/") not in named) == []
