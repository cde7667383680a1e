"""Render a folder of synthetic pairs: short sequences by day, at dusk and by night."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2

from spectradino_core.data.scene_sets import HELD_OUT
from spectradino_core.modality import Modality
from spectradino_core.scenes import BOX_CLASSES, MASK_CLASSES, TIMES_OF_DAY, SceneOptions, render_sequence

FIRST_SEED = HELD_OUT["report"]
"""First of the seeds that are never used in training."""

FRAMES_PER_SEQUENCE = 4
_FRAME_RATE_HZ = 4.0
_CLOCK_OFFSET_MS = 6.0
"""Delay of the IR exposure, as of cameras without a common trigger."""
_MIN_VISIBLE = 0.25
"""Minimum visible fraction of an object to be labelled; less is not recognisable."""


def write_scenes(
    folder: Path,
    pairs: int,
    infrared: Modality,
    size: tuple[int, int] = (640, 512),
    tick: Callable[[], object] = lambda: None,
) -> None:
    """Render `pairs` pairs into `folder` as a data set for `PairedFolder`, with the split "val".

    Every `FRAMES_PER_SEQUENCE` pairs form a sequence with a seed of its own. Files of an earlier run are overwritten;
    `tick` is called after each pair.

    Raises:
        OSError: an image can't be written.
    """
    band = infrared.key
    for kind in ("rgb", band, "label"):
        (folder / "val" / kind).mkdir(parents=True, exist_ok=True)
    items: list[dict[str, Any]] = []
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for index in range(pairs):
        sequence, frame = divmod(index, FRAMES_PER_SEQUENCE)
        if frame == 0:
            options = SceneOptions(
                width=size[0],
                height=size[1],
                bands=(Modality.RGB, infrared),
                time_of_day=TIMES_OF_DAY[sequence % len(TIMES_OF_DAY)],
                misregistration_px=1.0,
                clock_offset_ms=_CLOCK_OFFSET_MS,
            )
            length = min(FRAMES_PER_SEQUENCE, pairs - index)
            scenes = iter(render_sequence(FIRST_SEED + sequence, length, _FRAME_RATE_HZ, options))
        scene = next(scenes)
        name = f"{index:04d}"
        paths = {kind: f"val/{kind}/{name}.png" for kind in ("rgb", band, "label")}
        arrays = {
            "rgb": cv2.cvtColor(scene.images[Modality.RGB], cv2.COLOR_RGB2BGR),
            band: scene.images[infrared],
            "label": scene.mask,
        }
        for kind, pixels in arrays.items():
            # Noise does not compress, so the fastest level suffices.
            if not cv2.imwrite(str(folder / paths[kind]), pixels, [cv2.IMWRITE_PNG_COMPRESSION, 1]):
                raise OSError(f"{folder / paths[kind]} can't be written")
        items.append(
            {"id": name, "width": size[0], "height": size[1], "time": scene.time_of_day, "seed": scene.seed}
            | {"ir_offset_ms": _CLOCK_OFFSET_MS, **paths}
        )
        images.append({"id": index, "file_name": paths["rgb"], "width": size[0], "height": size[1]})
        for box, label, visible in zip(
            scene.boxes.tolist(), scene.labels.tolist(), scene.visible.tolist(), strict=True
        ):
            if visible >= _MIN_VISIBLE:
                corner = [box[0], box[1], box[2] - box[0], box[3] - box[1]]
                annotations.append(
                    {"id": len(annotations), "image_id": index, "category_id": label, "bbox": corner}
                    | {"visible_frac": round(visible, 3), "area": corner[2] * corner[3], "iscrowd": 0}
                )
        tick()
    manifest = {"set": "synthetic street", "split": "val", "mask_classes": list(MASK_CLASSES), "items": items}
    categories = [{"id": label, "name": name} for label, name in enumerate(BOX_CLASSES)]
    truth = {"images": images, "categories": categories, "annotations": annotations}
    (folder / "index_val.json").write_text(json.dumps(manifest, indent=1))
    (folder / "instances_val.json").write_text(json.dumps(truth, indent=1))
