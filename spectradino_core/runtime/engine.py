"""Engine interface: arrays in, dense predictions out; nothing here knows of images or of ROS.

Letters: H x W the network's input, A anchors (cells of all levels), C box classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from time import perf_counter
from typing import Protocol

import numpy as np

from spectradino_core.runtime.bundle import BundleError, ModelInfo
from spectradino_core.runtime.network_inputs import blank_input

__all__ = ["DEVICES", "Engine", "EngineError", "RawPredictions", "check_outputs", "raw_predictions", "warm_up"]

DEVICES = ("auto", "cpu", "cuda", "tensorrt")

RawPredictions = tuple[np.ndarray, np.ndarray, "np.ndarray | None"]
"""boxes float32 [A, 4] in network pixels, scores float32 [A, C] in 0..1, mask uint8 [H, W] or None.

A model without a detection head has A = C = 0."""


class EngineError(RuntimeError):
    """The engine can't be built or has failed; the message names device, file and remedy."""


class Engine(Protocol):
    """What the pipeline asks of an engine."""

    info: ModelInfo

    @property
    def label(self) -> str:
        """Runtime and device in words, for logs and diagnostics."""
        ...

    @property
    def on_cpu(self) -> bool:
        """Whether it is the CPU that infers."""
        ...

    def run(self, *inputs: np.ndarray) -> RawPredictions:
        """One forward pass.

        Args:
            inputs: the arrays of `network_inputs.signature`, in its order; `info.inputs` says in which form.

        Raises:
            EngineError: it failed on this frame.
        """
        ...


def warm_up(engine: Engine) -> float:
    """One pass over empty input, which also shows that the engine works. Returns its milliseconds.

    Raises:
        EngineError: it does not.
        BundleError: its results are of other classes than the model's description names.
    """
    info, blank = engine.info, blank_input(engine.info)
    start = perf_counter()
    _boxes, scores, mask = engine.run(*blank)
    took_ms = (perf_counter() - start) * 1e3
    check_outputs(info, scores.shape[1], mask is not None)
    if mask is not None and int(mask.max()) >= len(info.mask_classes):
        raise BundleError(
            f"model {info.name}: its mask holds class {int(mask.max())}, its description names "
            f"{len(info.mask_classes)} mask classes; export the model again"
        )
    return took_ms


def check_outputs(info: ModelInfo, classes: int, has_mask: bool) -> None:
    """Compare what a graph gives with what its description names.

    Args:
        info: the description.
        classes: C of the graph's scores, 0 without a detection head.
        has_mask: whether the graph gives a mask.

    Raises:
        BundleError: they differ.
    """
    named = len(info.box_classes)
    if classes != named or has_mask is not bool(info.mask_classes):
        raise BundleError(
            f"model {info.name}: its graph gives scores of {classes} classes and {'a' if has_mask else 'no'} mask, "
            f"its description names {named} detection classes and {len(info.mask_classes)} mask classes; "
            "export the model again"
        )


def raw_predictions(outputs: Mapping[str, np.ndarray]) -> RawPredictions:
    """A graph's outputs by name as an engine gives them; boxes that the model has no head for are none."""
    if "boxes" not in outputs:
        return np.zeros((0, 4), np.float32), np.zeros((0, 0), np.float32), outputs["mask"]
    return outputs["boxes"], outputs["scores"], outputs.get("mask")
