"""What a benchmark is: where its pairs lie, what its labels mean, and which rules its published figures follow.

A `Benchmark` describes one data set as it is published; `LabelledPairs` is one split of it on this disk. Labels index
the benchmark's own class tables, not a model's. Torch-free.

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

__all__ = ["MOST_MISSING", "Benchmark", "Found", "LabelledItem", "LabelledPairs"]

log = logging.getLogger(__name__)

MOST_MISSING = 0.01
"""Greatest share of a split whose files may lack: published archives miss a file or two, a cut download misses more."""


@dataclass(frozen=True)
class LabelledItem:
    """One pair: where its files are. They are read by `LabelledPairs.load`.

    Attributes:
        name: the item's name in its data set, unique in its split.
        rgb: file of the colour image.
        infrared: file of the infrared image; may be the same file (MFNet keeps both in one).
        boxes: file of its boxes; None: it has none of its own.
        mask: file of its class mask, or None.
        subsets: subsets that the data set itself says it belongs to, such as "day" or "night".
        seed: of a rendered scene, which has no files.
        present: whether the RGB and the infrared camera took it; the file of one that did not is meaningless.
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
        """Every file of the item, each once."""
        images = [path for path, there in zip((self.rgb, self.infrared), self.present, strict=True) if there]
        paths = () if self.seed is not None else (*images, self.boxes, self.mask)
        return tuple(dict.fromkeys(path for path in paths if path is not None))


def _images(item: LabelledItem) -> tuple[np.ndarray, np.ndarray]:
    return read_pair(item.rgb, item.infrared)


@dataclass
class Found:
    """What a reader found of one split, and how its pairs are read.

    Attributes:
        items: pairs that are whole.
        missing: for each listed pair that is not, the first file that lacks, relative to the root.
        images: reads colour uint8 [h, w, 3] and infrared uint8 or uint16 [h, w].
        objects: reads the objects, None where they are not labelled; None: the data set has no boxes.
        mask: reads the class mask uint8 [h, w], 255 where unlabelled, and counts what it tolerates; None: the data set
            has none.
        sample: reads all at once, in place of these three.
        notes: oddities of label files that are read already, see `data.labels.NOTES`.
        remarks: what else a user should know, in words.
        difficult_counts: whether VOC's difficult objects count; otherwise they are ignored.
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
    """A data set as it is published.

    Attributes:
        name: what users type.
        title: how papers call it.
        infrared: the band beside RGB.
        box_classes: names that box labels index; empty: no boxes.
        mask_classes: names that mask values index; empty: no masks.
        palette: RGB of each mask class.
        splits: official splits and how many pairs each has; None: unknown.
        train_split, report_split: what published figures are trained on, and reported on.
        find: (root, split) to what is there; can be pickled, so that a benchmark reaches other processes.
        layout: what is looked for, for a person to compare with his folder.
        source: where to get it, and in which form.
        licence: its terms in a phrase.
        ignore: which pixels or boxes don't count, and which background does.
        notes: traps, one a line.
        time_rule: how day is told from night: "stated" by the data set, "luminance" (see `daylight`) or None.
        stated_subsets: subsets that the data set states.
        assumed: what of this description is a guess, because nobody published it; empty: nothing.
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
        """Of "detection" and "segmentation", those that there are labels for."""
        return (*(("detection",) if self.box_classes else ()), *(("segmentation",) if self.mask_classes else ()))

    @property
    def subsets(self) -> tuple[str, ...]:
        """Subsets that its splits can be divided into."""
        return tuple(dict.fromkeys((*self.stated_subsets, *((DAY, NIGHT) if self.time_rule else ()))))

    def open(self, root: str | Path | None, split: str, allow_missing: bool = False) -> LabelledPairs:
        """One split of it.

        Args:
            root: the folder it was extracted to, or the one above.
            split: key of `splits`.
            allow_missing: give what is there, however much lacks.

        Raises:
            BenchmarkError: no such split, the root is not this data set, or only part of it.
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
            lacking = f": {found.missing[0]} and {len(found.missing) - 1} more lack" if found.missing else ""
            raise BenchmarkError(f"{root}: no whole pair of {self.name} {split}{lacking}. {self.advice}")
        if found.missing and not allow_missing:
            told = (
                f"{len(found.missing)} of {total} pairs of {self.name} {split} lack a file, such as {found.missing[0]}"
            )
            if len(found.missing) > MOST_MISSING * total:
                raise BenchmarkError(f"{root}: {told}; it seems only partly extracted. {self.advice}")
            log.warning("%s; they are left out", told)
        return pairs

    @property
    def advice(self) -> str:
        """What a person without the data is told."""
        return f"Looked for: {self.layout}. Get it: {self.source}"


class LabelledPairs(Sequence[LabelledItem]):
    """The labelled pairs of one split, or of a subset of one.

    Attributes:
        benchmark: its description, with class tables and rules.
        root, split: where it lies and which part it is.
        name: for tables: data set, split and subset.
        missing: files that lack, see `Found`.
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
        """Oddities of the labels that were read so far, each pair's once; see `data.labels.NOTES`."""
        return sum(list(self._notes.values()), +self._found.notes)

    def __len__(self) -> int:
        return len(self._found.items)

    def __getitem__(self, place):  # type: ignore[no-untyped-def, override]
        """The item at a place; a slice gives pairs of the same split."""
        if isinstance(place, slice):
            return self._with(self._found.items[place], self._subset)
        return self._found.items[place]

    def __iter__(self) -> Iterator[LabelledItem]:
        return iter(self._found.items)

    def load(self, item: LabelledItem) -> PairedSample:
        """The pair's images with all that is known of them; `subsets` of the sample tells day from night where a rule
        does.

        Raises:
            BenchmarkError, ImageFileError: a file is missing, damaged, or its labels are none of the benchmark's.
        """
        return self.load_with_boxes(item)[0]

    def load_with_boxes(self, item: LabelledItem) -> tuple[PairedSample, Boxes | None]:
        """The same, and the boxes with what was left out of them; None: not labelled."""
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
        """The item's boxes within an image of (width, height), with what was left out; None: not labelled.

        Raises:
            LabelError: the file of its boxes is missing or damaged.
        """
        objects = None if self._found.objects is None else self._found.objects(item)
        return None if objects is None else boxes_of(objects, self.box_classes, size, self._found.difficult_counts)

    def samples(self, workers: int = 0) -> Iterator[PairedSample]:
        """Every pair, read when asked for, or ahead (see `prefetched`)."""
        return prefetched(self.load, self, workers)

    def subset(self, name: str) -> LabelledPairs:
        """Those of a subset. Under the rule "luminance" this reads the colour image of every pair that is not stated.

        Raises:
            BenchmarkError: the benchmark has no such subset, or an image can't be read.
        """
        if name not in self.subsets:
            raise BenchmarkError(
                f"{self.benchmark.name} has no subset {name!r}: choose one of {', '.join(self.subsets) or 'none'}"
            )
        return self._with([item for item in self._found.items if name in self._subsets_of(item)], name)

    def subset_counts(self) -> Counter[str]:
        """How many pairs each subset has."""
        return Counter(name for item in self._found.items for name in self._subsets_of(item))

    def __reduce__(self) -> tuple[Callable[..., LabelledPairs], tuple[object, ...]]:
        """Other processes open the folder themselves, and take the same items in the same order."""
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
        for kind in LOSSES & notes.keys() - self._warned:  # each kind once; `data check` counts them all
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
