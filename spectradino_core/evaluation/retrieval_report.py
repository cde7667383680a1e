"""`spectradino evaluate retrieval`: table of backbones and held-out data sets as Markdown and JSON, and a plot."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch

from spectradino_core.data.manifest import ManifestSource
from spectradino_core.data.scene_sets import SceneImages
from spectradino_core.data.sources import MAPS, ImageSource
from spectradino_core.data.views import DEPTH_RANGE_M
from spectradino_core.evaluation.projection import plot_pairs, plot_tsne
from spectradino_core.evaluation.representations import (
    FeatureSet,
    evaluate_infrared_pairs,
    evaluate_neighbours,
    evaluate_pairs,
    evaluate_probes,
    extract_each,
    extract_features,
    mean_of,
)
from spectradino_core.evaluation.segmentation import UNLABELLED
from spectradino_core.files import written_atomically
from spectradino_core.modality import INFRARED, Modality
from spectradino_core.models.encoders import BandedEncoder, PlainEncoder, encoder_of
from spectradino_core.models.perception_checkpoint import load_network
from spectradino_core.models.spectradino import SpectraDINO
from spectradino_core.scenes import MASK_CLASSES

__all__ = ["evaluate_encoders", "open_encoder", "pairs_table", "run"]


def open_encoder(path: Path, plain: bool = False) -> PlainEncoder | BandedEncoder:
    """Load the encoder of a file: DINOv2 in any layout, a SpectraDINO backbone, or a fine-tuned model.

    Args:
        path: the file.
        plain: use the RGB path only, with every modality as a three-channel image: the baseline.

    Raises:
        CheckpointError: the file is none of these, or damaged.
    """
    model = load_network(path)
    if plain and isinstance(model, SpectraDINO):
        model = model.select_bands([Modality.RGB])
    encoder = encoder_of(model.requires_grad_(False))
    return encoder.eval()


def evaluate_encoders(
    encoders: Mapping[str, PlainEncoder | BandedEncoder],
    sets: Mapping[str, ImageSource],
    side: int,
    teacher: PlainEncoder | BandedEncoder | None = None,
    maps: bool = False,
    infrared: bool = False,
    device: torch.device | str = "cpu",
    views: int = 1,
    workers: int = 0,
    depth_range_m: tuple[float, float] = DEPTH_RANGE_M,
) -> tuple[dict[str, dict[str, dict[str, Any]]], dict[str, dict[str, tuple[np.ndarray, np.ndarray]]]]:
    """Evaluate every encoder on the pairs of every modality of every data set.

    Args:
        encoders: encoders by name, on `device`.
        sets: held-out items by name.
        side: side of the square views in pixels.
        teacher: reference of the retention of RGB features; None: not evaluated.
        maps: also evaluate depth and segmentation maps.
        infrared: also evaluate pairs of infrared bands, on items that have all bands of the data set; if there are
            fewer than two, each pair on the items that have both.
        device: device of all encoders.
        views: number of views per item, whose scores are averaged; queries search the same view of the other items.
        workers: see `prefetched`.
        depth_range_m: see `extract_each`.

    Returns:
        {encoder: {"set, modality": see `evaluate_pairs`}}, and for plots {encoder: {modality: (RGB, other) features}}
        of the first data set that has the modality.
    """
    scores: dict[str, dict[str, dict[str, Any]]] = {name: {} for name in encoders}
    drawn: dict[str, dict[str, tuple[np.ndarray, np.ndarray]]] = {name: {} for name in encoders}
    for title, source in sets.items():
        for key in _modalities(source, maps):
            supporting = {name: encoder for name, encoder in encoders.items() if _supports(encoder, key)}
            rows: dict[str, list[dict[str, Any]]] = {name: [] for name in supporting}
            for view in range(views):
                features = extract_each(
                    supporting, source, (key,), side, device=device, view=view, teacher=teacher, workers=workers,
                    depth_range_m=depth_range_m,
                )  # fmt: skip
                for name, found in features.items():
                    rows[name].append(evaluate_pairs(found)[key])
                    if view == 0:
                        drawn[name].setdefault(key, (found.cls["rgb"], found.cls[key]))
            for name, of_views in rows.items():
                scores[name][f"{title}, {key}"] = mean_of(of_views)
        for name, encoder in encoders.items() if infrared else ():
            bands = [key for key in _modalities(source, False) if _supports(encoder, key)]
            for group in _seen_together(source, bands):
                between = [
                    evaluate_infrared_pairs(
                        extract_features(encoder, source, group, side, device=device, view=view, workers=workers)
                    )
                    for view in range(views)
                ]
                scores[name] |= {f"{title}, {pair}": row for pair, row in mean_of(between).items()}
    return scores, drawn


def pairs_table(scores: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> str:
    """Return a Markdown table with a row per data set and encoder."""
    has_gap = any("gap" in row for sets in scores.values() for row in sets.values())
    lines = [
        "| pairs (items) | model | R@1 → | R@5 → | median → | R@1 ← | R@5 ← | median ← | cos true | cos unrelated | "
        f"patch cos | {'GAP R@1 → | GAP R@1 ← | ' if has_gap else ''}RGB retention (CLS, patches) |",
        "|---|---|" + "---:|" * (12 if has_gap else 10),
    ]
    pairs = list(dict.fromkeys(pair for sets in scores.values() for pair in sets))
    for pair in pairs:
        for model, sets in scores.items():
            if pair not in sets:
                continue
            row = sets[pair]
            retained = "–"
            if "retention_cls" in row:
                retained = f"{row['retention_cls']:.3f}, {row['retention_patches']:.3f}"
            figures = [
                *(f"{100 * row[way][k]:.1f}" if k != "median_rank" else f"{round(row[way][k], 1):g}"
                  for way in ("from_rgb", "to_rgb") for k in ("r1", "r5", "median_rank")),
                f"{row['cosine']['true']:.3f}",
                f"{row['cosine']['unrelated']:.3f}",
                f"{row['patch_cosine']:.3f}",
                *(f"{100 * row['gap'][way]['r1']:.1f}" if "gap" in row else "–"
                  for way in ("from_rgb", "to_rgb") if has_gap),
                retained,
            ]  # fmt: skip
            lines.append(f"| {pair} ({row['items']}) | {model} | {' | '.join(figures)} |")
    text = "→: RGB (of `a to b`: a) is the query, ←: the other modality is. R@k in per cent, on CLS"
    text += "; GAP: on the mean patch token.\n" if has_gap else ".\n"
    return "\n".join(lines) + f"\n\n{text}"


def probes_table(scores: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    """Return a Markdown table with a row per modality and encoder."""
    lines = ["| probe | model | depth RMSE (m) | depth δ1 | mIoU |", "|---|---|---:|---:|---:|"]
    for probe in dict.fromkeys(probe for probes in scores.values() for probe in probes):
        for model, probes in scores.items():
            if probe in probes:
                row = probes[probe]
                figures = (("depth_rmse", ".2f"), ("depth_delta1", ".3f"), ("miou", ".3f"))
                cells = [format(row[name], form) if name in row else "–" for name, form in figures]
                lines.append(f"| {probe} | {model} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n\n`a to b`: fitted on a's features, applied to b's without further training.\n"


def neighbours_table(scores: Mapping[str, Mapping[str, float]]) -> str:
    """Return a Markdown table with a row per encoder."""
    kinds = list(dict.fromkeys(kind for row in scores.values() for kind in row))
    lines = [f"| model | {' | '.join(f'k-NN {kind}' for kind in kinds)} |", "|---|" + "---:|" * len(kinds)]
    for model, row in scores.items():
        lines.append(f"| {model} | {' | '.join(f'{100 * row[k]:.1f}' if k in row else '–' for k in kinds)} |")
    return "\n".join(lines) + "\n"


def run(options: argparse.Namespace) -> int:
    """Run the command, whose options are declared in `commands/evaluate_retrieval.py`.

    Raises:
        ValueError: no data set, or no view.
    """
    if options.views < 1:
        raise ValueError(f"--views {options.views}: give at least 1")
    sets: dict[str, ImageSource] = {
        path.stem: ManifestSource(path, options.data_root) for path in options.manifest or ()
    }
    if options.scenes:
        sets[f"{options.scenes} scenes"] = SceneImages.held_out(options.scenes)
    if not sets:
        raise ValueError("nothing to evaluate on: give --manifest FILE, --scenes N or both")
    encoders = {}
    teacher = None
    options.device = _chosen(options.device)
    if options.teacher is not None:
        teacher = open_encoder(options.teacher, plain=True).to(options.device)
        encoders["baseline (teacher, infrared as grey)"] = teacher
    for text in options.model:
        name, _, file = text.rpartition("=")
        encoders[name or Path(file).stem] = open_encoder(Path(file)).to(options.device)

    scores, drawn = evaluate_encoders(
        encoders, sets, options.crop, teacher, bool(options.maps), options.compare_bands, options.device, options.views,
        options.workers, options.depth_range or DEPTH_RANGE_M,
    )  # fmt: skip
    texts = [pairs_table(scores)] if any(scores.values()) else []
    if options.views > 1:
        texts.append(f"Means over {options.views} views: the largest centred square, then seeded crops.\n")
    result: dict[str, Any] = {"crop": options.crop, "views": options.views, "pairs": scores}
    if options.knn_manifest is not None:
        train = ManifestSource(options.knn_manifest, options.data_root)
        result["neighbours"] = _neighbours(encoders, sets, train, options)
        texts.append(neighbours_table(result["neighbours"]))
    if options.probe_scenes:
        scenes = SceneImages(options.probe_scenes, misregistration_px=0.0)
        found = _probes(encoders, scenes, SceneImages.held_out(max(8, options.scenes)), len(MASK_CLASSES), options)
        result["probes"] = found
        texts.append(probes_table(found))
    if options.probe_manifest is not None:
        found = _manifest_probes(encoders, sets, ManifestSource(options.probe_manifest, options.data_root), options)
        result["manifest_probes"] = found
        texts.append(probes_table(found))
    print("\n".join(texts))
    if options.out is not None:
        options.out.mkdir(parents=True, exist_ok=True)
        for name, text in (("retrieval.md", "\n".join(texts)), ("retrieval.json", json.dumps(result, indent=2) + "\n")):
            with written_atomically(options.out / name) as scratch:
                scratch.write_text(text, encoding="utf-8")
        shown = {name: pairs for name, pairs in drawn.items() if pairs}
        if shown:
            plot_pairs(shown, options.out / "pairs.png")
        if shown and options.tsne:
            plot_tsne(shown, options.out / "pairs_tsne.png")
    return 0


def _chosen(device: str) -> str:
    """Return "cuda" or "cpu" for "auto"."""
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return device


def _neighbours(
    encoders: Mapping[str, PlainEncoder | BandedEncoder],
    sets: Mapping[str, ImageSource],
    train: ManifestSource,
    options: argparse.Namespace,
) -> dict[str, dict[str, float]]:
    """Evaluate k-NN on the first data set with classes, with the first modality that it shares with `train`.

    Without infrared images, as in ImageNet, RGB alone is evaluated.
    """
    labelled = [s for s in sets.values() if isinstance(s, ManifestSource) and s.label(0) is not None]
    if not labelled:
        raise ValueError("--knn-manifest needs classes: give a --manifest with 'class' in its items")
    have = _modalities(train, False)
    shared = ((s, k) for s in labelled for k in _modalities(s, False) if k in have)
    test, key = next(shared, (None, "") if have else (labelled[0], ""))
    if test is None:
        raise ValueError(
            f"{options.knn_manifest} holds {' and '.join(have)}: give a --manifest with classes and one of these"
        )
    out = {}
    for name, encoder in encoders.items():
        if not key or _supports(encoder, key):
            of_train, of_test = (
                extract_features(
                    encoder, s, (key,) if key else (), options.crop, device=options.device, workers=options.workers
                )
                for s in (train, test)
            )
            out[name] = evaluate_neighbours(of_train, of_test)
    return out


def _probes(
    encoders: Mapping[str, PlainEncoder | BandedEncoder],
    train: ImageSource,
    test: ImageSource,
    classes: int,
    options: argparse.Namespace,
) -> dict[str, dict[str, dict[str, float]]]:
    """Fit probes on one source and evaluate them on another, for the modalities and the ground truth of both."""
    shared = set(_modalities(train, True)) & set(_modalities(test, True))
    truth = [key for key in MAPS if key in shared]
    out = {}
    for name, encoder in encoders.items():
        keys = [key for key in (*(b.key for b in INFRARED), *MAPS) if key in shared and _supports(encoder, key)]
        found: list[FeatureSet] = [
            extract_features(
                encoder, source, keys, options.crop, truth_classes=classes, truth_maps=truth, keep_patches=True,
                device=options.device, workers=options.workers, depth_range_m=options.depth_range or DEPTH_RANGE_M,
            )
            for source in (train, test)
        ]  # fmt: skip
        out[name] = evaluate_probes(found[0], found[1], classes)
    return out


def _manifest_probes(
    encoders: Mapping[str, PlainEncoder | BandedEncoder],
    sets: Mapping[str, ImageSource],
    train: ManifestSource,
    options: argparse.Namespace,
) -> dict[str, dict[str, dict[str, float]]]:
    """Fit probes on a manifest's own maps and evaluate them on the first data set with maps of the same kind."""
    have = [key for key in _modalities(train, True) if key in MAPS]
    test = next((s for s in sets.values() if set(have) & set(_modalities(s, True))), None)
    if not have or test is None:
        raise ValueError(
            f"{options.probe_manifest} has {' and '.join(have) or 'no maps'}: --probe-manifest and a --manifest need "
            "depth or segmentation maps of one kind"
        )
    return _probes(encoders, train, test, UNLABELLED, options)


def _modalities(source: ImageSource, maps: bool) -> Sequence[str]:
    have = {key for item in range(len(source)) for key in source.modalities(item)}
    return [key for key in (*(band.key for band in INFRARED), *(MAPS if maps else ())) if key in have]


def _seen_together(source: ImageSource, bands: Sequence[str]) -> list[Sequence[str]]:
    """Return the bands if at least two items have all of them, else the pairs of bands that two items have."""
    have = [set(source.modalities(item)) for item in range(len(source))]

    def is_shared(group: Sequence[str]) -> bool:
        return sum(have_all >= set(group) for have_all in have) > 1

    if len(bands) > 1 and is_shared(bands):
        return [bands]
    return [pair for pair in combinations(bands, 2) if is_shared(pair)]


def _supports(encoder: PlainEncoder | BandedEncoder, key: str) -> bool:
    """Return whether the encoder takes the modality, natively or as a three-channel image."""
    try:
        encoder.channels(key)
    except ValueError:
        return False
    return True
