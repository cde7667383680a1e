"""No engine serves before it was seen to give the CPU's answers: fast ones are opened, tried and fallen back from here.

An engine in half precision, or one that TensorRT put together for a GPU nobody tested, can be wrong without failing. So
each is run on the sample pairs of the model file and compared with the CPU on the same file. One that differs by more
than its precision may is not used; the next takes its place, and a warning tells why.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace

from spectradino_core.runtime.bundle import BundleError, ModelInfo
from spectradino_core.runtime.engine import Engine, EngineError
from spectradino_core.runtime.onnx_engine import OnnxEngine
from spectradino_core.runtime.parity import NetworkInput, Tolerance, largest_difference, network_inputs
from spectradino_core.runtime.preprocess import FrameError
from spectradino_core.runtime.providers import Candidate, file_precision
from spectradino_core.runtime.samples import drawn_samples
from spectradino_core.thermal import ThermalError

__all__ = ["TOLERANCES", "drawn_inputs", "first_that_agrees", "sample_inputs", "tolerance_of"]

log = logging.getLogger(__name__)

TOLERANCES = {
    "fp32": Tolerance(boxes_px=0.05, scores=0.005, mask_differs=0.002),
    "fp16": Tolerance(boxes_px=1.0, scores=0.03, mask_differs=0.01),
}
"""What an engine may differ from the CPU by, in network pixels, score and fraction of the mask's pixels."""
_FP16_BOX_FRACTION = 0.0025
"""Of the input's longer side: half precision has 11 bits, so the error of a box grows with the input's size."""


def tolerance_of(precision: str, info: ModelInfo) -> Tolerance:
    """The largest difference from the CPU that an engine of a precision may have for a model."""
    tolerance = TOLERANCES[precision]
    if precision != "fp16":
        return tolerance
    return replace(tolerance, boxes_px=max(tolerance.boxes_px, _FP16_BOX_FRACTION * max(info.input_size)))


def drawn_inputs(info: ModelInfo) -> list[NetworkInput]:
    """Inputs to compare on for a model without sample pairs, such as a checkpoint."""
    return [given for rgb, infrared in drawn_samples(info) for given in network_inputs(rgb, infrared, info)]


def sample_inputs(engine: OnnxEngine) -> list[NetworkInput]:
    """What to compare on: the sample pairs of an engine's file, with both streams and with each alone.

    Raises:
        BundleError: they are damaged, or none for the model that the file describes.
    """
    try:
        return [given for rgb, infrared in engine.samples() for given in network_inputs(rgb, infrared, engine.info)]
    except (FrameError, ThermalError) as error:
        raise BundleError(
            f"{engine.path}: its sample pictures don't suit its description ({error}); export the model again"
        ) from None


def first_that_agrees(
    candidates: Sequence[Candidate],
    open_one: Callable[[Candidate], Engine],
    reference: Callable[[], Engine],
    inputs: Sequence[NetworkInput],
    remembered: Engine | None = None,
) -> Engine:
    """The first candidate that opens, runs and agrees with the reference.

    Args:
        candidates: best first; one on the CPU is the reference itself.
        open_one: opens one.
        reference: opens the CPU's engine; asked for at most once, and only if it is needed.
        inputs: what to compare on.
        remembered: gives the reference's answers, perhaps of an earlier start; None: the reference does.

    Raises:
        EngineError: none will do; says what was wrong with each.
    """
    problems: list[str] = []
    held: Engine | None = None
    for candidate in candidates:
        engine: Engine | None = None  # lets go of the one before, which may fill the device's memory
        try:
            if candidate.device == "cpu":
                return held or reference()
            engine = open_one(candidate)
            held = held or reference()
            difference = largest_difference(remembered or held, engine, inputs)
        except (EngineError, BundleError) as error:
            problem = str(error)
        else:
            problem = tolerance_of(_precision(candidate, held.info), held.info).problem(difference)
            if not problem:
                log.info("%s agrees with the CPU: %s", candidate, difference.to_dict())
                return engine
            problem = f"its answers differ from the CPU's ({problem})"
        problems.append(f"{candidate}: {problem}")
        log.warning("%s is not used: %s", candidate, problem)
    raise EngineError("; ".join(problems) + ". Set device to 'cpu', or see to the driver and ONNX Runtime's version")


def _precision(candidate: Candidate, info: ModelInfo) -> str:
    """Of the arithmetic: the engine's, or that of a file which was converted to half precision (`export.convert`).

    The CPU computes such a file in single precision, with the same rounded weights.
    """
    return "fp16" if file_precision(info) == "fp16" else candidate.precision
