"""Strings from outside, made fit for a log or a terminal, which obeys escape sequences.

Class names and metadata of a model, names of topics and frames, encodings, file names in a manifest: whoever wrote them
could otherwise clear the screen, hide a line or forge one.
"""

from __future__ import annotations

import logging
import re
from typing import Any, TextIO

__all__ = ["PrintableFormatter", "PrintableStream", "log_line", "printable"]

_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Controls (escape sequences begin with one), line separators, reversals of the reading direction, lone surrogates."""
_LONGEST_LINE = 10_000


def printable(text: str, longest: int = 200, keep: str = "") -> str:
    r"""A string with its control and formatting characters spelled out (`\x1b`), cut to a length.

    Args:
        text: anything.
        longest: characters; what is beyond is replaced by "...".
        keep: characters that stay as they are, such as line breaks.
    """
    cut = text if len(text) <= longest else text[: max(0, longest - 3)] + "..."
    return _UNSAFE.sub(lambda c: c[0] if c[0] in keep else c[0].encode("unicode_escape").decode(), cut)


def log_line(text: str) -> str:
    """A whole message for a log, in which line breaks and tabs are our own."""
    return printable(text, _LONGEST_LINE, keep="\n\t")


class PrintableStream:
    """A text stream whose writer may quote anything; all else is that of the stream beneath."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        self._stream.write(printable(text, len(text), keep="\n\t"))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class PrintableFormatter(logging.Formatter):
    """Formats log records of the command line; whatever they quote reaches the terminal as text."""

    def format(self, record: logging.LogRecord) -> str:
        return log_line(super().format(record))
