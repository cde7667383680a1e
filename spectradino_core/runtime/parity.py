"""Numerical parity between two engines, for exports, conversions and GPU engines.

Letters: H x W the network's input, A anchor points, C box classes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from spectradino_core.runtime.bundle import ModelInfo
from spectradino_core.runtime.engine import Engine
from spectradino_core.runtime.network_inputs import NetworkInput, inputs_of, signature
from spectradino_core.runtime.preprocess import Letterbox
from spectradino_core.thermal import ThermalNormaliser

__all__ = ["Difference", "FeatureEngine", "NetworkInput", "Tolerance", "largest_difference", "network_inputs"]

_GIVEN = {
    "both": ((True, True), (True, False), (False, True)),
    "rgb": ((True, False),),
    "ir": ((False, True),),
    "reuse": ((True, True),),
}
"""Combinations of frames (rgb, infrared) that a network is tested with, by its streams."""


@dataclass(frozen=True)
class Difference:
    """Maximum difference between two engines.

    Attributes:
        boxes_px: of box corners, in network pixels.
        scores: of scores.
        mask_differs: fraction of differing mask pixels.
    """

    boxes_px: float = 0.0
    scores: float = 0.0
    mask_differs: float = 0.0

    def __or__(self, other: Difference) -> Difference:
        """Element-wise maximum."""
        return Difference(
            max(self.boxes_px, other.boxes_px),
            max(self.scores, other.scores),
            max(self.mask_differs, other.mask_differs),
        )

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Difference:
        """Parse the output of `to_dict`; other keys are ignored."""
        return cls(**{name: float(data[name]) for name in ("boxes_px", "scores", "mask_differs")})

    def to_dict(self) -> dict[str, Any]:
        """Return the differences rounded to three digits."""
        return {name: float(f"{value:.3g}") for name, value in vars(self).items()}


@dataclass(frozen=True)
class Tolerance:
    """Maximum allowed difference, in the units of `Difference`."""

    boxes_px: float
    scores: float
    mask_differs: float

    def problem(self, difference: Difference) -> str:
        """Describe which limits are exceeded; empty if none. NaN exceeds every limit."""
        over = [
            f"{name} {getattr(difference, name):.2e} > {limit:.0e}"
            for name, limit in vars(self).items()
            if not getattr(difference, name) <= limit
        ]
        return ", ".join(over)


class FeatureEngine(Engine, Protocol):
    """Two-stream engine that also outputs the infrared features."""

    ir_features: np.ndarray | None
    """Of the last pass, float32 of shape `info.features`."""


def network_inputs(
    rgb: np.ndarray,
    infrared: np.ndarray,
    info: ModelInfo,
    streams: str | None = None,
    both: FeatureEngine | None = None,
) -> Iterator[NetworkInput]:
    """Yield the engine's inputs for one pair as the pipeline makes them: both streams, RGB only, IR only.

    Args:
        rgb: uint8 [h, w, 3].
        infrared: raw counts, uint8 or uint16 [h', w'].
        info: the model.
        streams: one of `bundle.STREAMS`, "rgb" and "ir" for a single stream; None: the model's.
        both: two-stream engine that computes the infrared features for a model of "reuse".
    """
    if info.streams == "reuse":
        features = None
        if both is not None:
            (pair,) = network_inputs(rgb, infrared, both.info, "reuse")
            both.run(*pair)
            features = both.ir_features
        if features is None:
            raise ValueError("a model of 'reuse' needs infrared features of the two-stream model: export both together")
        (pair,) = network_inputs(rgb, infrared, info.with_(streams="both"), "reuse")
        arrays = dict(zip(signature(info.with_(streams="both")), pair)) | {"ir_features": features}
        yield tuple(arrays[name] for name in signature(info))
        return
    letterbox = Letterbox.fit((rgb.shape[1], rgb.shape[0]), info.input_size)
    for colour, heat in _GIVEN[streams or info.streams]:
        make = inputs_of(info)  # a new one each time, since its buffers are overwritten
        yield make(rgb if colour else None, infrared if heat else None, letterbox, ThermalNormaliser(info.thermal))


def largest_difference(
    reference: Engine, engine: Engine, inputs: Iterable[NetworkInput], others: Iterable[NetworkInput] | None = None
) -> Difference:
    """Compute the maximum differences of `engine` from `reference` over some inputs.

    Boxes are compared where the reference's score is at least a tenth of the serving threshold: elsewhere a box is
    meaningless. Boxes are clipped to the input, as in serving.

    Args:
        reference: reference engine.
        engine: engine to compare.
        inputs: inputs of both, or of the reference.
        others: the same images in the form that `engine` takes, if it differs.

    Raises:
        EngineError: one of the engines failed.
        ValueError: no inputs.
    """
    info = reference.info
    side = np.array(info.input_size * 2, np.float32)
    worst, count = Difference(), 0
    both = ((given, given) for given in inputs) if others is None else zip(inputs, others, strict=True)
    for given, other_given in both:
        count += 1
        boxes, scores, mask = reference.run(*given)
        other_boxes, other_scores, other_mask = engine.run(*other_given)
        scored = scores.max(axis=1, initial=0) >= 0.1 * info.score_threshold
        apart = np.abs(np.clip(boxes, 0, side) - np.clip(other_boxes, 0, side))[scored]
        differs = 0.0
        if mask is not None:
            differs = 1.0 if other_mask is None else float((mask != other_mask).mean())
        worst |= Difference(_largest(apart), _largest(np.abs(scores - other_scores)), differs)
    if not count:
        raise ValueError("parity needs at least one input")
    return worst


def _largest(values: np.ndarray) -> float:
    """Return the maximum; infinity if a value is not finite, which `max` may skip."""
    largest = float(values.max(initial=0))
    return largest if np.isfinite(largest) else float("inf")
