"""Placeholder for DINOv2, whose weights are not available: a small ViT that learns boxes and masks from RGB images of
synthetic scenes, and never sees infrared.

`python -m benchmarks.downstream.teacher --out RUN` makes `RUN/teacher.safetensors` in DINOv2's own layout, and
`RUN/start.safetensors`, the student before Stage I. As in DINOv2's own training, some images are grey and some
negatives, so that infrared as a grey image is not entirely new to the frozen baseline.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.experiment import run_main
from benchmarks.pretrain.disguise import disguised
from benchmarks.pretrain.teacher import save_start
from spectradino_core.data.mixture import RGBOnly
from spectradino_core.data.sample import PairedSample
from spectradino_core.models.checkpoints import save_state
from spectradino_core.models.perception_checkpoint import load_perception
from spectradino_core.options import COUNT, NATURAL
from spectradino_core.training.batches import Samples
from spectradino_core.training.finetune import TrainingData, finetune
from spectradino_core.training.recipes import RECIPES, FinetuneRecipe

GREY, NEGATIVE = 0.2, 0.2
"""Of the views, as in DINOv2's training."""


class Disguised:
    """Samples of which some RGB images are grey, and some negatives."""

    def __init__(self, samples: Samples, seed: int) -> None:
        self._samples, self._seed = samples, seed

    def sample(self, index: int) -> tuple[PairedSample, np.ndarray]:
        """See `Mixture.sample`."""
        pair, present = self._samples.sample(index)
        rng = np.random.default_rng((self._seed, 1, index))
        return replace(pair, rgb=disguised(pair.rgb, rng, GREY, NEGATIVE)), present


def teacher_recipe(variant: str, steps: int, streets: int, seed: int) -> FinetuneRecipe:
    """The bundled model's recipe on a plain ViT, from random weights, on synthetic scenes only."""
    recipe = RECIPES["smoke" if variant == "test" else "box"]()
    return replace(
        recipe,
        name="stand_in",
        architecture=replace(recipe.architecture, backbone="dinov2_repeat"),
        loop=replace(recipe.loop, steps=steps, warmup=min(recipe.loop.warmup, steps // 10), checkpoint_every=steps),
        scene_pool=streets,
        scene_fraction=1.0,
        real=(),
        seed=seed,
    )


def train_teacher(recipe: FinetuneRecipe, folder: Path) -> Path:
    """Train, or resume the run in `folder`; returns `<folder>/teacher.safetensors`."""
    mixture, _ = recipe.mixture(None)
    data = TrainingData(Disguised(RGBOnly(mixture), recipe.seed), [], {"colour of the scenes": 1.0})
    model, _ = load_perception(finetune(recipe, folder, None, device="cpu", training_data=data))
    path = folder / "teacher.safetensors"
    save_state(model.backbone.vit, path)
    return path


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.downstream.teacher", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="run folder")
    parser.add_argument("--variant", default="tiny", choices=("tiny", "test"))
    parser.add_argument("--steps", type=COUNT, default=1500)
    parser.add_argument("--streets", type=COUNT, default=2000, help="different ones, rendered and kept (%(default)s)")
    parser.add_argument("--seed", type=NATURAL, default=0)
    options = parser.parse_args()
    recipe = teacher_recipe(options.variant, options.steps, options.streets, options.seed)
    path = train_teacher(recipe, options.out)
    save_start(path, options.variant, options.seed)


if __name__ == "__main__":
    run_main(main)
