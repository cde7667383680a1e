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

_OF_LIBRARIES = re.compile(
    r"^(?:(?:Corrupt|Premature end of) JPEG|JPEG|Invalid SOS|Inconsistent|Unsupported marker|Bogus|Unknown Adobe|"
    r"Warning: unknown JFIF|Application transferred too many|libpng (?:error|warning)|TIFF\w*: |OpenCV\(|"
    r"\[ ?(?:WARN|ERROR|INFO):\d+@|$)",
)
_MAX_BYTES = 16 << 20
"""Size in bytes at which the memory file is truncated."""


class _Sink:
    """Memory file that is open until the process ends."""

    def __init__(self) -> None:
        if hasattr(os, "memfd_create"):
            self.descriptor = os.memfd_create("stderr")
        else:
            with tempfile.TemporaryFile() as file:
                self.descriptor = os.dup(file.fileno())
        # O_APPEND, because Linux does not lock the position of a memfd and threads would overwrite each other's lines.
        fcntl.fcntl(self.descriptor, fcntl.F_SETFL, fcntl.fcntl(self.descriptor, fcntl.F_GETFL) | os.O_APPEND)
        self._read_to = 0

    def read_new(self) -> str:
        """Return what was written since the last call.

        Another thread's write may end after stderr is restored, so the file is not truncated here; such a line is
        returned by the next call.
        """
        end = os.fstat(self.descriptor).st_size
        if end < self._read_to:  # truncated by a process that shares it
            self._read_to = end
        elif end > self._read_to:
            # The size grows page by page during a write; SEEK_HOLE waits for its end.
            end = max(os.lseek(self.descriptor, self._read_to, os.SEEK_HOLE), end)
        data = os.pread(self.descriptor, end - self._read_to, self._read_to)
        self._read_to += len(data)
        if self._read_to > _MAX_BYTES:
            os.ftruncate(self.descriptor, 0)
            self._read_to = 0
        return data.decode("utf-8", "replace")


_lock = threading.Lock()
_sink: _Sink | None = None


def _reset_after_fork() -> None:
    """Reset the state in a forked child, which would share the file but not its read position."""
    global _lock, _sink
    _lock, _sink = threading.Lock(), None


os.register_at_fork(after_in_child=_reset_after_fork)


@contextmanager
def diverted_stderr(wanted: re.Pattern[str]) -> Iterator[list[str]]:
    """Redirect stderr during the block; other threads that call this wait.

    Yields a list that contains the `wanted` lines after the block; it stays empty if stderr is closed.
    """
    global _sink
    found: list[str] = []
    with _lock:
        try:
            kept = os.dup(2)
        except OSError:  # stderr is closed
            yield found
            return
        try:
            sink = _sink = _sink or _Sink()
            os.dup2(sink.descriptor, 2)
            try:
                yield found
            finally:
                os.dup2(kept, 2)
                _forward(sink.read_new(), wanted, found, kept)
        finally:
            os.close(kept)


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
