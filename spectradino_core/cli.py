"""Command line `spectradino COMMAND`; the larger commands are in `commands/`, one per file.

Each command imports what it needs when it runs, so that `spectradino info` works on a robot without torch.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext, redirect_stdout
from typing import Any

from spectradino_core.commands import (
    ablate,
    bag,
    bench,
    calibrate,
    convert,
    data,
    evaluate,
    evaluate_retrieval,
    finetune,
    pretrain,
)
from spectradino_core.commands.shared_options import parse_size
from spectradino_core.files import check_folder, error_text
from spectradino_core.imports import import_problem
from spectradino_core.options import Parser, add_former, add_option, claim_file, require_model
from spectradino_core.text import PrintableFormatter, PrintableStream, has_lost_reader, log_line, one_line, with_stdout


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        Exit status: 0 success, 1 failure, 2 wrong usage, 130 interrupted, 129 or 143 ended
        by SIGHUP or SIGTERM, 141 if stdout's reader has left.
    """
    argv = list(sys.argv[1:] if arguments is None else arguments)
    lost = [word for word in argv if any("\udc80" <= letter <= "\udcff" for letter in word)]
    if lost and sys.getfilesystemencoding() != "utf-8":
        print(
            f"spectradino: error: the encoding of the locale, {sys.getfilesystemencoding()}, lacks characters of "
            f"{one_line(lost[0])}: set PYTHONUTF8=1, or a locale such as LC_ALL=C.UTF-8",
            file=sys.stderr,
        )
        return 1
    return with_stdout(lambda: _run(argv))


def _run(argv: list[str]) -> int:
    if "bag" not in argv[:3] and "evaluate" in argv[:3] and argv[argv.index("evaluate") + 1 :][:1] == ["retrieval"]:
        at = argv.index("evaluate")
        argv[at : at + 2] = [evaluate_retrieval.NAME]
    try:
        parser = _parser(argv[0] if argv else "")
    except ImportError as error:
        print(f"spectradino: error: {_import_error(error)}", file=sys.stderr)
        return 1
    options = parser.parse_args(argv)
    options.words = argv  # recorded in reports
    logging.basicConfig(level=logging.WARNING)  # silences other libraries
    for handler in logging.getLogger().handlers:
        handler.setFormatter(PrintableFormatter("%(levelname)s %(message)s"))
    logging.getLogger("spectradino_core").setLevel(options.log_level.upper())
    try:
        if getattr(options, "out", None) is not None:
            check_folder(options.out if options.out.is_dir() else options.out.parent)  # fail now, not after the work
        with nullcontext() if sys.stdout is None else redirect_stdout(PrintableStream(sys.stdout)):
            status: int = options.run(options)
            return status
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except ImportError as error:
        if options.log_level == "debug":
            raise
        print(f"{options.prog}: error: {_import_error(error)}", file=sys.stderr)
        return 1
    except (OSError, ValueError, RuntimeError) as error:
        if isinstance(error, BrokenPipeError) and has_lost_reader():
            raise
        if options.log_level == "debug":
            raise
        print(f"{options.prog}: error: {log_line(error_text(error))}", file=sys.stderr)
        return 1


def _import_error(error: ImportError) -> str:
    name = error.name or ""
    if name.startswith("spectradino"):
        raise error
    if not isinstance(error, ModuleNotFoundError):
        return import_problem(error)
    if name in sys.stdlib_module_names:
        return f"this Python was built without its module {name}: use another, such as that of the system"
    training = dict.fromkeys(("torch", "onnx", "onnxscript", "safetensors"), "train")
    extra = (training | {"sklearn": "tsne"}).get(name.partition(".")[0], "bag,runtime")
    return f"the Python module {name} is missing: pip install 'spectradino_ros[{extra}]'"


def _parser(name: str = "") -> argparse.ArgumentParser:
    """Build the parser of a command, or of all commands if `name` is none of them."""
    parser = Parser(prog="spectradino", description="One vision backbone for RGB and infrared.")
    parser.add_argument(
        "--log-level", default="info", choices=("debug", "info", "warning"), help="default: %(default)s"
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for add in (_COMMANDS[name],) if name in _COMMANDS else _COMMANDS.values():
        add(commands)
    return parser


def _add_export(commands: Any) -> None:
    command = commands.add_parser("export", help="export a checkpoint to a model file for the robot (ONNX)")
    model = add_option(command, "--model", " (.safetensors) of a fine-tuning run", required=True)
    out = add_option(command, "--out", ": model file (.onnx)", required=True, metavar="FILE")
    add_former(command, model, "checkpoint")
    add_former(command, out, "model")
    add_option(command, "--overwrite")
    command.add_argument("--name", help="model name to store (default: the recipe's)")
    add_option(command, "--score-threshold", " to store (default: the recipe's)")
    add_option(command, "--nms-iou", " to store (default: the recipe's)")
    size = "; larger than in training: smaller objects, and time that grows with the area (default: the recipe's)"
    add_option(command, "--input-size", size)
    add_option(command, "--data", " with an index_val.json: also measure parity on its val split")
    command.add_argument(
        "--inputs", choices=("raw", "normalised"), default="raw",
        help="raw (default): the model normalises images itself, on the GPU if it runs there; normalised: for software "
        "that reads only model files of format 1",
    )  # fmt: skip
    command.add_argument(
        "--streams", choices=("both", "rgb", "ir", "reuse", "all"), default="both",
        help="both (default); rgb, ir: single-stream graph for when the other camera is lost, written next to --out as "
        "OUT.rgb.onnx or OUT.ir.onnx, where the node finds it; reuse: OUT.reuse.onnx, for RGB frames that reuse an "
        "infrared frame, with an OUT that was exported by all; all: all of them",
    )  # fmt: skip
    command.set_defaults(run=_export)


def _add_info(commands: Any) -> None:
    command = commands.add_parser("info", help="show the metadata of a model file or checkpoint")
    model = add_option(command, "--model", " or checkpoint", required=True)
    add_former(command, model, "model")
    command.set_defaults(run=_info)


_COMMANDS: dict[str, Callable[[Any], None]] = {
    "data": data.add,
    "pretrain": pretrain.add,
    "finetune": finetune.add,
    "ablate": ablate.add,
    "evaluate": evaluate.add,
    evaluate_retrieval.NAME: evaluate_retrieval.add,
    "bag": bag.add,
    "bench": bench.add,
    "calibrate": calibrate.add,
    "export": _add_export,
    "convert": convert.add,
    "info": _add_info,
}


def _export(options: argparse.Namespace) -> int:
    from spectradino_core.data.scene_sets import ScenePairs
    from spectradino_core.evaluation.sets import FolderSet
    from spectradino_core.export.onnx_model import export
    from spectradino_core.models.perception_checkpoint import load_perception
    from spectradino_core.runtime.bundle import METADATA_KEY, STREAMS, companion_path

    paths = {
        streams: options.out if streams == "both" else companion_path(options.out, streams)
        for streams in (STREAMS if options.streams == "all" else (options.streams,))
    }
    for path in (options.out, *paths.values()):
        claim_file(path, (".onnx",), options.overwrite or path not in paths.values(), own=METADATA_KEY)
    model, info = load_perception(options.model)
    changes = {"name": options.name, "score_threshold": options.score_threshold, "nms_iou": options.nms_iou}
    if options.input_size is not None:
        changes["input_size"] = parse_size(options.input_size, model.architecture.vit.patch)
    info = info.with_(**{key: value for key, value in changes.items() if value is not None})
    pairs = list(ScenePairs.held_out("report", 8, info.infrared))
    if options.data is not None:
        pairs += FolderSet(options.data, "val", info.infrared)
    for streams, path in paths.items():
        features = streams == "both" and options.streams == "all"
        parity = export(model, info, path, pairs, options.inputs, streams, features)
        print(f"{path}: {path.stat().st_size / 1e6:.1f} MB, maximum differences from PyTorch: {parity}")
    return 0


def _info(options: argparse.Namespace) -> int:
    from spectradino_core.runtime.engines import open_engine
    from spectradino_core.runtime.onnx_engine import OnnxEngine

    require_model(options.model)
    alone = options.model.is_file() and options.model.suffix == ".onnx"  # may be a single-stream graph
    engine = OnnxEngine(options.model, device="cpu") if alone else open_engine(options.model, device="cpu")
    print(json.dumps(json.loads(engine.info.to_json()), indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
