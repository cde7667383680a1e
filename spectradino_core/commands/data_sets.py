"""`spectradino data list` and `data check`: list readable public data sets and validate a folder."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spectradino_core.commands.own_data import add_own_options, open_own_of, refuse_own_options
from spectradino_core.text import log_line

if TYPE_CHECKING:
    from spectradino_core.datasets import Benchmark
    from spectradino_core.datasets.check import SplitReport

__all__ = ["add"]


def add(kinds: Any) -> None:
    """Add both commands to `kinds`, the result of `add_subparsers` of `spectradino data`."""
    listed = kinds.add_parser(
        "list",
        help="list the public data sets that can be read, and which are present",
        description="Lists data sets by band, task, classes, pairs and licence; with a NAME, all details of one.",
    )
    listed.add_argument("dataset", nargs="?", metavar="NAME", help="show all details of this one")
    listed.add_argument("--root", type=Path, help="search this folder and its subfolders")
    listed.set_defaults(run=_list)

    checked = kinds.add_parser(
        "check",
        help="check that a folder holds the expected data set, complete and readable",
        description="Reads every pair of a data set, counts its labels, and draws a sheet of samples. "
        "Exit status: 0 if it is usable, 1 if not.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="examples:\n"
        "  spectradino data check --dataset flir --root /data/FLIR_aligned --out flir.png\n"
        "  spectradino data check --dataset mfnet --root /data/ir_seg_dataset --split test --at-most 50\n"
        "  spectradino data check --data my_images --out sheet.png",
    )
    what = checked.add_mutually_exclusive_group(required=True)
    what.add_argument("--dataset", metavar="NAME", help="a published set, see `spectradino data list`")
    what.add_argument("--data", type=Path, metavar="DIR", help="your own images with COCO, VOC or YOLO labels")
    checked.add_argument("--root", type=Path, help="with --dataset: the folder it was extracted to")
    add_own_options(checked)
    checked.add_argument("--split", action="append", help="only this split (may be repeated)")
    checked.add_argument("--at-most", type=int, metavar="N", help="read only N pairs of each split, spread over it")
    checked.add_argument("--out", type=Path, metavar="SHEET.png", help="draw samples with their labels")
    checked.add_argument("--samples", type=int, default=8, help="number of pairs to draw (default: %(default)s)")
    checked.set_defaults(run=_check)


def _list(options: argparse.Namespace) -> int:
    from spectradino_core.datasets import BENCHMARKS, find_benchmark

    if options.root is not None and not options.root.is_dir():
        raise ValueError(f"{options.root}: no such folder")
    if options.dataset is not None:
        one = find_benchmark(options.dataset)
        print(_described(one))
        if options.root is not None:
            print(f"found: {_found(one, options.root) or 'no'}")
        return 0
    heads = ["name", "band", "task", "classes", "pairs", "licence", *(["found"] if options.root else [])]
    rows = [heads]
    for one in BENCHMARKS.values():
        classes = " + ".join(str(len(names)) for names in (one.box_classes, one.mask_classes) if names)
        pairs = " ".join(f"{split} {count or '?'}" for split, count in one.splits.items())
        row = [one.name, one.infrared.name, " + ".join(one.tasks), classes, pairs, one.licence]
        rows.append([*row, *([_found(one, options.root) or "-"] if options.root else [])])
    widths = [max(len(row[i]) for row in rows) for i in range(len(heads))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    return 0


def _described(one: Benchmark) -> str:
    lines = [
        f"{one.name}: {one.title}",
        f"band: {one.infrared.name} ({one.infrared.band.description})",
        f"task: {' and '.join(one.tasks)}",
    ]
    for kind, names in (("boxes", one.box_classes), ("masks", one.mask_classes)):
        if names:
            lines.append(f"{kind}: {', '.join(names)}")
    splits = ", ".join(f"{split} ({count or 'unknown'})" for split, count in one.splits.items())
    lines += [
        f"splits: {splits}; trained on {one.train_split}, reported on {one.report_split}",
        f"subsets: {', '.join(one.subsets) or 'none'}",
        f"scoring: {one.ignore}",
        f"licence: {one.licence}",
        f"expected layout: {one.layout}",
        f"source: {one.source}",
        *([f"assumed: {one.assumed}"] if one.assumed else []),
        *(f"- {note}" for note in one.notes),
    ]
    return "\n".join(lines)


def _found(one: Benchmark, root: Path) -> str | None:
    """Return the folder below the root that holds it, with its number of pairs of the reported split."""
    from spectradino_core.datasets import BenchmarkError

    if not one.needs_root:
        return "rendered"
    for folder in (root, *sorted(path for path in root.iterdir() if path.is_dir())):
        try:
            pairs = one.open(folder, one.report_split, allow_missing=True)
        except BenchmarkError:
            continue
        return f"{folder} ({len(pairs)} of {one.report_split})"
    return None


def _check(options: argparse.Namespace) -> int:
    from spectradino_core.datasets import find_benchmark
    from spectradino_core.datasets.check import check_benchmark
    from spectradino_core.datasets.sheet import write_sheet

    if options.data is not None:
        if options.root is not None:
            raise ValueError("--root is for --dataset; --data is the folder itself")
        own = open_own_of(options, options.data)
        one, root = own.benchmark, options.data
        print("\n".join(own.described(remarks=False)))
    else:
        refuse_own_options(options, "which --data gives")
        one, root = find_benchmark(options.dataset), options.root
    if options.at_most is not None and options.at_most < 1:
        raise ValueError("--at-most must be at least 1")
    if options.samples < 1:
        raise ValueError("--samples must be at least 1")
    if root is None and one.needs_root:
        one.open(None, one.report_split)  # raises the error that describes the expected folder
    reports = check_benchmark(one, root, options.split, options.at_most)
    print(f"{one.title}{'' if root is None else f', {root}'}")
    print(f"{one.infrared.name}, {' and '.join(one.tasks)}; scoring: {one.ignore}")
    if one.assumed:
        print(f"assumed: {one.assumed}")
    for report in reports:
        _tell(one, report)
    if any(one.advice in problem for report in reports for problem in report.problems):
        print(f"\n{one.advice}")
    sound = [report for report in reports if report.usable and report.pairs is not None]
    if options.out is not None and sound:
        drawn = next((report for report in sound if report.split == one.report_split), sound[0])
        assert drawn.pairs is not None
        write_sheet(options.out, drawn.pairs, options.samples)
        print(f"{options.out}: pairs of {drawn.split} with their labels")
    bad = [report.split for report in reports if not report.usable]
    if bad:
        print(log_line(f"not usable: {', '.join(bad)}"), file=sys.stderr)
        return 1
    print("complete" if not any(report.remarks for report in reports) else "usable; see the remarks above")
    return 0


def _tell(one: Benchmark, report: SplitReport) -> None:
    if report.pairs is None:
        print(f"\n{report.split}")
    else:
        official = one.splits[report.split]
        print(f"\n{report.split}: {len(report.pairs)} pairs{f' ({official} published)' if official else ''}")
    if report.formats:
        print(f"  {_formats(report.formats)}")
    if report.subsets:
        print(f"  subsets: {_counts(report.subsets)}")
    if report.boxes:
        print(f"  boxes: {_counts(report.boxes)}; pairs without any: {report.without_boxes}")
    if report.pixels:
        total = sum(report.pixels.values())
        print(f"  pixels: {', '.join(f'{name} {100 * n / total:.2g} %' for name, n in report.pixels.items() if n)}")
    for remark in report.remarks:
        print(f"  - {remark}")
    for problem in report.problems:
        print(f"  ! {problem.removesuffix(f'. {one.advice}')}")


def _counts(counts: Counter[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.most_common())


def _formats(formats: Counter[str]) -> str:
    """Return sizes and depths, or their number if there are many."""
    told = "; ".join(f"{name}: {count} pairs" for name, count in formats.most_common(3))
    return told if len(formats) <= 3 else f"{len(formats)} sizes: {told}, .."
