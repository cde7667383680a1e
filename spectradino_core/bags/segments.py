"""Finished parts of a long run, in a folder beside the output, from which a stopped run resumes."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from spectradino_core.bags import BagError
from spectradino_core.bags.writer import BagWriter
from spectradino_core.files import written_atomically

__all__ = ["Segments"]

_PLAN, _LOCK = "plan.json", "lock"


class Segments:
    """Finished parts of a bag, each a complete .mcap file named after the results in it.

    Attributes:
        folder: `.NAME.part` beside the output.
        done: number of results in the finished parts, from the first one on.
        kept: number of results left by a previous run.
    """

    def __init__(self, out: Path, plan: dict[str, Any]) -> None:
        """
        Args:
            out: the output bag.
            plan: everything that the results depend on, as JSON data. Parts of a run with another plan are removed.

        Raises:
            BagError: another process is writing the same output.
            OSError: the folder is not writable.
        """
        self.folder = out.with_name(f".{out.name}.part")
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = (self.folder / _LOCK).open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.close()
            raise BagError(f"{out}: another run is writing it: wait for it, or choose another name") from None
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
        """Write the next part; call `finish` after the block."""
        with BagWriter(self.folder / "next.mcap", overwrite=True) as writer:
            yield writer

    def finish(self, done: int) -> None:
        """Mark the part just written as complete, for a total of `done` results."""
        path = self.folder / f"answers-{self.done:09d}-{done:09d}.mcap"
        os.replace(self.folder / "next.mcap", path)
        self.paths.append(path)
        self.done = done

    def close(self, remove: bool) -> None:
        """End the run and remove the parts, or keep them for the next run."""
        if remove:
            shutil.rmtree(self.folder, ignore_errors=True)
        self._lock.close()

    def _known_plan(self) -> Any:
        try:
            return json.loads((self.folder / _PLAN).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
