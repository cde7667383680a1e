"""Evaluation of a backbone on held-out items: retrieval, cosines, retention, k-NN, linear probes and their transfer.

Letters: N items, D width, P patches of an item, S side of the square view in pixels, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import combinations
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spectradino_core.data.prefetch import prefetched
from spectradino_core.data.pretraining import as_colour
from spectradino_core.data.sources import MAPS, ImageSource
from spectradino_core.data.views import DEPTH_RANGE_M, PLAIN, ViewOptions, colour_tensor, map_tensor, take_view
from spectradino_core.evaluation.probes import (
    LinearProbe,
    depth_scores,
    fit_probe,
    patch_classes,
    patch_depth,
)
from spectradino_core.evaluation.retrieval import knn_accuracy, pair_cosines, retrieval
from spectradino_core.evaluation.segmentation import UNLABELLED, ConfusionMatrix
from spectradino_core.models.encoders import Encoder
from spectradino_core.models.vit import Features
from spectradino_core.thermal import ThermalContract

__all__ = [
    "FeatureSet",
    "MeanCosine",
    "evaluate_infrared_pairs",
    "evaluate_neighbours",
    "evaluate_pairs",
    "evaluate_probes",
    "extract_each",
    "extract_features",
    "mean_of",
]

CROPPED = ViewOptions(scale=(0.5, 1.0), flip=0.0, photometry=None)
"""Views after the first: one crop for both images of a pair, without other augmentation."""
_NEAREST_M, _FARTHEST_M = 0.2, 100.0


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

    Patch tokens take P times the memory of CLS (20 GB for 13,000 pairs on ViT-B), so they are compared batch by batch
    and kept only where probes are fitted on them.

    Attributes:
        cls: CLS by modality, float32 [N, D].
        gap: mean of the patch tokens (global average pooling) by modality, float32 [N, D]; empty: not requested. The
            Omnivorous paper's figures are on these.
        labels: class of each item; None: unknown.
        patch_cosines: mean cosine of patch tokens at the same position, by pair of modalities, in the order of `cls`.
        retained: mean cosine of RGB features with the teacher's, "retention_cls" and "retention_patches"; empty without
            a teacher.
        patches: patch tokens by modality, float32 [N, P, D]; empty: not kept.
        depth: depth of each patch in metres, 0 where unknown, [N, P]; None: not requested.
        classes: class of each patch, -1 where unknown, [N, P]; None: not requested.
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
    thermal: ThermalContract | None = None,
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
        truth_classes: C; above 0, depth and class of each patch are extracted too.
        device: device of the encoders.
        thermal: contract from counts to network input; None: the default.
        view: 0: the largest centred square; above: a seeded random crop of at least half of the largest one's area.
        teacher: reference of the retention of RGB features, on `device`, one of the encoders or another.
        keep_patches: keep the patch tokens of all items, for probes.
        workers: see `prefetched`.
        depth_range_m: see `depth_values`; that of the encoders' training.
        truth_maps: of `MAPS`, the ground truth that `truth_classes` asks for.

    Raises:
        ValueError: no item has all modalities, or features are not finite.
        ItemError: an item is damaged; an evaluation skips none.
    """
    contract = thermal or ThermalContract()
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
            images[key] = torch.from_numpy(
                np.stack([map_tensor(key, view[key], contract, depth_range_m) for view in views])
            )
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
    return {
        name: extracted.feature_set(
            labels, np.stack(depths) if depths else None, np.stack(classes) if classes else None
        )
        for name, extracted in found.items()
    }


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
        if reference is not None:
            rgb = features["rgb"]
            for name, own, teachers in (
                ("retention_cls", rgb.cls, reference.cls),
                ("retention_patches", rgb.patches, reference.patches),
            ):
                self._retained.setdefault(name, MeanCosine()).add(own, teachers)

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
        By modality beside RGB: {"items", "from_rgb": {"r1", "r5", "median_rank", "items"}, "to_rgb": the same,
        "cosine": {"true", "unrelated"}, "patch_cosine": of patch tokens at the same position, "gap": "from_rgb",
        "to_rgb" and "cosine" of the mean patch token in place of CLS}, and with a teacher "retention_cls",
        "retention_patches".
    """
    return {key: _pair_scores(found, "rgb", key) | found.retained for key in found.cls if key != "rgb"}


def _pair_scores(found: FeatureSet, first: str, second: str) -> dict[str, Any]:
    scores = {"items": len(found.cls[first]), **_directions(found.cls[first], found.cls[second])}
    if found.gap:
        scores["gap"] = _directions(found.gap[first], found.gap[second])
    return scores | {"patch_cosine": found.patch_cosines[first, second]}


def _directions(a: np.ndarray, b: np.ndarray) -> dict[str, Any]:
    return {
        "from_rgb": asdict(retrieval(a, b)), "to_rgb": asdict(retrieval(b, a)), "cosine": asdict(pair_cosines(a, b)),
    }  # fmt: skip


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

    Args:
        train, test: features with ground truth.
        classes: C.

    Returns:
        {modality: {"depth_rmse", "depth_delta1", "miou"}} for probes fitted on that modality, and
        {"rgb to <modality>": the same} for probes fitted on RGB.

    Raises:
        ValueError: no ground truth.
    """
    with_depth = train.depth is not None and test.depth is not None
    with_classes = train.classes is not None and test.classes is not None
    if not (with_depth or with_classes):
        raise ValueError("probes need ground truth of one kind in both sets: extract features with truth_classes")
    if not train.patches or not test.patches:
        raise ValueError("probes need patch tokens: extract features with keep_patches")
    scores: dict[str, dict[str, float]] = {}
    pairs = [(key, key, key) for key in test.patches]
    pairs += [(f"rgb to {key}", "rgb", key) for key in test.patches if key != "rgb"]
    fitted_depth = {key: _fit_depth(train, key) for key in train.patches} if with_depth else {}
    fitted_classes = {key: _fit_classes(train, key, classes) for key in train.patches} if with_classes else {}
    for name, source, key in pairs:
        scores[name] = {}
        if with_depth:
            scores[name] |= _score_depth(fitted_depth[source], test, key)
        if with_classes:
            scores[name]["miou"] = _score_classes(fitted_classes[source], test, key, classes)
    return scores


def _tokens(features: FeatureSet, key: str) -> np.ndarray:
    return features.patches[key].reshape(-1, features.patches[key].shape[-1])


def _fit_depth(train: FeatureSet, key: str) -> LinearProbe:
    assert train.depth is not None
    depth = train.depth.reshape(-1)
    return fit_probe(_tokens(train, key)[depth > 0], np.log(depth[depth > 0])[:, None])


def _fit_classes(train: FeatureSet, key: str, classes: int) -> LinearProbe:
    assert train.classes is not None
    label = train.classes.reshape(-1)
    return fit_probe(_tokens(train, key)[label >= 0], np.eye(classes)[label[label >= 0]])


def _score_depth(probe: LinearProbe, test: FeatureSet, key: str) -> dict[str, float]:
    assert test.depth is not None
    depth = test.depth.reshape(-1)
    predicted = np.exp(np.clip(probe(_tokens(test, key)[depth > 0])[:, 0], np.log(_NEAREST_M), np.log(_FARTHEST_M)))
    scores = depth_scores(predicted, depth[depth > 0])
    return {"depth_rmse": scores.rmse, "depth_delta1": scores.delta1}


def _score_classes(probe: LinearProbe, test: FeatureSet, key: str, classes: int) -> float:
    assert test.classes is not None
    label = test.classes.reshape(-1)
    pixels = ConfusionMatrix([str(number) for number in range(classes)])
    pixels.add(probe(_tokens(test, key)).argmax(axis=1), np.where(label < 0, UNLABELLED, label))
    return pixels.scores().miou
