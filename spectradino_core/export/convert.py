"""Convert a model file to a faster one with the same inputs, outputs and description.

Parity with the source model is checked on pairs before the file is written, and stored in it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import onnx

from spectradino_core.data.sample import PairedSample
from spectradino_core.export.attention import fuse_attention
from spectradino_core.export.gpu_operators import replace_for_gpus
from spectradino_core.export.onnx_model import ParityError, describe, measure_parity
from spectradino_core.export.precision import WEIGHT_BITS, halve, quantise_weights
from spectradino_core.export.raw_inputs import take_normalised, take_raw
from spectradino_core.files import file_digest, written_atomically
from spectradino_core.runtime.bundle import two_stream_path
from spectradino_core.runtime.engine import Engine
from spectradino_core.runtime.onnx_engine import OnnxEngine
from spectradino_core.runtime.parity import Difference, Tolerance

log = logging.getLogger(__name__)

TOLERANCES = {
    "fp32": Tolerance(boxes_px=1e-3, scores=1e-3, mask_differs=1e-3),
    "fp16": Tolerance(boxes_px=0.5, scores=0.02, mask_differs=0.01),
    "int8": Tolerance(boxes_px=4.0, scores=0.1, mask_differs=0.03),
}
"""Maximum difference from the source model by precision."""

PRECISIONS = tuple(TOLERANCES)

Score = Callable[[Engine], float]


def convert(
    source: str | Path,
    target: str | Path,
    precision: str,
    samples: Iterable[PairedSample],
    fused: bool | None = None,
    score: Score | None = None,
    max_drop: float = 0.005,
) -> dict[str, Any]:
    """Convert a model file and return the conversion record, which is also stored in the file.

    Args:
        source, target: fp32 model file written by `spectradino export`; output file.
        precision: "fp32" (fused attention only), "fp16" for GPUs, "int8" for CPUs.
        samples: pairs for the parity check.
        fused: fuse attention into ONNX Runtime's operator; None: except for fp16, since TensorRT does not support it.
        score, max_drop: evaluates an engine, in 0..1, such as mAP50 on held-out scenes; its maximum decrease.

    Raises:
        BundleError: the source is not a model file.
        ValueError: the source is already converted, has nothing to convert, or is a single-stream model to be scored.
        ParityError: the differences exceed `TOLERANCES`, or the score decreased by more than `max_drop`; nothing is
            written.
        OSError: the file could not be written.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"unknown precision '{precision}': choose one of {', '.join(PRECISIONS)}")
    source, target = Path(source), Path(target)
    reference = OnnxEngine(source, device="cpu")
    info = reference.info
    if "converted" in info.provenance:
        made = info.provenance["converted"]
        raise ValueError(f"{source} was converted already ({made['precision']}): start from the file it was made from")
    if score is not None and info.streams != "both":
        raise ValueError(f"{source} takes only the {info.streams} stream: score the model of both streams instead")
    model = onnx.load(str(source), load_external_data=False)
    if info.inputs == "raw":
        take_normalised(model, info)  # the preprocessing steps stay in fp32
    replace_for_gpus(model)  # files of earlier exports have operators that CUDA and TensorRT lack
    fuse = precision != "fp16" if fused is None else fused
    attentions = fuse_attention(model) if fuse else 0
    if fuse and not attentions:
        raise ValueError(f"{source}: no attention of the known form was found: convert without fusing it")
    products = 0
    if precision == "int8":
        model, products = quantise_weights(model)
    elif precision == "fp16":
        model = halve(model)
    if info.inputs == "raw":
        take_raw(model, info)
    facts: dict[str, Any] = {
        "precision": precision,
        "from_sha256": file_digest(source, "model file"),
        "fused_attentions": attentions,
        "int8_products": products,
    } | ({"weight_bits": WEIGHT_BITS} if precision == "int8" else {})
    with written_atomically(target) as scratch:
        describe(model, info)
        onnx.save(model, str(scratch))
        made = OnnxEngine(scratch, device="cpu")
        both = OnnxEngine(two_stream_path(source, "reuse"), device="cpu") if info.streams == "reuse" else None
        facts["difference"] = measure_parity(reference, made, samples, both)
        if problem := TOLERANCES[precision].problem(Difference.from_dict(facts["difference"])):
            raise ParityError(f"{precision} differs too much from {source.name}: {problem}; nothing was written")
        if score is not None:
            before, after = score(reference), score(made)
            facts["score"] = {"before": round(before, 4), "after": round(after, 4)}
            if not after >= before - max_drop:
                raise ParityError(
                    f"{precision} lowers the score by {100 * (before - after):.2f} points from {100 * before:.2f}, "
                    f"more than the {100 * max_drop:g} allowed; nothing was written"
                )
        describe(model, info.with_(provenance=info.provenance | {"converted": facts}))
        onnx.save(model, str(scratch))
    log.info("wrote %s (%.1f MB)", target, target.stat().st_size / 1e6)
    return facts
