"""Every command on a page is valid: it exists and has the options that the page uses."""

from __future__ import annotations

import argparse
import importlib.util
import re
import runpy
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from spectradino_core.cli import main
from tests.conftest import REPOSITORY

PAGES = sorted(
    page
    for pattern in ("README.md", "CONTRIBUTING.md", "MODEL_CARD.md", "docs/*.md", "benchmarks/**/*.md")
    for page in REPOSITORY.glob(pattern)
)
_SHELL = {"|", "||", "&&", ";", ">", ">>", "&", "2>&1"}
PARSING = ("ArgumentParser", "parser_of", "run_experiment")
"""What a program's text holds if it takes words."""
_BLOCK = re.compile(r"^```[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"`((?:spectradino|python -m benchmarks[^\s`]*)(?: [^`]*)?)`")


class Parsed(BaseException):
    """The command line was parsed; nothing was run."""


def own_words(line: str) -> list[str] | None:
    """Return a line's words from the program's name on, without the rest of the shell line; None: another program."""
    try:
        words = shlex.split(line, comments=True)
    except ValueError:  # an open quote: prose
        return None
    words = words[: next((place for place, word in enumerate(words) if word in _SHELL), len(words))]
    for place, word in enumerate(words):
        if word == "spectradino":
            return words[place:]
        if word == "-m" and words[place + 1 : place + 2] and words[place + 1].startswith("benchmarks"):
            return words[place + 1 :]
    return None


def in_blocks(page: Path) -> list[list[str]]:
    """Return complete commands in code blocks."""
    blocks = _BLOCK.findall(page.read_text(encoding="utf-8"))
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [words for words in map(own_words, lines) if words]


def in_prose(page: Path) -> list[list[str]]:
    """Return commands in prose, which may be incomplete."""
    prose = _BLOCK.sub("", page.read_text(encoding="utf-8"))
    return [words for words in map(own_words, _INLINE.findall(prose)) if words and len(words) > 1]


@pytest.fixture
def parse(monkeypatch: pytest.MonkeyPatch) -> Iterator:
    """Parse the words by the program's own parser only."""
    parse_args = argparse.ArgumentParser.parse_args

    def only_parse(self, args=None, namespace=None):
        parse_args(self, args, namespace)
        raise Parsed

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", only_parse)

    def typed(words: list[str]) -> None:
        program, *rest = words
        if program == "spectradino":
            main(rest)
        spec = importlib.util.find_spec(f"{program}.__main__" if is_package(program) else program)
        assert spec is not None
        assert spec.origin is not None
        if not any(name in Path(spec.origin).read_text(encoding="utf-8") for name in PARSING):
            assert rest == [], f"{program} takes no words"
            raise Parsed
        monkeypatch.setattr(sys, "argv", [program, *rest])
        runpy.run_module(program, run_name="__main__")

    return typed


def is_record(page: Path) -> bool:
    return page.is_relative_to(REPOSITORY / "benchmarks/results") and page.name != "README.md"


def is_package(name: str) -> bool:
    spec = importlib.util.find_spec(name)
    assert spec is not None, f"there is no {name}"
    return spec.submodule_search_locations is not None


def check(commands: list[list[str]], parse, capsys, is_record: bool = False) -> None:
    """Parse every command; only a record of a past run may use former names of options."""
    for words in commands:
        with pytest.raises((Parsed, SystemExit)) as stopped:
            parse(words)
        stderr = capsys.readouterr().err.splitlines()
        shown_help = isinstance(stopped.value, SystemExit) and stopped.value.code == 0
        assert isinstance(stopped.value, Parsed) or shown_help, f"{shlex.join(words)}: {stderr[-1]}"
        assert is_record or not stderr, f"{shlex.join(words)}: {stderr[-1]}"


def test_pages_were_found():
    assert {"README.md", "recordings.md", "SPEED.md", "training.md"} <= {page.name for page in PAGES}
    assert sum(len(in_blocks(page)) for page in PAGES) > 60


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_commands_in_blocks_are_whole(page, parse, capsys):
    check(in_blocks(page), parse, capsys, is_record(page))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_commands_in_prose_know_their_options(page, parse, capsys, monkeypatch):
    """They may omit required arguments, but what they state must be valid."""
    parse_known_args = argparse.ArgumentParser.parse_known_args

    def of_what_is_there(self, args=None, namespace=None, **how):
        for needed in (*self._actions, *self._mutually_exclusive_groups):
            needed.required = False
        return parse_known_args(self, args, namespace, **how)

    monkeypatch.setattr(argparse.ArgumentParser, "parse_known_args", of_what_is_there)
    check(in_prose(page), parse, capsys, is_record(page))


@pytest.mark.parametrize(
    "line",
    [
        "spectradino finetune --recipe box --stridse 7-28",
        "spectradino polish",
        "spectradino info m.onnx",
        "python -m benchmarks.pretrain --fast",
    ],
)
def test_a_wrong_command_would_be_noticed(line, parse, capsys):
    words = own_words(line)
    assert words is not None
    with pytest.raises(AssertionError, match=re.escape(shlex.join(words))):
        check([words], parse, capsys)
