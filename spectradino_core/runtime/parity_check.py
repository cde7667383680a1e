"""Parity check: a GPU or OpenVINO engine is used only if its results match those of ONNX Runtime on the CPU.

An engine in half precision, or one that was built for an untested device, can be wrong without failing. Each
candidate is therefore run on the sample pairs of the model file and compared with the CPU. One that exceeds the
tolerance of its precision is not used; a warning gives the reason, and the next candidate is tried.
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
from spectradino_core.runtime.providers import EngineCandidate, file_precision
from spectradino_core.runtime.samples import drawn_samples
from spectradino_core.thermal import ThermalError

__all__ = ["TOLERANCES", "drawn_inputs", "first_that_agrees", "sample_inputs", "tolerance_of"]

log = logging.getLogger(__name__)

TOLERANCES = {
    "fp32": Tolerance(boxes_px=0.05, scores=0.005, mask_differs=0.002),
    "fp16": Tolerance(boxes_px=1.0, scores=0.03, mask_differs=0.01),
    "bf16": Tolerance(boxes_px=1.5, scores=0.03, mask_differs=0.01),
}
"""Maximum difference from the CPU, in network pixels, score and fraction of mask pixels, by precision."""
_BOX_FRACTIONS = {"fp16": 0.0025, "bf16": 0.004}
"""Box tolerance as a fraction of the input's longer side, by precision: with 11 bits (fp16) or 8 (bf16) errors grow
with the size."""


def tolerance_of(precision: str, info: ModelInfo) -> Tolerance:
    """Return the maximum difference from the CPU for an engine of a precision and a model."""
    tolerance = TOLERANCES[precision]
    fraction = _BOX_FRACTIONS.get(precision, 0.0)
    return replace(tolerance, boxes_px=max(tolerance.boxes_px, fraction * max(info.input_size)))


def drawn_inputs(info: ModelInfo) -> list[NetworkInput]:
    """Return inputs for comparing a model without sample pairs, such as a checkpoint."""
    return [given for rgb, infrared in drawn_samples(info) for given in network_inputs(rgb, infrared, info)]


def sample_inputs(engine: OnnxEngine, both: OnnxEngine | None = None) -> list[NetworkInput]:
    """Return inputs from the sample pairs of an engine's file, with both streams and with each on its own.

    Args:
        engine: on the CPU.
        both: two-stream engine that computes the infrared features for a file of "reuse".

    Raises:
        BundleError: the samples are damaged, or do not fit the model's description.
    """
    try:
        pairs = engine.samples()
        return [given for rgb, ir in pairs for given in network_inputs(rgb, ir, engine.info, both=both)]
    except (FrameError, ThermalError) as error:
        raise BundleError(
            f"{engine.path}: its sample images do not fit its description ({error}); export the model again"
        ) from None


def first_that_agrees(
    candidates: Sequence[EngineCandidate],
    open_one: Callable[[EngineCandidate], Engine],
    reference: Callable[[], Engine],
    inputs: Sequence[NetworkInput],
    remembered: Engine | None = None,
) -> Engine:
    """Open the first candidate that runs and agrees with the reference.

    Args:
        candidates: best first; a candidate on the CPU is the reference itself.
        open_one: opens a candidate.
        reference: opens the CPU engine; called at most once, and only if needed.
        inputs: inputs for the comparison.
        remembered: returns the reference's results, possibly cached; None: the reference does.

    Raises:
        EngineError: no candidate is usable; names the problem of each.
    """
    problems: list[str] = []
    held: Engine | None = None
    for candidate in candidates:
        engine: Engine | None = None  # release the previous one, which may fill the device's memory
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
            problem = f"its results differ from the CPU's ({problem})"
        problems.append(f"{candidate}: {problem}")
        log.warning("%s is not used: %s", candidate, problem)
    raise EngineError("; ".join(problems) + ". Set device to 'cpu', or check the driver and the runtime's version")


def _precision(candidate: EngineCandidate, info: ModelInfo) -> str:
    """Return the precision of the arithmetic: the engine's, or at most fp16 for a file converted to half precision.

    The CPU computes such a file in single precision, with the same rounded weights, and rounds between operators.
    """
    return "fp16" if file_precision(info) == "fp16" and candidate.precision == "fp32" else candidate.precision
