"""`python -m spectradino_core.scenes`: draw a contact sheet of synthetic scenes."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import cv2
import numpy as np

from spectradino_core.drawing import box_colour, draw_box, encoded, in_palette, stretched, write_text
from spectradino_core.files import error_text, make_folder, write_file
from spectradino_core.modality import Modality
from spectradino_core.options import COUNT, NATURAL, claim_file
from spectradino_core.scenes import MASK_PALETTE, TIMES_OF_DAY, Scene, SceneOptions, render_scene
from spectradino_core.text import counted


def contact_sheet(scenes: list[Scene], boxes: bool = True) -> np.ndarray:
    """Draw one row per scene, its bands and then its mask, as uint8 RGB [rows * H, columns * W, 3]."""
    rows = []
    for scene in scenes:
        cells = [_annotated(_displayable(scene, band), scene, band, boxes) for band in sorted(scene.images)]
        rows.append(np.hstack([*cells, in_palette(scene.mask, MASK_PALETTE)]))
    return np.vstack(rows)


def _displayable(scene: Scene, band: Modality) -> np.ndarray:
    """Return a band as uint8 RGB [H, W, 3]; 16-bit images are stretched between percentiles 1 and 99.5."""
    image = scene.images[band]
    if band is Modality.SWIR:
        image = np.sqrt(image.astype(np.float32))  # proportional to radiance: needs a tone curve before the stretch
    if image.dtype != np.uint8:
        image = stretched(image, image, (1.0, 99.5))
    return image.copy() if image.ndim == 3 else np.repeat(image[..., None], 3, axis=2)


def _annotated(cell: np.ndarray, scene: Scene, band: Modality, boxes: bool) -> np.ndarray:
    if boxes and len(scene.boxes):
        corners = scene.boxes.reshape(-1, 1, 2)
        if band is not Modality.RGB:
            corners = cv2.perspectiveTransform(corners, np.linalg.inv(scene.ir_to_rgb))
        for box, label in zip(corners.reshape(-1, 4), scene.labels):
            draw_box(cell, box, box_colour(label), thickness=1)
    write_text(cell, f"{band.key} seed {scene.seed} {scene.time_of_day}", (4, 13), (255, 255, 255))
    return cell


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m spectradino_core.scenes", description=__doc__)
    parser.add_argument("--out", type=Path, default="scenes.png", help="PNG or JPEG to write (default: %(default)s)")
    parser.add_argument("--overwrite", action="store_true", help="replace what --out already holds")
    parser.add_argument("--seeds", type=NATURAL, nargs="+", default=[0, 1, 2, 3], help="one scene per row")
    parser.add_argument("--size", type=COUNT, nargs=2, default=[320, 256], metavar=("WIDTH", "HEIGHT"))
    parser.add_argument("--bands", nargs="+", default=["rgb", "nir", "swir", "lwir"])
    parser.add_argument("--time-of-day", choices=TIMES_OF_DAY)
    parser.add_argument("--supersample", type=COUNT, default=1)
    parser.add_argument("--no-boxes", action="store_true")
    chosen = parser.parse_args(arguments)
    try:
        claim_file(chosen.out, (".png", ".jpg", ".jpeg"), chosen.overwrite)
        options = SceneOptions(
            width=chosen.size[0],
            height=chosen.size[1],
            bands=tuple(Modality.parse(band) for band in chosen.bands),
            time_of_day=chosen.time_of_day,
            supersample=chosen.supersample,
        )
        sheet = contact_sheet([render_scene(seed, options) for seed in chosen.seeds], boxes=not chosen.no_boxes)
        make_folder(chosen.out.parent)
        write_file(chosen.out, encoded(sheet, chosen.out.suffix))
    except (ValueError, OSError) as error:
        parser.error(error_text(error))
    print(f"{chosen.out}: {counted(len(chosen.seeds), 'scene')}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
