"""Pretraining step: the student's embeddings of a batch of pairs, and the losses on them.

Letters: B pairs on this process, D width, S sampled patches, K items that have another infrared band.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from spectradino_core.data.pretraining import PretrainBatch
from spectradino_core.losses.alignment import contrastive_loss, distillation_loss, patch_loss, sample_positions
from spectradino_core.losses.neighbourhood import TeacherQueue, neighbourhood_loss
from spectradino_core.modality import INFRARED, Modality
from spectradino_core.models.spectradino import SpectraDINO
from spectradino_core.models.vit import Features, vit_config
from spectradino_core.training.distributed import sum_over_processes
from spectradino_core.training.stages import StageRecipe

MAX_SCALE = 100.0
"""Maximum factor on similarities with a learned temperature (CLIP's bound)."""

Embeddings = dict[str, Tensor]


class Student(nn.Module):
    """The backbone in pretraining: maps images to the tokens that the losses compare.

    Args:
        backbone: the trained model.
        grad_accum: number of micro-batches that a batch is split into. With more than 1, activations are recomputed in
            the backward pass and the losses still use the full batch: gradient accumulation that keeps all negatives,
            at the cost of a second forward pass.
        temperature: initial value of a learned contrastive temperature; None: not learned.
    """

    def __init__(self, backbone: SpectraDINO, grad_accum: int = 1, temperature: float | None = None) -> None:
        super().__init__()
        self.backbone = backbone
        self.grad_accum = grad_accum
        self.log_scale = None if temperature is None else nn.Parameter(torch.tensor(-math.log(temperature)))

    def forward(self, rgb: Tensor, infrared: Mapping[Modality, Tensor], positions: Tensor) -> Embeddings:
        """Embed a batch of pairs.

        Args:
            rgb: [B, 3, H, W].
            infrared: the step's band first, [B, 1, H, W]; then other bands of the items that have them, [K, 1, H, W].
            positions: sampled patch positions, int64 [S].

        Returns:
            "rgb" and "infrared": CLS [B, D]; "rgb_patches" and "infrared_patches": [B, S, D]; under the key of another
            band, CLS [K, D]; "scale": factor on similarities, if learned.
        """
        (band, frames), *others = infrared.items()
        out = self._in_parts(lambda a, b: self._pair(band, a, b, positions), rgb, frames)
        for other, images in others:
            cls = self._in_parts(lambda x, other=other: {other.key: self.backbone({other: x})[other].cls}, images)
            out |= cls
        if self.log_scale is not None:
            out["scale"] = self.log_scale.reshape(()).exp().clamp(max=MAX_SCALE)  # FSDP2 makes it a vector
        return out

    def _pair(self, band: Modality, rgb: Tensor, infrared: Tensor, positions: Tensor) -> Embeddings:
        features = self.backbone({Modality.RGB: rgb, band: infrared})
        a, b = features[Modality.RGB], features[band]
        return {
            "rgb": a.cls.clone(),  # outputs must not be views, because FSDP2 hooks them
            "infrared": b.cls.clone(),
            "rgb_patches": a.patches[:, positions],
            "infrared_patches": b.patches[:, positions],
        }

    def _in_parts(self, run: Callable[..., Embeddings], *images: Tensor) -> Embeddings:
        if self.grad_accum == 1 or not torch.is_grad_enabled():
            return run(*images)
        chunks = zip(*(x.tensor_split(min(self.grad_accum, len(x))) for x in images), strict=True)
        outputs = [checkpoint(run, *chunk, use_reentrant=False) for chunk in chunks]
        return {key: torch.cat([part[key] for part in outputs]) for key in outputs[0]}


def temperature_of(log_scale: Tensor) -> float:
    """Return the temperature of a learned `Student.log_scale`, within its bound."""
    return 1 / min(MAX_SCALE, math.exp(float(log_scale.detach())))


@dataclass
class PretrainTask:
    """Losses of one stage, with the teacher queue that is updated between steps.

    Attributes:
        teacher: maps a batch to the frozen teacher's features of RGB, or to their CLS [B, D] alone, which is enough
            without distillation of RGB.
        queue: teacher queue of the neighbourhood loss; None: the stage has none.
        seed: seed of the sampled positions.
        step: next step.
        epoch: steps per epoch.
        sharded_parts: `Student.grad_accum` of a student with sharded parameters, whose processes must gather the same
            parameters equally often; None: each process embeds only the infrared bands of its own items.
        views_per_item: `ViewOptions.count`; with a count, the batches' keys number views instead of items.
    """

    recipe: StageRecipe
    teacher: Callable[[PretrainBatch], Features | Tensor]
    queue: TeacherQueue | None
    seed: int
    step: int
    epoch: int
    sharded_parts: int | None = None
    views_per_item: int = 0

    def __post_init__(self) -> None:
        self._patch = vit_config(self.recipe.variant).patch
        self._teacher_cls: Tensor | None = None

    def losses(self, student: nn.Module, batch: PretrainBatch) -> dict[str, Tensor]:
        """Return the named scalar losses; "total" is Equation 5 of the paper."""
        weights = self.recipe.weights
        features = self.teacher(batch)
        self._teacher_cls = features.cls if isinstance(features, Features) else features
        active = self.step >= weights.neighbourhood_from * self.epoch
        return self._of(student, batch, features, self.step, weights.neighbourhood if active else 0.0)

    @torch.no_grad()
    def validation_losses(self, student: nn.Module, batch: PretrainBatch) -> dict[str, Tensor]:
        """Return the losses of a held-out batch, comparable over time: with fixed positions and without the queue."""
        return self._of(student, batch, self.teacher(batch), -1, 0.0)

    def after_step(self, step: int, batch: PretrainBatch, losses: dict[str, Tensor]) -> None:
        """Add the batch's teacher embeddings to the queue, only after its losses were computed."""
        if self.queue is not None and self._teacher_cls is not None:
            self.queue.put(self._teacher_cls, self._items(batch))
        self._teacher_cls = None
        self.step = step + 1

    def _items(self, batch: PretrainBatch) -> Tensor:
        return batch.keys // max(1, self.views_per_item)

    def _of(
        self, student: nn.Module, batch: PretrainBatch, features: Features | Tensor, step: int, neighbourhood: float
    ) -> dict[str, Tensor]:
        weights = self.recipe.weights
        teacher = features.cls if isinstance(features, Features) else features
        height, width = (side // self._patch for side in batch.rgb.shape[-2:])
        generator = torch.Generator().manual_seed((self.seed * 1_000_003 + step + 1) % 2**63)
        positions = _to_device(sample_positions(height * width, weights.patch_ratio, generator), batch.rgb.device)
        images = {batch.band: batch.infrared}
        if weights.infrared:
            images |= batch.extra if self.sharded_parts is None else _uniform_extra(batch, self.sharded_parts)
        out = student(batch.rgb, images, positions)
        temperature = 1 / out["scale"] if "scale" in out else self.recipe.temperature
        losses = {
            "distillation": distillation_loss(out["infrared"], teacher),
            "contrastive": contrastive_loss(out["rgb"], out["infrared"], temperature),
            "patch": patch_loss(out["rgb_patches"], out["infrared_patches"]),
        }
        total = (
            weights.distillation * losses["distillation"]
            + weights.contrastive * losses["contrastive"]
            + weights.patch * losses["patch"]
        )
        if neighbourhood and self.queue is not None:
            losses["neighbourhood"] = neighbourhood_loss(
                out["infrared"],
                teacher,
                self.queue.entries,
                self.recipe.top_k,
                self.recipe.queue_temperature,
                self.queue.own(self._items(batch)),
            )
            total = total + neighbourhood * losses["neighbourhood"]
        if weights.infrared:
            losses["infrared"] = self._between_infrared(batch, out, temperature)
            total = total + weights.infrared * losses["infrared"]
        if weights.rgb:
            if not isinstance(features, Features):
                raise ValueError("distilling RGB needs the teacher's patch tokens: they are not cached")
            of_cls = distillation_loss(out["rgb"], teacher)
            losses["rgb"] = 0.5 * (of_cls + patch_loss(features.patches[:, positions], out["rgb_patches"]))
            total = total + weights.rgb * losses["rgb"]
        named = {name: value.detach() for name, value in losses.items()}
        if "scale" in out:
            named["temperature"] = 1 / out["scale"].detach()
        return {"total": total} | named

    def _between_infrared(self, batch: PretrainBatch, out: Embeddings, temperature: float | Tensor) -> Tensor:
        """Return the contrastive loss of the step's band with the items' other infrared bands, averaged over these."""
        zero = out["infrared"].sum() * 0
        found = []
        for other in INFRARED:
            if other is batch.band:
                continue
            full = torch.zeros_like(out["infrared"]) + zero
            held = torch.zeros(len(full), dtype=torch.bool, device=full.device)
            if other.key in out:
                embedded = out[other.key]
                rows = batch.extra_rows.get(other, torch.zeros(0, dtype=torch.int64, device=held.device))
                if len(embedded) > len(rows):  # blank images of `_uniform_extra`: their backward pass must run too
                    full = full + embedded[len(rows) :].sum() * 0
                full = full.index_copy(0, rows, embedded[: len(rows)].to(full.dtype))
                held[rows] = True
            found.append(contrastive_loss(out["infrared"], full, temperature, held))
        return torch.stack(found).mean() if found else zero


def _uniform_extra(batch: PretrainBatch, parts: int) -> dict[Modality, Tensor]:
    """Return the other infrared bands of any process, in the same order everywhere.

    Each is padded with blank images to at least `parts`, so that all processes run the same number of passes.
    """
    held = sum_over_processes(torch.tensor([band in batch.extra for band in INFRARED], device=batch.rgb.device).float())
    found = {}
    for band, count in zip(INFRARED, held.tolist(), strict=True):
        if not count:
            continue
        images = batch.extra.get(band, batch.infrared[:0])
        blank = images.new_zeros(max(0, parts - len(images)), *images.shape[1:])
        found[band] = torch.cat([images, blank])
    return found


def _to_device(x: Tensor, device: torch.device) -> Tensor:
    """Copy `x` to the device, from pinned memory so that the host does not wait for a GPU."""
    return x.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else x.to(device)
