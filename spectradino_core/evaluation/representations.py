"""Judges a backbone on held-out items: retrieval, cosines, retention, neighbours, linear probes and their transfer.

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

__all__ = ["Collected", "collect", "judge_infrared", "judge_neighbours", "judge_pairs", "judge_probes", "mean_of"]

CROPPED = ViewOptions(scale=(0.5, 1.0), flip=0.0, photometry=None)
"""Of views after the first: both pictures of a pair cut alike, nothing else changed."""
_NEAREST_M, _FARTHEST_M = 0.5, 100.0


@dataclass
class Collected:
    """What an encoder says of the items of a source.

    Attributes:
        cls: by modality, float32 [N, D].
        patches: by modality, float32 [N, P, D].
        labels: what each item shows, None where unknown.
        depth: metres of each patch, 0 where unknown, [N, P]; None: not asked for.
        classes: class number of each patch, -1 where unknown, [N, P]; None: not asked for.
    """

    cls: dict[str, np.ndarray]
    patches: dict[str, np.ndarray]
    labels: list[str | None]
    depth: np.ndarray | None = None
    classes: np.ndarray | None = None


@torch.no_grad()
def collect(
    encoder: Encoder,
    source: ImageSource,
    modalities: Sequence[str],
    side: int,
    batch: int = 16,
    truth_classes: int = 0,
    device: torch.device | str = "cpu",
    thermal: ThermalContract | None = None,
    view: int = 0,
) -> Collected:
    """Features of all items that have the modalities, on the largest centred square of each.

    Args:
        encoder: on `device`.
        source: the items.
        modalities: beside RGB.
        side: S.
        batch: items at a time.
        truth_classes: above 0, depth and class of each patch are collected too, as truth; how many classes there are.
        device: of the encoder.
        thermal: from counts to network input; None: the default contract.
        view: 0: that square; above: the seeded random crop of that number, of half of the picture's area and more.

    Raises:
        ValueError: no item has them all.
        ItemError: an item is damaged; a judgement leaves nothing out.
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
    return Collected(
        {key: np.concatenate(parts) for key, parts in cls.items()},
        {key: np.concatenate(parts) for key, parts in patches.items()},
        labels,
        np.stack(depths) if depths else None,
        np.stack(classes) if classes else None,
    )


def judge_pairs(student: Collected, teacher: Collected | None = None) -> dict[str, dict[str, Any]]:
    """By modality beside RGB: retrieval both ways, cosines, and with a teacher the retention of RGB.

    Returns:
        {"items", "from_rgb": {"r1", "r5", "median_rank", "items"}, "to_rgb": the same, "cosine": {"true", "unrelated"},
        "patch_cosine": of patch tokens at the same place, "retention_cls", "retention_patches"}.
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
    """Number by number over rows of one form, at whatever depth; what is the same in all of them stays as it is."""
    out: dict[str, Any] = {}
    for key, value in rows[0].items():
        of_all = [row[key] for row in rows]
        if isinstance(value, Mapping):
            out[key] = mean_of(of_all)
        else:
            out[key] = value if all(other == value for other in of_all) else float(np.mean(of_all))
    return out


def judge_infrared(found: Collected) -> dict[str, dict[str, Any]]:
    """As `judge_pairs`, of the infrared bands with each other: {"nir to swir": {"items", "from_rgb": nir looks for its
    partner, "to_rgb": swir does, "cosine", "patch_cosine"}, ..}; empty with fewer than two bands."""
    out = {}
    for first, second in combinations([key for key in found.cls if key != "rgb"], 2):
        renamed = Collected(
            {"rgb": found.cls[first], second: found.cls[second]},
            {"rgb": found.patches[first], second: found.patches[second]},
            found.labels,
        )
        out[f"{first} to {second}"] = judge_pairs(renamed)[second]
    return out


def judge_neighbours(train: Collected, test: Collected, k: int = 20) -> dict[str, float]:
    """k-NN accuracy of each modality among its own kind, and of each among RGB items: "nir", "rgb to nir", ..

    Raises:
        ValueError: an item without class.
    """
    labels = [*train.labels, *test.labels]
    if None in labels:
        raise ValueError("k-NN judges items whose class is known; the manifest gives none for some")
    known = sorted({str(label) for label in labels})
    a, b = (np.array([known.index(str(label)) for label in c.labels]) for c in (train, test))
    scores = {key: knn_accuracy(train.cls[key], a, test.cls[key], b, k) for key in test.cls}
    for key in test.cls:
        if key != "rgb":
            scores[f"rgb to {key}"] = knn_accuracy(train.cls["rgb"], a, test.cls[key], b, k)
    return scores


def judge_probes(train: Collected, test: Collected, classes: int) -> dict[str, dict[str, float]]:
    """Linear probes for depth and segmentation on patch tokens, by modality: fitted on itself, and fitted on RGB.

    Depth is learnt as its logarithm; patches without depth (the sky) or class don't count.

    Args:
        train, test: with truth.
        classes: C.

    Returns:
        {modality: {"depth_rmse", "depth_delta1", "miou"}} where the probe was fitted on that modality, and
        {"rgb to <modality>": the same} where it was fitted on RGB.

    Raises:
        ValueError: no truth.
    """
    if train.depth is None or test.depth is None or train.classes is None or test.classes is None:
        raise ValueError("probes need the truth: collect with truth_classes")
    scores = {}
    fitted = {key: _fit(train, key, classes) for key in train.patches}
    for key in test.patches:
        scores[key] = _score(fitted[key], test, key, classes)
        if key != "rgb":
            scores[f"rgb to {key}"] = _score(fitted["rgb"], test, key, classes)
    return scores


def _fit(train: Collected, key: str, classes: int) -> tuple[Any, Any]:
    assert train.depth is not None
    assert train.classes is not None
    tokens = train.patches[key].reshape(-1, train.patches[key].shape[-1])
    depth, label = train.depth.reshape(-1), train.classes.reshape(-1)
    far, named = depth > 0, label >= 0
    return (
        fit_probe(tokens[far], np.log(depth[far])[:, None]),
        fit_probe(tokens[named], np.eye(classes)[label[named]]),
    )


def _score(probes: tuple[Any, Any], test: Collected, key: str, classes: int) -> dict[str, float]:
    assert test.depth is not None
    assert test.classes is not None
    tokens = test.patches[key].reshape(-1, test.patches[key].shape[-1])
    depth, label = test.depth.reshape(-1), test.classes.reshape(-1)
    far = depth > 0
    guess = np.exp(np.clip(probes[0](tokens[far])[:, 0], np.log(_NEAREST_M), np.log(_FARTHEST_M)))
    of_depth = depth_scores(guess, depth[far])
    pixels = ConfusionMatrix([str(number) for number in range(classes)])
    pixels.add(probes[1](tokens).argmax(axis=1), np.where(label < 0, UNLABELLED, label))
    return {
        "depth_rmse": of_depth.rmse,
        "depth_delta1": of_depth.delta1,
        "miou": pixels.scores().miou,
    }
