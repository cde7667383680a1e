"""The process's error output, kept away from image libraries that print straight into it.

libjpeg, libpng and libtiff write their complaints to file descriptor 2, one line for each damaged image, below every
logger. libjpeg's warning is also the only sign that OpenCV gives of a damaged JPEG. So the descriptor is diverted into
memory while OpenCV decodes; lines of other threads that come in between are passed on.
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
    """Divert what image libraries print while the block runs. One thread at a time; others wait.

    Args:
        wanted: which of their lines to return.

    Yields:
        A list that holds those lines once the block has ended. It stays empty where there is no error output.
    """
    found: list[str] = []
    with _LOCK:
        try:
            kept = os.dup(2)
        except OSError:  # closed: nothing can be printed, or read
            yield found
            return
        try:
            sink = _sink()
            os.dup2(sink, 2)
            try:
                yield found
            finally:
                os.dup2(kept, 2)
                text = _taken(sink)
                if text:
                    _sort(text, wanted, found, kept)
        finally:
            os.close(kept)


def _sink() -> int:
    """A file descriptor that keeps what is written, open as long as the process."""
    global _SINK
    if _SINK is None:
        if hasattr(os, "memfd_create"):
            _SINK = os.memfd_create("stderr")
        else:
            with tempfile.TemporaryFile() as file:
                _SINK = os.dup(file.fileno())
        # Linux does not lock the position of such a file: without this, threads overwrite each other's lines.
        fcntl.fcntl(_SINK, fcntl.F_SETFL, fcntl.fcntl(_SINK, fcntl.F_GETFL) | os.O_APPEND)
    return _SINK


_SINK: int | None = None


def _forget() -> None:
    """A forked child shares the file, but not the count of what was taken: it makes its own."""
    global _LOCK, _SINK, _TAKEN
    _LOCK, _SINK, _TAKEN = threading.Lock(), None, 0


os.register_at_fork(after_in_child=_forget)


def _taken(sink: int) -> str:
    """What was written since this was last asked.

    Another thread's write may end after the descriptor was given back: nothing is truncated or moved under it, and what
    it wrote is taken the next time.
    """
    global _TAKEN
    end = os.fstat(sink).st_size
    if end < _TAKEN:  # emptied by a process that shares it
        _TAKEN = end
    elif end > _TAKEN:
        # The size grows page by page while a line is written. Looking for a hole waits for the whole of it.
        end = max(os.lseek(sink, _TAKEN, os.SEEK_HOLE), end)
    data = os.pread(sink, end - _TAKEN, _TAKEN)
    _TAKEN += len(data)
    if _TAKEN > _LONGEST:
        os.ftruncate(sink, 0)
        _TAKEN = 0
    return data.decode("utf-8", "replace")


_LONGEST = 16 << 20
"""Bytes after which the memory is given back."""
_TAKEN = 0


def _sort(text: str, wanted: re.Pattern[str], found: list[str], kept: int) -> None:
    foreign = []
    for line in text.splitlines(keepends=True):
        if wanted.search(line):
            found.append(line.strip())
        elif not _OF_LIBRARIES.search(line):
            foreign.append(line)
    if foreign:
        with suppress(OSError):
            os.write(kept, "".join(foreign).encode("utf-8", "replace"))
