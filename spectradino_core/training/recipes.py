"""Fine-tuning recipes: everything that decides a run, in one typed object each.

A recipe is Python, so that it can be read, searched and checked like the rest; nothing overrides it from elsewhere.
Here are the models in the box; `downstream.py` makes those of the benchmarks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from spectradino_core.data.augment import Augmentation
from spectradino_core.data.mixture import FolderSource, Mixture, SceneSource, Source
from spectradino_core.data.scenes import BOX_CLASSES, MASK_CLASSES, MASK_PALETTE
from spectradino_core.modality import Modality
from spectradino_core.perception import Architecture
from spectradino_core.runtime.bundle import ModelInfo
from spectradino_core.thermal import ThermalContract
from spectradino_core.training.loop import LoopOptions
from spectradino_core.training.modes import MODES, RATE_GROUPS

__all__ = ["BY_EPOCH", "RECIPES", "FinetuneRecipe", "box", "smoke"]

BY_EPOCH = 1_000_000_000
"""Of a loop's `checkpoint_every`: at most ten checkpoints in a run, at least an epoch apart."""


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
        layer_decay: see `modes.parameter_groups`; 1: none.
        dataset: one of `data.benchmarks`, on whose training split the model is trained; None: `real` and scenes.
        epochs: passes over that data set, in place of the loop's steps; None: the loop's steps.
        box_classes, mask_classes, palette: names that labels and mask values index; a colour for each of the latter.
        weight_decay, beta2: of AdamW.
        class_weight, box_weight, mask_weight: of the losses.
        scene_size: (width, height) that scenes are rendered at.
        scene_pool: how many different scenes are rendered; None: fresh ones without end.
        scene_share: share of the samples that are scenes; the rest is shared by `real`.
        real: data sets beside the scenes, by folder name under the data root.
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
    scene_size: tuple[int, int] = (360, 288)
    scene_pool: int | None = None
    scene_share: float = 1.0
    real: tuple[str, ...] = ()
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
        )

    def mixture(self, data: Path | None) -> tuple[Mixture, dict[str, float]]:
        """The samples of this recipe, and each source's share of them.

        Args:
            data: the folder in which the sets of `real` lie; None leaves them out.
        """
        band = Modality.parse(self.architecture.infrared)
        sources: list[tuple[float, Source]] = []
        shares: dict[str, float] = {}
        real = self.real if data is not None else ()
        scene_share = self.scene_share if real else 1.0
        sources.append((scene_share, SceneSource(band, self.scene_size, pool=self.scene_pool)))
        shares["scenes"] = scene_share
        for name in real:
            assert data is not None
            shares[name] = (1 - scene_share) / len(real)
            sources.append((shares[name], FolderSource(data / name, "train", band)))
        return Mixture(sources, self.augmentation, self.seed), shares


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
    "box_nir": lambda: box_of("nir"),
    "box_swir": lambda: box_of("swir"),
    "smoke": smoke,
}
