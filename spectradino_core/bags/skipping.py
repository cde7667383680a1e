"""Engine that can be skipped: a replay then pairs frames and follows the thermal range without running the network."""

from __future__ import annotations

import numpy as np

from spectradino_core.runtime.bundle import ModelInfo
from spectradino_core.runtime.engine import Engine, RawPredictions

__all__ = ["SkippingEngine"]


class SkippingEngine:
    """Engine that returns no detections, at no cost, while `skip` is set.

    Attributes:
        info: description of the model.
        skip: whether to skip the network; always, if there is none.
    """

    def __init__(self, engine: Engine | ModelInfo) -> None:
        """
        Args:
            engine: runs the network; or a description alone, of a network that is never run.
        """
        self._engine = None if isinstance(engine, ModelInfo) else engine
        self.info = engine if isinstance(engine, ModelInfo) else engine.info
        self.skip = self._engine is None

    @property
    def label(self) -> str:
        return "no network" if self._engine is None else self._engine.label

    @property
    def on_cpu(self) -> bool:
        return self._engine is None or self._engine.on_cpu

    def run(self, *inputs: np.ndarray) -> RawPredictions:
        """See `Engine`."""
        if self._engine is not None and not self.skip:
            return self._engine.run(*inputs)
        return np.empty((0, 4), np.float32), np.empty((0, len(self.info.box_classes)), np.float32), None
