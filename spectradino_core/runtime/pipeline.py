"""Raw frames in, percepts out: what the node, the bag evaluator and the command line all call.

Letters: h x w a source image, H x W the network's input.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from spectradino_core.calibration.registration import Registration
from spectradino_core.runtime.boxes import select_detections
from spectradino_core.runtime.engine import Engine, warm_up
from spectradino_core.runtime.engines import open_engine
from spectradino_core.runtime.network_inputs import inputs_of
from spectradino_core.runtime.perception_result import Mode, PerceptionResult
from spectradino_core.runtime.preprocess import FrameError, Letterbox
from spectradino_core.thermal import STREAM_SMOOTHING, Smoothing, ThermalContract, ThermalNormaliser

__all__ = ["Pipeline"]


class Pipeline:
    """One model on one stream of pairs. Not for several threads at once: range and input are its state."""

    def __init__(
        self,
        engine: Engine,
        score_threshold: float | None = None,
        nms_iou: float | None = None,
        registration: Registration | None = None,
        thermal: ThermalContract | None = None,
        smoothing: Smoothing | None = STREAM_SMOOTHING,
    ) -> None:
        """
        Args:
            engine: what runs the network; its `info` says all else.
            score_threshold: least score of a detection, 0..1; None takes the model's own.
            nms_iou: overlap above which the lower-scored of two boxes goes, 0..1; None takes the model's own.
            registration: where infrared pixels lie in the colour image; None: the infrared image over the whole of it.
                It may be set later, between calls, and so may `on_prepared`, which is called in each call when the
                frames were read and the network begins.
            thermal: how counts become input; None: as the model says. See `thermal_override.override_contract`.
            smoothing: how a percentile range follows the stream; None: by the contract alone. Call `reset` before each
                image of a set that is no stream.
        """
        self.engine = engine
        self.info = engine.info
        self.score_threshold = self.info.score_threshold if score_threshold is None else score_threshold
        self.nms_iou = self.info.nms_iou if nms_iou is None else nms_iou
        self.registration = registration
        self.on_prepared: Callable[[], None] | None = None
        self._inputs = inputs_of(self.info)
        self._thermal = ThermalNormaliser(self.info.thermal if thermal is None else thermal, smoothing)

    @classmethod
    def open(cls, path: str | Path, device: str = "auto", threads: int = 0, **options: Any) -> Pipeline:
        """Opens a model file; see `engines.open_engine` for what can go wrong. `options` are the constructor's."""
        return cls(open_engine(path, device=device, threads=threads), **options)

    @property
    def thermal(self) -> ThermalContract:
        """The contract in force."""
        return self._thermal.contract

    def warm_up(self) -> float:
        """One pass over empty input, so that the first frame is as fast as the rest. Returns its milliseconds."""
        return warm_up(self.engine)

    def reset(self) -> None:
        """Forgets what it remembers from frame to frame, as after a gap in the stream."""
        self._thermal.reset()

    def __call__(self, rgb: np.ndarray | None, infrared: np.ndarray | None) -> PerceptionResult:
        """Detections and mask of one pair, or of one camera alone.

        Args:
            rgb: uint8 [h, w, 3] in RGB order, or None: infrared only.
            infrared: raw counts, uint8 or uint16 [h', w'], or None: RGB only.

        Returns:
            PerceptionResult in the pixels of the colour image, or of the infrared one where there is no colour image.

        Raises:
            FrameError: both are missing, or the colour frame is not uint8 [h, w, 3].
            ThermalError: the infrared frame does not fit the thermal contract.
            RegistrationError: the registration is not for frames of these sizes.
            EngineError: the engine failed; the pipeline can be called again.
        """
        start = perf_counter()
        reference = rgb if rgb is not None else infrared
        if reference is None:
            raise FrameError("no frame given: at least one of the two streams is needed")
        if reference.ndim < 2 or reference.size == 0:
            raise FrameError(f"an empty or shapeless frame was given: {tuple(reference.shape)}")
        size = (int(reference.shape[1]), int(reference.shape[0]))
        letterbox = Letterbox.fit(size, self.info.input_size)
        registration = None if rgb is None else self.registration
        inputs = self._inputs(rgb, infrared, letterbox, self._thermal, registration)

        if self.on_prepared is not None:
            self.on_prepared()
        prepared = perf_counter()
        boxes, scores, mask = self.engine.run(*inputs)

        inferred = perf_counter()
        boxes, scores, labels = select_detections(
            boxes, scores, self.score_threshold, self.nms_iou, self.info.max_detections
        )
        percepts = PerceptionResult(
            boxes=letterbox.to_source(boxes),
            scores=scores,
            labels=labels,
            mask=None if mask is None else letterbox.mask_to_source(mask),
            mode=_mode(rgb, infrared),
            size=size,
            ir_invalid=None if infrared is None else self._thermal.invalid_fraction,
        )
        done = perf_counter()
        percepts.steps_ms = {
            "preprocess": (prepared - start) * 1e3,
            "engine": (inferred - prepared) * 1e3,
            "postprocess": (done - inferred) * 1e3,
        }
        return percepts


def _mode(rgb: np.ndarray | None, infrared: np.ndarray | None) -> Mode:
    if rgb is None:
        return Mode.IR_ONLY
    return Mode.RGB_ONLY if infrared is None else Mode.FUSED
