"""Files that are whole or not there: written beside their place and renamed into it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = ["written_atomically"]


@contextmanager
def written_atomically(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A scratch path beside `path` to write to; on leaving the block it replaces `path` in one step.

    A crash, a full disk or an exception leaves what was at `path` untouched and removes the scratch file.

    Raises:
        OSError: the folder can't be written to, or the disk is full; names `path`.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield scratch
        with scratch.open("rb") as file:
            os.fsync(file.fileno())  # else a power cut could leave the new name on an empty file
        scratch.chmod(0o644)  # some writers make files that only their owner may read
        os.replace(scratch, path)
    except OSError as error:
        raise OSError(error.errno, f"{path} could not be written: {error.strerror or error}") from error
    finally:
        with suppress(FileNotFoundError):
            scratch.unlink()
