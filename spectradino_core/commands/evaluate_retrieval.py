"""`spectradino evaluate retrieval`: evaluate backbones' alignment of modalities on held-out pairs."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from spectradino_core.options import TRAINING_DEVICES, add_former, add_option, refuse

__all__ = ["NAME", "add"]

NAME = "evaluate-retrieval"
"""Internal name of `evaluate retrieval`, since `evaluate` is a command of its own."""


def add(commands: Any) -> None:
    """Add the command to `commands`, the result of `ArgumentParser.add_subparsers`."""
    command = commands.add_parser(
        NAME,
        prog="spectradino evaluate retrieval",
        help="(evaluate retrieval) evaluate how well backbones align RGB with other modalities",
        description="Retrieval in both directions, cosine similarity of true and unrelated pairs, and retention of the "
        "teacher's RGB features; with --knn-manifest also k-NN, with --probe-scenes and --probe-manifest linear "
        "probes.",
    )
    model = add_option(
        command, "--model", "s: backbones, DINOv2 weights or fine-tuned models, optionally named", type=str,
        required=True, nargs="+", metavar="[NAME=]FILE",
    )  # fmt: skip
    manifest = add_option(command, "--manifest", ", held out", nargs="+")
    base = add_option(
        command, "--data-root", ", to which the manifests' paths are relative (default: the manifest's own)"
    )
    add_option(command, "--scenes", ", unseen in training", default=0)
    add_option(command, "--teacher", ": reference for RGB features; also evaluated, as the baseline")
    knn = command.add_argument("--knn-manifest", type=Path, metavar="FILE", help="items with classes, for k-NN")
    add_option(command, "--maps", " too", action=argparse.BooleanOptionalAction)
    bands = command.add_argument("--compare-bands", action="store_true", help="also compare IR bands with each other")
    probes = command.add_argument(
        "--probe-scenes", type=int, default=0, metavar="N", help="number of training scenes to fit linear probes on"
    )
    command.add_argument(
        "--probe-manifest", type=Path, metavar="FILE",
        help="items with depth or segmentation maps to fit linear probes on, evaluated on those of --manifest; all "
        "their patch tokens are kept in memory",
    )  # fmt: skip
    add_option(command, "--crop", " (default: %(default)s)", default=224)
    add_option(
        command, "--views", ": the largest centred square, then seeded crops; figures are averaged over views, which "
        "stabilises those of small sets (default: %(default)s)", default=1,
    )  # fmt: skip
    add_option(command, "--depth-range", "; that of the backbones' training")
    add_option(command, "--device", " (default: %(default)s)", default="auto", choices=TRAINING_DEVICES)
    add_option(command, "--workers", " (default: %(default)s)", default=0)
    add_option(command, "--out", " folder for retrieval.md, retrieval.json and pairs.png", metavar="DIR")
    command.add_argument(
        "--tsne", action="store_true", help="also draw pairs_tsne.png, a 3-D t-SNE as in the paper (needs scikit-learn)"
    )
    add_former(command, model, "model")
    add_former(command, manifest, "--data")
    add_former(command, base, "--root")
    add_former(command, knn, "--knn-train")
    add_former(command, bands, "--infrared")
    add_former(command, probes, "--probes")
    command.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from spectradino_core.evaluation.retrieval_report import run

    if not options.manifest and options.knn_manifest is None:
        refuse(options, "data-root", "has no effect without --manifest")
    if options.out is None:
        refuse(options, "tsne", "has no effect without --out")
    if options.tsne:
        import sklearn.manifold  # noqa: F401 - if it is missing, before the evaluation and not after it
    return run(options)
