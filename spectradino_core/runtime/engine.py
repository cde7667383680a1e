"""Engine interface: arrays in, dense predictions out, without images or ROS.

Letters: H x W the network's input, A anchor points of all levels, C box classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from time import perf_counter
from typing import Protocol

import numpy as np

from spectradino_core.runtime.bundle import BundleError, ModelInfo
from spectradino_core.runtime.network_inputs import blank_input

DEVICES = ("auto", "cpu", "cuda", "tensorrt", "openvino", "openvino:CPU", "openvino:GPU", "openvino:NPU")
FEATURES = "ir_features"
"""Output of a two-stream network with its infrared features."""

RawPredictions = tuple[np.ndarray, np.ndarray, "np.ndarray | None"]
"""boxes float32 [A, 4] in network pixels, scores float32 [A, C] in 0..1, mask uint8 [H, W] or None.

A model without a detection head has A = C = 0."""


class EngineError(RuntimeError):
    """The engine cannot be built or has failed; the message names device, file and remedy."""


class Engine(Protocol):
    """Interface of an inference engine.

    Attributes:
        label: name of runtime and device, for logs and diagnostics.
        on_cpu: whether it is the CPU engine (ONNX Runtime, torch) that others are compared with and fall back to.
    """

    info: ModelInfo

    @property
    def label(self) -> str: ...

    @property
    def on_cpu(self) -> bool: ...

    def run(self, *inputs: np.ndarray) -> RawPredictions:
        """Run one forward pass on the arrays of `network_inputs.signature`; EngineError if it fails on this frame."""
        ...


def computes_on_cpu(engine: Engine) -> bool:
    """Return whether an engine computes on the CPU; unlike `Engine.on_cpu` also for OpenVINO there.

    Engines for which the two differ have an attribute of this name.
    """
    return bool(getattr(engine, "computes_on_cpu", engine.on_cpu))


def warm_up(engine: Engine) -> float:
    """Run one pass over blank input as warm-up and self-test; return its milliseconds.

    Raises:
        EngineError, BundleError: inference failed; the outputs do not match the classes in the model's description.
    """
    info, blank = engine.info, blank_input(engine.info)
    start = perf_counter()
    _boxes, scores, mask = engine.run(*blank)
    took_ms = (perf_counter() - start) * 1e3
    check_outputs(info, scores.shape[1], mask is not None)
    if mask is not None and int(mask.max()) >= len(info.mask_classes):
        raise BundleError(
            f"model {info.name}: its mask contains class {int(mask.max())}, but its description names "
            f"{len(info.mask_classes)} mask classes; export the model again"
        )
    return took_ms


def check_outputs(info: ModelInfo, classes: int, has_mask: bool) -> None:
    """Raise BundleError if a graph's outputs, scores of C `classes` and perhaps a mask, differ from its description."""
    named = len(info.box_classes)
    if classes != named or has_mask is not bool(info.mask_classes):
        raise BundleError(
            f"model {info.name}: its graph outputs scores of {classes} classes and {'a' if has_mask else 'no'} mask, "
            f"but its description names {named} detection classes and {len(info.mask_classes)} mask classes; "
            "export the model again"
        )


def raw_predictions(outputs: Mapping[str, np.ndarray]) -> RawPredictions:
    """Convert a graph's outputs by name to `RawPredictions`; empty boxes for a model without a detection head."""
    if "boxes" not in outputs:
        return np.zeros((0, 4), np.float32), np.zeros((0, 0), np.float32), outputs["mask"]
    return outputs["boxes"], outputs["scores"], outputs.get("mask")


def streams_label(info: ModelInfo) -> str:
    """Return the part of an engine's label that names the streams of its network; empty for both."""
    return {"both": "", "reuse": ", infrared features reused"}.get(info.streams, f", {info.streams} only")
