"""`spectradino data make-manifest`: write pair manifests; `list` and `check` are in `data_sets`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from spectradino_core.commands import data_sets

__all__ = ["add"]

_LAYOUTS = ("folder", "ms2", "rasmd", "ir500k", "scenes")


def add(commands: Any) -> None:
    """Add the command to `commands`, the result of `ArgumentParser.add_subparsers`."""
    command = commands.add_parser("data", help="list and check readable data sets, write manifests")
    kinds = command.add_subparsers(dest="kind", required=True, metavar="WHAT")
    data_sets.add(kinds)
    made = kinds.add_parser(
        "make-manifest",
        help="list the pairs of a data set in a manifest (JSON lines)",
        description="Finds the pairs of a data set and writes a manifest, which `spectradino pretrain --data` reads.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="examples:\n"
        "  spectradino data make-manifest /data/roadscene --split train\n"
        "  spectradino data make-manifest /data/MS2 --layout ms2 --relative-to /data --out ms2.jsonl\n"
        "  spectradino data make-manifest scenes --layout scenes --scenes 500",
    )
    made.add_argument("root", type=Path, help="folder of the data set; with --layout scenes: the folder to write")
    made.add_argument("--layout", default="folder", choices=_LAYOUTS, help="folder layout (default: %(default)s)")
    made.add_argument("--split", default="train", help="for layout 'folder' (default: %(default)s)")
    made.add_argument("--out", type=Path, help="the manifest (default: ROOT/manifest_SPLIT.jsonl, or manifest.jsonl)")
    made.add_argument(
        "--relative-to",
        type=Path,
        metavar="FOLDER",
        help="base of the paths, ROOT or above it (default: the manifest's own folder, else ROOT)",
    )
    made.add_argument(
        "--sequence-pattern",
        metavar="REGEX",
        help="groups 'sequence' and 'frame' in the RGB image's path, e.g. '(?P<sequence>FLIR)_(?P<frame>\\d+)'",
    )
    made.add_argument("--scenes", type=int, metavar="N", help="with --layout scenes: number of scenes to render")
    made.add_argument("--first", type=int, default=0, help="with --layout scenes: the first seed")
    made.set_defaults(run=_make_manifest)


def _make_manifest(options: argparse.Namespace) -> int:
    from spectradino_core.data.make_manifest import make_manifest, write_scenes

    if options.layout == "scenes":
        if not options.scenes or options.scenes < 1:
            raise ValueError("--layout scenes needs --scenes N, at least 1")
        path = write_scenes(options.root, options.scenes, first=options.first)
        print(f"{path}: {options.scenes} scenes")
        return 0
    name = f"manifest_{options.split}.jsonl" if options.layout == "folder" else "manifest.jsonl"
    out = options.out or options.root / name
    print(
        make_manifest(options.layout, options.root, out, options.split, options.sequence_pattern, options.relative_to)
    )
    return 0
