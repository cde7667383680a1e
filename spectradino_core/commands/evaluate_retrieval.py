"""`spectradino evaluate retrieval`: how well backbones align modalities, on held-out pairs."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

__all__ = ["NAME", "add"]

NAME = "evaluate-retrieval"
"""The command line joins `evaluate retrieval` to this, since `evaluate` takes a model file there."""


def add(commands: Any) -> None:
    """Declares the command.

    Args:
        commands: what `ArgumentParser.add_subparsers` returned.
    """
    command = commands.add_parser(
        NAME,
        prog="spectradino evaluate retrieval",
        help="(evaluate retrieval) how well backbones align RGB with other modalities",
        description="Retrieval both ways, cosine of true and unrelated pairs, how much of the teacher's RGB features "
        "is kept; with --knn-train and --probes also k-NN and linear probes.",
    )
    command.add_argument(
        "models", nargs="+", metavar="[NAME=]FILE", help="backbones, DINOv2 weights, fine-tuned models"
    )
    command.add_argument("--data", type=Path, nargs="+", default=[], metavar="MANIFEST", help="held-out pairs")
    command.add_argument("--root", type=Path, help="folder that paths are relative to (default: the manifest's own)")
    command.add_argument("--scenes", type=int, default=0, metavar="N", help="N unseen synthetic scenes")
    command.add_argument("--teacher", type=Path, help="whose RGB features should be kept; judged too, as the baseline")
    command.add_argument("--knn-train", type=Path, metavar="MANIFEST", help="items with classes, for k-NN")
    command.add_argument("--maps", action="store_true", help="depth and segmentation maps of the scenes too")
    command.add_argument("--infrared", action="store_true", help="infrared bands with each other too")
    command.add_argument("--probes", type=int, default=0, metavar="N", help="fit linear probes on N training scenes")
    command.add_argument("--crop", type=int, default=224, help="side of the square views (default: %(default)s)")
    command.add_argument(
        "--views", type=int, default=1, metavar="N",
        help="views of each item: the largest centred square, then seeded crops; figures are their means, which "
        "steadies those of small sets (default: %(default)s)",
    )  # fmt: skip
    command.add_argument("--device", default="cpu", choices=("cpu", "cuda"), help="default: %(default)s")
    command.add_argument("--out", type=Path, help="folder for retrieval.md, retrieval.json and pairs.png")
    command.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from spectradino_core.evaluation.retrieval_report import run

    return run(options)
