"""Write manifests of data sets on disk and of synthetic scenes rendered to disk."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from spectradino_core.data.layouts import find_pairs
from spectradino_core.data.manifest import ManifestItem, write_manifest
from spectradino_core.data.scene_sets import SceneImages
from spectradino_core.data.sources import MAPS
from spectradino_core.files import written_atomically
from spectradino_core.modality import INFRARED, Modality

__all__ = ["make_manifest", "write_scenes"]

DEPTH_PER_METRE = 63.0
"""Counts per metre of a scene's depth image; the sky, at 1024 m, fits into 16 bits."""


def make_manifest(
    layout: str,
    root: Path,
    out: Path,
    split: str = "train",
    pattern: str | None = None,
    base: Path | None = None,
) -> str:
    """Write the manifest of a data set and return a summary of its content.

    Args:
        layout, root, split, pattern: see `layouts.find_pairs`.
        out: manifest to write.
        base: folder that paths are relative to, the root or a folder above it, so that manifests of several data sets
            can share it; None: the manifest's own folder if it is one of these, otherwise the root.

    Raises:
        LayoutError: the root does not have that layout, or is incomplete.
        ValueError: `base` is neither the root nor above it.
    """
    items = find_pairs(layout, root, split, pattern)
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
    """Render scenes into a folder with a manifest, so that runs and workers need not render them.

    Args:
        folder: receives `<modality>/<seed>.png` and `manifest.jsonl`.
        count, size, first, bands, maps: see `SceneImages`.

    Returns:
        Path of the manifest.
    """
    source = SceneImages(count, size, bands, maps, first)

    def items() -> Iterator[ManifestItem]:
        for item in range(count):
            images = source.load(item, source.modalities(item)).images
            paths = {}
            for key, image in images.items():
                paths[key] = f"{key}/{first + item:07d}.png"
                if key == "rgb":
                    image = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
                elif key == "depth":
                    image = np.clip(np.rint(image * DEPTH_PER_METRE), 0, 65535).astype(np.uint16)
                with written_atomically(folder / paths[key]) as scratch:
                    scratch.write_bytes(cv2.imencode(".png", image)[1].tobytes())
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
    return f"{len(items)} items ({kinds}), {len(sequences) or 'no'} sequences"
