"""A user's folder as a labelled data set with the interface of the published ones (`datasets.registry`).

Letters: h w image size.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from spectradino_core.data.images import colour_fault, exif_orientation, read_colour, read_counts
from spectradino_core.data.labels import ClassNames, ImageLabels, LabelError
from spectradino_core.data.labels.objects import canonical
from spectradino_core.datasets.benchmark import Benchmark, Found, LabelledItem
from spectradino_core.datasets.files import on_grid
from spectradino_core.datasets.own.labels import Labelled, Labels
from spectradino_core.datasets.own.scan import INFRARED, RGB, SPLITS, File, scan
from spectradino_core.datasets.own.splits import assign_splits
from spectradino_core.modality import Modality
from spectradino_core.text import counted, one_line

_HELD_OUT = 5
"""If a folder has no split, the last n-th of its items in the order of names is held out."""

_SHAPE_TOLERANCE = 0.02
"""Maximum relative difference of the aspect ratios of an image and of the size that its labels state."""

_LAYOUT = (
    "images in folders named by camera (rgb, visible, .. and thermal, ir, lwir, nir, swir, ..) and, where "
    "there is a split, train, val or test; with labels as COCO JSON, CVAT XML, VOC XML or YOLO text"
)


@dataclass(frozen=True)
class _Item:
    name: str
    split: str
    images: dict[str, File]
    labelled: Labelled | None


@dataclass
class OwnFolder:
    """A user's folder as a data set.

    Attributes:
        provenance: entry in the provenance of models trained on it; without paths.
        remarks: assumptions and skipped files, as messages.
    """

    root: Path
    benchmark: Benchmark
    provenance: dict[str, Any]
    remarks: list[str] = field(default_factory=list)

    def described(self, remarks: bool = True) -> list[str]:
        """Describe the splits, the classes and, unless disabled, the remarks, one line each."""
        lines = [f"{self.benchmark.title}: {', '.join(self.provenance['formats'])} labels"]
        for split, counts in self.provenance["images"].items():
            lines.append(f"  {split}: " + ", ".join(_counted(count, kind) for kind, count in counts.items()))
        lines.append(f"  classes: {', '.join(self.benchmark.box_classes)}")
        return [*map(one_line, lines), *(f"  - {remark}" for remark in self.remarks if remarks)]


def _counted(count: int, kind: str) -> str:
    return counted(count, "pair") if kind == "pairs" else f"{count} {kind}"


def open_own(
    root: str | Path,
    infrared: Modality | str | None = None,
    rgb_folder: str | None = None,
    infrared_folder: str | None = None,
    classes: Sequence[str] | None = None,
    default_band: Modality = Modality.LWIR,
) -> OwnFolder:
    """Open a user's folder.

    Args:
        root: the folder.
        infrared: band of the infrared camera; None: from the folder's name, else `default_band`.
        rgb_folder, infrared_folder: the cameras' folders, if their names do not show the camera.
        classes: names that labels index; None: all classes of the labelled objects.
        default_band: band if no folder's name shows it.

    Raises:
        LabelError: there are no images, no labels, or damaged labels; the message names the files.
    """
    root = Path(root)
    chosen = None if infrared is None else Modality.parse(infrared)
    if chosen is Modality.RGB:
        raise LabelError("the infrared band is lwir, nir or swir, not rgb")
    found = scan(root, rgb_folder, infrared_folder, chosen)
    assign_splits(found)
    band = chosen or found.band or default_band
    labels = Labels(found)
    items = _items(found.images, labels.find)
    if labels.damaged:
        shown = "; ".join(labels.damaged[:5]) + ("; .." if len(labels.damaged) > 5 else "")
        raise LabelError(f"{root}: {len(labels.damaged)} label files can't be used: {shown}")
    remarks = [*found.remarks, *labels.remarks]
    seen = {camera: item.name for item in items for camera in item.images}
    if len(seen) == 2 and all(len(item.images) == 1 for item in items):
        remarks.append(
            f"no image of one camera pairs with one of the other, such as {seen[RGB]} and {seen[INFRARED]}: each is "
            "used alone; the images of a pair have the same name and the same folders besides those of their cameras "
            "(rgb and thermal, or as given by --rgb and --ir)"
        )
    singles: dict[str, set[tuple[str, str]]] = defaultdict(set)
    for item in items:
        if len(item.images) == 1:
            (camera, file), *_ = item.images.items()
            singles[file.name].add((item.split, camera))
    apart = [name for name, rows in singles.items() if len(rows) == 2 and all(len({*part}) == 2 for part in zip(*rows))]
    if apart:
        remarks.append(
            f"{counted(len(apart), 'name')}, such as {apart[0]}, have their RGB image in one split and their infrared "
            "image in another: if they show one view, move both into one"
        )
    known = [item for item in items if item.labelled is not None]
    if not known:
        raise LabelError(
            f"{root}: none of its {len(items)} images is labelled: looked for COCO JSON or CVAT XML that lists them, "
            "and for VOC XML or YOLO text files of their names (export labels of other formats as COCO)"
            + "".join(f"; {remark}" for remark in labels.remarks[:5])
        )
    if len(known) < len(items):
        example = next(item for item in items if item.labelled is None).name
        remarks.append(
            f"{len(items) - len(known)} of {len(items)} images have no labels and are skipped, such as {example} (an "
            "image without objects has an empty label file or an entry in the COCO file)"
        )
    remarks += _image_faults([file for item in known for file in item.images.values()])
    known, remark = _with_held_out(known)
    remarks += remark
    used, merged = _used(known, labels.classes)
    remarks += merged
    table = ClassNames.table_of(used if classes is None else classes)
    if not table:
        raise LabelError(f"{root}: its labels hold no object, so there are no classes")
    names = ClassNames(used)
    unused = [name for name in labels.classes if names.find(name) is None]
    if unused:
        remarks.append(f"no object of the declared classes {', '.join(unused)}: they are not part of the set")
    absent = [name for name in table if names.find(name) is None]
    if absent:
        raise LabelError(f"{root}: holds no object of {', '.join(absent)}; its classes are {', '.join(used)}")
    remarks = [one_line(remark) for remark in remarks]
    splits = {split: [item for item in known if item.split == split] for split in SPLITS}
    splits = {split: rows for split, rows in splits.items() if rows}
    benchmark = Benchmark(
        name=re.sub(r"\W+", "_", root.resolve().name.lower()).strip("_") or "own",
        title=one_line(f"own data '{root.resolve().name}'"),
        infrared=band,
        splits=dict.fromkeys(splits),
        train_split="train" if "train" in splits else next(iter(splits)),
        report_split=next(split for split in ("test", "val", "train") if split in splits),
        find=partial(_found, splits, labels.notes, remarks),
        layout=_LAYOUT,
        source="your own; see docs/own_data.md",
        licence="your own",
        ignore="crowds and objects marked difficult are ignored",
        box_classes=table,
    )
    return OwnFolder(root, benchmark, _provenance(benchmark, splits), remarks)


def _items(images: Sequence[File], labels_of: Any) -> list[_Item]:
    """Group images of one name and split into items, in the order of names."""
    together: dict[tuple[str | None, str], dict[str, File]] = defaultdict(dict)
    for file in images:
        assert file.camera is not None
        known = together[file.split, file.name].setdefault(file.camera, file)
        if known is not file:
            raise LabelError(
                f"{known.relative} and {file.relative} are two {file.camera} images of one name: rename or "
                "remove one, or choose the camera's folder with --rgb or --ir, or without these its band with --band"
            )
    items = []
    for (split, _), files in sorted(together.items(), key=lambda row: (row[0][0] or "", row[0][1])):
        first, labelled = files.get(RGB) or files[INFRARED], labels_of(files)
        stated_split = split or (labelled.split if labelled is not None else None)  # or of instances_val.json
        items.append(_Item(first.relative, stated_split or "", files, labelled))
    if any(item.split for item in items):
        items = [replace(item, split=item.split or "train") for item in items]
    return items


def _with_held_out(items: list[_Item]) -> tuple[list[_Item], list[str]]:
    """Complete the items' splits; without val and test, the last items are held out as val."""
    splits = {item.split for item in items}
    stated = "no split of its own" if splits == {""} else f"only the split {next(iter(splits))!r}"
    if "train" not in splits:  # training needs a split, whatever the only one is called
        first = next(split for split in ("", "val", "test") if split in splits)
        items = [replace(item, split="train") if item.split == first else item for item in items]
    if len(items) < 2 or {item.split for item in items} != {"train"}:
        return items, []
    kept = len(items) - max(1, len(items) // _HELD_OUT)
    remark = (
        f"the folder has {stated}: its last {len(items) - kept} of {len(items)} labelled images, in the "
        "order of names, are held out as val"
    )
    return items[:kept] + [replace(item, split="val") for item in items[kept:]], [remark]


def _image_faults(files: Sequence[File]) -> list[str]:
    """Describe images whose labels or temperatures may be wrong, although they can be read."""
    found = []
    if fault := colour_fault([file.path for file in files if file.camera == INFRARED]):
        found.append(fault)
    jpegs = [file for file in files if file.path.suffix.lower() in (".jpg", ".jpeg")]
    turned = [file.relative for file in jpegs if exif_orientation(file.path) != 1]
    if turned:
        found.append(
            f"{counted(len(turned), 'image')}, such as {turned[0]}, with an EXIF orientation, which is not applied: "
            "rewrite them upright (e.g. mogrify -auto-orient), or boxes drawn on the upright images are wrong"
        )
    return found


def _used(items: Sequence[_Item], declared: Sequence[str]) -> tuple[tuple[str, ...], list[str]]:
    """Return the classes of the objects, in the order in which the files declare them, and remarks on merged ones."""
    seen = {one.name: None for item in items if item.labelled is not None for one in item.labelled.labels.objects}
    names = list(dict.fromkeys([*(name for name in declared if name in seen), *sorted(seen)]))
    kinds: dict[str, list[str]] = defaultdict(list)
    for name in names:
        kinds[canonical(name)].append(name)
    return ClassNames.table_of(names), [
        f"the classes {', '.join(merged)} are one, {kind}: rename those that differ"
        for kind, merged in kinds.items()
        if len(merged) > 1
    ]


def _found(
    splits: Mapping[str, list[_Item]], notes: Counter[str], remarks: Sequence[str], root: Path, split: str
) -> Found:
    labels = {item.name: item.labelled for item in splits[split]}
    sizes: dict[str, dict[str, tuple[int, int]]] = {}  # of the images read so far, by which objects are scaled
    listed = [
        LabelledItem(
            item.name,
            item.images[RGB].path if RGB in item.images else Path(),
            item.images[INFRARED].path if INFRARED in item.images else Path(),
            boxes=item.labelled.path if item.labelled else None,
            present=(RGB in item.images, INFRARED in item.images),
        )
        for item in splits[split]
    ]

    def images(item: LabelledItem) -> tuple[np.ndarray, np.ndarray]:
        """Read both images on the RGB image's grid; an absent one is zeros."""
        colour = read_colour(item.rgb) if item.present[0] else None
        counts = read_counts(item.infrared) if item.present[1] else None
        taken = {camera: image for camera, image in ((RGB, colour), (INFRARED, counts)) if image is not None}
        sizes[item.name] = {camera: (image.shape[1], image.shape[0]) for camera, image in taken.items()}
        if colour is None:
            assert counts is not None
            return np.zeros((*counts.shape, 3), np.uint8), counts
        if counts is None:
            return colour, np.zeros(colour.shape[:2], np.uint8)
        return colour, on_grid(counts, colour.shape[:2], item.infrared)

    def objects(item: LabelledItem) -> ImageLabels:
        """Read the objects in pixels of the grid of `images`."""
        if item.name not in sizes:
            images(item)
        labelled, known = labels[item.name], sizes[item.name]
        assert labelled is not None
        grid = known.get(RGB) or known[INFRARED]
        drawn_on = (1, 1) if labelled.relative else _drawn_on(labelled, item.name, known, grid)
        x, y = grid[0] / drawn_on[0], grid[1] / drawn_on[1]
        moved = []
        for one in labelled.labels.objects:
            a, b, c, d = one.corners
            moved.append(one._replace(corners=(a * x, b * y, c * x, d * y)))
        stated = labelled.labels.size
        is_guess = stated is None and not labelled.relative and labelled.camera is None and len({*known.values()}) > 1
        notes = Counter(
            unknown_camera=int(is_guess and bool(moved)),
            other_size=int(stated is not None and stated not in known.values()),
        )
        return ImageLabels(moved, labelled.labels.notes + notes, grid)

    return Found(listed, images=images, objects=objects, notes=+notes, remarks=list(remarks), difficult_counts=False)


def _drawn_on(
    labelled: Labelled, name: str, sizes: dict[str, tuple[int, int]], grid: tuple[int, int]
) -> tuple[int, int]:
    """Return the size of the image in whose pixels the labels are.

    That is the size which they state if it has the shape of the image, else the size of their camera's image.

    Raises:
        LabelError: the stated size has another shape, or boxes reach beyond it.
    """
    size = sizes.get(labelled.camera or RGB, grid)
    stated = labelled.labels.size
    if stated is None or stated in sizes.values():
        return stated or size
    message = f"{labelled.path}: states {stated[0]}x{stated[1]} pixels for {name}, which has {size[0]}x{size[1]}"
    if abs(stated[0] * size[1] / (stated[1] * size[0]) - 1) > _SHAPE_TOLERANCE:
        raise LabelError(f"{message}, another shape: correct the size, or label the image as it is stored")
    corners = [one.corners for one in labelled.labels.objects]
    if any(x > stated[0] * (1 + _SHAPE_TOLERANCE) or y > stated[1] * (1 + _SHAPE_TOLERANCE) for _, _, x, y in corners):
        raise LabelError(f"{message}, but has boxes beyond that size: correct it")
    return stated


def _provenance(benchmark: Benchmark, splits: dict[str, list[_Item]]) -> dict[str, Any]:
    items = [item for rows in splits.values() for item in rows]

    def cameras(rows: Sequence[_Item]) -> dict[str, int]:
        kinds = Counter("pairs" if len(row.images) == 2 else f"{next(iter(row.images))} only" for row in rows)
        return dict(sorted(kinds.items()))

    return {
        "name": benchmark.name,
        "kind": "own data",
        "formats": sorted({item.labelled.format for item in items if item.labelled}),
        "classes": list(benchmark.box_classes),
        "images": {split: cameras(rows) for split, rows in splits.items()},
    }
