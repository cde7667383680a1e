"""`spectradino data list`, `check` and `make-manifest`: readable data sets, checks of folders, manifests of pairs."""

from __future__ import annotations

import argparse
import math
import sys
from collections import Counter
from typing import TYPE_CHECKING, Any

from spectradino_core.commands.shared_options import add_own_options, open_own_of, option, published
from spectradino_core.files import folder_fault
from spectradino_core.options import COUNT, Number, claim_file, claim_folder, names, refuse
from spectradino_core.text import counted, log_line

if TYPE_CHECKING:
    from pathlib import Path

    from spectradino_core.datasets import Benchmark
    from spectradino_core.datasets.check import SplitReport

_LAYOUTS = ("folder", "ms2", "rasmd", "ir500k", "nyuv2", "ade20k", "imagenet")
_WITHOUT_SPLITS = ("rasmd", "ir500k")
_OF_DATA = "split bands hold-out-sequences limit plane-distance sequence-pattern data-root"
"""Options that list what is on disk."""


def add(commands: Any) -> None:
    command = commands.add_parser("data", help="list and check readable data sets, write manifests")
    kinds = command.add_subparsers(dest="kind", required=True, metavar="WHAT")
    _add_list(kinds)
    _add_check(kinds)
    _add_make_manifest(kinds)


def _add_list(kinds: Any) -> None:
    listed = kinds.add_parser(
        "list",
        help="list the public data sets that can be read, and which are present",
        description="Lists data sets by band, task, classes, pairs and licence; with --dataset, all details of one.",
    )
    option(listed, "--dataset", ": show all details of this one", former="name")
    option(listed, "--data-root", ": report which of them it holds", former="--root")
    listed.set_defaults(run=_list)


def _add_check(kinds: Any) -> None:
    checked = kinds.add_parser(
        "check",
        help="check that a folder holds the expected data set, complete and readable",
        description="Reads every pair of a data set, counts its labels, and draws a sheet of samples. "
        "Exit status: 0 if it is usable, 1 if not.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="examples:\n"
        "  spectradino data check --dataset flir --data /data/FLIR_aligned --out flir.png\n"
        "  spectradino data check --dataset mfnet --data /data/ir_seg_dataset --split test --limit 50\n"
        "  spectradino data check --data my_images --out sheet.png",
    )
    option(checked, "--dataset")
    folder = ": where --dataset was extracted to, or own images with COCO, VOC or YOLO labels"
    option(checked, "--data", folder, former="--root")
    add_own_options(checked)
    option(checked, "--split", " (may be repeated; default: all)", action="append")
    option(checked, "--limit", " read of each split, spread over it", former="--at-most")
    option(checked, "--out", " image of samples with their labels", metavar="PNG")
    option(checked, "--draw", " in --out (default: 8)", former="--samples", type=COUNT)
    option(checked, "--overwrite")
    checked.set_defaults(run=_check)


def _add_make_manifest(kinds: Any) -> None:
    made = kinds.add_parser(
        "make-manifest",
        help="list the pairs of a data set in a manifest (JSON lines)",
        description="Finds the pairs of a data set and writes a manifest for `spectradino pretrain --manifest`.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="examples:\n"
        "  spectradino data make-manifest --data /data/roadscene --split train\n"
        "  spectradino data make-manifest --data /data/MS2 --layout ms2 --split train --out ms2.jsonl\n"
        "  spectradino data make-manifest --data /data/RASMD --layout rasmd --hold-out-sequences 4 --out rasmd.jsonl\n"
        "  spectradino data make-manifest --scenes 500 --out scenes",
    )
    option(made, "--data", ", to list", former="root")
    layout = f"folder layout: {', '.join(_LAYOUTS)} (default: folder)"
    option(made, "--layout", layout, choices=(*_LAYOUTS, "scenes"), metavar="LAYOUT")
    option(
        made, "--split", " of layout 'folder' (default: train); of 'ms2': train, val, test, test_day, test_night or "
        "test_rainy (default: all sequences); of 'nyuv2', 'ade20k', 'imagenet' (default: the training split)",
    )  # fmt: skip
    option(made, "--bands")
    text = "sequences to list in a second manifest, OUT_val, for validation: names, or how many to draw"
    option(made, "--hold-out-sequences", text, type=names, default=(), metavar="A,B|N")
    option(made, "--limit", ", drawn at random")
    plane = "of layout 'ms2': IR images coincide with RGB at this distance [m]; inf: far away (default: 20)"
    option(made, "--plane-distance", plane, type=Number(float, sys.float_info.min, math.inf), metavar="M")
    option(
        made, "--out", ": the manifest (default: manifest_SPLIT.jsonl or manifest.jsonl in --data); with --scenes: the "
        "folder to render into", metavar="PATH",
    )  # fmt: skip
    option(made, "--overwrite")
    option(
        made, "--data-root", ", --data or above it, to which paths are relative (default: the manifest's own folder, "
        "else --data)", former="--relative-to",
    )  # fmt: skip
    pattern = "groups 'sequence' and 'frame' in the RGB image's path, e.g. '(?P<sequence>FLIR)_(?P<frame>\\d+)'"
    option(made, "--sequence-pattern", pattern, metavar="REGEX")
    option(made, "--scenes", " to render, in place of --data")
    option(made, "--seed", " of the first scene, or of what is drawn (default: 0)", former="--first")
    made.set_defaults(run=_make_manifest)


def _list(options: argparse.Namespace) -> int:
    from spectradino_core.datasets import BENCHMARKS, find_benchmark

    if options.data_root is not None and (fault := folder_fault(options.data_root)):
        raise ValueError(fault)
    if options.dataset is not None:
        one = find_benchmark(options.dataset)
        print(_described(one))
        if options.data_root is not None:
            print(f"found: {_found(one, options.data_root) or 'no'}")
        return 0
    header = ["name", "band", "task", "classes", "pairs", "licence", *(["found"] if options.data_root else [])]
    rows = [header]
    for one in BENCHMARKS.values():
        classes = " + ".join(str(len(names)) for names in (one.box_classes, one.mask_classes) if names)
        pairs = " ".join(f"{split} {count or '?'}" for split, count in one.splits.items())
        row = [one.name, one.infrared.name, " + ".join(one.tasks), classes, pairs, one.licence]
        rows.append([*row, *([_found(one, options.data_root) or "-"] if options.data_root else [])])
    widths = [max(len(row[i]) for row in rows) for i in range(len(header))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    return 0


def _described(benchmark: Benchmark) -> str:
    lines = [
        f"{benchmark.name}: {benchmark.title}",
        f"band: {benchmark.infrared.name} ({benchmark.infrared.band.description})",
        f"task: {' and '.join(benchmark.tasks)}",
    ]
    for kind, classes in (("boxes", benchmark.box_classes), ("masks", benchmark.mask_classes)):
        if classes:
            lines.append(f"{kind}: {', '.join(classes)}")
    splits = ", ".join(f"{split} ({count or 'unknown'})" for split, count in benchmark.splits.items())
    lines += [
        f"splits: {splits}; trained on {benchmark.train_split}, reported on {benchmark.report_split}",
        f"subsets: {', '.join(benchmark.subsets) or 'none'}",
        f"scoring: {benchmark.ignore}",
        f"licence: {benchmark.licence}",
        f"expected layout: {benchmark.layout}",
        f"source: {benchmark.source}",
        *([f"assumed: {benchmark.assumed}"] if benchmark.assumed else []),
        *(f"- {note}" for note in benchmark.notes),
    ]
    return "\n".join(lines)


def _found(benchmark: Benchmark, root: Path) -> str | None:
    """Return the folder below the root that holds it, with its number of pairs of the reported split."""
    from spectradino_core.datasets import BenchmarkError

    if not benchmark.needs_root:
        return "rendered"
    for folder in (root, *sorted(path for path in root.iterdir() if path.is_dir())):
        try:
            pairs = benchmark.open(folder, benchmark.report_split, allow_missing=True)
        except BenchmarkError:
            continue
        return f"{folder} ({len(pairs)} of {benchmark.report_split})"
    return None


def _check(options: argparse.Namespace) -> int:
    from spectradino_core.datasets.check import check_benchmark
    from spectradino_core.datasets.sheet import write_sheet

    if options.dataset is not None:
        one = published(options)
    elif options.data is not None:
        own = open_own_of(options, options.data)
        one = own.benchmark
        print("\n".join(own.described(remarks=False)))
    else:
        raise ValueError("nothing to check: give --data DIR (own data) or --dataset NAME --data DIR")
    root = options.data
    if options.out is None:
        refuse(options, "draw overwrite", "has no effect without --out")
    else:
        claim_file(options.out, (".png", ".jpg", ".jpeg"), options.overwrite)
    if root is None and one.needs_root:
        one.open(None, one.report_split)  # raises the error that describes the expected folder
    reports = check_benchmark(one, root, options.split, options.limit)
    print(f"{one.title}{'' if root is None else f', {root}'}")
    print(f"{one.infrared.name}, {' and '.join(one.tasks)}; scoring: {one.ignore}")
    if one.assumed:
        print(f"assumed: {one.assumed}")
    for report in reports:
        _print_report(one, report)
    if any(one.advice in problem for report in reports for problem in report.problems):
        print(f"\n{one.advice}")
    usable = [report for report in reports if report.usable and report.pairs is not None]
    if options.out is not None and usable:
        drawn = next((report for report in usable if report.split == one.report_split), usable[0])
        assert drawn.pairs is not None
        write_sheet(options.out, drawn.pairs, options.draw or 8)
        print(f"{options.out}: pairs of {drawn.split} with their labels")
    bad = [report.split for report in reports if not report.usable]
    if bad:
        print(log_line(f"not usable: {', '.join(bad)}"), file=sys.stderr)
        return 1
    print("complete" if not any(report.remarks for report in reports) else "usable; see the remarks above")
    return 0


def _print_report(benchmark: Benchmark, report: SplitReport) -> None:
    single = sum(not all(item.present) for item in report.pairs or ())
    if report.pairs is None:
        print(f"\n{report.split}")
    else:
        official = benchmark.splits[report.split]
        alone = f", {counted(single, 'image')} of one camera" if single else ""
        pairs = counted(len(report.pairs) - single, "pair")
        print(f"\n{report.split}: {pairs}{alone}{f' ({official} published)' if official else ''}")
    if report.formats:
        print(f"  {_formats(report.formats)}")
    if report.subsets:
        print(f"  subsets: {_counts(report.subsets)}")
    if report.boxes:
        kind = "images" if single else "pairs"
        print(f"  boxes: {_counts(report.boxes)}; {kind} without any: {report.without_boxes}")
    if report.pixels:
        total = sum(report.pixels.values())
        print(f"  pixels: {', '.join(f'{name} {100 * n / total:.2g} %' for name, n in report.pixels.items() if n)}")
    for remark in report.remarks:
        print(f"  - {remark}")
    for problem in report.problems:
        print(f"  ! {problem.removesuffix(f'. {benchmark.advice}')}")


def _counts(counts: Counter[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.most_common())


def _formats(formats: Counter[str]) -> str:
    """Return sizes and depths, or their number if there are many."""
    text = "; ".join(
        f"{name}: {counted(count, 'image' if name.endswith('only') else 'pair')}"
        for name, count in formats.most_common(3)
    )
    return text if len(formats) <= 3 else f"{len(formats)} sizes: {text}, .."


def _make_manifest(options: argparse.Namespace) -> int:
    from spectradino_core.data.make_manifest import make_manifest, write_scenes
    from spectradino_core.data.ms2 import PLANE_M
    from spectradino_core.data.sources import MODALITY_KEYS, infrared_keys

    if options.layout == "scenes":
        print(f"{options.prog}: warning: --layout scenes is deprecated, use --scenes N --out DIR", file=sys.stderr)
        options.layout, options.out, options.data = None, options.out or options.data, None
    if options.scenes is not None:
        refuse(options, f"data layout {_OF_DATA}", "has no effect with --scenes")
        if options.out is None:
            raise ValueError("--scenes N needs the folder to render into: give --out DIR")
        written = " ".join(("manifest.jsonl", *MODALITY_KEYS))
        claim_folder(options.out, written, "manifest.jsonl", b'"source": "scenes"', options.overwrite)
        path = write_scenes(options.out, options.scenes, first=options.seed or 0)
        print(f"{path}: {counted(options.scenes, 'scene')}")
        return 0
    held = options.hold_out_sequences
    hold_out = int(held[0]) if len(held) == 1 and held[0].isdigit() else held
    if options.limit is None and not isinstance(hold_out, int):
        refuse(options, "seed", "has no effect without --scenes, --limit or a number of --hold-out-sequences")
    if options.data is None:
        raise ValueError("nothing to list: give --data DIR, or --scenes N --out DIR")
    layout = options.layout or "folder"
    split = options.split or ("train" if layout == "folder" else None)
    if layout in _WITHOUT_SPLITS:
        refuse(options, "split", f"has no effect on layout {layout}")
    if layout != "ms2":
        refuse(options, "plane-distance", f"has no effect on layout {layout}")
    out = options.out or options.data / ("manifest.jsonl" if split is None else f"manifest_{split}.jsonl")
    for path in (out, out.with_name(f"{out.stem}_val{out.suffix}")) if hold_out else (out,):
        claim_file(path, (), options.overwrite, own='"source"')
    text = make_manifest(
        layout, options.data, out, split, options.sequence_pattern, options.data_root,
        bands=None if options.bands is None else infrared_keys(options.bands), hold_out=hold_out, limit=options.limit,
        seed=options.seed or 0, plane_m=PLANE_M if options.plane_distance is None else options.plane_distance,
    )  # fmt: skip
    print(text)
    return 0
