"""`spectradino evaluate`: score a model on labelled pairs, next to its baseline."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spectradino_core.commands.shared_options import (
    add_own_options,
    given,
    is_indexed,
    open_own_of,
    option,
    parse_size,
    print_remarks,
    published,
    refuse_own_options,
)
from spectradino_core.options import TRAINING_DEVICES, claim_folder, names, refuse, require_model

if TYPE_CHECKING:
    from spectradino_core.evaluation.sets import LabelledSet
    from spectradino_core.runtime.bundle import ModelInfo
    from spectradino_core.runtime.pipeline import Pipeline


def add(commands: Any) -> None:
    from spectradino_core.runtime.engine import DEVICES

    command = commands.add_parser(
        "evaluate",
        help="score a model's COCO mAP and mIoU: fused, single-stream, and next to the baseline",
        description="Several model files count as seeds of one model: figures are their mean ± standard deviation. "
        "`spectradino evaluate retrieval` evaluates backbones.",
    )
    model = " (.onnx or .safetensors); several are its seeds"
    option(command, "--model", model, former="model", required=True, nargs="+")
    text = ": frozen, with the same head; several files are its seeds"
    option(command, "--baseline", text, type=Path, nargs="+", default=[], metavar="FILE")
    data = command.add_argument_group("data")
    option(data, "--dataset")
    folder = ": where --dataset was extracted to, or own images with COCO, VOC or YOLO labels"
    option(data, "--data", folder, former="--root")
    option(data, "--split", " (default: that of published figures; own data: test, else val)")
    add_own_options(data)
    option(data, "--scenes", ", unseen in training", default=0)
    option(data, "--time-of-day", " (default: mixed)", choices=("day", "dusk", "night"))
    how = command.add_argument_group("method")
    size: dict[str, Any] = {"type": parse_size, "metavar": "WxH"}
    option(how, "--slide", "scale images into WxH and slide a window over them", **size)
    option(how, "--stride", "step between windows (default: two thirds of the window)", **size)
    option(
        how, "--exclude-classes", "mask classes to exclude from means", type=names, default=(), metavar="A,B",
        former="--leave-out", form={"nargs": "+", "type": str},
    )  # fmt: skip
    option(how, "--nms-iou", " of all models (default: each model's own)")
    option(how, "--max-detections", ", of all models (default: each model's own)")
    option(how, "--device", " (default: %(default)s)", default="auto", choices=DEVICES)
    option(how, "--workers", " (default: %(default)s)", default=0)
    option(command, "--out", " folder for result.json, result.md and report.html", metavar="DIR")
    option(command, "--draw", ", the worst, with --out; 0: none (default: 8)", former="--worst")
    command.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from spectradino_core.evaluation.comparison import compare, same_task
    from spectradino_core.evaluation.report import Report, files_by_name

    if options.out is not None:
        claim_folder(options.out, "result.json result.md report.html", "result.json", b'"baselines"')
    if options.slide is None:
        refuse(options, "stride", "needs --slide WxH")
    elif options.device not in TRAINING_DEVICES:
        raise ValueError(f"--slide runs in PyTorch, which has no device '{options.device}': give --device cpu or cuda")
    if options.out is None:
        refuse(options, "draw", "has no effect without --out")
    if not options.scenes:
        refuse(options, "time-of-day", "has no effect without --scenes")
    files = [*options.model, *options.baseline]
    titles = files_by_name(files)
    if len(set(titles)) < len(titles):
        raise ValueError("a model was given twice: seeds must be different files")
    for file in files:
        require_model(file, "--model" if file in options.model else "--baseline")
        _refuse_backbone(file)
    pipelines = dict(zip(titles, (_open(file, options) for file in files), strict=True))
    same_task({name: pipeline.info for name, pipeline in pipelines.items()})
    models, baselines = titles[: len(options.model)], titles[len(options.model) :]
    for name in baselines:
        _check_baseline(name, pipelines[name].info)
    info = pipelines[models[0]].info
    sets = _sets(options, info)
    report = Report(
        {name: pipelines[name].info for name in models},
        {name: pipelines[name].info for name in baselines},
        shlex.join(["spectradino", *options.words]),
        _baseline_command(info, options),
    )
    seeds, baseline_seeds = ([pipelines[name] for name in group] for group in (models, baselines))
    draw = 8 if options.draw is None else options.draw
    for data in sets:
        report.add(compare(seeds, baseline_seeds, data, draw, options.exclude_classes, options.workers))
    if options.out is not None:  # before printing: a reader of the output may close the pipe
        report.write(options.out)
    print(report.markdown())
    if options.out is not None:
        print(f"{options.out / 'report.html'}: with curves, confusion matrices and the worst frames")
    return 0


def _refuse_backbone(file: Path) -> None:
    """Raise ValueError if the file holds weights without heads."""
    if file.suffix not in (".safetensors", ".pth") or not file.is_file():
        return
    from spectradino_core.models.perception_checkpoint import weights_kind

    if weights_kind(file) != "model":
        raise ValueError(
            f"{file} is not a fine-tuned model: fine-tune it (spectradino finetune --backbone), or compare backbones "
            "with 'spectradino evaluate retrieval --model'"
        )


def _open(file: Path, options: argparse.Namespace) -> Pipeline:
    from spectradino_core.runtime.pipeline import Pipeline

    filters = {"nms_iou": options.nms_iou, "max_detections": options.max_detections}
    if options.slide is None:
        return Pipeline.open(file, device=options.device, **filters)
    from spectradino_core.evaluation.sliding import SlidingEngine

    return Pipeline(SlidingEngine.open(file, options.slide, options.stride, options.device), **filters)


def _sets(options: argparse.Namespace, info: ModelInfo) -> Sequence[LabelledSet]:
    from spectradino_core.data.scene_sets import ScenePairs
    from spectradino_core.evaluation.sets import FolderSet

    sets: list[LabelledSet] = []
    if options.dataset is not None:
        benchmark = published(options)
        sets.append(benchmark.open(options.data, options.split or benchmark.report_split))
    elif options.data is None:
        refuse(options, "split", "is for a data set: name it with --dataset, or give --data")
        refuse_own_options(options, "given by --data")
    elif is_indexed(options.data, options.split or "val"):
        refuse_own_options(options, f"but {options.data} has an index that defines it")
        sets.append(FolderSet(options.data, options.split or "val", info.infrared))
    else:
        own = open_own_of(options, options.data, info.infrared)
        print_remarks(own)
        sets.append(own.benchmark.open(options.data, options.split or own.benchmark.report_split))
    if options.scenes:
        sets.append(ScenePairs.held_out("report", options.scenes, info.infrared, time_of_day=options.time_of_day))
    if not sets:
        raise ValueError("nothing to evaluate on: give --dataset NAME --data DIR, --data DIR (own data) or --scenes N")
    return sets


def _check_baseline(name: str, info: ModelInfo) -> None:
    """Raise ValueError if the file is not a frozen DINOv2."""
    kind = info.provenance.get("architecture", {}).get("backbone", "dinov2_repeat")
    mode = info.provenance.get("mode", "head")
    if kind != "dinov2_repeat" or mode != "head":
        raise ValueError(
            f"{name} is not a baseline: its backbone is {kind}, fine-tuned in mode {mode}; give a frozen DINOv2 "
            "(spectradino finetune --baseline)"
        )


def _baseline_command(info: ModelInfo, options: argparse.Namespace) -> str:
    """Return the command that trains a model's baseline: same data, heads, sizes and fusion on plain DINOv2.

    Files of older versions lack the architecture; the choice of heads is then left to the user.
    """
    from spectradino_core.datasets.registry import BENCHMARKS
    from spectradino_core.models.pyramid import PRESETS

    made = info.provenance.get("architecture", {})
    band = info.infrared.key
    dataset = info.provenance.get("dataset") or options.dataset or ("scenes" if band == "lwir" else f"scenes_{band}")
    root = options.data if dataset == options.dataset else None
    if root is None and dataset in BENCHMARKS and BENCHMARKS[dataset].needs_root:
        root = "FOLDER"
    tasks = ["detection"] if made.get("box_classes") else []
    tasks += ["segmentation"] if made.get("mask_classes") else []
    registers = "_reg4" if made.get("registers") else ""
    known = info.variant in ("s", "b", "l", "g")
    weights = f"dinov2_vit{info.variant}{info.patch}{registers}_pretrain.pth" if known else "TEACHER"
    untitled = info.provenance.get("dataset") is None and options.dataset is None and options.data is not None
    if untitled or info.provenance.get("data", {}).get("kind") == "own data":
        tasks = tasks[:1]  # own data label boxes
        words = ["spectradino", "finetune", "--data", "FOLDER" if options.data is None else str(options.data)]
        for name, value in given(options, "rgb ir classes band").items():
            words += [f"--{name}", ",".join(value) if isinstance(value, tuple | list) else str(value)]
    else:
        words = ["spectradino", "finetune", "--dataset", dataset]
        words += ["--data", str(root)] if root is not None else []
    words += ["--baseline", "--variant", info.variant, "--backbone", weights]
    if tasks:
        heads = ",".join(made[task] for task in tasks)
        words += ["--task", "both" if len(tasks) > 1 else tasks[0], "--head", heads]
    words += ["--fusion", made["fusion"]] if made.get("fusion", "concat") != "concat" else []
    words += ["--fuse-at", made["fuse_at"]] if made.get("fuse_at") else []
    if "detection" in tasks and made.get("strides"):
        levels = tuple(stride / info.patch for stride in made["strides"])
        words += ["--strides", next((name for name, preset in PRESETS.items() if preset == levels), "STRIDES")]
    if "segmentation" in tasks and made["segmentation"] == "upernet" and made.get("upernet_width"):
        words += ["--upernet-width", str(made["upernet_width"])]
    words += ["--input-size", "x".join(str(side) for side in info.input_size)]
    return shlex.join([*words, "--out", "runs/baseline"])
