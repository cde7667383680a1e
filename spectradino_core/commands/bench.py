"""`spectradino bench`: measure this machine's speed and write tables and plots."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from spectradino_core.commands.shared_options import option, parse_size
from spectradino_core.options import COUNT, NATURAL, claim_folder, refuse, require_model

GROUPS = ("backbone", "detector", "model", "train", "gpu")
_OF_GROUP = {
    "backbone": "cases",
    "backbone detector": "input-size",
    "train gpu": "batch crop",
    "model gpu": "model",
    "model": "score-scenes",
    "backbone detector train gpu": "variant",
}
"""Options that only some groups have."""
_TABLES = {
    "backbone": ("backbone", "limits"), "detector": ("detector",), "model": ("model", "model_alone"),
    "train": ("train",), "gpu": ("gpu_forward", "gpu_training", "gpu_engine"),
}  # fmt: skip
_QUICK = ("backbone", "detector", "model", "train")


def add(commands: Any) -> None:
    command = commands.add_parser(
        "bench",
        help="measure the speed of this machine against references",
        description="Times the backbone against plain DINOv2, detectors with different numbers of anchor points, a "
        "model file step by step, pretraining against a plain loop, and all of it on a GPU if there is one. Cases of a "
        "table alternate within one run. Writes CSV with a description of the machine, Markdown and plots.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="examples:\n"
        "  spectradino bench --quick\n"
        "  spectradino bench backbone --variant s b --input-size 490x392 644x518 --out results\n"
        "  spectradino bench detector --variant s --input-size 644x518   # what 'finetune --strides fast' gains\n"
        "  spectradino bench model --model my.onnx --score-scenes 100\n"
        "  spectradino bench gpu --variant s b --model my.onnx",
    )
    command.add_argument("groups", nargs="*", metavar="GROUP", help=f"of {', '.join(GROUPS)} (default: all but gpu)")
    option(command, "--quick", "small sizes and few rounds: under three minutes", action="store_true")
    option(command, "--out", " folder (default: %(default)s)", default=Path("bench_out"), metavar="DIR")
    option(command, "--work", "folder in which exported graphs are kept for reuse", type=Path, metavar="DIR")
    option(command, "--variant", " (default: s; quick: tiny; gpu: s b)", former="--variants", nargs="+")
    option(
        command, "--input-size", ", of backbone and detector (default: 490x392)", type=_size, nargs="+",
        former="--sizes", form={"type": _height_first, "metavar": "HxW"},
    )  # fmt: skip
    option(command, "--cases", "backbone cases, named as in its table (default: all)", nargs="+")
    option(command, "--rounds", "timed rounds (default: 7; quick: 2)", type=COUNT)
    option(command, "--batch", " of training (default: 4; quick: 2; gpu: 128)", former="--pairs")
    option(command, "--crop", " of training (default: the recipe's; quick: 70; gpu: 224)")
    option(command, "--model", " (.onnx; default: models/lwir_box.onnx, if it exists)")
    option(command, "--score-scenes", type=NATURAL)
    option(command, "--no-memory", "don't measure peak memory", dest="memory", action="store_false")
    option(command, "--threads", " of PyTorch")
    option(command, "--note", "stored with the results: other load on the machine", default="none")
    command.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    import torch

    groups = options.groups or _QUICK
    if unknown := [group for group in groups if group not in GROUPS]:
        raise ValueError(f"no such group: {', '.join(unknown)}; choose from {', '.join(GROUPS)}")
    for group, words in _OF_GROUP.items():
        if not set(group.split()) & set(groups):
            refuse(options, words, f"has no effect on {', '.join(groups)}: it is for {group.replace(' ', ', ')}")
    for table in (table for group in groups for table in _TABLES[group]):
        claim_folder(options.out, f"{table}.csv {table}.md {table}.png", f"{table}.csv", b"# cores")
    if options.threads:
        torch.set_num_threads(options.threads)
    if "gpu" in groups:
        from spectradino_core.bench.gpu import require_cuda

        require_cuda()  # fail before minutes are spent on the others
    with tempfile.TemporaryDirectory() as scratch:
        work = options.work or Path(scratch)
        for group in groups:
            _RUN[group](options, work)
    return 0


def _backbone(options: argparse.Namespace, work: Path) -> None:
    from spectradino_core.bench.backbone import CASES, backbone_rows, reference_name
    from spectradino_core.bench.tables import plot_bars

    cases = options.cases or CASES
    if unknown := [name for name in cases if name not in CASES]:
        raise ValueError(f"no such case: {', '.join(unknown)}; choose from {'; '.join(CASES)}")
    rows, limits = [], []
    for variant in _variants(options):
        for size in _sizes(options):
            found, rates = backbone_rows(variant, size, work, _rounds(options), cases, options.memory)
            rows += found
            limits += [{"variant": variant, "height": size[0], "width": size[1]} | row for row in rates]
    _write(options, "limits", limits, {})
    _write(options, "backbone", rows, {"reference": reference_name()})
    group = ("variant", "height", "width")
    plot_bars(options.out / "backbone.png", rows, group, "case", "ratio", "time relative to two DINOv2 passes", 1.0)


def _detector(options: argparse.Namespace, work: Path) -> None:
    from spectradino_core.bench.detector import detector_rows
    from spectradino_core.bench.tables import plot_bars

    rows = []
    for variant in _variants(options):
        for size in _sizes(options):
            rows += detector_rows(variant, size, work, _rounds(options), memory=options.memory)
    _write(options, "detector", rows, {})
    group = ("variant", "height", "width")
    plot_bars(options.out / "detector.png", rows, group, "strides", "ratio", "time relative to strides 7-28", 1.0)


def _model(options: argparse.Namespace, work: Path) -> None:
    from spectradino_core.bench.model import STEPS, alone_rows, model_rows
    from spectradino_core.bench.tables import plot_steps
    from spectradino_core.commands.convert import held_out_score
    from spectradino_core.runtime.bundle import companion_path
    from spectradino_core.runtime.onnx_engine import OnnxEngine

    model = options.model or Path("models/lwir_box.onnx")
    if not model.is_file() and options.model is None and not options.groups:
        print(f"model: skipped, {model} does not exist; give another with --model")
        return
    require_model(model)
    score = None
    if options.score_scenes:
        score = held_out_score(options.score_scenes, OnnxEngine(model, device="cpu").info.infrared)
    frames = 10 * _rounds(options)
    rows = model_rows(model, work, frames, score, options.memory)
    _write(options, "model", rows, {"mAP50": f"{options.score_scenes} scenes"} if score else {})
    plot_steps(options.out / "model.png", rows, ("precision", "pictures"), STEPS)
    if any(companion_path(model, stream).is_file() for stream in ("rgb", "ir")):
        _write(options, "model_alone", alone_rows(model, frames), {})


def _train(options: argparse.Namespace, work: Path) -> None:
    from spectradino_core.bench.tables import plot_bars
    from spectradino_core.bench.train import train_rows

    rows = []
    for variant in _variants(options):
        pairs = options.batch or (2 if options.quick else 4)
        crop = options.crop or (70 if options.quick else None)
        rows += train_rows(variant, pairs, _rounds(options), crop, steps=0 if options.quick else 12)
    _write(options, "train", rows, {"autocast": "bfloat16"})
    plot_bars(options.out / "train.png", rows, ("case",), "what", "ms", "milliseconds per step")


def _gpu(options: argparse.Namespace, work: Path) -> None:
    import torch

    from spectradino_core.bench.gpu import engine_rows, forward_rows, matmul_roof, require_cuda, training_rows
    from spectradino_core.bench.tables import plot_bars

    facts = {"gpu": require_cuda(), "cuda": str(torch.version.cuda)}
    rows, steps = [], []
    for kind in (torch.bfloat16, torch.float16):
        roof = matmul_roof("cuda", kind)
        for variant in options.variant or ("s", "b"):
            rows += forward_rows(variant, kind, rounds=options.rounds or 30, roof=roof)
    _write(options, "gpu_forward", rows, facts)
    plot_bars(
        options.out / "gpu_forward.png", rows, ("variant", "kind", "batch"), "case", "pairs_per_s", "pairs per second"
    )
    for variant in options.variant or ("b",):
        steps += training_rows(variant, options.batch or 128, crop=options.crop or 224)
    _write(options, "gpu_training", steps, facts)
    if options.model is not None:
        _write(options, "gpu_engine", engine_rows(options.model), facts)


_RUN = {"backbone": _backbone, "detector": _detector, "model": _model, "train": _train, "gpu": _gpu}


def _write(options: argparse.Namespace, name: str, rows: list[dict[str, object]], more: dict[str, str]) -> None:
    import torch

    from spectradino_core.bench.machine import describe
    from spectradino_core.bench.tables import markdown, write_table

    facts = describe() | {"threads of PyTorch": str(torch.get_num_threads())} | more | {"note": options.note}
    write_table(options.out / f"{name}.csv", facts, rows)
    (options.out / f"{name}.md").write_text(markdown(rows))
    print(f"\n{name}: {options.out / name}.csv\n\n{markdown(rows)}")


def _variants(options: argparse.Namespace) -> Sequence[str]:
    return options.variant or (("tiny",) if options.quick else ("s",))


def _sizes(options: argparse.Namespace) -> list[tuple[int, int]]:
    """Return (height, width) of each size."""
    sizes = options.input_size or ([(224, 224)] if options.quick else [(490, 392)])
    return [(height, width) for width, height in sizes]


def _rounds(options: argparse.Namespace) -> int:
    return options.rounds or (2 if options.quick else 7)


def _size(text: str) -> tuple[int, int]:
    return parse_size(text, 14)


def _height_first(text: str) -> tuple[int, int]:
    height, width = parse_size(text, 14)
    return width, height
