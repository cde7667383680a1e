"""Fine-tuning recipes: everything that decides a run, in one typed object each.

A recipe is Python, so that it can be read, searched and checked like the rest; nothing overrides it from elsewhere.
Here are the models in the box; `downstream.py` makes those of the benchmarks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from spectradino_core.data.augment import Augmentation, shrink
from spectradino_core.data.mixture import Mixture, Source
from spectradino_core.data.scene_sets import ScenePairs
from spectradino_core.evaluation.sets import FolderSet
from spectradino_core.modality import Modality
from spectradino_core.models.perception import Architecture
from spectradino_core.runtime.bundle import ModelInfo
from spectradino_core.scenes import BOX_CLASSES, MASK_CLASSES, MASK_PALETTE
from spectradino_core.thermal import ThermalContract
from spectradino_core.training.loop import LoopOptions
from spectradino_core.training.modes import MODES, RATE_GROUPS

__all__ = ["BY_EPOCH", "DATA_TERMS", "RECIPES", "SCENES", "FinetuneRecipe", "box", "smoke"]

SCENES = "scenes"
"""Name of the rendered scenes in a mix."""

BY_EPOCH = 1_000_000_000
"""Of a loop's `checkpoint_every`: at most ten checkpoints in a run, at least an epoch apart."""


DATA_TERMS = {
    "msrs_rgb_lwir": "MSRS: no licence stated, for research and evaluation",
    "roadscene_rgb_lwir": "RoadScene: FLIR ADAS' own terms, for research and evaluation",
    "camel_lwir": "CAMEL: published for research with citation",
    "camvid_rgb": "CamVid: published for research with citation",
    "coco_street_rgb": "COCO: annotations CC BY 4.0, images by their authors",
}
"""Terms of the data sets that the recipes name, which hold for a model that was trained on them."""


@dataclass(frozen=True)
class FinetuneRecipe:
    """One fine-tuning run.

    Attributes:
        name: key in `RECIPES`.
        architecture: the module.
        input_size: (width, height) of the network's input.
        loop: steps, schedule, averaging, precision, gradient accumulation.
        batch: pairs per step, over all processes.
        rates: peak learning rate by role: "head", "adapters" (stems and the modality embedding too), "blocks" (patch
            embedding, tokens and norms too); 0 freezes. The paper sets one per module group and its values are lost
            (Section 4.3); for fine-tuning from DINOv2 1e-4, 5e-5 and 1e-5 are assumed.
        mode: one of `modes.MODES`: what is trained at all.
        frozen: roles, or what they begin with (see `perception.perception_roles`), that keep the weights they start
            with, such as "stems": their backward pass, at full resolution, is a quarter of a small model's step.
        layer_decay: see `modes.parameter_groups`; 1: none.
        dataset: one of `datasets.registry`, on whose training split the model is trained; None: `real` and scenes.
        epochs: passes over that data set, in place of the loop's steps; None: the loop's steps.
        box_classes, mask_classes, palette: names that labels and mask values index; a colour for each of the latter.
        weight_decay, beta2: of AdamW.
        class_weight, box_weight, mask_weight: of the losses.
        mask_stride: see `batches.make_batch`.
        scene_size: (width, height) that scenes are rendered at.
        scene_pool: how many different scenes are rendered; None: fresh ones without end.
        scene_share: share of the samples that are scenes; the rest is shared by `real`.
        real: data sets beside the scenes, by folder name under the data root.
        mix: in place of `scene_share` and `real`: (name, weight) of each source, which are "scenes" and folders under
            the data root by their names or what these begin with. Pairs, images of one camera, boxes and masks mix.
        kept_scale: real images are kept in memory at most so many times larger than the network's input, which makes
            varying them as much cheaper; None: as they are.
        early_size: (width, height) of the network's input in the first steps ("smaller images first"); None: its own.
        early: fraction of the steps that take `early_size`.
        augmentation: how pairs are varied.
        thermal: the contract that is stored in the model.
        score_threshold, nms_iou: stored in the model. The box's best F1 over classes lies at 0.35 on held-out scenes.
        seed: of weights and samples.
    """

    name: str
    architecture: Architecture
    input_size: tuple[int, int]
    loop: LoopOptions
    batch: int
    rates: dict[str, float]
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
    scene_share: float = 1.0
    real: tuple[str, ...] = ()
    mix: tuple[tuple[str, float], ...] = ()
    kept_scale: float | None = None
    early_size: tuple[int, int] | None = None
    early: float = 0.5
    augmentation: Augmentation = field(default_factory=Augmentation)
    thermal: ThermalContract = field(default_factory=ThermalContract)
    score_threshold: float = 0.35
    nms_iou: float = 0.5
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises ValueError where parts don't go together."""
        if self.mode not in MODES:
            raise ValueError(f"unknown fine-tuning mode {self.mode!r}: choose one of {', '.join(MODES)}")
        if set(self.rates) != set(RATE_GROUPS) or min(self.rates.values()) < 0:
            raise ValueError(f"learning rates are for {', '.join(RATE_GROUPS)}, none negative; not {self.rates}")
        if not 0 < self.layer_decay <= 1:
            raise ValueError(f"layer decay is a factor in (0, 1], not {self.layer_decay}")
        if any(weight <= 0 for _, weight in self.mix):
            raise ValueError(f"weights of a mix are positive numbers, not {dict(self.mix)}")
        if not 0 <= self.early <= 1:
            raise ValueError(f"early is a fraction of the steps, 0 to 1, not {self.early}")
        if self.batch < self.loop.parts:
            raise ValueError(f"a batch of {self.batch} pairs does not split into {self.loop.parts} parts")
        counts = (len(self.box_classes), len(self.mask_classes))
        if counts != (self.architecture.box_classes, self.architecture.mask_classes):
            raise ValueError(
                f"{counts[0]} box classes and {counts[1]} mask classes are named; the architecture has "
                f"{self.architecture.box_classes} and {self.architecture.mask_classes}"
            )

    def info(self) -> ModelInfo:
        """What the resulting model says of itself."""
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

    def mixture(self, data: Path | None) -> tuple[Mixture, dict[str, float]]:
        """The samples of this recipe, and each source's share of them.

        Args:
            data: the folder in which the sets of `real` lie; None leaves them out.
        """
        band = Modality.parse(self.architecture.infrared)
        largest = None
        if self.kept_scale is not None:
            largest = (round(self.kept_scale * self.input_size[0]), round(self.kept_scale * self.input_size[1]))
        sources: list[tuple[float, Source]] = []
        shares = self._shares(data)
        for name, share in shares.items():
            if name == SCENES:
                sources.append((share, ScenePairs.training(band, self.scene_size, self.scene_pool)))
            else:
                assert data is not None
                folder = FolderSet(data / name, "train", band, BOX_CLASSES, MASK_CLASSES)
                sources.append((share, [one if largest is None else shrink(one, largest) for one in folder]))
        return Mixture(sources, self.augmentation, self.seed), shares

    def _shares(self, data: Path | None) -> dict[str, float]:
        """The fraction of the samples that each source has, by its name; without `data` all are scenes."""
        if data is None:
            return {SCENES: 1.0}
        if self.mix:
            weights = {name if name == SCENES else _folder(data, name): weight for name, weight in self.mix}
            if len(weights) < len(self.mix):
                raise ValueError(f"a source of the mix is named twice: {', '.join(name for name, _ in self.mix)}")
            return {name: weight / sum(weights.values()) for name, weight in weights.items()}
        scenes = self.scene_share if self.real else 1.0
        return {SCENES: scenes} | {name: (1 - scenes) / len(self.real) for name in self.real}


def _folder(data: Path, name: str) -> str:
    """The name of the folder under `data` that is called `name`, or is the only one whose name begins with it.

    Raises:
        ValueError: there is none, or several.
    """
    if (data / name).is_dir():
        return name
    there = sorted(path.name for path in data.iterdir() if path.is_dir()) if data.is_dir() else []
    found = [folder for folder in there if folder.startswith(name)]
    if len(found) == 1:
        return found[0]
    raise ValueError(
        f"{data} holds {'several folders' if found else 'no folder'} whose name begins with {name!r}: choose one of "
        f"{', '.join(found or there) or 'none'}"
    )


def box() -> FinetuneRecipe:
    """The model in the box: small enough to ship, trained from scratch, since no DINOv2 weights may be assumed here.

    From scratch every part learns at the head's rate; the rates per group of the paper are for pretrained backbones.
    """
    return FinetuneRecipe(
        name="box",
        architecture=Architecture("tiny", "lwir", len(BOX_CLASSES), len(MASK_CLASSES), pyramid_width=64),
        input_size=(280, 224),
        loop=LoopOptions(steps=4500, warmup=200),
        batch=8,
        rates={"head": 8e-4, "adapters": 8e-4, "blocks": 8e-4},
        scene_pool=6000,
        scene_share=0.75,
        real=("roadscene_rgb_lwir",),
    )


def box_of(infrared: str) -> FinetuneRecipe:
    """The model in the box for another infrared band: on scenes alone, since no labelled pairs of it are at hand, and
    short, since it starts from the LWIR box (`--start`)."""
    return replace(
        box(),
        name=f"box_{infrared}",
        architecture=replace(box().architecture, infrared=infrared),
        loop=LoopOptions(steps=600, warmup=60, ema=0.995),
        scene_pool=2000,
        rates=dict.fromkeys(("head", "adapters", "blocks"), 4e-4),
        real=(),
    )


def box_real() -> FinetuneRecipe:
    """The second generation of the bundled LWIR model: real pairs, thermal-only and RGB-only images, and scenes.

    It starts from the first (`--start models/lwir_box.safetensors`). The larger input is for people far away; half of
    the steps take the smaller one, at half the cost.
    """
    return replace(
        box(),
        name="box_real",
        input_size=(392, 308),
        early_size=(280, 224),
        frozen=("stems",),
        mask_stride=2,
        loop=LoopOptions(steps=12000, warmup=100, ema=0.998, amp="auto", checkpoint_every=500, log_every=20),
        rates={"head": 5e-4, "adapters": 5e-4, "blocks": 5e-4},
        scene_pool=1500,
        mix=(
            ("msrs_rgb_lwir", 3),
            ("roadscene_rgb_lwir", 2),
            ("camel_lwir", 2),
            ("camvid_rgb", 1),
            ("coco_street_rgb", 1),
            (SCENES, 3),
        ),
        kept_scale=1.25,
        augmentation=Augmentation(
            zoom=(0.7, 1.6),
            stretch=0.15,
            infrared_gamma=0.3,
            inversion=0.05,
            misregistration=0.008,
            low_light=0.15,
            # Scenes are 16-bit counts, with defects as a camera gives them; the real data are 8-bit images.
            thermal_defects=0.15,
            filled_defects=0.15,
        ),
    )


def smoke() -> FinetuneRecipe:
    """A minute's run of everything, for tests and for a first try on a new machine; its model is of no use."""
    return FinetuneRecipe(
        name="smoke",
        architecture=Architecture("test", "lwir", len(BOX_CLASSES), len(MASK_CLASSES), pyramid_width=32, tower_depth=1),
        input_size=(168, 140),
        loop=LoopOptions(steps=30, warmup=5, log_every=5, checkpoint_every=15),
        batch=4,
        rates={"head": 1e-3, "adapters": 1e-3, "blocks": 1e-3},
        scene_size=(200, 160),
    )


RECIPES: dict[str, Callable[[], FinetuneRecipe]] = {
    "box": box,
    "box_real": box_real,
    "box_nir": lambda: box_of("nir"),
    "box_swir": lambda: box_of("swir"),
    "smoke": smoke,
}
