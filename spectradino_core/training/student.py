"""What a pretraining step computes: the student's embeddings of a batch of pairs, and the four losses of them.

B pairs on this process    D width    N patches    S patches sampled    K items that hold another infrared band
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from spectradino_core.data.pretraining import PretrainBatch
from spectradino_core.losses.alignment import contrastive_loss, distillation_loss, patch_loss, sample_positions
from spectradino_core.losses.neighbourhood import TeacherQueue, neighbourhood_loss
from spectradino_core.modality import INFRARED, Modality
from spectradino_core.models.spectradino import SpectraDINO
from spectradino_core.models.vit import vit_config
from spectradino_core.training.distributed import sum_over_processes
from spectradino_core.training.stages import StageRecipe

__all__ = ["PretrainTask", "Student"]

MOST_SCALE = 100.0
"""Of a learned temperature: similarities are multiplied by no more (CLIP's bound)."""

Embedded = dict[str, Tensor]


class Student(nn.Module):
    """The backbone as pretraining runs it: images to the tokens that the losses compare.

    Args:
        backbone: the model that is trained.
        parts: 1: a batch goes through at once. n: in n parts one after another, each forgotten and computed again in
            the backward pass. The losses still see the whole batch, so the gradient is that of the whole batch: this is
            gradient accumulation that keeps all negatives. It costs a second forward pass.
        temperature: given: learn the contrastive temperature from there.
    """

    def __init__(self, backbone: SpectraDINO, parts: int = 1, temperature: float | None = None) -> None:
        super().__init__()
        self.backbone = backbone
        self.parts = parts
        self.log_scale = None if temperature is None else nn.Parameter(torch.tensor(-math.log(temperature)))

    def forward(self, rgb: Tensor, infrared: Mapping[Modality, Tensor], positions: Tensor) -> Embedded:
        """
        Args:
            rgb: [B, 3, H, W].
            infrared: the step's band first, [B, 1, H, W]; others as they are there, [K, 1, H, W].
            positions: int64 [S].

        Returns:
            "rgb" and "infrared": CLS [B, D]; "rgb_patches" and "infrared_patches": [B, S, D]; by key of another band,
            CLS [K, D]; "scale": what similarities are multiplied by, where it is learned.
        """
        (band, frames), *others = infrared.items()
        out = self._in_parts(lambda a, b: self._pair(band, a, b, positions), rgb, frames)
        for other, images in others:
            cls = self._in_parts(lambda x, other=other: {other.key: self.backbone({other: x})[other].cls}, images)
            out |= cls
        if self.log_scale is not None:
            out["scale"] = self.log_scale.reshape(()).exp().clamp(max=MOST_SCALE)  # FSDP2 makes it a vector
        return out

    def _pair(self, band: Modality, rgb: Tensor, infrared: Tensor, positions: Tensor) -> Embedded:
        features = self.backbone({Modality.RGB: rgb, band: infrared})
        a, b = features[Modality.RGB], features[band]
        return {
            "rgb": a.cls.clone(),  # no views leave the module: FSDP2 hooks its outputs
            "infrared": b.cls.clone(),
            "rgb_patches": a.patches[:, positions],
            "infrared_patches": b.patches[:, positions],
        }

    def _in_parts(self, run: Callable[..., Embedded], *images: Tensor) -> Embedded:
        if self.parts == 1 or not torch.is_grad_enabled():
            return run(*images)
        chunks = zip(*(x.tensor_split(min(self.parts, len(x))) for x in images), strict=True)
        made = [checkpoint(run, *chunk, use_reentrant=False) for chunk in chunks]
        return {key: torch.cat([part[key] for part in made]) for key in made[0]}


class PretrainTask:
    """The losses of one stage, and the teacher queue between its steps.

    Args:
        recipe: of the stage.
        teacher: RGB batch to the frozen teacher's CLS [B, D].
        queue: of the neighbourhood loss; None where the stage has none.
        seed: of the sampled positions.
        first: the step that the next batch is of.
        epoch: steps of an epoch.
        sharded_parts: of a student with sharded parameters (`Student.parts`), whose processes must gather the same
            parameters equally often; None: each process embeds the infrared bands that its own items hold.
    """

    def __init__(
        self,
        recipe: StageRecipe,
        teacher: Callable[[PretrainBatch], Tensor],
        queue: TeacherQueue | None,
        seed: int,
        first: int,
        epoch: int,
        sharded_parts: int | None = None,
    ) -> None:
        self._sharded_parts = sharded_parts
        self._recipe, self._teacher, self.queue = recipe, teacher, queue
        self._seed, self._step, self._epoch = seed, first, epoch
        self._patch = vit_config(recipe.variant).patch
        self._teacher_cls: Tensor | None = None

    def losses(self, student: nn.Module, batch: PretrainBatch) -> dict[str, Tensor]:
        """Named scalars; "total" is Equation 5."""
        weights = self._recipe.weights
        self._teacher_cls = self._teacher(batch)
        active = self._step >= weights.neighbourhood_from * self._epoch
        return self._of(student, batch, self._teacher_cls, self._step, weights.neighbourhood if active else 0.0)

    @torch.no_grad()
    def validation_losses(self, student: nn.Module, batch: PretrainBatch) -> dict[str, Tensor]:
        """The losses of a held-out batch, always over the same positions and without the queue, which moves on."""
        return self._of(student, batch, self._teacher(batch), -1, 0.0)

    def after_step(self, step: int, batch: PretrainBatch, losses: dict[str, Tensor]) -> None:
        """Puts the batch's teacher embeddings into the queue: after its losses were computed, never before."""
        if self.queue is not None and self._teacher_cls is not None:
            self.queue.put(self._teacher_cls)
        self._teacher_cls = None
        self._step = step + 1

    def _of(
        self, student: nn.Module, batch: PretrainBatch, teacher: Tensor, step: int, neighbourhood: float
    ) -> dict[str, Tensor]:
        weights = self._recipe.weights
        height, width = (side // self._patch for side in batch.rgb.shape[-2:])
        generator = torch.Generator().manual_seed(_seed_of(self._seed, step))
        positions = _sent(sample_positions(height * width, weights.patch_ratio, generator), batch.rgb.device)
        images = {batch.band: batch.infrared}
        if weights.infrared:
            images |= batch.extra if self._sharded_parts is None else _alike(batch, self._sharded_parts)
        out = student(batch.rgb, images, positions)
        temperature = 1 / out["scale"] if "scale" in out else self._recipe.temperature
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
                out["infrared"], teacher, self.queue.entries, self._recipe.top_k, self._recipe.queue_temperature
            )
            total = total + neighbourhood * losses["neighbourhood"]
        if weights.infrared:
            losses["infrared"] = self._between_infrared(batch, out, temperature)
            total = total + weights.infrared * losses["infrared"]
        named = {name: value.detach() for name, value in losses.items()}
        if "scale" in out:
            named["temperature"] = 1 / out["scale"].detach()
        return {"total": total} | named

    def _between_infrared(self, batch: PretrainBatch, out: Embedded, temperature: float | Tensor) -> Tensor:
        """Contrast of the step's band with every other infrared band that its items hold, averaged over the bands."""
        zero = out["infrared"].sum() * 0
        found = []
        for other in INFRARED:
            if other is batch.band:
                continue
            full = torch.zeros_like(out["infrared"]) + zero
            held = torch.zeros(len(full), dtype=torch.bool, device=full.device)
            if other.key in out:
                rows, embedded = batch.extra_rows.get(other, _NO_ROWS.to(held.device)), out[other.key]
                if len(embedded) > len(rows):  # black images, see `_alike`: their backward pass must run here too
                    full = full + embedded[len(rows) :].sum() * 0
                full = full.index_copy(0, rows, embedded[: len(rows)].to(full.dtype))
                held[rows] = True
            found.append(contrastive_loss(out["infrared"], full, temperature, held))
        return torch.stack(found).mean() if found else zero


_NO_ROWS = torch.zeros(0, dtype=torch.int64)


def _alike(batch: PretrainBatch, parts: int) -> dict[Modality, Tensor]:
    """The other infrared bands that any process holds, in one order, with black images where this one lacks some.

    Args:
        batch: of this process.
        parts: at least as many images of each band, so that each process makes the same number of passes.
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


def _sent(x: Tensor, device: torch.device) -> Tensor:
    """`x` on the device; from pinned memory, so that the host need not wait until a GPU has caught up."""
    return x.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else x.to(device)


def _seed_of(seed: int, step: int) -> int:
    return (seed * 1_000_003 + step + 1) % 2**63
