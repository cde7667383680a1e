"""The short campaign of damaged files, and detection of a reader that fails otherwise."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from spectradino_core.files import FileError
from tests.fuzz.odd_files import damage, odd_files


def test_damaged_files_are_read_or_refused() -> None:
    assert list(odd_files(280)) == []


def test_damage_is_the_same_for_a_seed_and_mostly_damage() -> None:
    content = bytes(range(256)) * 8
    made = [[damage(content, draw) for _ in range(50)] for draw in (random.Random(3), random.Random(3))]
    assert made[0] == made[1]
    assert sum(one != content for one in made[0]) > 45


def test_a_reader_that_fails_otherwise_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def careless(path: Path) -> None:
        raise KeyError("x")

    def raw(path: Path) -> None:
        raise FileError("\x1b[2J")

    for read, said in ((careless, "KeyError: 'x'"), (raw, "an error that is not printable")):
        monkeypatch.setattr("tests.fuzz.odd_files.READERS", {"VOC": ("a.xml", read)})
        (complaint,) = odd_files(1)
        assert said in complaint
