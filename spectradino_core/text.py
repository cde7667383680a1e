"""Text output: escaping of untrusted strings for logs and terminals, and commands whose stdout is closed or full.

Class names and metadata of a model, topic and frame names, encodings and file names could otherwise clear the screen,
or hide or forge a line by escape sequences.
"""

from __future__ import annotations

import io
import logging
import os
import re
import select
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO

_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters (they begin escape sequences), line separators, bidirectional controls, lone surrogates."""
_MAX_LINE = 10_000


def printable(text: str, longest: int = 200, keep: str = "") -> str:
    r"""Escape control and formatting characters (`\x1b`) but those to `keep`, and truncate to `longest` characters."""
    cut = text if len(text) <= longest else text[: max(0, longest - 3)] + "..."
    return _UNSAFE.sub(lambda c: c[0] if c[0] in keep else c[0].encode("unicode_escape").decode(), cut)


def log_line(text: str) -> str:
    """Escape a log message, except its line breaks and tabs."""
    return printable(text, _MAX_LINE, keep="\n\t")


def one_line(text: str) -> str:
    """Escape a message that is one line, whatever the file names in it hold."""
    return printable(text, _MAX_LINE)


class LineError(ValueError):
    """Error whose message is one printable line, whatever the file names in it hold."""

    def __init__(self, message: str = "") -> None:
        super().__init__(one_line(message))


def counted(count: int, noun: str) -> str:
    """Return, for example, "1 pair" or "2 pairs"."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


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


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end the command by SystemExit, so that it removes unfinished files and ends its workers.

    Not below torchrun, where a process may wait for others in a call that no exception ends.
    """
    numbers: tuple[signal.Signals, ...] = (signal.SIGTERM, signal.SIGHUP)
    if "LOCAL_RANK" in os.environ or threading.current_thread() is not threading.main_thread():
        numbers = ()

    def end(number: int, frame: object) -> None:
        for each in numbers:
            signal.signal(each, signal.SIG_DFL)  # the next one ends it at once
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, end) for number in numbers if signal.getsignal(number) is signal.SIG_DFL}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def with_stdout(run: Callable[[], int]) -> int:
    """Run a command and write all of its output, which Python would do at its end with a message of its own.

    Characters that the locale lacks are escaped, a closed stderr is replaced, and SIGTERM and SIGHUP raise SystemExit.

    Returns:
        Its status; 141, as a shell reports SIGPIPE, if stdout's reader has left (`| head`); 1 if its disk is full.
    """
    if sys.stderr is None:  # progress bars write to it
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        with _ended_by_signals():
            status = run()
    except SystemExit:  # --help, wrong usage
        if (failure := _flushed()) is None:
            raise
        return failure
    except BrokenPipeError:
        if not has_lost_reader():
            raise
        _discard_stdout()
        return _READER_LEFT
    failure = _flushed()
    return status if failure is None else failure


def has_lost_reader() -> bool:
    """Return whether stdout is a pipe that nobody reads any more."""
    try:
        poll = select.poll()
        poll.register(sys.stdout, select.POLLOUT)
        return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))
    except (AttributeError, OSError, TypeError, ValueError):  # stdout is no file
        return False


def _flushed() -> int | None:
    """Flush stdout; return the exit status if that fails."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError as error:
        _discard_stdout()
        if isinstance(error, BrokenPipeError):
            return _READER_LEFT
        print(f"error: the output could not be written: {error.strerror}", file=sys.stderr)
        return 1
    return None


def _discard_stdout() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


_READER_LEFT = 128 + 13
