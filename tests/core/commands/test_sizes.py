"""Parsing of sizes on the command line."""

from __future__ import annotations

import argparse

import pytest

from spectradino_core.commands.shared_options import SizeError, parse_size


def test_sizes_are_parsed():
    assert parse_size("644x518") == (644, 518)
    assert parse_size("640X512") == (640, 512)
    assert parse_size("490x392", 14) == (490, 392)


@pytest.mark.parametrize("text", ["640", "640x", "x512", "640x512x3", "0x512", "-640x512", "6.4x5", "²x2", "a x b", ""])
def test_invalid_sizes_are_reported(text):
    with pytest.raises(SizeError, match=r"is not a size: give WIDTHxHEIGHT in pixels, such as 644x518"):
        parse_size(text)


def test_sides_must_be_multiples():
    with pytest.raises(ValueError, match="WIDTHxHEIGHT in pixels, both multiples of 14, such as 644x518"):
        parse_size("640x518", 14)


def test_argparse_reports_invalid_size_as_wrong_usage(capsys):
    parser = argparse.ArgumentParser()
    parser.add_argument("--size", type=parse_size)
    with pytest.raises(SystemExit) as stop:
        parser.parse_args(["--size", "big"])
    assert stop.value.code == 2
    assert "argument --size: 'big' is not a size" in capsys.readouterr().err
