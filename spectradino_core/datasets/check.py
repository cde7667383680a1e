"""Check of a data set's folder for completeness and readability: every file of a split is read once."""

from __future__ import annotations

import logging
import os
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path

import numpy as np

from spectradino_core.data.images import ImageFileError, colour_fault
from spectradino_core.data.labels import Boxes, LabelError, describe_notes
from spectradino_core.data.prefetch import prefetched
from spectradino_core.data.sample import PairedSample
from spectradino_core.datasets.benchmark import MAX_MISSING, Benchmark, LabelledItem, LabelledPairs
from spectradino_core.datasets.files import BenchmarkError, evenly_spread
from spectradino_core.text import counted, one_line

log = logging.getLogger(__name__)

_EXAMPLES = 5
_MAX_ODD_BOXES = 0.2
_LOG_EVERY_S = 15.0


@dataclass
class SplitReport:
    """Result of the check of one split.

    Attributes:
        pairs: labelled pairs; None if the split could not be opened.
        read: number of pairs that were read.
        problems: reasons why the split is unusable or its scores would be wrong.
        remarks: further information for the user.
        boxes, without_boxes: number of boxes by class, and of pairs without any.
        pixels: number of pixels by mask class; the last entry is "unlabelled".
        formats, subsets: number of pairs by size and infrared depth, and by subset.
        findings, examples: count of each kind of finding, and its first few examples.
    """

    split: str
    pairs: LabelledPairs | None = None
    read: int = 0
    problems: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    boxes: Counter[str] = field(default_factory=Counter)
    without_boxes: int = 0
    pixels: Counter[str] = field(default_factory=Counter)
    formats: Counter[str] = field(default_factory=Counter)
    subsets: Counter[str] = field(default_factory=Counter)
    findings: Counter[str] = field(default_factory=Counter)
    examples: defaultdict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    @property
    def usable(self) -> bool:
        return not self.problems

    def add(self, kind: str, example: str, count: int = 1) -> None:
        """Add a finding."""
        self.findings[kind] += count
        if len(self.examples[kind]) < _EXAMPLES:
            self.examples[kind].append(example)


def check_benchmark(
    benchmark: Benchmark, root: Path | None, splits: Sequence[str] | None = None, limit: int | None = None
) -> list[SplitReport]:
    """Check each split, and report pairs that occur in two official splits as problems.

    Args:
        benchmark, root: expected data set, and its folder.
        splits: splits to check; None: all.
        limit: maximum number of pairs to read per split, evenly spread; None: all.

    Raises:
        BenchmarkError: unknown split.
    """
    unknown = [split for split in splits or () if split not in benchmark.splits]
    if unknown:
        raise BenchmarkError(
            f"{benchmark.name} has no split {unknown[0]!r}: choose one of {', '.join(benchmark.splits)}"
        )
    reports = [check_split(benchmark, root, split, limit) for split in splits or benchmark.splits]
    official = [report for report in reports if report.pairs is not None and report.split in ("train", "val", "test")]
    for one, other in combinations(official, 2):
        shared = sorted({item.name for item in one.pairs or ()} & {item.name for item in other.pairs or ()})
        if shared:
            other.problems.append(f"{len(shared)} of its pairs are in {one.split} too, such as {shared[0]}")
    return reports


def check_split(benchmark: Benchmark, root: Path | None, split: str, limit: int | None = None) -> SplitReport:
    """Read the pairs of a split and collect problems; does not raise for any content of the folder."""
    report = SplitReport(split)
    try:
        pairs = benchmark.open(root, split, allow_missing=True)
    except BenchmarkError as error:
        report.problems.append(str(error))
        return report
    report.pairs = pairs
    report.remarks.extend(pairs.remarks)
    _count_pairs(report, benchmark, pairs)
    items = list(pairs)
    if limit is not None and limit < len(items):
        items = evenly_spread(items, limit)
        report.remarks.append(f"only {len(items)} of its {len(pairs)} pairs were read")
    _look_for_swapped_folders(report, items)
    for item, sample, boxes, failure in _read(pairs, items):
        if sample is None:
            report.add("damaged", str(failure))
        else:
            report.read += 1
            _count(report, pairs, item, sample, boxes)
    _conclude(report, pairs)
    report.remarks = [one_line(remark) for remark in report.remarks]
    report.problems = [one_line(problem) for problem in report.problems]
    return report


def _count_pairs(report: SplitReport, benchmark: Benchmark, pairs: LabelledPairs) -> None:
    official, total = benchmark.splits[report.split], len(pairs) + len(pairs.missing)
    if pairs.missing:
        message = f"{len(pairs.missing)} of {total} pairs lack a file, such as {', '.join(pairs.missing[:3])}"
        partly = len(pairs.missing) > MAX_MISSING * total
        (report.problems if partly else report.remarks).append(
            message + ("; it seems only partly extracted" if partly else "; they are skipped")
        )
    if official is not None and abs(total - official) > official // 1000:  # counts of large sets differ by one or two
        report.remarks.append(f"{total} pairs are listed, {official} published: figures may not be comparable")


def _look_for_swapped_folders(report: SplitReport, items: Sequence[LabelledItem]) -> None:
    """Report infrared images in colour."""
    if fault := colour_fault([item.infrared for item in items if item.present[1] and item.infrared != item.rgb]):
        report.problems.append(fault)


def _read(
    pairs: LabelledPairs, items: Sequence[LabelledItem]
) -> Iterator[tuple[LabelledItem, PairedSample | None, Boxes | None, Exception | None]]:
    """Yield the items in order, read ahead by a few threads."""

    def one(item: LabelledItem) -> tuple[LabelledItem, PairedSample | None, Boxes | None, Exception | None]:
        try:
            return item, *pairs.load_with_boxes(item), None
        except (LabelError, ImageFileError) as error:
            return item, None, None, error

    logged = time.monotonic()
    for number, row in enumerate(prefetched(one, items, min(8, os.cpu_count() or 1)), 1):
        yield row
        if time.monotonic() - logged > _LOG_EVERY_S:
            logged = time.monotonic()
            log.info("%s: %d of %d pairs read", pairs.name, number, len(items))


def _count(
    report: SplitReport, pairs: LabelledPairs, item: LabelledItem, sample: PairedSample, boxes: Boxes | None
) -> None:
    infrared = f"infrared {sample.infrared.dtype}" if item.present[1] else "RGB only"
    infrared += "" if item.present[0] else " only"
    report.formats[f"{sample.size[0]}x{sample.size[1]}, {infrared}"] += 1
    report.subsets.update(sample.subsets)
    if item.present[1] and sample.infrared.min() == sample.infrared.max():
        report.add("flat", item.name)
    if sample.labels is not None:
        report.boxes.update(pairs.box_classes[label] for label in sample.labels)
        report.without_boxes += not len(sample.labels)
    if boxes is not None:
        where = str(item.boxes.name if item.boxes else item.name)
        for name, count in boxes.unknown.items():
            report.add(f"class {name}", where, count)
        for kind, count in boxes.notes.items():
            if count:
                report.add(f"label {kind}", where, count)
        report.findings["mostly outside"] += boxes.mostly_outside
    if sample.mask is not None:
        counts = np.bincount(sample.mask.ravel(), minlength=256)
        report.pixels.update({name: int(counts[i]) for i, name in enumerate(pairs.mask_classes) if counts[i]})
        report.pixels["unlabelled"] += int(counts[255])
        if counts[255] == sample.mask.size:
            report.add("no labels", item.name)


def _conclude(report: SplitReport, pairs: LabelledPairs) -> None:
    if report.findings["damaged"]:
        report.problems.append(f"{counted(report.findings['damaged'], 'pair')} can't be read:")
        report.problems.extend(f"  {example}" for example in report.examples["damaged"])
    total = sum(report.boxes.values())
    if pairs.box_classes and report.read and not total:
        report.problems.append("no box of its classes was found: are these its annotations?")
    found = pairs.notes
    for kind, count in found.items():
        example = "".join(f", such as in {one}" for one in report.examples[f"label {kind}"][:1])
        report.remarks += [text + example for text in describe_notes({kind: count})]
    odd, listed = report.findings["mostly outside"] + found["outside"], total + found["outside"]
    if odd > _MAX_ODD_BOXES * listed:
        report.problems.append(
            f"{odd} of {listed} boxes lie mostly outside their images: are these its annotations and images?"
        )
    texts = {
        kind: f"objects of the {kind} are skipped: it is not a class of the benchmark"
        for kind in report.findings
        if kind.startswith("class ")
    }
    texts |= {"flat": "infrared frames hold a single value", "no labels": "masks have no labelled pixel"}
    for kind, text in texts.items():
        if report.findings[kind]:
            report.remarks.append(f"{report.findings[kind]} {text}, such as {report.examples[kind][0]}")
    for classes, seen in ((pairs.box_classes, report.boxes), (pairs.mask_classes, report.pixels)):
        absent = [name for name in classes if not seen[name]]
        if absent and len(absent) < len(classes):
            report.remarks.append(f"no {', '.join(absent)} in the pairs that were read")
