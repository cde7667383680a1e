"""`python -m spectradino_core.scenes`: draw a contact sheet of synthetic scenes."""

from __future__ import annotations

import argparse
import sys

import cv2

from spectradino_core.modality import Modality
from spectradino_core.scenes import SceneOptions, contact_sheet, render_scene


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m spectradino_core.scenes", description=__doc__)
    parser.add_argument("--out", default="scenes.png", help="image file to write (default: %(default)s)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3], help="seeds to draw, one scene per row")
    parser.add_argument("--size", type=int, nargs=2, default=[320, 256], metavar=("WIDTH", "HEIGHT"))
    parser.add_argument("--bands", nargs="+", default=["rgb", "nir", "swir", "lwir"])
    parser.add_argument("--time-of-day", choices=["day", "dusk", "night"], default=None)
    parser.add_argument("--supersample", type=int, default=1)
    parser.add_argument("--no-boxes", action="store_true")
    chosen = parser.parse_args(arguments)
    options = SceneOptions(
        width=chosen.size[0],
        height=chosen.size[1],
        bands=tuple(Modality.parse(band) for band in chosen.bands),
        time_of_day=chosen.time_of_day,
        supersample=chosen.supersample,
    )
    sheet = contact_sheet([render_scene(seed, options) for seed in chosen.seeds], boxes=not chosen.no_boxes)
    if not cv2.imwrite(chosen.out, sheet[..., ::-1]):
        print(f"cannot write {chosen.out}: check that its folder exists and its suffix is an image's", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
