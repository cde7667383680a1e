"""Fine-tuning recipes: all settings of a run in one typed object, and the recipes of the bundled models.

Recipes are Python rather than configuration files, so that they are type-checked and searchable like other code.
`downstream.py` makes the recipes of the benchmarks.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from spectradino_core.data.augment import Augmentation, shrink
from spectradino_core.data.labels import LabelError
from spectradino_core.data.mixture import Mixture, Source
from spectradino_core.data.sample import PairedSample
from spectradino_core.data.scene_sets import ScenePairs
from spectradino_core.datasets.own.folder import open_own
from spectradino_core.evaluation.sets import FolderSet, Vocabulary
from spectradino_core.files import folder_fault
from spectradino_core.modality import Modality
from spectradino_core.models.perception import Architecture
from spectradino_core.runtime.bundle import ModelInfo
from spectradino_core.scenes import BOX_CLASSES, MASK_CLASSES, MASK_PALETTE
from spectradino_core.thermal import ThermalContract
from spectradino_core.training.loop import LoopOptions
from spectradino_core.training.modes import LR_GROUPS, MODES

log = logging.getLogger(__name__)

SCENES = "scenes"
"""Name of the synthetic scenes in a mix."""

BY_EPOCH = 1_000_000_000
"""Value of `LoopOptions.checkpoint_every`: at most ten checkpoints in a run, at least an epoch apart."""


DATA_TERMS = {
    "msrs": "MSRS: no licence stated, for research and evaluation",
    "roadscene": "RoadScene: FLIR ADAS' own terms, for research and evaluation",
    "camel": "CAMEL: published for research with citation",
    "camvid": "CamVid: published for research with citation",
    "coco": "COCO: annotations CC BY 4.0, images by their authors",
    "m3svd": "M3SVD: MIT",
    "voc2007": "PASCAL VOC 2007: images under Flickr's terms",
    "road_": "Road RGB-SWIR: no licence stated, for research and evaluation",
}
"""Terms of real data sets by how their folders' names begin; they apply to models trained on them."""


def data_terms(names: Iterable[str]) -> list[str]:
    """Return the known terms of data sets by the names of their folders, such as "msrs_rgb_lwir", each once."""
    found = (terms for name in names for prefix, terms in DATA_TERMS.items() if name.startswith(prefix))
    return list(dict.fromkeys(found))


@dataclass(frozen=True)
class FinetuneRecipe:
    """Recipe of one fine-tuning run.

    Attributes:
        name: key in `RECIPES`.
        input_size: (width, height) of the network's input in pixels.
        batch: pairs per step over all processes.
        lr: peak learning rate by group: "head", "adapters" (with stems and modality embedding), "blocks" (with patch
            embedding, tokens and norms); 0 freezes. The paper sets one per module group and its values are lost
            (Section 4.3); for fine-tuning from DINOv2 1e-4, 5e-5 and 1e-5 are assumed.
        mode: one of `modes.MODES`, which limits the trained parameters.
        frozen: roles or their prefixes (see `perception.perception_roles`) that keep their initial weights, such as
            "stems", whose backward pass at full resolution is a quarter of a small model's step.
        layer_decay: see `modes.parameter_groups`; 1: none.
        dataset: name in `datasets.registry` of the data set whose training split is used; None: `real` and scenes.
        epochs: passes over that data set instead of the loop's steps; None: the loop's steps.
        box_classes, mask_classes, palette: class names that labels and mask values index; RGB colour of each mask
            class.
        weight_decay, beta2: AdamW's parameters.
        class_weight, box_weight, mask_weight: weights of the losses.
        mask_stride: see `batches.make_batch`.
        scene_size: (width, height) of rendered scenes in pixels.
        scene_pool: number of different scenes; None: unlimited.
        scene_fraction: fraction of the samples that are scenes; the rest is divided among `real`.
        real: data sets beside the scenes, by folder name under the data root.
        mix: replaces `scene_fraction` and `real`: (name, weight) of each source, "scenes" or the name, or its unique
            prefix, of a folder under the data root: one with an index (see `data.paired_folder`) or own data (see
            `datasets.own`). Sources may be pairs or images of one camera, with boxes or masks.
        cached_scale: maximum size of real images in memory relative to the network's input, which makes augmentation
            cheaper; None: original size.
        early_size: (width, height) of the network's input in the first steps (progressive resizing); None: no change.
        early: fraction of the steps that use `early_size`.
        thermal, score_threshold, nms_iou: stored in the model. 0.35 gives the bundled model's best mean F1 on held-out
            scenes.
        seed: seed of weights and samples.
    """

    name: str
    architecture: Architecture
    input_size: tuple[int, int]
    loop: LoopOptions
    batch: int
    lr: dict[str, float]
    mode: str = "full"
    frozen: tuple[str, ...] = ()
    layer_decay: float = 1.0
    dataset: str | None = None
    epochs: int | None = None
    box_classes: tuple[str, ...] = BOX_CLASSES
    mask_classes: tuple[str, ...] = MASK_CLASSES
    palette: tuple[tuple[int, int, int], ...] = MASK_PALETTE
    weight_decay: float = 0.05
    beta2: float = 0.98
    class_weight: float = 1.0
    box_weight: float = 1.5
    mask_weight: float = 1.0
    mask_stride: int = 1
    scene_size: tuple[int, int] = (360, 288)
    scene_pool: int | None = None
    scene_fraction: float = 1.0
    real: tuple[str, ...] = ()
    mix: tuple[tuple[str, float], ...] = ()
    cached_scale: float | None = None
    early_size: tuple[int, int] | None = None
    early: float = 0.5
    augmentation: Augmentation = field(default_factory=Augmentation)
    thermal: ThermalContract = field(default_factory=ThermalContract)
    score_threshold: float = 0.35
    nms_iou: float = 0.5
    seed: int = 0

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ValueError(f"unknown fine-tuning mode {self.mode!r}: choose one of {', '.join(MODES)}")
        if set(self.lr) != set(LR_GROUPS) or min(self.lr.values()) < 0:
            raise ValueError(f"learning rates {self.lr}: give one of 0 or more for each of {', '.join(LR_GROUPS)}")
        if not 0 < self.layer_decay <= 1:
            raise ValueError(f"layer_decay must be in (0, 1], not {self.layer_decay}")
        if any(weight <= 0 for _, weight in self.mix):
            raise ValueError(f"weights of a mix must be positive, not {dict(self.mix)}")
        if not 0 <= self.early <= 1:
            raise ValueError(f"early must be a fraction of the steps, 0 to 1, not {self.early}")
        if self.batch < self.loop.grad_accum:
            raise ValueError(f"a batch of {self.batch} pairs can't be split into {self.loop.grad_accum} micro-batches")
        counts = (len(self.box_classes), len(self.mask_classes))
        if counts != (self.architecture.box_classes, self.architecture.mask_classes):
            raise ValueError(
                f"{counts[0]} box classes and {counts[1]} mask classes are named; the architecture has "
                f"{self.architecture.box_classes} and {self.architecture.mask_classes}"
            )

    def info(self) -> ModelInfo:
        return ModelInfo(
            name=f"{self.architecture.infrared}_{self.name.split('_')[0]}" if self.dataset is None else self.name,
            variant=self.architecture.variant,
            bands=self.architecture.bands,
            box_classes=self.box_classes,
            mask_classes=self.mask_classes,
            palette=self.palette,
            input_size=self.input_size,
            thermal=self.thermal,
            score_threshold=self.score_threshold,
            nms_iou=self.nms_iou,
            strides=self.architecture.cell_strides,
            patch=self.architecture.vit.patch,
        )

    def with_input_size(self, size: tuple[int, int]) -> FinetuneRecipe:
        """Return a copy with another input size, and the early one in proportion."""
        early, patch = self.early_size, self.architecture.vit.patch
        if early is not None:
            width, height = (
                max(1, round(new * old / (whole * patch))) * patch
                for new, old, whole in zip(size, early, self.input_size, strict=True)
            )
            early = (width, height)
        return replace(self, input_size=size, early_size=early)

    def mixture(self, data: Path | None) -> tuple[Mixture, dict[str, float]]:
        """Return the training samples and each source's fraction of them, with real ones from folders in `data`."""
        band = Modality.parse(self.architecture.infrared)
        scale, (width, height) = self.cached_scale, self.input_size
        largest = None if scale is None else (round(scale * width), round(scale * height))
        sources: list[tuple[float, Source]] = []
        fractions = self._fractions(data)
        for name, fraction in fractions.items():
            if name == SCENES:
                sources.append((fraction, ScenePairs.training(band, self.scene_size, self.scene_pool)))
            else:
                assert data is not None
                samples = self._samples(data / name, band)
                sources.append((fraction, [one if largest is None else shrink(one, largest) for one in samples]))
        return Mixture(sources, self.augmentation, self.seed), fractions

    def _samples(self, folder: Path, band: Modality) -> Iterator[PairedSample]:
        """Read the training split of a source: a folder with an index, else own data, whose classes match by name."""
        if (folder / "index_train.json").is_file():
            return iter(FolderSet(folder, "train", band, BOX_CLASSES, MASK_CLASSES))
        try:
            own = open_own(folder, band)
        except LabelError as error:
            asks = re.search(r"--(rgb|ir|band)\b", str(error))
            hint = "; --mix has no such options: name the folders so, such as rgb and thermal" if asks else ""
            raise LabelError(f"{error}{hint}") from None
        pairs = own.benchmark.open(folder, own.benchmark.train_split)
        vocabulary = Vocabulary.between(self.info(), pairs, folder.name, "train")
        for remark in own.remarks:
            log.info("%s: %s", folder.name, remark)
        if vocabulary.unknown:
            log.warning("%s: its labels of %s are not used", folder.name, ", ".join(vocabulary.unknown))
        return map(vocabulary, pairs.samples())

    def _fractions(self, data: Path | None) -> dict[str, float]:
        """Return each source's fraction of the samples by name; without `data` all are scenes."""
        if data is None:
            return {SCENES: 1.0}
        if fault := folder_fault(data):
            raise ValueError(fault)
        if self.mix:
            weights = {name if name == SCENES else _folder(data, name): weight for name, weight in self.mix}
            if len(weights) < len(self.mix):
                raise ValueError(f"a source of the mix is named twice: {', '.join(name for name, _ in self.mix)}")
            return {name: weight / sum(weights.values()) for name, weight in weights.items()}
        scenes = self.scene_fraction if self.real else 1.0
        return {SCENES: scenes} | {name: (1 - scenes) / len(self.real) for name in self.real}


def _folder(data: Path, name: str) -> str:
    """Return the folder under `data` called `name`, or else the only one whose name begins with it."""
    if (data / name).is_dir():
        return name
    there = sorted(path.name for path in data.iterdir() if path.is_dir())
    if not there:
        raise ValueError(f"{data} holds no folders, so not {name!r} either: give the folder that holds the data sets")
    found = [folder for folder in there if folder.startswith(name)]
    if len(found) == 1:
        return found[0]
    raise ValueError(
        f"{data} holds {'several folders' if found else 'no folder'} whose name begins with {name!r}: choose one of "
        f"{', '.join(found or there)}"
    )


def box() -> FinetuneRecipe:
    """Return the recipe of the bundled LWIR model: small, and trained from scratch, without DINOv2 weights.

    All groups have the head's learning rate; the paper's rates per group are for pretrained backbones.
    """
    return FinetuneRecipe(
        name="box",
        architecture=Architecture("tiny", "lwir", len(BOX_CLASSES), len(MASK_CLASSES), pyramid_width=64),
        input_size=(280, 224),
        loop=LoopOptions(steps=4500, warmup=200),
        batch=8,
        lr={"head": 8e-4, "adapters": 8e-4, "blocks": 8e-4},
        scene_pool=6000,
        scene_fraction=0.75,
        real=("roadscene_rgb_lwir",),
    )


def box_of(infrared: str) -> FinetuneRecipe:
    """Return the recipe of the bundled model of another infrared band.

    No labelled pairs of the band are available: pairs are scenes, and of the real sets only RGB is used, mostly by day
    (boxes of night sets were drawn on thermal images). It takes few steps, as it starts from the bundled LWIR model
    (`--start`). No such band is shown inverted.
    """
    return replace(
        box_real(),
        name=f"box_{infrared}",
        architecture=replace(box().architecture, infrared=infrared),
        frozen=(),
        loop=LoopOptions(steps=1200, warmup=60, ema=0.995, amp="auto"),
        lr=dict.fromkeys(("head", "adapters", "blocks"), 4e-4),
        mix=((SCENES, 5), ("roadscene_rgb_lwir", 1), ("camvid_rgb", 1), ("coco_street_rgb", 1)),
        augmentation=replace(box_real().augmentation, inversion=0.0),
    )


def box_real() -> FinetuneRecipe:
    """Return the recipe of the second LWIR model: real pairs, thermal-only and RGB-only images, and scenes.

    It starts from the first one (`--start models/lwir_box.safetensors`). The larger input is for distant people; half
    of the steps use the smaller one at half the cost.
    """
    return replace(
        box(),
        name="box_real",
        input_size=(392, 308),
        early_size=(280, 224),
        frozen=("stems",),
        mask_stride=2,
        loop=LoopOptions(steps=12000, warmup=100, ema=0.998, amp="auto", checkpoint_every=500, log_every=20),
        lr={"head": 5e-4, "adapters": 5e-4, "blocks": 5e-4},
        scene_pool=1500,
        mix=(
            ("msrs_rgb_lwir", 3),
            ("roadscene_rgb_lwir", 2),
            ("camel_lwir", 2),
            ("camvid_rgb", 1),
            ("coco_street_rgb", 1),
            (SCENES, 3),
        ),
        cached_scale=1.25,
        augmentation=Augmentation(
            zoom=(0.7, 1.6),
            stretch=0.15,
            infrared_gamma=0.3,
            inversion=0.05,
            misregistration=0.008,
            low_light=0.15,
            # Scenes are 16-bit counts with a camera's defects; the real data are 8-bit images.
            thermal_defects=0.15,
            filled_defects=0.15,
        ),
    )


def smoke() -> FinetuneRecipe:
    """Return a recipe that runs everything in a minute, for tests and a new machine; its model is not usable."""
    return FinetuneRecipe(
        name="smoke",
        architecture=Architecture("test", "lwir", len(BOX_CLASSES), len(MASK_CLASSES), pyramid_width=32, tower_depth=1),
        input_size=(168, 140),
        loop=LoopOptions(steps=30, warmup=5, log_every=5, checkpoint_every=15),
        batch=4,
        lr={"head": 1e-3, "adapters": 1e-3, "blocks": 1e-3},
        scene_size=(200, 160),
    )


RECIPES: dict[str, Callable[[], FinetuneRecipe]] = {
    "box": box,
    "box_real": box_real,
    "box_nir": lambda: box_of("nir"),
    "box_swir": lambda: box_of("swir"),
    "smoke": smoke,
}
