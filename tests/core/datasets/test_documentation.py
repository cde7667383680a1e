"""docs/datasets.md agrees with the readers, and its commands are valid."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from spectradino_core.cli import _parser
from spectradino_core.datasets import BENCHMARKS, BenchmarkError, open_benchmark

SETS = [one for one in BENCHMARKS.values() if one.needs_root]


@pytest.fixture(scope="module")
def page(repository: Path) -> str:
    return (repository / "docs/datasets.md").read_text(encoding="utf-8")


def section(page: str, name: str) -> str:
    found = re.search(rf"^## [^\n]*`{name}`.*?(?=^## |\Z)", page, re.MULTILINE | re.DOTALL)
    assert found, f"no section of {name}"
    return found.group()


def commands(text: str) -> list[list[str]]:
    return [shlex.split(line, comments=True) for line in re.findall(r"^spectradino .*", text, re.MULTILINE)]


def test_every_command_can_be_typed(page: str) -> None:
    parser = _parser()
    lines = commands(page)
    assert len(lines) > 3 * len(SETS)
    for words in lines:
        parser.parse_args(words[1:])  # a wrong one would exit


@pytest.mark.parametrize("one", SETS, ids=lambda one: one.name)
def test_every_set_has_its_facts_and_commands(page: str, one) -> None:
    text = section(page, one.name)
    for fact in (one.title, one.ignore, one.source, one.licence, *one.notes, one.assumed):
        assert fact in text
    for split, count in one.splits.items():
        assert f"{split} {count or '?'}" in text
    kinds = {tuple(words[1:2] + [w for w in words[2:3] if w == "check"]) for words in commands(text)}
    assert kinds == {("data", "check"), ("finetune",), ("evaluate",)}
    assert all(words[words.index("--dataset") + 1] == one.name for words in commands(text))
    assert all("--data" in words for words in commands(text))


@pytest.mark.parametrize("one", SETS, ids=lambda one: one.name)
def test_the_quoted_error_is_the_real_one(page: str, one) -> None:
    text = section(page, one.name)
    words = commands(text)[0]
    root = words[words.index("--data") + 1]
    if Path(root).exists():
        pytest.skip(f"{root} is there")
    with pytest.raises(BenchmarkError) as failed:
        open_benchmark(one.name, root, one.report_split)
    assert f"```\n{failed.value}\n```" in text
