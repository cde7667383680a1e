"""Placeholder for DINOv2, whose weights are not available: a small ViT that learns from the RGB images only to
recognise each image, whatever its crop and its colours (SimCLR's task on CLS, without a projection head); in further
runs (`--start`) also in other tones of grey or as a negative, and each patch of it in another view of the same crop.

`python -m benchmarks.pretrain.teacher --manifests A.jsonl B.jsonl --root FOLDER --out RUN` makes
`RUN/teacher.safetensors` in DINOv2's own layout, and `RUN/start.safetensors`, the student before Stage I. It has seen
hundreds of images instead of 142 million: measurements with it show how well infrared follows a teacher, not how good
features are.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from benchmarks.experiment import run_main
from benchmarks.pretrain.disguise import disguised
from spectradino_core.data.augment import Augmentation, jitter_rgb
from spectradino_core.data.loading import Loader
from spectradino_core.data.manifest import ManifestSource
from spectradino_core.data.sources import ImageSet
from spectradino_core.data.views import ViewOptions, colour_tensor, take_view
from spectradino_core.losses.alignment import contrastive_loss
from spectradino_core.losses.omnivorous import dense_alignment_loss
from spectradino_core.models.checkpoints import load_dinov2, save_spectradino, save_state
from spectradino_core.models.vit import ViT
from spectradino_core.options import COUNT, NATURAL, POSITIVE
from spectradino_core.training.checkpoints import resume_step
from spectradino_core.training.loop import LoopOptions, train
from spectradino_core.training.teacher import load_teacher

RATE, WEIGHT_DECAY, TEMPERATURE, WARMUP = 1e-3, 0.05, 0.1, 0.1
TOKENS, PATCH_WEIGHT = 16, 0.5
"""Patch tokens compared per image, and the weight of their loss: the detectors read patches, which CLS alone does not
train."""

DISGUISE = Augmentation(brightness=0.4, contrast=0.4, gamma=0.5, saturation=0.8, blur=0.3)
DISGUISED = ViewOptions(scale=(0.5, 1.0), photometry=DISGUISE)
CROPPED = replace(DISGUISED, photometry=None)
GREY, NEGATIVE, SAME_CROP = 0.5, 0.2, 0.5
"""Fractions of the views in other tones of grey and as negatives, and of pairs of views that show the same crop, as the
images of two cameras do. DINOv2's own training greys and solarises 0.2 of the views. Without this the task is solved
by colours alone, which infrared lacks; from random weights it is too hard (the loss stays at chance), so it comes
second."""


@dataclass
class TwoViews:
    """Two views each of B images, [B, 3, S, S]; `same` is bool [B], whether both are of one crop."""

    one: Tensor
    other: Tensor
    same: Tensor

    def to(self, device: torch.device | str) -> TwoViews:
        """The same on `device`."""
        return TwoViews(self.one.to(device), self.other.to(device), self.same.to(device))


class _Pictures(Dataset[TwoViews]):
    """Batches as a function of seed and step; every image once per epoch."""

    def __init__(
        self, sources: Sequence[ManifestSource], batch: int, side: int, steps: range, seed: int, disguise: bool
    ) -> None:  # fmt: skip
        self._items = [(source, item) for source in sources for item in range(len(source))]
        if len(self._items) < batch:
            raise ValueError(f"{len(self._items)} images are fewer than a batch of {batch}")
        self._batch, self._side, self._steps, self._seed = batch, side, steps, seed
        self._disguise = disguise

    def __len__(self) -> int:
        return len(self._steps)

    def __getitem__(self, index: int) -> TwoViews:
        step = self._steps[index]
        epoch, place = divmod(step, len(self._items) // self._batch)
        order = np.random.default_rng((self._seed, epoch)).permutation(len(self._items))
        rng = np.random.default_rng((self._seed, 1, step))
        views: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
        together = []
        for number in order[place * self._batch : (place + 1) * self._batch]:
            source, item = self._items[number]
            image = source.load(item, ())
            pair, same = self._pair(image, rng)
            together.append(same)
            for into, view in zip(views, pair):
                into.append(colour_tensor(view))
        return TwoViews(*(torch.from_numpy(np.stack(view)) for view in views), torch.tensor(together))

    def _pair(self, image: ImageSet, rng: np.random.Generator) -> tuple[list[np.ndarray], bool]:
        if not self._disguise:
            return [take_view(image, ViewOptions(), self._side, rng)["rgb"] for _ in range(2)], False
        same = rng.random() < SAME_CROP
        crop = int(rng.integers(2**63))
        views = []
        for _ in range(2):
            if same:
                view = take_view(image, CROPPED, self._side, np.random.default_rng(crop))["rgb"]
                view = jitter_rgb(view, DISGUISE, rng)
            else:
                view = take_view(image, DISGUISED, self._side, rng)["rgb"]
            views.append(disguised(view, rng, GREY, NEGATIVE, tones=True))
        return views, bool(same)


def train_teacher(options: argparse.Namespace) -> Path:
    """Train, or resume the run in `options.out`; returns `teacher.safetensors` there. See `main` for the options."""
    sources = [ManifestSource(path, options.root) for path in options.manifests]
    torch.manual_seed(options.seed)
    model = ViT(options.variant)
    if options.start is not None:
        load_dinov2(model, options.start)
    decayed = [p for p in model.parameters() if p.ndim > 1]
    plain = [p for p in model.parameters() if p.ndim <= 1]
    optimiser = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": WEIGHT_DECAY}, {"params": plain, "weight_decay": 0.0}], lr=options.lr
    )
    steps = range(resume_step(options.out), options.steps)
    images = _Pictures(sources, options.batch, options.crop, steps, options.seed, options.start is not None)

    def loss_of(runner: nn.Module, views: TwoViews) -> dict[str, Tensor]:
        features = runner(torch.cat([views.one, views.other]))
        one, other = features.cls.chunk(2)
        image = contrastive_loss(one, other, TEMPERATURE)
        if views.same.sum() < 2:
            return {"total": image, "image": image.detach()}
        positions = torch.randperm(features.patches.shape[1])[:TOKENS]
        halves = features.patches[:, positions].chunk(2)
        tokens = {name: half[views.same] for name, half in zip(("one", "other"), halves)}
        patch = dense_alignment_loss(tokens, 1 / TEMPERATURE)
        return {"total": image + PATCH_WEIGHT * patch, "image": image.detach(), "patch": patch.detach()}

    warmup = round(WARMUP * options.steps)
    loop = LoopOptions(options.steps, warmup, clip=3.0, ema=0.0, amp="auto", checkpoint_every=100)
    loader: Loader[TwoViews] = Loader(images, workers=1)
    train(model, loss_of, loader, optimiser, loop, options.out, torch.device("cpu"))
    path = options.out / "teacher.safetensors"
    save_state(model, path)
    return path


def save_start(teacher: Path, variant: str, seed: int) -> None:
    """Write `start.safetensors`, the student before Stage I, beside its teacher."""
    torch.manual_seed(seed + 1)  # as Stage I does, so these fresh stems and adapters are those it starts from
    save_spectradino(load_teacher(teacher, variant).student(), teacher.with_name("start.safetensors"))
    print(f"{teacher}: stands in for DINOv2")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pretrain.teacher", description=__doc__)
    parser.add_argument("--manifests", type=Path, nargs="+", required=True)
    parser.add_argument("--root", type=Path, help="folder that paths are relative to (default: each manifest's own)")
    parser.add_argument("--out", type=Path, required=True, help="run folder")
    parser.add_argument("--start", type=Path, help="an earlier teacher: go on from it with disguised views")
    parser.add_argument("--lr", type=POSITIVE, default=RATE, help="peak learning rate (%(default)s)")
    parser.add_argument("--variant", default="tiny")
    parser.add_argument("--steps", type=COUNT, default=300)
    parser.add_argument("--batch", type=COUNT, default=64, help="images per step, two views each (%(default)s)")
    parser.add_argument("--crop", type=COUNT, default=112)
    parser.add_argument("--seed", type=NATURAL, default=0)
    options = parser.parse_args()
    save_start(train_teacher(options), options.variant, options.seed)


if __name__ == "__main__":
    run_main(main)
