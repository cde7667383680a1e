"""Write manifests of data sets on disk and of synthetic scenes rendered to disk."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from spectradino_core.data.layouts import LayoutError, find_pairs
from spectradino_core.data.manifest import ManifestItem, write_manifest
from spectradino_core.data.ms2 import PLANE_M, registered
from spectradino_core.data.scene_sets import SceneImages
from spectradino_core.data.sources import MAPS
from spectradino_core.drawing import encoded
from spectradino_core.files import write_file
from spectradino_core.modality import INFRARED, Modality
from spectradino_core.text import counted

DEPTH_PER_METRE = 63.0
"""Counts per metre of a scene's depth image; the sky, at 1024 m, fits into 16 bits."""


def make_manifest(
    layout: str,
    root: Path,
    out: Path,
    split: str | None = None,
    pattern: str | None = None,
    base: Path | None = None,
    *,
    bands: Sequence[str] | None = None,
    hold_out: Sequence[str] | int = (),
    limit: int | None = None,
    seed: int = 0,
    plane_m: float = PLANE_M,
) -> str:
    """Write the manifest of a data set, or one for training and one for validation; return a summary of the content.

    Args:
        layout, root, split, pattern: see `layouts.find_pairs`.
        out: manifest to write.
        base: folder that paths are relative to, the root or a folder above it, so that manifests of several data sets
            can share it; None: the manifest's own folder if it is one of these, otherwise the root.
        bands: infrared bands to list; None: all.
        hold_out: sequences, or folders of sequences, that go to a second manifest, `<out>_val`; or the number of
            sequences to draw for it.
        limit: maximum number of items of `out`, drawn at random; None: all.
        seed: seed of these draws.
        plane_m: of layout "ms2", see `ms2.registered`.

    Raises:
        LayoutError, MS2Error, ValueError: the root, or an argument, does not fit; names the remedy.
    """
    items = find_pairs(layout, root, split, pattern)
    if bands is not None:
        items = [kept for item in items if (kept := item.with_bands(bands)) is not None]
        if not items:
            raise LayoutError(f"{root}: no item has {' or '.join(bands)}")
    rng = np.random.default_rng(seed)
    items, validation = _held_out(items, hold_out, rng)
    if limit is not None and limit < len(items):
        items = [items[index] for index in sorted(rng.choice(len(items), limit, replace=False))]
    parts = {out: items} | ({out.with_name(f"{out.stem}_val{out.suffix}"): validation} if validation else {})
    if layout == "ms2":
        parts = {path: registered(root, part, plane_m) for path, part in parts.items()}
    return "\n".join(_write(path, part, root, base) for path, part in parts.items())


def _held_out(
    items: list[ManifestItem], hold_out: Sequence[str] | int, rng: np.random.Generator
) -> tuple[list[ManifestItem], list[ManifestItem]]:
    """Return the items of the other sequences, and those of the sequences to hold out."""
    if isinstance(hold_out, int) and hold_out < 1:
        raise ValueError(f"{hold_out} sequences can't be held out: give at least 1, or none to write one manifest")
    if not hold_out:
        return items, []
    sequences = sorted({item.position.sequence for item in items if item.position is not None})
    if isinstance(hold_out, int):
        if hold_out >= len(sequences):
            raise ValueError(
                f"{hold_out} sequences can't be held out of {len(sequences)}: hold out fewer, or name the sequences in "
                "file names (--sequence-pattern)"
            )
        chosen = {sequences[index] for index in rng.choice(len(sequences), hold_out, replace=False)}
    else:
        below = {one: {name for name in sequences if f"{name}/".startswith(f"{one}/")} for one in hold_out}
        chosen = set().union(*below.values())
        for one, names in below.items():
            if not names:
                known = ", ".join(sequences[:3]) or "none (--sequence-pattern finds them in file names)"
                raise ValueError(f"there is no sequence {one} to hold out: there are {len(sequences)}, such as {known}")
    held = [item for item in items if item.position is not None and item.position.sequence in chosen]
    others = [item for item in items if item.position is None or item.position.sequence not in chosen]
    if not others:
        raise ValueError(
            f"the sequences to hold out are all {len(sequences)}, with all {len(items)} items: hold out fewer"
        )
    return others, held


def _write(out: Path, items: list[ManifestItem], root: Path, base: Path | None) -> str:
    own, real = out.parent.resolve(), root.resolve()
    chosen = base.resolve() if base is not None else own if real.is_relative_to(own) else real
    if not real.is_relative_to(chosen):
        raise ValueError(f"{base} is neither {root} nor above it: paths can't be relative to it")
    below = real.relative_to(chosen)
    items = [replace(item, paths={k: (below / path).as_posix() for k, path in item.paths.items()}) for item in items]
    write_manifest(items, out)
    how = "" if chosen == own else f"; its paths are relative to {chosen}: give that as --data-root"
    return f"{out}: {_summary(items)}{how}"


def write_scenes(
    folder: Path,
    count: int,
    size: tuple[int, int] = (320, 256),
    first: int = 0,
    bands: Sequence[Modality] = INFRARED,
    maps: Sequence[str] = MAPS,
) -> Path:
    """Render scenes (see `SceneImages`) into `<folder>/<modality>/<seed>.png`; returns the path of their manifest."""
    source = SceneImages(count, size, bands, maps, first)

    def items() -> Iterator[ManifestItem]:
        for item in range(count):
            images = source.load(item, source.modalities(item)).images
            paths = {}
            for key, image in images.items():
                paths[key] = f"{key}/{first + item:07d}.png"
                if key == "depth":
                    image = np.clip(np.rint(image * DEPTH_PER_METRE), 0, 65535).astype(np.uint16)
                write_file(folder / paths[key], encoded(image, ".png"))
            source.forget(item)
            yield ManifestItem(paths, source.position(item), "scenes", None, DEPTH_PER_METRE)

    path = folder / "manifest.jsonl"
    write_manifest(items(), path)
    return path


def _summary(items: Sequence[ManifestItem]) -> str:
    """Return, for example, "130 items (lwir 130), 4 sequences"."""
    counts = Counter(key for item in items for key in item.paths if key != "rgb")
    sequences = {item.position.sequence for item in items if item.position is not None}
    kinds = ", ".join(f"{key} {count}" for key, count in counts.items())
    parts = counted(len(sequences), "sequence") if sequences else "no sequences"
    return f"{counted(len(items), 'item')} ({kinds or 'RGB alone'}), {parts}"
