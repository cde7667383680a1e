"""Capture what image libraries print to stderr.

libjpeg, libpng and libtiff print warnings to file descriptor 2, one line per damaged image, bypassing every logger.
libjpeg's warning is also the only sign of a damaged JPEG in OpenCV. So the descriptor is redirected to memory while
OpenCV decodes; lines printed by other threads meanwhile are forwarded.
"""

from __future__ import annotations

import fcntl
import os
import re
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

__all__ = ["diverted_stderr"]

_LOCK = threading.Lock()
_OF_LIBRARIES = re.compile(
    r"^(?:(?:Corrupt|Premature end of) JPEG|JPEG|Invalid SOS|Inconsistent|Unsupported marker|Bogus|Unknown Adobe|"
    r"Warning: unknown JFIF|Application transferred too many|libpng (?:error|warning)|TIFF\w*: |OpenCV\(|"
    r"\[ ?(?:WARN|ERROR|INFO):\d+@|$)",
)


@contextmanager
def diverted_stderr(wanted: re.Pattern[str]) -> Iterator[list[str]]:
    """Redirect stderr during the block; other threads that call this wait.

    Args:
        wanted: pattern of the lines to return.

    Yields:
        A list that contains these lines after the block; it stays empty if stderr is closed.
    """
    found: list[str] = []
    with _LOCK:
        try:
            kept = os.dup(2)
        except OSError:  # stderr is closed
            yield found
            return
        try:
            sink = _memory_file()
            os.dup2(sink, 2)
            try:
                yield found
            finally:
                os.dup2(kept, 2)
                text = _read_new(sink)
                if text:
                    _forward(text, wanted, found, kept)
        finally:
            os.close(kept)


def _memory_file() -> int:
    """Return the file descriptor of the memory file, open until the process ends."""
    global _MEMORY_FILE
    if _MEMORY_FILE is None:
        if hasattr(os, "memfd_create"):
            _MEMORY_FILE = os.memfd_create("stderr")
        else:
            with tempfile.TemporaryFile() as file:
                _MEMORY_FILE = os.dup(file.fileno())
        # O_APPEND, because Linux does not lock the position of a memfd and threads would overwrite each other's lines.
        fcntl.fcntl(_MEMORY_FILE, fcntl.F_SETFL, fcntl.fcntl(_MEMORY_FILE, fcntl.F_GETFL) | os.O_APPEND)
    return _MEMORY_FILE


_MEMORY_FILE: int | None = None


def _reset_after_fork() -> None:
    """Reset the state in a forked child, which would share the file but not its read position."""
    global _LOCK, _MEMORY_FILE, _READ_TO
    _LOCK, _MEMORY_FILE, _READ_TO = threading.Lock(), None, 0


os.register_at_fork(after_in_child=_reset_after_fork)


def _read_new(sink: int) -> str:
    """Return what was written since the last call.

    Another thread's write may end after stderr is restored, so the file is not truncated here; such a line is returned
    by the next call.
    """
    global _READ_TO
    end = os.fstat(sink).st_size
    if end < _READ_TO:  # truncated by a process that shares it
        _READ_TO = end
    elif end > _READ_TO:
        # The size grows page by page during a write; SEEK_HOLE waits for its end.
        end = max(os.lseek(sink, _READ_TO, os.SEEK_HOLE), end)
    data = os.pread(sink, end - _READ_TO, _READ_TO)
    _READ_TO += len(data)
    if _READ_TO > _MAX_BYTES:
        os.ftruncate(sink, 0)
        _READ_TO = 0
    return data.decode("utf-8", "replace")


_MAX_BYTES = 16 << 20
"""Size in bytes at which the file is truncated."""
_READ_TO = 0


def _forward(text: str, wanted: re.Pattern[str], found: list[str], kept: int) -> None:
    foreign = []
    for line in text.splitlines(keepends=True):
        if wanted.search(line):
            found.append(line.strip())
        elif not _OF_LIBRARIES.search(line):
            foreign.append(line)
    if foreign:
        with suppress(OSError):
            os.write(kept, "".join(foreign).encode("utf-8", "replace"))
