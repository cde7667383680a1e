"""Evaluation of a backbone on held-out items: retrieval, cosines, retention, k-NN, linear probes and their transfer.

Letters: N items, D width, P patches of an item, S side of the square view in pixels, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

import numpy as np
import torch

from spectradino_core.data.omnivorous import as_colour, map_tensor
from spectradino_core.data.sources import ImageSource
from spectradino_core.data.views import PLAIN, ViewOptions, colour_tensor, take_view
from spectradino_core.evaluation.probes import (
    depth_scores,
    fit_probe,
    patch_classes,
    patch_depth,
)
from spectradino_core.evaluation.retrieval import knn_accuracy, pair_cosines, retention, retrieval
from spectradino_core.evaluation.segmentation import UNLABELLED, ConfusionMatrix
from spectradino_core.models.encoders import Encoder
from spectradino_core.thermal import ThermalContract

__all__ = [
    "FeatureSet",
    "evaluate_infrared_pairs",
    "evaluate_neighbours",
    "evaluate_pairs",
    "evaluate_probes",
    "extract_features",
    "mean_of",
]

CROPPED = ViewOptions(scale=(0.5, 1.0), flip=0.0, photometry=None)
"""Views after the first: one crop for both images of a pair, without other augmentation."""
_NEAREST_M, _FARTHEST_M = 0.5, 100.0


@dataclass
class FeatureSet:
    """Features of the items of a source.

    Attributes:
        cls: CLS by modality, float32 [N, D].
        patches: patch tokens by modality, float32 [N, P, D].
        labels: class of each item; None: unknown.
        depth: depth of each patch in metres, 0 where unknown, [N, P]; None: not requested.
        classes: class of each patch, -1 where unknown, [N, P]; None: not requested.
    """

    cls: dict[str, np.ndarray]
    patches: dict[str, np.ndarray]
    labels: list[str | None]
    depth: np.ndarray | None = None
    classes: np.ndarray | None = None


@torch.no_grad()
def extract_features(
    encoder: Encoder,
    source: ImageSource,
    modalities: Sequence[str],
    side: int,
    batch: int = 16,
    truth_classes: int = 0,
    device: torch.device | str = "cpu",
    thermal: ThermalContract | None = None,
    view: int = 0,
) -> FeatureSet:
    """Extract the features of all items that have the modalities.

    Args:
        encoder: the encoder, on `device`.
        source: the items.
        modalities: modalities beside RGB.
        side: S.
        batch: items per batch.
        truth_classes: C; above 0, depth and class of each patch are extracted too.
        device: device of the encoder.
        thermal: contract from counts to network input; None: the default.
        view: 0: the largest centred square; above: a seeded random crop of at least half of the largest one's area.

    Raises:
        ValueError: no item has all modalities.
        ItemError: an item is damaged; an evaluation skips none.
    """
    contract = thermal or ThermalContract()
    truth = ("depth", "segmentation") if truth_classes else ()
    wanted = tuple(dict.fromkeys((*modalities, *truth)))
    rows = [item for item in range(len(source)) if set(wanted) <= set(source.modalities(item))]
    if not rows:
        raise ValueError(f"{source.name}: no item has {' and '.join(wanted)}")
    label = getattr(source, "label", lambda item: None)
    cls: dict[str, list[np.ndarray]] = {key: [] for key in ("rgb", *modalities)}
    patches: dict[str, list[np.ndarray]] = {key: [] for key in ("rgb", *modalities)}
    depths: list[np.ndarray] = []
    classes: list[np.ndarray] = []
    labels: list[str | None] = []
    patch = 0
    for start in range(0, len(rows), batch):
        part = rows[start : start + batch]
        options = CROPPED if view else PLAIN
        views = [take_view(source.load(i, wanted), options, side, np.random.default_rng((view, i))) for i in part]
        images = {"rgb": torch.from_numpy(np.stack([colour_tensor(view["rgb"]) for view in views])).to(device)}
        for key in modalities:
            one = torch.from_numpy(np.stack([map_tensor(key, view[key], contract) for view in views])).to(device)
            images[key] = one if encoder.channels(key) == 1 else as_colour(one)
        for key, features in encoder(images).items():
            cls[key].append(features.cls.float().cpu().numpy())
            patches[key].append(features.patches.float().cpu().numpy())
            patch = side // features.grid[0]
        labels += [label(i) for i in part]
        if truth_classes:
            depths += [patch_depth(view["depth"], patch) for view in views]
            classes += [patch_classes(view["segmentation"], patch, truth_classes) for view in views]
    return FeatureSet(
        {key: np.concatenate(parts) for key, parts in cls.items()},
        {key: np.concatenate(parts) for key, parts in patches.items()},
        labels,
        np.stack(depths) if depths else None,
        np.stack(classes) if classes else None,
    )


def evaluate_pairs(student: FeatureSet, teacher: FeatureSet | None = None) -> dict[str, dict[str, Any]]:
    """Compute retrieval in both directions, cosines, and with a teacher the retention of RGB features.

    Returns:
        By modality beside RGB: {"items", "from_rgb": {"r1", "r5", "median_rank", "items"}, "to_rgb": the same,
        "cosine": {"true", "unrelated"}, "patch_cosine": of patch tokens at the same position, "retention_cls",
        "retention_patches"}.
    """
    rgb = student.cls["rgb"]
    kept = {}
    if teacher is not None:
        kept["retention_cls"] = retention(rgb, teacher.cls["rgb"])
        kept["retention_patches"] = retention(student.patches["rgb"], teacher.patches["rgb"])
    return {
        key: {
            "items": len(rgb),
            "from_rgb": asdict(retrieval(rgb, other)),
            "to_rgb": asdict(retrieval(other, rgb)),
            "cosine": asdict(pair_cosines(rgb, other)),
            "patch_cosine": retention(student.patches[key], student.patches["rgb"]),
            **kept,
        }
        for key, other in student.cls.items()
        if key != "rgb"
    }


def mean_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Average the numbers of equally structured nested rows; values that are equal in all rows are kept."""
    out: dict[str, Any] = {}
    for key, value in rows[0].items():
        of_all = [row[key] for row in rows]
        if isinstance(value, Mapping):
            out[key] = mean_of(of_all)
        else:
            out[key] = value if all(other == value for other in of_all) else float(np.mean(of_all))
    return out


def evaluate_infrared_pairs(found: FeatureSet) -> dict[str, dict[str, Any]]:
    """Apply `evaluate_pairs` to each pair of infrared bands.

    Returns:
        {"nir to swir": {"items", "from_rgb": nir as query, "to_rgb": swir as query, "cosine", "patch_cosine"}, ..};
        empty with fewer than two bands.
    """
    out = {}
    for first, second in combinations([key for key in found.cls if key != "rgb"], 2):
        renamed = FeatureSet(
            {"rgb": found.cls[first], second: found.cls[second]},
            {"rgb": found.patches[first], second: found.patches[second]},
            found.labels,
        )
        out[f"{first} to {second}"] = evaluate_pairs(renamed)[second]
    return out


def evaluate_neighbours(train: FeatureSet, test: FeatureSet, k: int = 20) -> dict[str, float]:
    """Compute the k-NN accuracy of each modality against itself ("nir", ..) and against RGB ("rgb to nir", ..).

    Raises:
        ValueError: an item without class.
    """
    labels = [*train.labels, *test.labels]
    if None in labels:
        raise ValueError("k-NN needs the class of every item, and the manifest lacks some: add a 'class' to each item")
    known = sorted({str(label) for label in labels})
    a, b = (np.array([known.index(str(label)) for label in c.labels]) for c in (train, test))
    scores = {key: knn_accuracy(train.cls[key], a, test.cls[key], b, k) for key in test.cls}
    for key in test.cls:
        if key != "rgb":
            scores[f"rgb to {key}"] = knn_accuracy(train.cls["rgb"], a, test.cls[key], b, k)
    return scores


def evaluate_probes(train: FeatureSet, test: FeatureSet, classes: int) -> dict[str, dict[str, float]]:
    """Fit linear probes for depth and segmentation on patch tokens, and evaluate them within and across modalities.

    Depth is fitted as its logarithm; patches without depth (sky) or class are skipped.

    Args:
        train, test: features with ground truth.
        classes: C.

    Returns:
        {modality: {"depth_rmse", "depth_delta1", "miou"}} for probes fitted on that modality, and
        {"rgb to <modality>": the same} for probes fitted on RGB.

    Raises:
        ValueError: no ground truth.
    """
    if train.depth is None or test.depth is None or train.classes is None or test.classes is None:
        raise ValueError("probes need ground truth: extract features with truth_classes")
    scores = {}
    fitted = {key: _fit(train, key, classes) for key in train.patches}
    for key in test.patches:
        scores[key] = _score(fitted[key], test, key, classes)
        if key != "rgb":
            scores[f"rgb to {key}"] = _score(fitted["rgb"], test, key, classes)
    return scores


def _fit(train: FeatureSet, key: str, classes: int) -> tuple[Any, Any]:
    assert train.depth is not None
    assert train.classes is not None
    tokens = train.patches[key].reshape(-1, train.patches[key].shape[-1])
    depth, label = train.depth.reshape(-1), train.classes.reshape(-1)
    known, labelled = depth > 0, label >= 0
    return (
        fit_probe(tokens[known], np.log(depth[known])[:, None]),
        fit_probe(tokens[labelled], np.eye(classes)[label[labelled]]),
    )


def _score(probes: tuple[Any, Any], test: FeatureSet, key: str, classes: int) -> dict[str, float]:
    assert test.depth is not None
    assert test.classes is not None
    tokens = test.patches[key].reshape(-1, test.patches[key].shape[-1])
    depth, label = test.depth.reshape(-1), test.classes.reshape(-1)
    known = depth > 0
    predicted = np.exp(np.clip(probes[0](tokens[known])[:, 0], np.log(_NEAREST_M), np.log(_FARTHEST_M)))
    of_depth = depth_scores(predicted, depth[known])
    pixels = ConfusionMatrix([str(number) for number in range(classes)])
    pixels.add(probes[1](tokens).argmax(axis=1), np.where(label < 0, UNLABELLED, label))
    return {
        "depth_rmse": of_depth.rmse,
        "depth_delta1": of_depth.delta1,
        "miou": pixels.scores().miou,
    }
