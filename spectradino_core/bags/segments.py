"""What is finished of a long run, in a folder beside the result to be, so that a stopped run is taken up."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from spectradino_core.bags.errors import BagError
from spectradino_core.bags.writer import BagWriter
from spectradino_core.files import written_atomically

__all__ = ["Segments"]

_PLAN, _LOCK = "plan.json", "lock"


class Segments:
    """The finished parts of a bag, each a whole .mcap file named after the answers that it holds.

    Attributes:
        folder: `.NAME.part` beside the result.
        done: how many answers the finished parts hold, from the first one on.
        kept: how many of them were there from a run before.
    """

    def __init__(self, out: Path, plan: dict[str, Any]) -> None:
        """
        Args:
            out: the result to be.
            plan: all that the answers depend on, fit for JSON. What an earlier run left by another plan is removed.

        Raises:
            BagError: another process is at it.
            OSError: the folder can't be written to.
        """
        self.folder = out.with_name(f".{out.name}.part")
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = (self.folder / _LOCK).open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.close()
            raise BagError(f"{out}: another run is writing it just now") from None
        plan = json.loads(json.dumps(plan))
        if self._known_plan() != plan:
            for stale in self.folder.iterdir():
                if stale.name != _LOCK:
                    shutil.rmtree(stale) if stale.is_dir() else stale.unlink()
            with written_atomically(self.folder / _PLAN) as scratch:
                scratch.write_text(json.dumps(plan, indent=1) + "\n", encoding="utf-8")
        self.paths: list[Path] = []
        self.done = 0
        while found := sorted(self.folder.glob(f"answers-{self.done:09d}-*.mcap")):
            self.paths.append(found[-1])
            self.done = int(found[-1].stem.rpartition("-")[2])
        self.kept = self.done

    @contextmanager
    def writing(self) -> Iterator[BagWriter]:
        """The next part. It counts once `finish` was called after the block."""
        with BagWriter(self.folder / "next.mcap", overwrite=True) as writer:
            yield writer

    def finish(self, done: int) -> None:
        """The part just written is whole; with it there are `done` answers."""
        path = self.folder / f"answers-{self.done:09d}-{done:09d}.mcap"
        os.replace(self.folder / "next.mcap", path)
        self.paths.append(path)
        self.done = done

    def close(self, remove: bool) -> None:
        """Ends the run: the result is there and the parts go, or they are kept for the next run."""
        if remove:
            shutil.rmtree(self.folder, ignore_errors=True)
        self._lock.close()

    def _known_plan(self) -> Any:
        try:
            return json.loads((self.folder / _PLAN).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
