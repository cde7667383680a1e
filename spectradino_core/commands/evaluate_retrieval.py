"""`spectradino evaluate retrieval`: evaluate backbones' alignment of modalities on held-out pairs."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from spectradino_core.commands.shared_options import option
from spectradino_core.options import NATURAL, TRAINING_DEVICES, claim_folder, refuse

NAME = "evaluate-retrieval"
"""Internal name of `evaluate retrieval`, since `evaluate` is a command of its own."""


def add(commands: Any) -> None:
    command = commands.add_parser(
        NAME,
        prog="spectradino evaluate retrieval",
        help="(evaluate retrieval) evaluate how well backbones align RGB with other modalities",
        description="Retrieval in both directions, cosine similarity of true and unrelated pairs, and retention of the "
        "teacher's RGB features; with --knn-manifest also k-NN, with --probe-scenes and --probe-manifest linear "
        "probes.",
    )
    text = "s: backbones, DINOv2 weights or fine-tuned models, optionally named"
    option(command, "--model", text, former="model", type=str, required=True, nargs="+", metavar="[NAME=]FILE")
    option(command, "--manifest", ", held out", former="--data", nargs="+")
    base = ", to which the manifests' paths are relative (default: the manifest's own)"
    option(command, "--data-root", base, former="--root")
    option(command, "--scenes", ", unseen in training", type=NATURAL, default=0)
    option(command, "--teacher", ": reference for RGB features; also evaluated, as the baseline")
    option(command, "--knn-manifest", "items with classes, for k-NN", former="--knn-train", type=Path, metavar="FILE")
    option(command, "--maps", " too", action=argparse.BooleanOptionalAction)
    text = "also compare IR bands with each other"
    option(command, "--compare-bands", text, former="--infrared", action="store_true")
    text = "number of training scenes to fit linear probes on"
    option(command, "--probe-scenes", text, former="--probes", type=NATURAL, default=0, metavar="N")
    option(
        command, "--probe-manifest", "items with depth or segmentation maps to fit linear probes on, evaluated on "
        "those of --manifest; all their patch tokens are kept in memory", type=Path, metavar="FILE",
    )  # fmt: skip
    option(command, "--crop", " (default: %(default)s)", default=224)
    option(
        command, "--views", ": the largest centred square, then seeded crops; figures are averaged over views, which "
        "stabilises those of small sets (default: %(default)s)", default=1,
    )  # fmt: skip
    option(command, "--depth-range", "; that of the backbones' training")
    option(command, "--device", " (default: %(default)s)", default="auto", choices=TRAINING_DEVICES)
    option(command, "--workers", " (default: %(default)s)", default=0)
    option(command, "--out", " folder for retrieval.md, retrieval.json and pairs.png", metavar="DIR")
    tsne = "also draw pairs_tsne.png, a 3-D t-SNE as in the paper (needs scikit-learn)"
    option(command, "--tsne", tsne, action="store_true")
    command.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from spectradino_core.evaluation.retrieval_report import run

    if not options.manifest and options.knn_manifest is None:
        refuse(options, "data-root", "has no effect without --manifest")
    if options.out is None:
        refuse(options, "tsne", "has no effect without --out")
    else:
        names = "retrieval.json retrieval.md pairs.png pairs_tsne.png"
        claim_folder(options.out, names, "retrieval.json", b'"pairs"')
    if options.tsne:
        import sklearn.manifold  # noqa: F401 - if it is missing, before the evaluation and not after it
    return run(options)
