"""Evaluation of a backbone on held-out items: retrieval, cosines, retention, k-NN, linear probes and their transfer.

Letters: N items, D width, P patches of an item, S side of the square view in pixels, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spectradino_core.data.prefetch import prefetched
from spectradino_core.data.pretraining import as_colour
from spectradino_core.data.sources import MAPS, ImageSource
from spectradino_core.data.views import DEPTH_RANGE_M, PLAIN, ViewOptions, colour_tensor, map_tensor, take_view
from spectradino_core.evaluation.feature_metrics import (
    FARTHEST,
    LinearProbe,
    depth_scores,
    fit_probe,
    knn_accuracy,
    pair_cosines,
    patch_classes,
    patch_depth,
    retrieval,
)
from spectradino_core.evaluation.segmentation import UNLABELLED, ConfusionMatrix
from spectradino_core.models.encoders import Encoder
from spectradino_core.models.vit import Features
from spectradino_core.thermal import ThermalContract

CROPPED = ViewOptions(scale=(0.5, 1.0), flip=0.0, photometry=None)
"""Views after the first: one crop for both images of a pair, without other augmentation."""
_NEAREST_M = 0.2


class MeanCosine:
    """Mean cosine of pairs of vectors, accumulated in float64 batch by batch."""

    def __init__(self) -> None:
        self._total, self._count = 0.0, 0

    def add(self, a: Tensor, b: Tensor) -> None:
        """Add the pairs of two tensors [..., D] of one shape and device.

        Raises:
            ValueError: different shapes, or values that are not finite.
        """
        if a.shape != b.shape:
            raise ValueError(f"features of pairs must have one shape, not {tuple(a.shape)} and {tuple(b.shape)}")
        a, b = (x.double() / x.double().norm(dim=-1, keepdim=True).clamp(min=1e-12) for x in (a, b))
        total = float((a * b).sum())
        if not np.isfinite(total):
            raise ValueError("features hold values that are not finite")
        self._total += total
        self._count += a[..., 0].numel()

    @property
    def value(self) -> float:
        """The mean; nan without pairs."""
        return self._total / self._count if self._count else float("nan")


@dataclass
class FeatureSet:
    """Features of the items of a source.

    Patch tokens take P times the memory of CLS, so they are compared batch by batch and kept only for probes.

    Attributes:
        cls: CLS by modality, float32 [N, D].
        labels: class of each item; None: unknown.
        patch_cosines: mean cosine of patch tokens at the same position, by pair of modalities, in the order of `cls`.
        retained: mean cosine of RGB features with the teacher's, "retention_cls" and "retention_patches", if there is
            one.
        patches: patch tokens by modality, float32 [N, P, D]; empty: not kept.
        depth, classes: depth of each patch in metres, 0 where unknown, and its class, -1 where unknown, [N, P]; None:
            not requested.
        gap: mean of the patch tokens (global average pooling) by modality, float32 [N, D]; empty: not requested. The
            Omnivorous paper's figures are on these.
    """

    cls: dict[str, np.ndarray]
    labels: list[str | None]
    patch_cosines: dict[tuple[str, str], float] = field(default_factory=dict)
    retained: dict[str, float] = field(default_factory=dict)
    patches: dict[str, np.ndarray] = field(default_factory=dict)
    depth: np.ndarray | None = None
    classes: np.ndarray | None = None
    gap: dict[str, np.ndarray] = field(default_factory=dict)


def extract_features(
    encoder: Encoder, source: ImageSource, modalities: Sequence[str], side: int, **options: Any
) -> FeatureSet:
    """Extract the features of one encoder; see `extract_each`."""
    return extract_each({"": encoder}, source, modalities, side, **options)[""]


@torch.no_grad()
def extract_each(
    encoders: Mapping[str, Encoder],
    source: ImageSource,
    modalities: Sequence[str],
    side: int,
    batch: int = 16,
    truth_classes: int = 0,
    device: torch.device | str = "cpu",
    view: int = 0,
    teacher: Encoder | None = None,
    keep_patches: bool = False,
    workers: int = 0,
    depth_range_m: tuple[float, float] = DEPTH_RANGE_M,
    truth_maps: Sequence[str] = MAPS,
) -> dict[str, FeatureSet]:
    """Extract the features of all items that have the modalities, reading each item once for all encoders.

    Args:
        encoders: encoders by name, on `device`.
        source: the items.
        modalities: modalities beside RGB.
        side: S.
        batch: items per batch.
        truth_classes: C; above 0, the ground truth `truth_maps`, of `MAPS`, of each patch is extracted too.
        view: 0: the largest centred square; above: a seeded random crop of at least half of the largest one's area.
        teacher: reference of the retention of RGB features, on `device`, one of the encoders or another.
        keep_patches: keep the patch tokens of all items, for probes.
        workers: see `prefetched`.
        depth_range_m: see `depth_values`; that of the encoders' training.

    Raises:
        ValueError: no item has all modalities, or features are not finite.
        ItemError: an item is damaged; an evaluation skips none.
    """
    contract = ThermalContract()
    truth = tuple(truth_maps) if truth_classes else ()
    wanted = tuple(dict.fromkeys((*modalities, *truth)))
    rows = [item for item in range(len(source)) if set(wanted) <= set(source.modalities(item))]
    if not rows:
        raise ValueError(f"{source.name}: no item has {' and '.join(wanted)}")
    label = getattr(source, "label", lambda item: None)
    found = {name: _Extracted(("rgb", *modalities), keep_patches) for name in encoders}
    depths: list[np.ndarray] = []
    classes: list[np.ndarray] = []

    def load(part: Sequence[int]) -> tuple[list[dict[str, np.ndarray]], dict[str, Tensor]]:
        options = CROPPED if view else PLAIN
        views = [take_view(source.load(i, wanted), options, side, np.random.default_rng((view, i))) for i in part]
        images = {"rgb": torch.from_numpy(np.stack([colour_tensor(view["rgb"]) for view in views]))}
        for key in modalities:
            maps = [map_tensor(key, view[key], contract, depth_range_m) for view in views]
            images[key] = torch.from_numpy(np.stack(maps))
        return views, images

    parts = [rows[start : start + batch] for start in range(0, len(rows), batch)]
    for views, images in prefetched(load, parts, workers):
        images = {key: image.to(device) for key, image in images.items()}
        of_batch = {name: encoder(_inputs(encoder, images)) for name, encoder in encoders.items()}
        reference = None
        if teacher is not None:
            own = next((of_batch[name] for name, encoder in encoders.items() if encoder is teacher), None)
            reference = (own or teacher({"rgb": images["rgb"]}))["rgb"]
        for name, features in of_batch.items():
            found[name].add(features, reference)
        if truth_classes:
            grid = next(iter(of_batch.values()))["rgb"].grid
            patch = side // grid[0]
            depths += [patch_depth(view["depth"], patch) for view in views if "depth" in truth]
            segmented = [view["segmentation"] for view in views if "segmentation" in truth]
            classes += [patch_classes(mask, patch, truth_classes) for mask in segmented]
    labels = [label(i) for i in rows]
    depth, patches = (np.stack(parts) if parts else None for parts in (depths, classes))
    return {name: extracted.feature_set(labels, depth, patches) for name, extracted in found.items()}


class _Extracted:
    """Features of one encoder while batches are added."""

    def __init__(self, keys: Sequence[str], keep_patches: bool) -> None:
        self._cls: dict[str, list[np.ndarray]] = {key: [] for key in keys}
        self._gap: dict[str, list[np.ndarray]] = {key: [] for key in keys}
        self._patches: dict[str, list[np.ndarray]] = {key: [] for key in keys if keep_patches}
        self._cosines = {pair: MeanCosine() for pair in combinations(keys, 2)}
        self._retained: dict[str, MeanCosine] = {}

    def add(self, features: Mapping[str, Features], reference: Features | None) -> None:
        for key, one in self._cls.items():
            one.append(features[key].cls.float().cpu().numpy())
            self._gap[key].append(features[key].patches.float().mean(dim=1).cpu().numpy())
        for key, one in self._patches.items():
            one.append(features[key].patches.float().cpu().numpy())
        for (a, b), cosine in self._cosines.items():
            cosine.add(features[a].patches, features[b].patches)
        for kind in ("cls", "patches") if reference is not None else ():
            mean = self._retained.setdefault(f"retention_{kind}", MeanCosine())
            mean.add(getattr(features["rgb"], kind), getattr(reference, kind))

    def feature_set(self, labels: list[str | None], depth: np.ndarray | None, classes: np.ndarray | None) -> FeatureSet:
        return FeatureSet(
            {key: np.concatenate(parts) for key, parts in self._cls.items()},
            labels,
            {pair: cosine.value for pair, cosine in self._cosines.items()},
            {name: cosine.value for name, cosine in self._retained.items()},
            {key: np.concatenate(parts) for key, parts in self._patches.items()},
            depth,
            classes,
            {key: np.concatenate(parts) for key, parts in self._gap.items()},
        )


def _inputs(encoder: Encoder, images: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the images as the encoder takes them: RGB, and others with one channel or as grey with three."""
    return {
        key: image if key == "rgb" or encoder.channels(key) == 1 else as_colour(image) for key, image in images.items()
    }


def evaluate_pairs(found: FeatureSet) -> dict[str, dict[str, Any]]:
    """Compute retrieval in both directions and cosines of RGB with every other modality.

    Returns:
        By modality beside RGB: {"items", "from_rgb" and "to_rgb": see `retrieval`, "cosine": see `pair_cosines`,
        "patch_cosine": of patch tokens at the same position, "gap": these of the mean patch token in place of CLS, and
        with a teacher "retention_cls", "retention_patches"}.
    """
    return {key: _pair_scores(found, "rgb", key) | found.retained for key in found.cls if key != "rgb"}


def _pair_scores(found: FeatureSet, first: str, second: str) -> dict[str, Any]:
    scores = {"items": len(found.cls[first]), **_directions(found.cls[first], found.cls[second])}
    if found.gap:
        scores["gap"] = _directions(found.gap[first], found.gap[second])
    return scores | {"patch_cosine": found.patch_cosines[first, second]}


def _directions(a: np.ndarray, b: np.ndarray) -> dict[str, Any]:
    return {"from_rgb": retrieval(a, b), "to_rgb": retrieval(b, a), "cosine": pair_cosines(a, b)}


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
    pairs = combinations([key for key in found.cls if key != "rgb"], 2)
    return {f"{first} to {second}": _pair_scores(found, first, second) for first, second in pairs}


def evaluate_neighbours(train: FeatureSet, test: FeatureSet, k: int = 20) -> dict[str, float]:
    """Compute the k-NN accuracy of each modality against itself ("nir", ..) and against RGB ("rgb to nir", ..).

    Names of figures on the mean patch token in place of CLS end in " (GAP)".

    Raises:
        ValueError: an item without class.
    """
    labels = [*train.labels, *test.labels]
    if None in labels:
        raise ValueError("k-NN needs the class of every item, and the manifest lacks some: add a 'class' to each item")
    known = sorted({str(label) for label in labels})
    a, b = (np.array([known.index(str(label)) for label in c.labels]) for c in (train, test))
    scores = {}
    for of_train, of_test, suffix in ((train.cls, test.cls, ""), (train.gap, test.gap, " (GAP)")):
        for key, features in of_test.items():
            scores[f"{key}{suffix}"] = knn_accuracy(of_train[key], a, features, b, k)
        for key in of_test.keys() - {"rgb"}:
            scores[f"rgb to {key}{suffix}"] = knn_accuracy(of_train["rgb"], a, of_test[key], b, k)
    return scores


def evaluate_probes(train: FeatureSet, test: FeatureSet, classes: int) -> dict[str, dict[str, float]]:
    """Fit linear probes for depth and segmentation on patch tokens, and evaluate them within and across modalities.

    Depth is fitted as its logarithm; patches without depth (sky) or class are skipped. Each is left out where a set
    lacks its ground truth.

    Returns:
        {modality: {"depth_rmse", "depth_delta1", "miou"}} for probes fitted on that modality, and
        {"rgb to <modality>": the same} for probes fitted on RGB.

    Raises:
        ValueError: no ground truth.
    """
    kinds = [k for k in ("depth", "classes") if getattr(train, k) is not None and getattr(test, k) is not None]
    if not kinds:
        raise ValueError("probes need ground truth of one kind in both sets: extract features with truth_classes")
    if not train.patches or not test.patches:
        raise ValueError("probes need patch tokens: extract features with keep_patches")
    pairs = [(key, key, key) for key in test.patches]
    pairs += [(f"rgb to {key}", "rgb", key) for key in test.patches if key != "rgb"]
    probes = {(kind, key): _fit(train, kind, key, classes) for kind in kinds for key in train.patches}
    scores: dict[str, dict[str, float]] = {name: {} for name, _, _ in pairs}
    for name, source, key in pairs:
        for kind in kinds:
            scores[name] |= _score(probes[kind, source], test, kind, key, classes)
    return scores


def _tokens(features: FeatureSet, key: str) -> np.ndarray:
    return features.patches[key].reshape(-1, features.patches[key].shape[-1])


def _fit(train: FeatureSet, kind: str, key: str, classes: int) -> LinearProbe:
    """Fit a probe for "depth" or "classes" on a modality's tokens."""
    truth = getattr(train, kind).reshape(-1)
    if kind == "depth":
        return fit_probe(_tokens(train, key)[truth > 0], np.log(truth[truth > 0])[:, None])
    return fit_probe(_tokens(train, key)[truth >= 0], np.eye(classes)[truth[truth >= 0]])


def _score(probe: LinearProbe, test: FeatureSet, kind: str, key: str, classes: int) -> dict[str, float]:
    truth = getattr(test, kind).reshape(-1)
    if kind == "depth":
        predicted = probe(_tokens(test, key)[truth > 0])[:, 0]
        return depth_scores(np.exp(np.clip(predicted, np.log(_NEAREST_M), np.log(FARTHEST))), truth[truth > 0])
    pixels = ConfusionMatrix([str(number) for number in range(classes)])
    pixels.add(probe(_tokens(test, key)).argmax(axis=1), np.where(truth < 0, UNLABELLED, truth))
    return {"miou": pixels.scores().miou}
