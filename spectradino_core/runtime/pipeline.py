"""Inference pipeline: raw frames to detections and mask; called by the node, bag replay and the command line.

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
from spectradino_core.runtime.motion import MotionCompensation
from spectradino_core.runtime.network_inputs import NetworkInputs
from spectradino_core.runtime.perception_result import Mode, PerceptionResult
from spectradino_core.runtime.preprocess import FrameError, Letterbox
from spectradino_core.runtime.tracking import Tracker
from spectradino_core.thermal import STREAM_SMOOTHING, Smoothing, ThermalContract, ThermalNormaliser


class Pipeline:
    """One model on one stream of pairs. Not thread-safe: the thermal range and the input buffers are state.

    Attributes other than `used_registration` may be set between calls.

    Attributes:
        score_threshold, nms_iou, max_detections, registration: see the constructor.
        class_thresholds: minimum scores per class, float32 [C], in place of `score_threshold`; None: not used.
        on_prepared: called in each call after preprocessing and before inference.
        compensate_motion: shift an infrared frame that is used again by the camera's motion, see `motion`.
        used_registration: IR-to-RGB mapping of the last pair, with that motion.
        tracker: identities of this stream's detections, for who makes use of it.
        masks_from_logits: enlarge the mask logits to the source image instead of the class map, with an engine that
            keeps them (`source_mask`); for evaluation.
    """

    def __init__(
        self,
        engine: Engine,
        score_threshold: float | None = None,
        nms_iou: float | None = None,
        max_detections: int | None = None,
        registration: Registration | None = None,
        thermal: ThermalContract | None = None,
        smoothing: Smoothing | None = STREAM_SMOOTHING,
    ) -> None:
        """
        Args:
            engine: runs the network; its `info` describes the model.
            score_threshold, nms_iou, max_detections: as in `ModelInfo`; None: the model's own.
            registration: IR-to-RGB mapping; None: the IR image covers the whole RGB image.
            thermal: contract from counts to network input, see `thermal.override_contract`; None: the model's own.
            smoothing: how a percentile range follows the stream; None: no smoothing. Call `reset` before each image of
                a set that is no stream.
        """
        self.engine = engine
        self.info = engine.info
        self.score_threshold = self.info.score_threshold if score_threshold is None else score_threshold
        self.class_thresholds: np.ndarray | None = None
        self.nms_iou = self.info.nms_iou if nms_iou is None else nms_iou
        self.max_detections = self.info.max_detections if max_detections is None else max_detections
        self.registration = registration
        self.on_prepared: Callable[[], None] | None = None
        self.compensate_motion = False
        self.masks_from_logits = False
        self.used_registration: Registration | None = None
        self.tracker = Tracker()
        self._motion = MotionCompensation()
        self._inputs = NetworkInputs(self.info)
        self._thermal = ThermalNormaliser(self.info.thermal if thermal is None else thermal, smoothing)

    @classmethod
    def open(cls, path: str | Path, device: str = "auto", threads: int = 0, **options: Any) -> Pipeline:
        """Open a model file; `options` are the constructor's. Raises what `engines.open_engine` raises."""
        return cls(open_engine(path, device=device, threads=threads), **options)

    @property
    def thermal(self) -> ThermalContract:
        """Thermal contract in use."""
        return self._thermal.contract

    def warm_up(self) -> float:
        """Run one pass over blank input, so that the first frame is as fast as the rest; return its milliseconds."""
        return warm_up(self.engine)

    def reset(self) -> None:
        """Drop the state kept between frames, as after a gap in the stream."""
        self._thermal.reset()
        self._inputs.forget()
        self.tracker.reset()

    def __call__(
        self, rgb: np.ndarray | None, infrared: np.ndarray | None, ir_key: object | None = None
    ) -> PerceptionResult:
        """Detect and segment one pair, or one frame of a single camera.

        Args:
            rgb: uint8 [h, w, 3] in RGB order, or None: infrared only.
            infrared: raw counts, uint8 or uint16 [h', w'], or None: RGB only.
            ir_key: identifies the infrared frame. If it is the object of the previous call, the frame is not
                preprocessed again, and the thermal range is not updated twice. None: a new frame.

        Returns:
            PerceptionResult in pixels of the RGB image, or of the IR frame if there is no RGB image.

        Raises:
            FrameError, ThermalError, RegistrationError: see `preprocess`; or both frames are missing.
            EngineError: the engine failed; the pipeline can be called again.
        """
        start = perf_counter()
        reference = rgb if rgb is not None else infrared
        if reference is None:
            raise FrameError("no frame given: at least one of the two streams is needed")
        if reference.ndim < 2 or reference.size == 0:
            raise FrameError(f"empty frame of shape {tuple(reference.shape)}: give an image of at least one pixel")
        size = (int(reference.shape[1]), int(reference.shape[0]))
        letterbox = Letterbox.fit(size, self.info.input_size)
        registration = None if rgb is None else self.registration
        if self.compensate_motion and ir_key is not None and rgb is not None and infrared is not None:
            registration = self._compensated(rgb, infrared, ir_key)
        inputs = self._inputs(rgb, infrared, letterbox, self._thermal, registration, ir_key)
        self.used_registration = registration

        if self.on_prepared is not None:
            self.on_prepared()
        prepared = perf_counter()
        boxes, scores, mask = self.engine.run(*inputs)

        inferred = perf_counter()
        threshold = self.score_threshold if self.class_thresholds is None else self.class_thresholds
        boxes, scores, labels = select_detections(boxes, scores, threshold, self.nms_iou, self.max_detections)
        perception = PerceptionResult(
            boxes=letterbox.to_source(boxes),
            scores=scores,
            labels=labels,
            mask=None if mask is None else self._source_mask(mask, letterbox),
            mode=Mode.IR_ONLY if rgb is None else Mode.RGB_ONLY if infrared is None else Mode.FUSED,
            size=size,
            ir_invalid=None if infrared is None else self._thermal.invalid_fraction,
        )
        done = perf_counter()
        perception.steps_ms = {
            "preprocess": (prepared - start) * 1e3,
            "engine": (inferred - prepared) * 1e3,
            "postprocess": (done - inferred) * 1e3,
        }
        return perception

    def _source_mask(self, mask: np.ndarray, letterbox: Letterbox) -> np.ndarray:
        from_logits = getattr(self.engine, "source_mask", None) if self.masks_from_logits else None
        return letterbox.mask_to_source(mask) if from_logits is None else from_logits(letterbox)

    def _compensated(self, rgb: np.ndarray, infrared: np.ndarray, ir_key: object) -> Registration | None:
        if rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.dtype != np.uint8:
            return self.registration  # refused when it is converted
        return self._motion(rgb, (int(infrared.shape[1]), int(infrared.shape[0])), ir_key, self.registration)
