"""Parsing of sizes on the command line."""

from __future__ import annotations

import argparse

__all__ = ["SizeError", "parse_size"]


class SizeError(ValueError, argparse.ArgumentTypeError):
    """The text is not a size: wrong usage to argparse, a one-line error elsewhere."""


def parse_size(text: str, multiple: int = 1) -> tuple[int, int]:
    """Parse "644x518" to (644, 518).

    Args:
        text: the argument.
        multiple: what both sides must be multiples of.

    Raises:
        SizeError: the text is not such a size.
    """
    numbers = text.lower().split("x")
    if len(numbers) != 2 or not all(n.isdecimal() and int(n) and not int(n) % multiple for n in numbers):
        wanted = "WIDTHxHEIGHT in pixels" + (f", both multiples of {multiple}" if multiple > 1 else "")
        raise SizeError(f"{text!r} is not a size: give {wanted}, such as 644x518")
    return int(numbers[0]), int(numbers[1])
