"""`spectradino evaluate retrieval`: table of backbones and held-out data sets as Markdown and JSON, and plots.

The plots show features of random items, with lines between the modalities of an item (SpectraDINO Figure 3). The
paper's is a t-SNE in three dimensions. Principal components in two need no tuning and are comparable between stages.

Letters: N items, D width.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch

from spectradino_core.data.manifest import ManifestSource
from spectradino_core.data.scene_sets import SceneImages
from spectradino_core.data.sources import MAPS, ImageSource
from spectradino_core.data.views import DEPTH_RANGE_M
from spectradino_core.evaluation.page import Cell, markdown_table
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
from spectradino_core.files import write_file, written_atomically
from spectradino_core.modality import INFRARED, Modality
from spectradino_core.models.encoders import BandedEncoder, PlainEncoder, encoder_of
from spectradino_core.models.perception_checkpoint import load_network
from spectradino_core.models.spectradino import SpectraDINO
from spectradino_core.scenes import MASK_CLASSES

AnyEncoder = PlainEncoder | BandedEncoder
Encoders = Mapping[str, AnyEncoder]
Pairs = Mapping[str, tuple[np.ndarray, np.ndarray]]
"""Features of RGB and of the same items in another modality, [N, D] each, by modality."""

MAX_ITEMS = 100
"""Maximum number of items drawn per modality, at random: the first ones of a recording look alike."""

COLOURS = {
    "rgb": "#1b9e77", "nir": "#e6ab02", "swir": "#7570b3", "lwir": "#d95f02", "depth": "#666666",
    "segmentation": "#e7298a",
}  # fmt: skip


def open_encoder(path: Path, plain: bool = False) -> AnyEncoder:
    """Load the encoder of a file: DINOv2 in any layout, a SpectraDINO backbone, or a fine-tuned model.

    `plain`: use the RGB path only, with every modality as a three-channel image, for the baseline.

    Raises:
        CheckpointError: the file is none of these, or damaged.
    """
    model = load_network(path)
    if plain and isinstance(model, SpectraDINO):
        model = model.select_bands([Modality.RGB])
    encoder = encoder_of(model.requires_grad_(False))
    return encoder.eval()


def evaluate_encoders(
    encoders: Encoders,
    sets: Mapping[str, ImageSource],
    side: int,
    teacher: AnyEncoder | None = None,
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
        views: number of views per item, whose scores are averaged; queries search the same view of the other items.
        device, workers, depth_range_m: see `extract_each`.

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
                    extract_features(encoder, source, group, side, device=device, view=view, workers=workers)
                    for view in range(views)
                ]
                means = mean_of([evaluate_infrared_pairs(found) for found in between])
                scores[name] |= {f"{title}, {pair}": row for pair, row in means.items()}
    return scores, drawn


def pairs_table(scores: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> str:
    """Return a Markdown table with a row per data set and encoder."""
    gaps = ("from_rgb", "to_rgb") if any("gap" in row for sets in scores.values() for row in sets.values()) else ()
    header = [
        "pairs (items)", "model", "R@1 →", "R@5 →", "median →", "R@1 ←", "R@5 ←", "median ←", "cos true",
        "cos unrelated", "patch cos", *("GAP R@1 →", "GAP R@1 ←")[: len(gaps)], "RGB retention (CLS, patches)",
    ]  # fmt: skip
    rows: list[list[Cell]] = []
    for pair in dict.fromkeys(pair for sets in scores.values() for pair in sets):
        for model, row in ((model, sets[pair]) for model, sets in scores.items() if pair in sets):
            retained = "–"
            if "retention_cls" in row:
                retained = f"{row['retention_cls']:.3f}, {row['retention_patches']:.3f}"
            rows.append([
                f"{pair} ({row['items']})",
                model,
                *(f"{100 * row[way][k]:.1f}" if k != "median_rank" else f"{round(row[way][k], 1):g}"
                  for way in ("from_rgb", "to_rgb") for k in ("r1", "r5", "median_rank")),
                f"{row['cosine']['true']:.3f}",
                f"{row['cosine']['unrelated']:.3f}",
                f"{row['patch_cosine']:.3f}",
                *(f"{100 * row['gap'][way]['r1']:.1f}" if "gap" in row else "–" for way in gaps),
                retained,
            ])  # fmt: skip
    text = "→: RGB (of `a to b`: a) is the query, ←: the other modality is. R@k in per cent, on CLS"
    text += "; GAP: on the mean patch token.\n" if gaps else ".\n"
    return f"{markdown_table(header, rows)}\n{text}"


def probes_table(scores: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    """Return a Markdown table with a row per modality and encoder."""
    kinds = (("depth_rmse", ".2f"), ("depth_delta1", ".3f"), ("miou", ".3f"))
    rows: list[list[Cell]] = [
        [probe, model, *(format(probes[probe][kind], form) if kind in probes[probe] else "–" for kind, form in kinds)]
        for probe in dict.fromkeys(probe for probes in scores.values() for probe in probes)
        for model, probes in scores.items()
        if probe in probes
    ]
    table = markdown_table(["probe", "model", "depth RMSE (m)", "depth δ1", "mIoU"], rows)
    return f"{table}\n`a to b`: fitted on a's features, applied to b's without further training.\n"


def neighbours_table(scores: Mapping[str, Mapping[str, float]]) -> str:
    """Return a Markdown table with a row per encoder."""
    kinds = list(dict.fromkeys(kind for row in scores.values() for kind in row))
    rows: list[list[Cell]] = [
        [model, *(100 * row[kind] if kind in row else None for kind in kinds)] for model, row in scores.items()
    ]
    return markdown_table(["model", *(f"k-NN {kind}" for kind in kinds)], rows)


def run(options: argparse.Namespace) -> int:
    """Run the command, whose options are declared in `commands/evaluate_retrieval.py`."""
    sets: dict[str, ImageSource] = {
        path.stem: ManifestSource(path, options.data_root) for path in options.manifest or ()
    }
    if options.scenes:
        sets[f"{options.scenes} scenes"] = SceneImages.held_out(options.scenes)
    if not sets:
        raise ValueError("nothing to evaluate on: give --manifest FILE, --scenes N or both")
    encoders = {}
    teacher = None
    if options.device == "auto":
        options.device = "cuda" if torch.cuda.is_available() else "cpu"
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
        for name, text in (("retrieval.md", "\n".join(texts)), ("retrieval.json", json.dumps(result, indent=2) + "\n")):
            write_file(options.out / name, text)
        shown = {name: pairs for name, pairs in drawn.items() if pairs}
        if shown:
            plot_pairs(shown, options.out / "pairs.png")
        if shown and options.tsne:
            plot_pairs(shown, options.out / "pairs_tsne.png", tsne=True)
    return 0


def _neighbours(
    encoders: Encoders, sets: Mapping[str, ImageSource], train: ManifestSource, options: argparse.Namespace
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
    keys = (key,) if key else ()
    for name, encoder in encoders.items():
        if all(_supports(encoder, key) for key in keys):
            of_train, of_test = (
                extract_features(encoder, s, keys, options.crop, device=options.device, workers=options.workers)
                for s in (train, test)
            )
            out[name] = evaluate_neighbours(of_train, of_test)
    return out


def _probes(
    encoders: Encoders, train: ImageSource, test: ImageSource, classes: int, options: argparse.Namespace
) -> dict[str, dict[str, dict[str, float]]]:
    """Fit probes on one source and evaluate them on another, for the modalities and the ground truth of both."""
    have = _modalities(test, True)
    shared = [key for key in _modalities(train, True) if key in have]
    truth = [key for key in MAPS if key in shared]
    out = {}
    for name, encoder in encoders.items():
        keys = [key for key in shared if _supports(encoder, key)]
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
    encoders: Encoders, sets: Mapping[str, ImageSource], train: ManifestSource, options: argparse.Namespace
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


def _supports(encoder: AnyEncoder, key: str) -> bool:
    """Return whether the encoder takes the modality, natively or as a three-channel image."""
    try:
        encoder.channels(key)
    except ValueError:
        return False
    return True


def principal_components(features: np.ndarray) -> np.ndarray:
    """Project features [N, D] to their first two principal components [N, 2], padded with zeros.

    Signs are fixed so that the item with the largest absolute coordinate is positive in each component.
    """
    centred = np.asarray(features, np.float64) - np.mean(features, axis=0)
    u, s, _ = np.linalg.svd(centred, full_matrices=False)
    points = u[:, :2] * s[:2]
    farthest = points[np.abs(points).argmax(axis=0), np.arange(points.shape[1])]
    points = points * np.where(farthest < 0, -1.0, 1.0)
    return np.pad(points, ((0, 0), (0, 2 - points.shape[1])))


def plot_pairs(stages: Mapping[str, Pairs], path: Path, tsne: bool = False) -> None:
    """Plot one panel per stage with the normalised features of RGB and other modalities in their principal components.

    Args:
        stages: features by stage and modality.
        path: PNG file to write.
        tsne: use t-SNE in three dimensions, as the paper does, in place of principal components.

    Raises:
        ValueError: no features.
        ModuleNotFoundError: scikit-learn, for `tsne`, is not installed.
    """
    if not any(stages.values()):
        raise ValueError("no features to draw")
    from matplotlib.figure import Figure

    project = _tsne() if tsne else principal_components
    figure = Figure(figsize=(4.2 * len(stages), 4.4), layout="constrained")
    axes = figure.subplots(1, len(stages), squeeze=False, subplot_kw={"projection": "3d"} if tsne else {})[0]
    for axis, (name, pairs) in zip(axes, stages.items(), strict=True):
        _panel(axis, name, {key: _chosen(a, b) for key, (a, b) in pairs.items()}, project)
    handles = {handle.get_label(): handle for axis in axes for handle in axis.get_legend_handles_labels()[0]}
    figure.legend(handles=list(handles.values()), loc="outside lower center", ncols=len(handles), frameon=False)
    with written_atomically(path) as scratch:
        figure.savefig(scratch, format="png", dpi=130)


def _tsne() -> Callable[[np.ndarray], np.ndarray]:
    from sklearn.manifold import TSNE

    def project(features: np.ndarray) -> np.ndarray:
        perplexity = min(30.0, max(1.0, (len(features) - 1) / 3))  # scikit-learn's default needs more items
        return TSNE(3, perplexity=perplexity, init="pca", random_state=0).fit_transform(features)

    return project


def _chosen(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows of up to `MAX_ITEMS` random items."""
    rows = np.sort(np.random.default_rng(0).permutation(len(a))[:MAX_ITEMS])
    return a[rows], b[rows]


def _panel(axis: Any, name: str, pairs: Pairs, project: Callable[[np.ndarray], np.ndarray]) -> None:
    blocks = [_unit(x) for pair in pairs.values() for x in pair]
    points = project(np.concatenate(blocks))
    start = 0
    for number, (key, (rgb, other)) in enumerate(pairs.items()):
        a, b = points[start : start + len(rgb)], points[start + len(rgb) : start + len(rgb) + len(other)]
        start += len(rgb) + len(other)
        for both in zip(a, b, strict=True):
            axis.plot(*np.transpose(both), color="#bbbbbb", linewidth=0.4, zorder=1)
        axis.scatter(*a.T, s=9, color=COLOURS["rgb"], label="rgb" if number == 0 else None, zorder=2)
        axis.scatter(*b.T, s=9, color=COLOURS.get(key, "#333333"), label=key, zorder=2)
    axis.set_title(name, fontsize=10)
    for ticks in (axis.set_xticks, axis.set_yticks, getattr(axis, "set_zticks", axis.set_yticks)):
        ticks([])
    axis.set_aspect("equal", adjustable="datalim")


def _unit(x: np.ndarray) -> np.ndarray:
    return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12)
