"""Recipes of SpectraDINO's three pretraining stages for every variant, with all values of the paper.

Source: Tables 1 and 2 and Section 3.3. Values that the paper does not give, or whose figure its text lost, are marked
*assumed*; DINOv3 and Omnivorous DINO have the values of the DINOv2 of their width. The variants `tiny` and `test` are
ours, for a laptop and for tests.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

from spectradino_core.models.spectradino import SpectraDINO, parameter_roles, train_only

T = TypeVar("T", int, float)

STAGES = (1, 2, 3)
GPUS = 2
"""Number of GPUs in the paper, whose batch sizes are per GPU."""


@dataclass(frozen=True)
class LossWeights:
    """Loss weights of one stage, the same for all variants (Table 1).

    Attributes:
        patch_ratio: fraction of the patch positions compared in a step (rho).
        neighbourhood: weight of the KL loss; 0: no queue.
        neighbourhood_from: first epoch in which the KL loss is used; before it the queue fills.
        infrared: weight of the contrastive loss between infrared bands of one item. Our option; the paper has 0.
        rgb: weight of distilling RGB features, CLS and patch tokens, from the teacher. Our option; the paper has 0.
    """

    distillation: float
    contrastive: float
    patch: float
    patch_ratio: float
    neighbourhood: float = 0.0
    neighbourhood_from: int = 0
    infrared: float = 0.0
    rgb: float = 0.0


@dataclass(frozen=True)
class StageRecipe:
    """Recipe of one stage of one variant.

    Attributes:
        epochs: passes over all batches of all bands.
        batch: pairs per step over all processes.
        lr: peak learning rate.
        unfrozen: number of deepest blocks that are trained.
        rgb_stem: whether the RGB stem is trained. Assumed for Stage III.
        warmup: fraction of the steps with a rising learning rate. Assumed: 5 of 100 epochs in Stage I.
        queue, top_k, queue_temperature: size of the teacher queue, neighbours and temperature of the neighbourhood
            loss.
        temperature: temperature of the contrastive loss. Assumed.
        learn_temperature: learn the temperature as CLIP does, starting from that of the backbone that the stage starts
            from, or from `temperature`. Assumed off.
        clip: maximum gradient norm. Assumed: DINOv2's.
        ema: decay of a moving average of the weights; 0: none. Our option.
        crop: side of the square views in pixels. Assumed.
    """

    variant: str
    stage: int
    epochs: int
    batch: int
    lr: float
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


@dataclass(frozen=True)
class _Size:
    """Values of one variant (Table 2); tuples are for Stages I, II and III.

    Attributes:
        batch: pairs per GPU.
        unfrozen: blocks trained in Stage III.
        lr: peak learning rate of Stage I. Assumed: "inverse with model size", the figures are lost.
        factors: learning rate of each stage relative to `lr`. Assumed.
    """

    epochs: tuple[int, int, int]
    batch: tuple[int, int, int]
    unfrozen: int
    lr: float
    crop: int = 224
    factors: tuple[float, float, float] = (1.0, 0.5, 0.2)


_SIZES = {
    "s": _Size((100, 10, 75), (128, 128, 128), 6, 2e-4),
    "b": _Size((100, 10, 75), (128, 128, 128), 6, 1e-4),
    "l": _Size((100, 10, 75), (64, 64, 64), 12, 5e-5),
    "g": _Size((50, 10, 30), (24, 24, 16), 10, 2e-5),
    "tiny": _Size((20, 3, 24), (8, 8, 8), 3, 6e-4, crop=112, factors=(1.0, 0.5, 0.8)),
    "test": _Size((2, 2, 1), (4, 4, 4), 1, 1e-3, crop=56),
}
_LIKE_DINOV2 = {"omnivorous_b": "b", "v3_s": "s", "v3_s+": "s", "v3_b": "b", "v3_l": "l"}
"""Variants that are not in the paper, each with the DINOv2 of its width."""
_SIZES |= {name: _SIZES[like] for name, like in _LIKE_DINOV2.items()}

_WARMUP = {1: 0.05, 2: 0.0, 3: 0.0}
"""Fraction of the steps. The paper gives none for Stages II and III; the length in Stage I is assumed."""


def stage_recipe(variant: str, stage: int) -> StageRecipe:
    """Return the recipe of one stage; ValueError: unknown variant or stage."""
    if variant not in _SIZES:
        raise ValueError(f"no pretraining recipe for variant {variant!r}: choose one of {', '.join(_SIZES)}")
    if stage not in STAGES:
        raise ValueError(f"no stage {stage}: choose one of 1, 2, 3")
    size = _SIZES[variant]
    return StageRecipe(
        variant=variant,
        stage=stage,
        epochs=size.epochs[stage - 1],
        batch=GPUS * size.batch[stage - 1],
        lr=size.lr * size.factors[stage - 1],
        weights=_WEIGHTS[stage],
        unfrozen=size.unfrozen if stage == 3 else 0,
        rgb_stem=stage == 3,
        warmup=_WARMUP[stage],
        crop=size.crop,
    )


def recipe_values(field: str) -> str:
    """Describe a field by variants of equal values, e.g. "l 64; g 24/24/16", with "/" between stages that differ."""
    found: dict[str, list[str]] = {}
    for variant in _SIZES:
        if variant not in _LIKE_DINOV2:
            values = [f"{getattr(stage_recipe(variant, stage), field):g}" for stage in STAGES]
            found.setdefault("/".join(values if len(set(values)) > 1 else values[:1]), []).append(variant)
    if len(found) == 1:
        return next(iter(found))
    return "; ".join(f"{', '.join(variants)} {text}" for text, variants in found.items())


def trainable(recipe: StageRecipe, model: SpectraDINO) -> list[str]:
    """Return the names of the parameters that the stage trains.

    All stages train the infrared stems, the adapters of all bands including RGB, the modality embedding and the final
    LayerNorm; Stage III also the deepest blocks and the RGB stem.
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
    """Freeze all parameters of the model but those of `trainable`."""
    train_only(model, trainable(recipe, model))


def changed(recipe: StageRecipe, **changes: float | None) -> StageRecipe:
    """Return the recipe with the given values replaced, ignoring those that are None."""
    given = {name: value for name, value in changes.items() if value is not None}
    return replace(recipe, **given)  # type: ignore[arg-type]


def of_stage(value: Mapping[int, T] | T | None, stage: int) -> T | None:
    """Return a stage's value of an option that is one value for all stages, one by stage, or not given."""
    return value.get(stage) if isinstance(value, Mapping) else value


def parse_stages(text: str) -> tuple[int, ...]:
    """Parse consecutive stages, e.g. "1,2,3" to (1, 2, 3)."""
    words = text.replace(" ", "")
    if words in ("1", "2", "3", "1,2", "2,3", "1,2,3"):
        return tuple(int(stage) for stage in words.split(","))
    raise ValueError(f"stages {text!r} are not consecutive: give, for example, 1 or 2,3 or 1,2,3")
