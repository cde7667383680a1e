"""Export a trained perception model to a self-describing ONNX file of static size.

Parity with PyTorch is checked on sample pairs before the file is written, and stored in it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor, nn

from spectradino_core.data.sample import PairedSample
from spectradino_core.export.gpu_operators import replace_for_gpus
from spectradino_core.export.raw_inputs import take_raw
from spectradino_core.export.torch_engine import ServingGraph, TorchEngine
from spectradino_core.files import written_atomically
from spectradino_core.models.fusion import former_norms
from spectradino_core.models.perception import Perception
from spectradino_core.runtime.bundle import METADATA_KEY, WEIGHTS_KEY, ModelInfo
from spectradino_core.runtime.engine import Engine
from spectradino_core.runtime.network_inputs import NetworkInput, signature
from spectradino_core.runtime.onnx_engine import OnnxEngine
from spectradino_core.runtime.parity import (
    SAMPLES_KEY,
    Difference,
    FeatureEngine,
    Tolerance,
    largest_difference,
    network_inputs,
    pack_samples,
)

log = logging.getLogger(__name__)

OPSET = 20
"""The first with a Gelu operator; LayerNormalization (since 17) is one operator too, as half precision requires."""
IR_VERSION = 9
"""The version of that opset. Exporters write newer ones as ONNX evolves, which older runtimes reject (ONNX Runtime
1.17: above 9)."""

SAMPLES = 2
"""Number of pairs stored in the model file, see `runtime.parity`; each adds about 100 kB."""
TOLERANCE = Tolerance(boxes_px=1e-3, scores=1e-3, mask_differs=1e-3)


class ParityError(RuntimeError):
    """The exported graph deviates from the module; nothing was written."""


def export(
    model: Perception,
    info: ModelInfo,
    path: str | Path,
    samples: Iterable[PairedSample],
    inputs: str = "raw",
    streams: str = "both",
    features: bool = False,
) -> dict[str, Any]:
    """Export a model, which is not changed, and return the measured parity, which is also stored in the file.

    Args:
        model, info, path: the trained module, its description, and the output `.onnx` file.
        samples: pairs for the parity check, with both streams and with each alone.
        inputs: form of the input images, see `runtime.network_inputs`.
        streams: one of `bundle.STREAMS`; see `runtime.companions` for those beside "both".
        features: the model of both streams gives the infrared features, which the one of "reuse" takes. Software before
            format 5 does not read it.

    Raises:
        ParityError: graph and module differ by more than `TOLERANCE`.
        OSError: the file could not be written; an existing file is unchanged.
    """
    module = deepcopy(model).cpu().eval()
    identity = {WEIGHTS_KEY: weights_digest(model, info)}
    width, height = info.input_size
    patch = module.architecture.vit.patch
    shape = (len(module.architecture.fused), width * height // patch**2, module.architecture.vit.width)
    info = info.with_(
        inputs=inputs,
        streams=streams,
        features=shape if features or streams == "reuse" else (),
        provenance=info.provenance | identity,
    )
    module.backbone.freeze_grid(height // patch, width // patch)
    module.backbone.vit.fold_layer_scale()
    graph = ServingGraph(module, info.input_size, streams, features).eval()
    with written_atomically(path) as scratch:
        _trace(graph, info, scratch)
        described = onnx.load(str(scratch))
        described.ir_version = IR_VERSION
        _strip_debug_info(described)
        replace_for_gpus(described)
        if inputs == "raw":
            take_raw(described, info)
        drawn = list(samples)
        packed = pack_samples([(pair.rgb, pair.infrared) for pair in drawn[:SAMPLES]], info)
        described.metadata_props.add(key=SAMPLES_KEY, value=packed)
        describe(described, info)
        onnx.save(described, str(scratch))
        # On the CPU wherever the model is: a GPU's rounding is not the graph's. A copy, for an engine sets it to eval.
        reference = TorchEngine.of(deepcopy(model).cpu(), info)
        parity = measure_parity(reference, OnnxEngine(scratch, device="cpu"), drawn, reference)
        if problem := TOLERANCE.problem(Difference.from_dict(parity)):
            raise ParityError(f"the exported graph differs from the module: {problem}")
        describe(described, info.with_(parity=parity))
        onnx.save(described, str(scratch))
    log.info("wrote %s", path)
    return parity


def _trace(graph: ServingGraph, info: ModelInfo, path: Path) -> None:
    width, height = info.input_size
    rgb, ir = torch.randn(1, 3, height, width), torch.rand(1, 1, height, width)
    examples = {"rgb": rgb, "ir": ir, "present": torch.ones(2)}
    names = list(signature(info.with_(inputs="normalised")))
    if "ir_features" in names:
        examples["ir_features"] = torch.randn(info.features)
    write_graph(graph, {name: examples[name] for name in names}, graph.outputs, path)


def write_graph(module: nn.Module, examples: Mapping[str, Tensor], outputs: Sequence[str], path: Path) -> None:
    """Write a module as a graph of static shapes, those of the `examples` of its inputs."""
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it warns about unused operators
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # the tracer warns about shapes that are constant by design
        torch.onnx.export(
            module, tuple(examples.values()), str(path), input_names=list(examples), output_names=list(outputs),
            opset_version=OPSET, dynamo=True, external_data=False, verbose=False,
        )  # fmt: skip


def weights_digest(model: Perception, info: ModelInfo) -> str:
    """SHA-256 (hex) of weights, architecture and contract: equal for all graphs exported from one checkpoint.

    Names that have changed are those of earlier versions, so that new companions fit model files of those.
    """
    architecture = model.architecture.to_dict()
    architecture["taps"] = architecture.pop("out_indices")
    contract = {
        "architecture": architecture,
        "bands": [band.key for band in info.bands],
        "box_classes": info.box_classes,
        "mask_classes": info.mask_classes,
        "input_size": info.input_size,
        "thermal": info.thermal.to_dict(),
    }
    digest = hashlib.sha256(json.dumps(contract, sort_keys=True).encode())
    for name, tensor in sorted(former_norms(model.state_dict()).items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _strip_debug_info(model: onnx.ModelProto) -> None:
    """Remove the stack traces that exporters add to nodes, which contain paths of the exporting machine."""
    del model.graph.metadata_props[:]
    for part in (*model.graph.node, *model.graph.value_info, *model.graph.input, *model.graph.output):
        del part.metadata_props[:]
        part.doc_string = ""
    for tensor in model.graph.initializer:
        del tensor.metadata_props[:]
        tensor.doc_string = ""


def describe(graph: onnx.ModelProto, info: ModelInfo) -> None:
    """Replace the description in a graph's metadata."""
    kept = [(entry.key, entry.value) for entry in graph.metadata_props if entry.key == SAMPLES_KEY]
    del graph.metadata_props[:]
    for key, value in [(METADATA_KEY, info.to_json()), *kept]:
        graph.metadata_props.add(key=key, value=value)
    graph.producer_name, graph.doc_string = "spectradino", f"SpectraDINO {info.name}"


def measure_parity(
    reference: Engine, engine: Engine, samples: Iterable[PairedSample], both: FeatureEngine | None = None
) -> dict[str, Any]:
    """Maximum differences between two engines over pairs: {"boxes_px", "scores", "mask_differs", "pairs"}.

    Compared with the streams of `network_inputs`; for "reuse" on the infrared features that `both` gives.
    """
    drawn, streams = list(samples), engine.info.streams

    def inputs(info: ModelInfo) -> Iterator[NetworkInput]:
        return (given for sample in drawn for given in network_inputs(sample.rgb, sample.infrared, info, streams, both))

    difference = largest_difference(reference, engine, inputs(reference.info), inputs(engine.info))
    return difference.to_dict() | {"pairs": len(drawn)}
