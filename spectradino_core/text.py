"""Escaping of untrusted strings for logs and terminals.

Class names and metadata of a model, topic and frame names, encodings and file names could otherwise clear the screen,
or hide or forge a line by escape sequences.
"""

from __future__ import annotations

import logging
import re
from typing import Any, TextIO

__all__ = ["PrintableFormatter", "PrintableStream", "log_line", "printable"]

_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters (they begin escape sequences), line separators, bidirectional controls, lone surrogates."""
_MAX_LINE = 10_000


def printable(text: str, longest: int = 200, keep: str = "") -> str:
    r"""Escape control and formatting characters (`\x1b`) and truncate.

    Args:
        text: any string.
        longest: maximum number of characters; the rest is replaced by "...".
        keep: characters that are not escaped, such as line breaks.
    """
    cut = text if len(text) <= longest else text[: max(0, longest - 3)] + "..."
    return _UNSAFE.sub(lambda c: c[0] if c[0] in keep else c[0].encode("unicode_escape").decode(), cut)


def log_line(text: str) -> str:
    """Escape a log message, except its line breaks and tabs."""
    return printable(text, _MAX_LINE, keep="\n\t")


class PrintableStream:
    """Text stream that escapes what is written; other attributes are those of the wrapped stream."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        self._stream.write(printable(text, len(text), keep="\n\t"))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class PrintableFormatter(logging.Formatter):
    """Log formatter of the command line that escapes untrusted strings in records."""

    def format(self, record: logging.LogRecord) -> str:
        return log_line(super().format(record))
