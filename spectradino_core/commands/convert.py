"""`spectradino convert`: convert a model file to another precision and compare it with the original."""

from __future__ import annotations

import argparse
import math
from typing import TYPE_CHECKING, Any

from spectradino_core.commands.shared_options import option
from spectradino_core.options import NATURAL, Number, claim_file, refuse, require_model

if TYPE_CHECKING:
    from spectradino_core.export.convert import Score


def add(commands: Any) -> None:
    command = commands.add_parser(
        "convert",
        help="convert a model file to another precision: 8 bits for CPUs, half precision for GPUs",
        description="Writes a faster model file with the same contract. It is compared with the original, with both "
        "streams and with each single stream, and not written if it differs too much.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="examples:\n"
        "  spectradino convert --model lwir_box.onnx --out lwir_box_int8.onnx --precision int8 --score-scenes 100\n"
        "  spectradino convert --model lwir_box.onnx --out lwir_box_fp16.onnx --precision fp16",
    )
    model = " (.onnx) written by 'spectradino export'"
    option(command, "--model", model, former="model", required=True)
    option(command, "--out", ": model file (.onnx)", former="target", required=True, metavar="FILE")
    option(command, "--overwrite")
    precisions = ("fp32", "fp16", "int8")
    option(command, "--precision", "fp32: only fuse attention", required=True, choices=precisions)
    text = "fuse attention into ONNX Runtime's own operator, unsupported by TensorRT (default: unless fp16)"
    option(command, "--fuse-attention", text, action=argparse.BooleanOptionalAction, default=None)
    option(command, "--scenes", " to compare on (default: %(default)s)", default=8)
    option(command, "--data", " with an index_val.json: also compare on its val split")
    option(command, "--score-scenes", " and refuse a loss", type=NATURAL, default=0)
    drop = "maximum loss with --score-scenes (default: 0.5)"
    option(command, "--max-map-drop", drop, former="--most-lost", type=Number(float, 0.0, math.inf), metavar="POINTS")
    command.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from spectradino_core.data.scene_sets import ScenePairs
    from spectradino_core.evaluation.sets import FolderSet
    from spectradino_core.export.convert import convert
    from spectradino_core.runtime.bundle import METADATA_KEY
    from spectradino_core.runtime.onnx_engine import OnnxEngine

    if not options.score_scenes:
        refuse(options, "max-map-drop", "has no effect without --score-scenes")
    claim_file(options.out, (".onnx",), options.overwrite, own=METADATA_KEY)
    require_model(options.model)
    infrared = OnnxEngine(options.model, device="cpu").info.infrared
    pairs: list[Any] = list(ScenePairs.held_out("calibration", options.scenes, infrared))
    if options.data is not None:
        pairs += FolderSet(options.data, "val", infrared)
    facts = convert(
        options.model,
        options.out,
        options.precision,
        pairs,
        options.fuse_attention,
        held_out_score(options.score_scenes, infrared) if options.score_scenes else None,
        (0.5 if options.max_map_drop is None else options.max_map_drop) / 100,
    )
    print(f"{options.out}: {options.out.stat().st_size / 1e6:.1f} MB, {facts['precision']}")
    print(f"maximum differences from {options.model.name}: {facts['difference']}")
    if "score" in facts:
        before, after = facts["score"]["before"], facts["score"]["after"]
        print(f"mAP50 on {options.score_scenes} scenes: {100 * before:.2f} before, {100 * after:.2f} after")
    return 0


def held_out_score(scenes: int, infrared: Any) -> Score:
    """Return a function that scores an engine's mAP50, in 0..1, on `scenes` held-out scenes of the given band."""
    from spectradino_core.data.scene_sets import ScenePairs
    from spectradino_core.evaluation.scorer import score_samples
    from spectradino_core.runtime.pipeline import Pipeline

    held_out = list(ScenePairs.held_out("conversion", scenes, infrared))
    return lambda engine: score_samples(Pipeline(engine), held_out)["map50"]
