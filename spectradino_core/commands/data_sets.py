"""`spectradino data list` and `data check`: list readable public data sets and validate a folder."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from typing import TYPE_CHECKING, Any

from spectradino_core.commands.own_data import add_own_options, open_own_of, published
from spectradino_core.options import add_former, add_option, refuse
from spectradino_core.text import log_line

if TYPE_CHECKING:
    from pathlib import Path

    from spectradino_core.datasets import Benchmark
    from spectradino_core.datasets.check import SplitReport

__all__ = ["add"]


def add(kinds: Any) -> None:
    """Add both commands to `kinds`, the result of `add_subparsers` of `spectradino data`."""
    listed = kinds.add_parser(
        "list",
        help="list the public data sets that can be read, and which are present",
        description="Lists data sets by band, task, classes, pairs and licence; with --dataset, all details of one.",
    )
    dataset = add_option(listed, "--dataset", ": show all details of this one")
    base = add_option(listed, "--data-root", ": report which of them it holds")
    add_former(listed, dataset, "name")
    add_former(listed, base, "--root")
    listed.set_defaults(run=_list)

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
    add_option(checked, "--dataset")
    folder = add_option(
        checked, "--data", ": where --dataset was extracted to, or own images with COCO, VOC or YOLO labels"
    )
    add_own_options(checked)
    add_option(checked, "--split", " (may be repeated; default: all)", action="append")
    limit = add_option(checked, "--limit", " read of each split, spread over it")
    add_option(checked, "--out", " image of samples with their labels", metavar="PNG")
    draw = add_option(checked, "--draw", " in --out (default: 8)")
    add_former(checked, folder, "--root")
    add_former(checked, limit, "--at-most")
    add_former(checked, draw, "--samples")
    checked.set_defaults(run=_check)


def _list(options: argparse.Namespace) -> int:
    from spectradino_core.datasets import BENCHMARKS, find_benchmark

    if options.data_root is not None and not options.data_root.is_dir():
        raise ValueError(f"{options.data_root}: no such folder")
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
    if options.limit is not None and options.limit < 1:
        raise ValueError("--limit must be at least 1")
    if options.draw is not None and options.draw < 1:
        raise ValueError("--draw must be at least 1")
    if options.out is None:
        refuse(options, "draw", "has no effect without --out")
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
    sound = [report for report in reports if report.usable and report.pairs is not None]
    if options.out is not None and sound:
        drawn = next((report for report in sound if report.split == one.report_split), sound[0])
        assert drawn.pairs is not None
        write_sheet(options.out, drawn.pairs, options.draw or 8)
        print(f"{options.out}: pairs of {drawn.split} with their labels")
    bad = [report.split for report in reports if not report.usable]
    if bad:
        print(log_line(f"not usable: {', '.join(bad)}"), file=sys.stderr)
        return 1
    print("complete" if not any(report.remarks for report in reports) else "usable; see the remarks above")
    return 0


def _print_report(one: Benchmark, report: SplitReport) -> None:
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
    text = "; ".join(f"{name}: {count} pairs" for name, count in formats.most_common(3))
    return text if len(formats) <= 3 else f"{len(formats)} sizes: {text}, .."
