"""Cache of an engine's results on a model file's samples: computing them takes seconds for a large model."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

import numpy as np

from spectradino_core.files import written_atomically
from spectradino_core.runtime.engine import Engine, RawPredictions

__all__ = ["RememberedEngine"]

log = logging.getLogger(__name__)

_NO_MASK = np.empty(0, np.uint8)


class RememberedEngine:
    """`Engine` that reads its results from a cache folder, and writes those that are missing.

    A file is named by `key` and a hash of the input.
    """

    def __init__(self, engine: Engine, folder: Path, key: str) -> None:
        """
        Args:
            engine: computes missing results.
            folder: cache folder, created if possible.
            key: identifies the model file's content and the runtime's version; part of file names.
        """
        self.info, self.label, self.on_cpu = engine.info, engine.label, engine.on_cpu
        self._engine, self._folder, self._key = engine, folder, key

    def run(self, *inputs: np.ndarray) -> RawPredictions:
        """See `Engine`."""
        digest = hashlib.sha256()
        for array in inputs:
            digest.update(f"{array.dtype} {array.shape}".encode())
            digest.update(np.ascontiguousarray(array).data)
        path = self._folder / f"{self._key}-{digest.hexdigest()[:16]}.npz"
        held = _read(path)
        if held is not None:
            return held
        result = self._engine.run(*inputs)
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with written_atomically(path) as scratch, Path(scratch).open("wb") as file:
                boxes, scores, mask = result
                np.savez(file, boxes=boxes, scores=scores, mask=_NO_MASK if mask is None else mask)
        except OSError as error:
            log.debug("the CPU's results are not cached in %s: %s", self._folder, error)
        return result


def _read(path: Path) -> RawPredictions | None:
    """Read the result in a file; None if there is none, or it is damaged."""
    try:
        with np.load(path, allow_pickle=False) as held:
            boxes, scores = held["boxes"], held["scores"]
            mask = held["mask"]
            return boxes, scores, mask if mask.size else None
    except (OSError, ValueError, KeyError, EOFError):
        return None
    except Exception as error:  # zipfile and zlib have their own exceptions
        log.debug("%s is damaged: %s", path, error)
        return None
