"""`spectradino data make-manifest`: write pair manifests; `list` and `check` are in `data_sets`."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from spectradino_core.commands import data_sets
from spectradino_core.options import add_former, add_option, refuse

__all__ = ["add"]

_LAYOUTS = ("folder", "ms2", "rasmd", "ir500k")


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
        "  spectradino data make-manifest --data /data/MS2 --layout ms2 --data-root /data --out ms2.jsonl\n"
        "  spectradino data make-manifest --scenes 500 --out scenes",
    )
    data = add_option(made, "--data", ", to list")
    add_former(made, data, "root")
    made.add_argument(
        "--layout", choices=(*_LAYOUTS, "scenes"), metavar="LAYOUT",
        help=f"folder layout: {', '.join(_LAYOUTS)} (default: folder)",
    )  # fmt: skip
    add_option(made, "--split", " of layout 'folder' (default: train)")
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
    seed = add_option(made, "--seed", " of the first scene (default: 0)")
    add_former(made, seed, "--first")
    made.set_defaults(run=_make_manifest)


def _make_manifest(options: argparse.Namespace) -> int:
    from spectradino_core.data.make_manifest import make_manifest, write_scenes

    if options.layout == "scenes":
        print(f"{options.prog}: warning: --layout scenes is deprecated, use --scenes N --out DIR", file=sys.stderr)
        options.layout, options.out, options.data = None, options.out or options.data, None
    if options.scenes is not None:
        refuse(options, "data layout split sequence-pattern data-root", "has no effect with --scenes")
        if options.scenes < 1 or options.out is None:
            raise ValueError("--scenes N, at least 1, needs the folder to render into: give --out DIR")
        path = write_scenes(options.out, options.scenes, first=options.seed or 0)
        print(f"{path}: {options.scenes} scenes")
        return 0
    refuse(options, "seed", "has no effect without --scenes")
    if options.data is None:
        raise ValueError("nothing to list: give --data DIR, or --scenes N --out DIR")
    layout, split = options.layout or "folder", options.split or "train"
    if layout != "folder":
        refuse(options, "split", f"has no effect on layout {layout}")
    out = options.out or options.data / (f"manifest_{split}.jsonl" if layout == "folder" else "manifest.jsonl")
    print(make_manifest(layout, options.data, out, split, options.sequence_pattern, options.data_root))
    return 0
