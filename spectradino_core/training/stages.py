"""The three stages of SpectraDINO's pretraining, for every variant: all of the paper's figures, in this one place.

Tables 1 and 2 and Section 3.3. What is *assumed* because the paper is silent, or because its text lost the figure, is
marked so; everything else is the paper's. `tiny` and `test` are ours, for a laptop and for tests.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from spectradino_core.backbone.spectradino import SpectraDINO, parameter_roles
from spectradino_core.backbone.vit import VARIANTS

__all__ = ["STAGES", "LossWeights", "StageRecipe", "freeze", "stage_recipe", "trainable"]

STAGES = (1, 2, 3)
GPUS = 2
"""The paper trains on two; its batch sizes are per GPU."""


@dataclass(frozen=True)
class LossWeights:
    """Table 1: the same for all variants.

    Attributes:
        distillation, contrastive, patch: weights of the losses.
        patch_ratio: share of the patch positions that a step compares (rho).
        neighbourhood: weight of the KL loss; 0: no queue.
        neighbourhood_from: epoch from which that weight counts; before it the queue fills.
        infrared: weight of the contrastive loss between infrared bands of one item. Ours, an option: 0 is the paper.
    """

    distillation: float
    contrastive: float
    patch: float
    patch_ratio: float
    neighbourhood: float = 0.0
    neighbourhood_from: int = 0
    infrared: float = 0.0


@dataclass(frozen=True)
class StageRecipe:
    """One stage of one variant.

    Attributes:
        variant: key of `VARIANTS`.
        stage: 1, 2 or 3.
        epochs: passes over all batches of all bands.
        batch: pairs per step over all processes.
        rate: peak learning rate.
        weights: of the losses.
        unfrozen: how many of the deepest blocks train.
        rgb_stem: whether the RGB stem trains. Assumed for Stage III.
        warmup: share of the steps over which the learning rate rises. Assumed: 5 of 100 epochs in Stage I.
        queue, top_k, queue_temperature: of the neighbourhood loss.
        temperature: of the contrastive loss. Assumed.
        learn_temperature: learn it from there, as CLIP does. Assumed off.
        weight_decay: of AdamW.
        clip: greatest gradient norm. Assumed, DINOv2's.
        ema: decay of a moving average of the weights; 0: none. An option.
        crop: side of the square views, pixels. Assumed.
    """

    variant: str
    stage: int
    epochs: int
    batch: int
    rate: float
    weights: LossWeights
    unfrozen: int = 0
    rgb_stem: bool = False
    warmup: float = 0.0
    queue: int = 65_536
    top_k: int = 128
    queue_temperature: float = 0.07
    temperature: float = 0.07
    learn_temperature: bool = False
    weight_decay: float = 0.05
    clip: float = 3.0
    ema: float = 0.0
    crop: int = 224


_WEIGHTS = {
    1: LossWeights(2.0, 1.0, 0.1, 0.25),
    2: LossWeights(2.0, 1.0, 0.1, 0.25, neighbourhood=0.5, neighbourhood_from=1),
    3: LossWeights(0.5, 1.5, 0.25, 0.5, neighbourhood=1.0),
}

_EPOCHS = {
    "s": (100, 10, 75),
    "b": (100, 10, 75),
    "l": (100, 10, 75),
    "g": (50, 10, 30),
    "tiny": (6, 3, 4),
    "test": (2, 2, 1),
}
_BATCH_PER_GPU = {
    "s": (128, 128, 128), "b": (128, 128, 128), "l": (64, 64, 64), "g": (24, 24, 16), "tiny": (16, 16, 16), "test": (4, 4, 4),
}  # fmt: skip
_UNFROZEN = {"s": 6, "b": 6, "l": 12, "g": 10, "tiny": 3, "test": 1}

_RATE = {"s": 2e-4, "b": 1e-4, "l": 5e-5, "g": 2e-5, "tiny": 1e-3, "test": 1e-3}
"""Of Stage I. Assumed: the text says "inverse with model size", its figures are lost."""
_RATE_SHARE = {1: 1.0, 2: 0.5, 3: 0.2}
"""Of Stage I's rate. Assumed."""
_WARMUP = {1: 0.05, 2: 0.0, 3: 0.0}
"""Stages II and III have none (given); Stage I's length is assumed."""
_CROP = {"tiny": 112, "test": 56}


def stage_recipe(variant: str, stage: int) -> StageRecipe:
    """The recipe of one stage.

    Raises:
        ValueError: no such variant or stage; the message lists those there are.
    """
    if variant not in _EPOCHS:
        raise ValueError(f"no pretraining recipe for variant {variant!r}: choose one of {', '.join(_EPOCHS)}")
    if stage not in STAGES:
        raise ValueError(f"no stage {stage}: choose of 1, 2, 3")
    return StageRecipe(
        variant=variant,
        stage=stage,
        epochs=_EPOCHS[variant][stage - 1],
        batch=GPUS * _BATCH_PER_GPU[variant][stage - 1],
        rate=_RATE[variant] * _RATE_SHARE[stage],
        weights=_WEIGHTS[stage],
        unfrozen=_UNFROZEN[variant] if stage == 3 else 0,
        rgb_stem=stage == 3,
        warmup=_WARMUP[stage],
        crop=_CROP.get(variant, 224),
    )


def trainable(recipe: StageRecipe, model: SpectraDINO) -> list[str]:
    """Names, in `model.named_parameters()`, of what the stage trains.

    All stages: the infrared stems, all adapters (RGB's too), the modality embedding, the final LayerNorm. Stage III: the
    deepest blocks and the RGB stem too. Patch embedding, tokens and the shallower blocks stay DINOv2's throughout.

    Raises:
        ValueError: the recipe unfreezes more blocks than there are.
    """
    depth = model.config.depth
    if not 0 <= recipe.unfrozen <= depth:
        raise ValueError(f"{recipe.unfrozen} blocks to unfreeze, the model has {depth}")
    roles = {f"stems.{band.key}" for band in model.bands if band.band.channels == 1}
    roles |= {"adapters", "modality_embedding", "norm"}
    roles |= {f"blocks.{index}" for index in range(depth - recipe.unfrozen, depth)}
    if recipe.rgb_stem:
        roles.add("stems.rgb")
    return [name for name, role in parameter_roles(model).items() if role in roles]


def freeze(recipe: StageRecipe, model: SpectraDINO) -> None:
    """Lets exactly `trainable` be trained."""
    names = set(trainable(recipe, model))
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in names)


def changed(recipe: StageRecipe, **changes: float | None) -> StageRecipe:
    """The recipe with what is given and not None in place of its own."""
    given = {name: value for name, value in changes.items() if value is not None}
    return replace(recipe, **given)  # type: ignore[arg-type]


def parse_stages(text: str) -> tuple[int, ...]:
    """ "1,2,3" to (1, 2, 3).

    Raises:
        ValueError: no list of stages in rising order.
    """
    try:
        stages: Sequence[int] = [int(part) for part in text.split(",")]
    except ValueError:
        stages = []
    if not stages or any(s not in STAGES for s in stages) or list(stages) != list(range(stages[0], stages[-1] + 1)):
        raise ValueError(f"--stages {text}: give stages in a row, such as 1 or 1,2,3")
    return tuple(stages)


assert set(_EPOCHS) == set(VARIANTS)
