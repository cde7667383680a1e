"""`spectradino evaluate retrieval`: evaluate backbones' alignment of modalities on held-out pairs."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

__all__ = ["NAME", "add"]

NAME = "evaluate-retrieval"
"""Internal name of `evaluate retrieval`, since `evaluate` takes a model file in its place."""


def add(commands: Any) -> None:
    """Add the command to `commands`, the result of `ArgumentParser.add_subparsers`."""
    command = commands.add_parser(
        NAME,
        prog="spectradino evaluate retrieval",
        help="(evaluate retrieval) evaluate how well backbones align RGB with other modalities",
        description="Retrieval in both directions, cosine similarity of true and unrelated pairs, and retention of the "
        "teacher's RGB features; with --knn-train and --probes also k-NN and linear probes.",
    )
    command.add_argument(
        "models", nargs="+", metavar="[NAME=]FILE", help="backbones, DINOv2 weights, fine-tuned models"
    )
    command.add_argument("--data", type=Path, nargs="+", default=[], metavar="MANIFEST", help="held-out pairs")
    command.add_argument("--root", type=Path, help="folder that paths are relative to (default: the manifest's own)")
    command.add_argument("--scenes", type=int, default=0, metavar="N", help="N unseen synthetic scenes")
    command.add_argument("--teacher", type=Path, help="reference for RGB features; also evaluated, as the baseline")
    command.add_argument("--knn-train", type=Path, metavar="MANIFEST", help="items with classes, for k-NN")
    command.add_argument("--maps", action="store_true", help="also use depth and segmentation maps of the scenes")
    command.add_argument("--infrared", action="store_true", help="also compare IR bands with each other")
    command.add_argument("--probes", type=int, default=0, metavar="N", help="fit linear probes on N training scenes")
    command.add_argument("--crop", type=int, default=224, help="side of the square views (default: %(default)s)")
    command.add_argument(
        "--views", type=int, default=1, metavar="N",
        help="views of each item: the largest centred square, then seeded crops; figures are averaged over views, "
        "which stabilises those of small sets (default: %(default)s)",
    )  # fmt: skip
    command.add_argument("--device", default="cpu", choices=("cpu", "cuda"), help="default: %(default)s")
    command.add_argument("--out", type=Path, help="folder for retrieval.md, retrieval.json and pairs.png")
    command.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from spectradino_core.evaluation.retrieval_report import run

    return run(options)
