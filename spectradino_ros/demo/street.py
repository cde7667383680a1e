"""A folder of synthetic pairs, in the layout that real ones have: short drives by day, at dusk and by night."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2

from spectradino_core.data.seeds import HELD_OUT
from spectradino_core.modality import Modality
from spectradino_core.scenes import BOX_CLASSES, MASK_CLASSES, TIMES_OF_DAY, SceneOptions, render_sequence

__all__ = ["FIRST_SEED", "FRAMES_PER_DRIVE", "write_street"]

FIRST_SEED = HELD_OUT["report"]
"""Seeds from here on are never trained on."""

FRAMES_PER_DRIVE = 4
_FRAME_RATE_HZ = 4.0
_CLOCK_OFFSET_MS = 6.0
"""The infrared camera exposes so much later, as cameras without a common trigger do."""
_LEAST_VISIBLE = 0.25
"""Objects of which less can be seen are not asked for: neither a person nor the model could name them."""


def write_street(
    folder: Path,
    pairs: int,
    infrared: Modality,
    size: tuple[int, int] = (640, 512),
    seed: int = FIRST_SEED,
    tick: Callable[[], object] = lambda: None,
) -> None:
    """Renders `pairs` frames into `folder` as a set that `PairedFolder` reads, its split called "val".

    Args:
        folder: made if need be; what an earlier run left there is written over.
        pairs: how many, at least 1; every `FRAMES_PER_DRIVE` of them are one drive.
        infrared: the band beside RGB.
        size: (width, height) in pixels.
        seed: of the first drive; the next ones count on.
        tick: called after each pair.
    """
    band = infrared.key
    for kind in ("rgb", band, "label"):
        (folder / "val" / kind).mkdir(parents=True, exist_ok=True)
    items: list[dict[str, Any]] = []
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for place in range(pairs):
        drive, frame = divmod(place, FRAMES_PER_DRIVE)
        if frame == 0:
            options = SceneOptions(
                width=size[0],
                height=size[1],
                bands=(Modality.RGB, infrared),
                time_of_day=TIMES_OF_DAY[drive % len(TIMES_OF_DAY)],
                misregistration_px=1.0,
                clock_offset_ms=_CLOCK_OFFSET_MS,
            )
            length = min(FRAMES_PER_DRIVE, pairs - place)
            scenes = iter(render_sequence(seed + drive, length, _FRAME_RATE_HZ, options))
        scene = next(scenes)
        name = f"{place:04d}"
        paths = {kind: f"val/{kind}/{name}.png" for kind in ("rgb", band, "label")}
        arrays = {
            "rgb": cv2.cvtColor(scene.images[Modality.RGB], cv2.COLOR_RGB2BGR),
            band: scene.images[infrared],
            "label": scene.mask,
        }
        for kind, pixels in arrays.items():
            # noise does not compress, so the fastest setting is as good as any
            if not cv2.imwrite(str(folder / paths[kind]), pixels, [cv2.IMWRITE_PNG_COMPRESSION, 1]):
                raise OSError(f"{folder / paths[kind]} could not be written")
        items.append(
            {"id": name, "width": size[0], "height": size[1], "time": scene.time_of_day, "seed": scene.seed}
            | {"ir_offset_ms": _CLOCK_OFFSET_MS, **paths}
        )
        images.append({"id": place, "file_name": paths["rgb"], "width": size[0], "height": size[1]})
        for box, label, visible in zip(
            scene.boxes.tolist(), scene.labels.tolist(), scene.visible.tolist(), strict=True
        ):
            if visible >= _LEAST_VISIBLE:
                corner = [box[0], box[1], box[2] - box[0], box[3] - box[1]]
                annotations.append(
                    {"id": len(annotations), "image_id": place, "category_id": label, "bbox": corner}
                    | {"visible_frac": round(visible, 3), "area": corner[2] * corner[3], "iscrowd": 0}
                )
        tick()
    index = {"set": "synthetic street", "split": "val", "mask_classes": list(MASK_CLASSES), "items": items}
    categories = [{"id": label, "name": name} for label, name in enumerate(BOX_CLASSES)]
    truth = {"images": images, "categories": categories, "annotations": annotations}
    (folder / "index_val.json").write_text(json.dumps(index, indent=1))
    (folder / "instances_val.json").write_text(json.dumps(truth, indent=1))
