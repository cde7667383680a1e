"""Published data sets: description, class tables and scoring rules, and the labelled pairs of one split.

A `Benchmark` describes a data set as published; `LabelledPairs` is one split of it on disk. Labels index the class
tables of the benchmark, not those of a model. Torch-free.

Letters: h x w a pair's pixel grid, K boxes, I ignored boxes.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from spectradino_core.data.images import read_colour
from spectradino_core.data.labels import Boxes, ImageLabels, LabelError, boxes_of, describe_notes
from spectradino_core.data.labels.files import is_roboflow
from spectradino_core.data.labels.objects import LOSSES
from spectradino_core.data.prefetch import prefetched
from spectradino_core.data.sample import PairedSample
from spectradino_core.datasets.daylight import DAY, NIGHT, time_of
from spectradino_core.datasets.files import BenchmarkError, read_pair
from spectradino_core.modality import Modality

__all__ = ["MAX_MISSING", "Benchmark", "Found", "LabelledItem", "LabelledPairs"]

log = logging.getLogger(__name__)

MAX_MISSING = 0.01
"""Maximum fraction of incomplete pairs in a split: published archives miss a file or two, truncated ones many."""


@dataclass(frozen=True)
class LabelledItem:
    """File paths of one pair, read by `LabelledPairs.load`.

    Attributes:
        name: unique within the split.
        rgb: file of the RGB image.
        infrared: file of the infrared image; may be the same file (MFNet stores both in one).
        boxes: file of the boxes, or None.
        mask: file of the class mask, or None.
        subsets: subsets according to the data set, such as "day" or "night".
        seed: seed of a rendered scene, which has no files.
        present: whether there is an RGB and an infrared image; the path of an absent one is meaningless.
    """

    name: str
    rgb: Path = Path()
    infrared: Path = Path()
    boxes: Path | None = None
    mask: Path | None = None
    subsets: tuple[str, ...] = ()
    seed: int | None = None
    present: tuple[bool, bool] = (True, True)

    @property
    def files(self) -> tuple[Path, ...]:
        """The item's files without repetition."""
        images = [path for path, there in zip((self.rgb, self.infrared), self.present, strict=True) if there]
        paths = () if self.seed is not None else (*images, self.boxes, self.mask)
        return tuple(dict.fromkeys(path for path in paths if path is not None))


def _images(item: LabelledItem) -> tuple[np.ndarray, np.ndarray]:
    return read_pair(item.rgb, item.infrared)


@dataclass
class Found:
    """Pairs that a reader found for one split, and functions that read them.

    Attributes:
        items: complete pairs.
        missing: first missing file of each incomplete pair, relative to the root.
        images: reads RGB uint8 [h, w, 3] and infrared uint8 or uint16 [h, w].
        objects: reads the objects, None if the item is not labelled; None: the data set has no boxes.
        mask: reads the class mask uint8 [h, w], 255 where unlabelled, and counts tolerated deviations; None: the data
            set has no masks.
        sample: reads a complete sample; replaces `images`, `objects` and `mask`.
        notes: deviations in the label files read so far, see `data.labels.NOTES`.
        remarks: further information for the user.
        difficult_counts: score VOC's difficult objects; otherwise they are ignored.
    """

    items: list[LabelledItem]
    missing: list[str] = field(default_factory=list)
    images: Callable[[LabelledItem], tuple[np.ndarray, np.ndarray]] = _images
    objects: Callable[[LabelledItem], ImageLabels | None] | None = None
    mask: Callable[[LabelledItem, Counter[str]], np.ndarray] | None = None
    sample: Callable[[LabelledItem], PairedSample] | None = None
    notes: Counter[str] = field(default_factory=Counter)
    remarks: list[str] = field(default_factory=list)
    difficult_counts: bool = True


@dataclass(frozen=True)
class Benchmark:
    """A data set as published.

    Attributes:
        name: name on the command line.
        title: name in papers.
        infrared: band of the infrared images.
        box_classes: names that box labels index; empty: no boxes.
        mask_classes: names that mask values index; empty: no masks.
        palette: RGB of each mask class.
        splits: official splits and their numbers of pairs; None: unknown.
        train_split, report_split: splits that published figures are trained and reported on.
        find: finds the pairs for (root, split); picklable, so that other processes can open the benchmark.
        layout: expected files and folders.
        source: download location and form.
        licence: its terms in a phrase.
        ignore: pixels and boxes that are not scored, and how background is scored.
        notes: known traps, one per entry.
        time_rule: source of the subsets "day" and "night": "stated" by the data set, "luminance" (see `daylight`) or
            None.
        stated_subsets: subsets that the data set states.
        assumed: parts of this description that are not published and therefore assumed; empty: none.
        needs_root: False for rendered scenes.
    """

    name: str
    title: str
    infrared: Modality
    splits: Mapping[str, int | None]
    train_split: str
    report_split: str
    find: Callable[[Path, str], Found] = field(repr=False)
    layout: str
    source: str
    licence: str
    ignore: str
    box_classes: tuple[str, ...] = ()
    mask_classes: tuple[str, ...] = ()
    palette: tuple[tuple[int, int, int], ...] = ()
    notes: tuple[str, ...] = ()
    time_rule: str | None = None
    stated_subsets: tuple[str, ...] = ()
    assumed: str = ""
    needs_root: bool = True

    @property
    def tasks(self) -> tuple[str, ...]:
        """Tasks with labels: "detection", "segmentation" or both."""
        return (*(("detection",) if self.box_classes else ()), *(("segmentation",) if self.mask_classes else ()))

    @property
    def subsets(self) -> tuple[str, ...]:
        """Available subsets of a split."""
        return tuple(dict.fromkeys((*self.stated_subsets, *((DAY, NIGHT) if self.time_rule else ()))))

    def open(self, root: str | Path | None, split: str, allow_missing: bool = False) -> LabelledPairs:
        """Open one split.

        Args:
            root: folder of the extracted data set, or its parent.
            split: key of `splits`.
            allow_missing: accept any number of incomplete pairs.

        Raises:
            BenchmarkError: unknown split, or the root does not hold this data set or only part of it.
        """
        if split not in self.splits:
            raise BenchmarkError(f"{self.name} has no split {split!r}: choose one of {', '.join(self.splits)}")
        if root is None and self.needs_root:
            raise BenchmarkError(f"{self.name} needs --data, the folder it was extracted to. {self.advice}")
        try:
            found = self.find(Path() if root is None else Path(root), split)
        except LabelError as error:
            raise BenchmarkError(f"{error}. {self.advice}") from None
        found.notes["renamed"] += sum(
            any(is_roboflow(path.name) for path in item.files) and not is_roboflow(item.name) for item in found.items
        )
        pairs = LabelledPairs(self, Path() if root is None else Path(root), split, found)
        total = len(found.items) + len(found.missing)
        if not found.items:
            lacking = f": {found.missing[0]} and {len(found.missing) - 1} more are missing" if found.missing else ""
            raise BenchmarkError(f"{root}: no complete pair of {self.name} {split}{lacking}. {self.advice}")
        if found.missing and not allow_missing:
            message = (
                f"{len(found.missing)} of {total} pairs of {self.name} {split} lack a file, such as {found.missing[0]}"
            )
            if len(found.missing) > MAX_MISSING * total:
                raise BenchmarkError(f"{root}: {message}; it seems only partly extracted. {self.advice}")
            log.warning("%s; they are skipped", message)
        return pairs

    @property
    def advice(self) -> str:
        """Expected layout and download location, for error messages."""
        return f"Looked for: {self.layout}. Get it: {self.source}"


class LabelledPairs(Sequence[LabelledItem]):
    """Labelled pairs of one split, or of a subset of it.

    Attributes:
        benchmark: description of the data set.
        root, split: folder and split.
        name: data set, split and subset, for tables.
        missing: missing files, see `Found`.
    """

    def __init__(self, benchmark: Benchmark, root: Path, split: str, found: Found, subset: str | None = None) -> None:
        self.benchmark, self.root, self.split = benchmark, root, split
        self.name = " ".join(word for word in (benchmark.name, split, subset) if word)
        self.missing = tuple(found.missing)
        self._found = found
        self._subset = subset
        self._notes: dict[str, Counter[str]] = {}
        self._warned: set[str] = set()

    @property
    def items(self) -> tuple[LabelledItem, ...]:
        return tuple(self._found.items)

    @property
    def box_classes(self) -> tuple[str, ...]:
        return self.benchmark.box_classes

    @property
    def mask_classes(self) -> tuple[str, ...]:
        return self.benchmark.mask_classes

    @property
    def palette(self) -> tuple[tuple[int, int, int], ...]:
        return self.benchmark.palette

    @property
    def infrared(self) -> Modality:
        return self.benchmark.infrared

    @property
    def ignore(self) -> str:
        return self.benchmark.ignore

    @property
    def subsets(self) -> tuple[str, ...]:
        return self.benchmark.subsets

    @property
    def remarks(self) -> tuple[str, ...]:
        return tuple(self._found.remarks)

    @property
    def notes(self) -> Counter[str]:
        """Deviations in the labels read so far, counted once per pair; see `data.labels.NOTES`."""
        return sum(list(self._notes.values()), +self._found.notes)

    def __len__(self) -> int:
        return len(self._found.items)

    def __getitem__(self, index):  # type: ignore[no-untyped-def, override]
        """Return an item, or for a slice a `LabelledPairs`."""
        if isinstance(index, slice):
            return self._with(self._found.items[index], self._subset)
        return self._found.items[index]

    def __iter__(self) -> Iterator[LabelledItem]:
        return iter(self._found.items)

    def load(self, item: LabelledItem) -> PairedSample:
        """Read a pair's images and labels; `subsets` of the sample includes day or night if the benchmark has a rule.

        Raises:
            BenchmarkError, ImageFileError: a file is missing or damaged, or a label is not in the class tables.
        """
        return self.load_with_boxes(item)[0]

    def load_with_boxes(self, item: LabelledItem) -> tuple[PairedSample, Boxes | None]:
        """Like `load`, with the boxes and the counts of skipped objects; None: not labelled."""
        try:
            sample, boxes = self._read(item)
        except LabelError as error:
            raise BenchmarkError(str(error)) from None
        sample.name = f"{self.benchmark.name}/{item.name}"
        sample.subsets = item.subsets
        if self.benchmark.time_rule == "luminance" and not {DAY, NIGHT} & set(item.subsets):
            sample.subsets = (*item.subsets, time_of(sample.rgb))
        return sample, boxes

    def boxes(self, item: LabelledItem, size: tuple[int, int]) -> Boxes | None:
        """Read an item's boxes, clipped to an image of (width, height); None: not labelled.

        Raises:
            LabelError: the file of the boxes is missing or damaged.
        """
        objects = None if self._found.objects is None else self._found.objects(item)
        return None if objects is None else boxes_of(objects, self.box_classes, size, self._found.difficult_counts)

    def samples(self, workers: int = 0) -> Iterator[PairedSample]:
        """Yield every pair, read lazily, or ahead by `workers` (see `prefetched`)."""
        return prefetched(self.load, self, workers)

    def subset(self, name: str) -> LabelledPairs:
        """Return the pairs of a subset. The rule "luminance" reads the RGB image of every pair without stated subset.

        Raises:
            BenchmarkError: the benchmark has no such subset, or an image can't be read.
        """
        if name not in self.subsets:
            raise BenchmarkError(
                f"{self.benchmark.name} has no subset {name!r}: choose one of {', '.join(self.subsets) or 'none'}"
            )
        return self._with([item for item in self._found.items if name in self._subsets_of(item)], name)

    def subset_counts(self) -> Counter[str]:
        """Count the pairs of each subset."""
        return Counter(name for item in self._found.items for name in self._subsets_of(item))

    def __reduce__(self) -> tuple[Callable[..., LabelledPairs], tuple[object, ...]]:
        """Pickle by reference: another process opens the folder and selects the same items in the same order."""
        names = [item.name for item in self._found.items]
        return _reopened, (self.benchmark, self.root, self.split, names, self._subset)

    def _read(self, item: LabelledItem) -> tuple[PairedSample, Boxes | None]:
        found = self._found
        if found.sample is not None:
            return found.sample(item), None
        rgb, infrared = found.images(item)
        sample = PairedSample(rgb, infrared, present=item.present)
        boxes = self.boxes(item, sample.size)
        if boxes is not None:
            sample.boxes, sample.labels = boxes.boxes, boxes.labels
            sample.ignored, sample.ignored_labels = boxes.ignored, boxes.ignored_labels
        notes = Counter() if boxes is None else boxes.notes
        if found.mask is not None:
            sample.mask = found.mask(item, notes)
            if sample.mask.shape != rgb.shape[:2]:
                raise BenchmarkError(
                    f"{item.mask}: {sample.mask.shape[1]}x{sample.mask.shape[0]} pixels, its images have "
                    f"{rgb.shape[1]}x{rgb.shape[0]}"
                )
        self._note(item, notes)
        return sample, boxes

    def _note(self, item: LabelledItem, notes: Counter[str]) -> None:
        self._notes[item.name] = notes
        for kind in LOSSES & notes.keys() - self._warned:  # warn once per kind; `data check` counts them all
            if notes[kind]:
                self._warned.add(kind)
                text = describe_notes({kind: notes[kind]})[0]
                log.warning("%s, %s: %s, perhaps more in others", self.name, item.boxes or item.name, text)

    def _subsets_of(self, item: LabelledItem) -> tuple[str, ...]:
        if self.benchmark.time_rule != "luminance" or {DAY, NIGHT} & set(item.subsets):
            return item.subsets
        return (*item.subsets, time_of(read_colour(item.rgb)))

    def _with(self, items: Sequence[LabelledItem], subset: str | None) -> LabelledPairs:
        return LabelledPairs(self.benchmark, self.root, self.split, replace(self._found, items=list(items)), subset)


def _reopened(benchmark: Benchmark, root: Path, split: str, names: Sequence[str], subset: str | None) -> LabelledPairs:
    pairs = benchmark.open(root, split, allow_missing=True)
    items = {item.name: item for item in pairs}
    return pairs._with([items[name] for name in names], subset)
