"""`spectradino evaluate retrieval`: one table over backbones and held-out sets, as Markdown and JSON, and a picture."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from spectradino_core.data.manifest import ManifestSource
from spectradino_core.data.scene_sets import SceneImages
from spectradino_core.data.sources import MAPS, ImageSource
from spectradino_core.evaluation.projection import plot_pairs
from spectradino_core.evaluation.representations import (
    Collected,
    collect,
    judge_infrared,
    judge_neighbours,
    judge_pairs,
    judge_probes,
    mean_of,
)
from spectradino_core.files import written_atomically
from spectradino_core.modality import INFRARED, Modality
from spectradino_core.models.encoders import BandedEncoder, PlainEncoder, encoder_of
from spectradino_core.models.perception_checkpoint import load_network
from spectradino_core.models.spectradino import SpectraDINO
from spectradino_core.scenes import MASK_CLASSES

__all__ = ["judge", "open_encoder", "pairs_table", "run"]


def open_encoder(path: Path, plain: bool = False) -> PlainEncoder | BandedEncoder:
    """The backbone of a file: DINOv2 in any layout, a backbone of ours, or a fine-tuned model.

    Args:
        path: the file.
        plain: take the RGB path only, so that every modality is seen as a colour picture: the baseline.

    Raises:
        CheckpointError: none of these, or damaged.
    """
    model = load_network(path)
    if plain and isinstance(model, SpectraDINO):
        model = model.select_bands([Modality.RGB])
    encoder = encoder_of(model.requires_grad_(False))
    return encoder.eval()


def judge(
    encoders: Mapping[str, PlainEncoder | BandedEncoder],
    sets: Mapping[str, ImageSource],
    side: int,
    teacher: PlainEncoder | BandedEncoder | None = None,
    maps: bool = False,
    infrared: bool = False,
    device: torch.device | str = "cpu",
    views: int = 1,
) -> tuple[dict[str, dict[str, dict[str, Any]]], dict[str, dict[str, tuple[np.ndarray, np.ndarray]]]]:
    """Pairs of every modality of every set by every encoder.

    Args:
        encoders: by name, on `device`.
        sets: held-out items by name.
        side: of the square views, pixels.
        teacher: whose RGB features are to be kept; None: retention is not judged.
        maps: judge depth and segmentation maps too, beside infrared.
        infrared: judge infrared bands with each other too, on sets whose items hold several.
        device: of all encoders.
        views: of each item, whose figures are averaged; queries look among the same view of the others.

    Returns:
        {encoder: {"set, modality": see `judge_pairs`}}, and for a picture {encoder: {modality: (RGB, other) features}}
        of the first set that has the modality.
    """
    judged: dict[str, dict[str, dict[str, Any]]] = {name: {} for name in encoders}
    drawn: dict[str, dict[str, tuple[np.ndarray, np.ndarray]]] = {name: {} for name in encoders}
    for title, source in sets.items():
        for key in _modalities(source, maps):
            seeing = {name: encoder for name, encoder in encoders.items() if _sees(encoder, key)}
            rows: dict[str, list[dict[str, Any]]] = {name: [] for name in seeing}
            for view in range(views):
                kept = None if teacher is None else collect(teacher, source, (key,), side, device=device, view=view)
                for name, encoder in seeing.items():
                    found = collect(encoder, source, (key,), side, device=device, view=view)
                    rows[name].append(judge_pairs(found, kept)[key])
                    if view == 0:
                        drawn[name].setdefault(key, (found.cls["rgb"], found.cls[key]))
            for name, of_views in rows.items():
                judged[name][f"{title}, {key}"] = mean_of(of_views)
        several = [key for key in _modalities(source, False) if infrared]
        if len(several) < 2:
            continue
        for name, encoder in encoders.items():
            bands = [key for key in several if _sees(encoder, key)]
            if len(bands) > 1:
                between = [
                    judge_infrared(collect(encoder, source, bands, side, device=device, view=view))
                    for view in range(views)
                ]
                judged[name] |= {f"{title}, {pair}": row for pair, row in mean_of(between).items()}
    return judged, drawn


def pairs_table(judged: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> str:
    """Markdown; a row for each set and encoder."""
    lines = [
        "| pairs (items) | model | R@1 → | R@5 → | median → | R@1 ← | R@5 ← | median ← | cos true | cos unrelated | "
        "patch cos | RGB kept (CLS, patches) |",
        "|---|---|" + "---:|" * 10,
    ]
    pairs = list(dict.fromkeys(pair for sets in judged.values() for pair in sets))
    for pair in pairs:
        for model, sets in judged.items():
            if pair not in sets:
                continue
            row = sets[pair]
            kept = "–"
            if "retention_cls" in row:
                kept = f"{row['retention_cls']:.3f}, {row['retention_patches']:.3f}"
            figures = [
                *(f"{100 * row[way][k]:.1f}" if k != "median_rank" else f"{round(row[way][k], 1):g}"
                  for way in ("from_rgb", "to_rgb") for k in ("r1", "r5", "median_rank")),
                f"{row['cosine']['true']:.3f}",
                f"{row['cosine']['unrelated']:.3f}",
                f"{row['patch_cosine']:.3f}",
                kept,
            ]  # fmt: skip
            lines.append(f"| {pair} ({row['items']}) | {model} | {' | '.join(figures)} |")
    return (
        "\n".join(lines)
        + "\n\n→ RGB (of `a to b`: a) looks for its partner, ← the partner looks for it. R@k in per cent.\n"
    )


def probes_table(judged: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    """Markdown; a row for each modality and encoder."""
    lines = ["| probe | model | depth RMSE (m) | depth δ1 | mIoU |", "|---|---|---:|---:|---:|"]
    for probe in dict.fromkeys(probe for probes in judged.values() for probe in probes):
        for model, probes in judged.items():
            if probe in probes:
                row = probes[probe]
                lines.append(
                    f"| {probe} | {model} | {row['depth_rmse']:.2f} | {row['depth_delta1']:.3f} | {row['miou']:.3f} |"
                )
    return "\n".join(lines) + "\n\n`a to b`: fitted on a's features, read from b's without another step of learning.\n"


def neighbours_table(judged: Mapping[str, Mapping[str, float]]) -> str:
    """Markdown; a row for each encoder."""
    kinds = list(dict.fromkeys(kind for scores in judged.values() for kind in scores))
    lines = [f"| model | {' | '.join(f'k-NN {kind}' for kind in kinds)} |", "|---|" + "---:|" * len(kinds)]
    for model, scores in judged.items():
        lines.append(f"| {model} | {' | '.join(f'{100 * scores[k]:.1f}' if k in scores else '–' for k in kinds)} |")
    return "\n".join(lines) + "\n"


def run(options: argparse.Namespace) -> int:
    """The command; its options are declared in `commands/evaluate_retrieval.py`.

    Raises:
        ValueError: nothing to judge on, or on no view.
    """
    if options.views < 1:
        raise ValueError(f"--views {options.views}: at least one view of an item is judged")
    sets: dict[str, ImageSource] = {path.stem: ManifestSource(path, options.root) for path in options.data}
    if options.scenes:
        sets[f"{options.scenes} scenes"] = SceneImages.held_out(options.scenes)
    if not sets:
        raise ValueError("nothing to judge on: give --data MANIFEST, --scenes N or both")
    encoders = {}
    teacher = None
    if options.teacher is not None:
        teacher = open_encoder(options.teacher, plain=True).to(options.device)
        encoders["baseline (teacher, infrared as grey)"] = teacher
    for text in options.models:
        name, _, file = text.rpartition("=")
        encoders[name or Path(file).stem] = open_encoder(Path(file)).to(options.device)

    judged, drawn = judge(
        encoders, sets, options.crop, teacher, options.maps, options.infrared, options.device, options.views
    )
    texts = [pairs_table(judged)]
    if options.views > 1:
        texts.append(f"Means over {options.views} views: the largest centred square, then seeded crops.\n")
    result: dict[str, Any] = {"crop": options.crop, "views": options.views, "pairs": judged}
    if options.knn_train is not None:
        result["neighbours"] = _neighbours(encoders, sets, ManifestSource(options.knn_train, options.root), options)
        texts.append(neighbours_table(result["neighbours"]))
    if options.probes:
        result["probes"] = _probes(encoders, options)
        texts.append(probes_table(result["probes"]))
    print("\n".join(texts))
    if options.out is not None:
        options.out.mkdir(parents=True, exist_ok=True)
        for name, text in (("retrieval.md", "\n".join(texts)), ("retrieval.json", json.dumps(result, indent=2) + "\n")):
            with written_atomically(options.out / name) as scratch:
                scratch.write_text(text, encoding="utf-8")
        plot_pairs({name: pairs for name, pairs in drawn.items() if pairs}, options.out / "pairs.png")
    return 0


def _neighbours(
    encoders: Mapping[str, PlainEncoder | BandedEncoder],
    sets: Mapping[str, ImageSource],
    train: ManifestSource,
    options: argparse.Namespace,
) -> dict[str, dict[str, float]]:
    """Of the first set whose items have classes, and of the first modality that `train` has too."""
    labelled = [s for s in sets.values() if isinstance(s, ManifestSource) and s.label(0) is not None]
    if not labelled:
        raise ValueError("--knn-train: none of the --data manifests gives classes")
    have = _modalities(train, False)
    test, key = next(((s, k) for s in labelled for k in _modalities(s, False) if k in have), (None, ""))
    if test is None:
        raise ValueError(f"{options.knn_train} holds {' and '.join(have)}; no --data manifest with classes does")
    out = {}
    for name, encoder in encoders.items():
        if _sees(encoder, key):
            known, asked = (collect(encoder, s, (key,), options.crop, device=options.device) for s in (train, test))
            out[name] = judge_neighbours(known, asked)
    return out


def _probes(
    encoders: Mapping[str, PlainEncoder | BandedEncoder], options: argparse.Namespace
) -> dict[str, dict[str, dict[str, float]]]:
    train, test = SceneImages(options.probes, misregistration_px=0.0), SceneImages.held_out(max(8, options.scenes))
    classes = len(MASK_CLASSES)
    out = {}
    for name, encoder in encoders.items():
        keys = [key for key in (*(b.key for b in INFRARED), *MAPS) if _sees(encoder, key)]
        found: list[Collected] = [
            collect(encoder, source, keys, options.crop, truth_classes=classes, device=options.device)
            for source in (train, test)
        ]
        out[name] = judge_probes(found[0], found[1], classes)
    return out


def _modalities(source: ImageSource, maps: bool) -> Sequence[str]:
    have = {key for item in range(len(source)) for key in source.modalities(item)}
    return [key for key in (*(band.key for band in INFRARED), *(MAPS if maps else ())) if key in have]


def _sees(encoder: PlainEncoder | BandedEncoder, key: str) -> bool:
    """Whether the encoder has the band, or sees everything as colour."""
    try:
        encoder.channels(key)
    except ValueError:
        return False
    return True
