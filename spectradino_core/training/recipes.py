"""Fine-tuning recipes: everything that decides a run, in one typed object each.

A recipe is Python, so that it can be read, searched and checked like the rest; nothing overrides it from elsewhere.
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

__all__ = ["RECIPES", "FinetuneRecipe", "box", "smoke"]


@dataclass(frozen=True)
class FinetuneRecipe:
    """One fine-tuning run.

    Attributes:
        name: key in `RECIPES`.
        architecture: the module.
        input_size: (width, height) of the network's input.
        loop: steps, schedule, averaging.
        batch: pairs per step.
        rates: peak learning rate by role: "head", "adapters" (stems and the modality embedding too), "blocks" (patch
            embedding, tokens and norms too); 0 freezes. The paper sets one per module group and its values are lost
            (Section 4.3); for fine-tuning from DINOv2 1e-4, 5e-5 and 1e-5 are assumed.
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

    def rate_of(self, role: str) -> float:
        """The peak learning rate of a parameter role (see `perception_roles`)."""
        if role == "head":
            return self.rates["head"]
        if role.startswith("stems") or role in ("adapters", "modality_embedding"):
            return self.rates["adapters"]
        return self.rates["blocks"]

    def info(self) -> ModelInfo:
        """What the resulting model says of itself."""
        return ModelInfo(
            name=f"{self.architecture.infrared}_{self.name.split('_')[0]}",
            variant=self.architecture.variant,
            bands=self.architecture.bands,
            box_classes=BOX_CLASSES,
            mask_classes=MASK_CLASSES,
            palette=MASK_PALETTE,
            input_size=self.input_size,
            thermal=self.thermal,
            score_threshold=self.score_threshold,
            nms_iou=self.nms_iou,
            strides=self.architecture.strides,
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
