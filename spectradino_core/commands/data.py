"""`spectradino data make-manifest`: write pair manifests; `list` and `check` are in `data_sets`."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from spectradino_core.commands import data_sets
from spectradino_core.options import add_former, add_option, names, refuse

__all__ = ["add"]

_LAYOUTS = ("folder", "ms2", "rasmd", "ir500k", "nyuv2", "ade20k", "imagenet")
_WITHOUT_SPLITS = ("rasmd", "ir500k")
_OF_DATA = "split bands hold-out-sequences limit plane-distance sequence-pattern data-root"
"""Options that list what is on disk."""


def add(commands: Any) -> None:
    """Add the command to `commands`, the result of `ArgumentParser.add_subparsers`."""
    command = commands.add_parser("data", help="list and check readable data sets, write manifests")
    kinds = command.add_subparsers(dest="kind", required=True, metavar="WHAT")
    data_sets.add(kinds)
    made = kinds.add_parser(
        "make-manifest",
        help="list the pairs of a data set in a manifest (JSON lines)",
        description="Finds the pairs of a data set and writes a manifest for `spectradino pretrain --manifest`.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="examples:\n"
        "  spectradino data make-manifest --data /data/roadscene --split train\n"
        "  spectradino data make-manifest --data /data/MS2 --layout ms2 --split train --out ms2.jsonl\n"
        "  spectradino data make-manifest --data /data/RASMD --layout rasmd --hold-out-sequences 4 --out rasmd.jsonl\n"
        "  spectradino data make-manifest --scenes 500 --out scenes",
    )
    data = add_option(made, "--data", ", to list")
    add_former(made, data, "root")
    made.add_argument(
        "--layout", choices=(*_LAYOUTS, "scenes"), metavar="LAYOUT",
        help=f"folder layout: {', '.join(_LAYOUTS)} (default: folder)",
    )  # fmt: skip
    add_option(
        made, "--split", " of layout 'folder' (default: train); of 'ms2': train, val, test, test_day, test_night or "
        "test_rainy (default: all sequences); of 'nyuv2', 'ade20k', 'imagenet' (default: the training split)",
    )  # fmt: skip
    add_option(made, "--bands")
    made.add_argument(
        "--hold-out-sequences", type=names, default=(), metavar="A,B|N",
        help="sequences to list in a second manifest, OUT_val, for validation: names, or how many to draw",
    )  # fmt: skip
    add_option(made, "--limit", ", drawn at random")
    made.add_argument(
        "--plane-distance", type=float, metavar="M",
        help="of layout 'ms2': IR images coincide with RGB at this distance [m]; inf: far away (default: 20)",
    )  # fmt: skip
    add_option(
        made, "--out", ": the manifest (default: manifest_SPLIT.jsonl or manifest.jsonl in --data); with --scenes: the "
        "folder to render into", metavar="PATH",
    )  # fmt: skip
    base = add_option(
        made, "--data-root", ", --data or above it, to which paths are relative (default: the manifest's own folder, "
        "else --data)",
    )  # fmt: skip
    add_former(made, base, "--relative-to")
    made.add_argument(
        "--sequence-pattern",
        metavar="REGEX",
        help="groups 'sequence' and 'frame' in the RGB image's path, e.g. '(?P<sequence>FLIR)_(?P<frame>\\d+)'",
    )
    add_option(made, "--scenes", " to render, in place of --data")
    seed = add_option(made, "--seed", " of the first scene, or of what is drawn (default: 0)")
    add_former(made, seed, "--first")
    made.set_defaults(run=_make_manifest)


def _make_manifest(options: argparse.Namespace) -> int:
    from spectradino_core.data.make_manifest import make_manifest, write_scenes
    from spectradino_core.data.ms2 import PLANE_M
    from spectradino_core.data.sources import infrared_keys

    if options.layout == "scenes":
        print(f"{options.prog}: warning: --layout scenes is deprecated, use --scenes N --out DIR", file=sys.stderr)
        options.layout, options.out, options.data = None, options.out or options.data, None
    if options.scenes is not None:
        refuse(options, f"data layout {_OF_DATA}", "has no effect with --scenes")
        if options.scenes < 1 or options.out is None:
            raise ValueError("--scenes N, at least 1, needs the folder to render into: give --out DIR")
        path = write_scenes(options.out, options.scenes, first=options.seed or 0)
        print(f"{path}: {options.scenes} scenes")
        return 0
    held = options.hold_out_sequences
    hold_out = int(held[0]) if len(held) == 1 and held[0].isdigit() else held
    if options.limit is None and not isinstance(hold_out, int):
        refuse(options, "seed", "has no effect without --scenes, --limit or a number of --hold-out-sequences")
    if options.limit is not None and options.limit < 1:
        raise ValueError(f"--limit must be at least 1, got {options.limit}")
    if options.data is None:
        raise ValueError("nothing to list: give --data DIR, or --scenes N --out DIR")
    layout = options.layout or "folder"
    split = options.split or ("train" if layout == "folder" else None)
    if layout in _WITHOUT_SPLITS:
        refuse(options, "split", f"has no effect on layout {layout}")
    if layout != "ms2":
        refuse(options, "plane-distance", f"has no effect on layout {layout}")
    out = options.out or options.data / ("manifest.jsonl" if split is None else f"manifest_{split}.jsonl")
    text = make_manifest(
        layout, options.data, out, split, options.sequence_pattern, options.data_root,
        bands=None if options.bands is None else infrared_keys(options.bands), hold_out=hold_out, limit=options.limit,
        seed=options.seed or 0, plane_m=PLANE_M if options.plane_distance is None else options.plane_distance,
    )  # fmt: skip
    print(text)
    return 0
