"""One pretraining step: losses, inputs and order."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from spectradino_core.data.pretraining import PretrainBatch
from spectradino_core.losses.alignment import contrastive_loss, distillation_loss, patch_loss
from spectradino_core.losses.neighbourhood import TeacherQueue, neighbourhood_loss
from spectradino_core.modality import Modality
from spectradino_core.models.vit import ViT
from spectradino_core.training.stages import StageRecipe, freeze, stage_recipe
from spectradino_core.training.student import PretrainTask, Student
from spectradino_core.training.teacher import Teacher
from tests.core.training.patterns import Patterns, batches, random_batch


@pytest.fixture(scope="module")
def teacher() -> Teacher:
    torch.manual_seed(7)
    return Teacher(ViT("test"), "")


def student_of(teacher: Teacher, recipe: StageRecipe, grad_accum: int = 1, temperature: float | None = None) -> Student:
    torch.manual_seed(0)
    backbone = teacher.student()
    freeze(recipe, backbone)
    return Student(backbone, grad_accum, temperature)


def task_of(teacher: Teacher, recipe: StageRecipe, queue: TeacherQueue | None = None, epoch: int = 3) -> PretrainTask:
    return PretrainTask(recipe, lambda batch: teacher(batch.rgb), queue, seed=0, step=0, epoch=epoch)


def filled(teacher: Teacher, batch: PretrainBatch | None = None) -> TeacherQueue:
    queue = TeacherQueue(16, 48)
    queue.put(teacher((batch or random_batch(count=12, seed=50)).rgb))
    return queue


def test_a_fresh_student_sees_rgb_as_its_teacher_does(teacher):
    student = student_of(teacher, stage_recipe("test", 1))
    for adapter in student.backbone.adapters:
        torch.nn.init.zeros_(adapter.up)
    batch = random_batch()
    with torch.no_grad():
        out = student(batch.rgb, {batch.band: batch.infrared}, torch.arange(16))
    torch.testing.assert_close(out["rgb"], teacher(batch.rgb))


def test_the_total_is_equation_5(teacher):
    recipe = stage_recipe("test", 3)
    student, batch, queue = student_of(teacher, recipe), random_batch(), filled(teacher)
    losses = task_of(teacher, recipe, queue).losses(student, batch)
    features = student.backbone({Modality.RGB: batch.rgb, Modality.NIR: batch.infrared})
    rgb, infrared = features[Modality.RGB], features[Modality.NIR]
    expected = {
        "distillation": distillation_loss(infrared.cls, teacher(batch.rgb)),
        "contrastive": contrastive_loss(rgb.cls, infrared.cls, 0.07),
        "neighbourhood": neighbourhood_loss(infrared.cls, teacher(batch.rgb), queue.entries, 128, 0.07),
    }
    for name, value in expected.items():
        assert losses[name].item() == pytest.approx(value.item(), rel=1e-5), name
    total = (
        0.5 * losses["distillation"] + 1.5 * losses["contrastive"] + 0.25 * losses["patch"] + losses["neighbourhood"]
    )
    assert losses["total"].item() == pytest.approx(total.item(), rel=1e-6)
    everything = patch_loss(rgb.patches, infrared.patches).item()
    assert losses["patch"].item() == pytest.approx(everything, abs=0.3)
    assert losses["patch"].item() != everything  # half of the positions


def test_stage_two_fills_the_queue_for_an_epoch_before_it_counts(teacher):
    recipe = stage_recipe("test", 2)
    student, queue = student_of(teacher, recipe), TeacherQueue(40, 48)
    task = task_of(teacher, recipe, queue, epoch=3)
    seen = []
    for step in range(5):
        batch = random_batch(seed=step)
        losses = task.losses(student, batch)
        seen.append("neighbourhood" in losses)
        assert len(queue) == 4 * step  # this batch is not in it while its losses are computed
        task.after_step(step, batch, losses)
    assert seen == [False, False, False, True, True]


def test_a_batch_is_compared_with_earlier_ones_only(teacher):
    recipe = stage_recipe("test", 3)
    student, queue, batch = student_of(teacher, recipe), filled(teacher), random_batch()
    task = task_of(teacher, recipe, queue)
    task.losses(student, batch)
    own = F.normalize(teacher(batch.rgb), dim=-1)
    assert (own @ queue.entries.T).max() < 0.9999
    task.after_step(0, batch, {})
    assert (own @ queue.entries.T).max(dim=1).values.min() > 0.9999


@pytest.mark.parametrize(("views", "returns_as", "masked"), [(0, 0, True), (0, 1, False), (2, 1, True), (2, 2, False)])
def test_an_item_that_returns_is_not_its_own_neighbour(teacher, views, returns_as, masked):
    """Items of several bands return within a round of the bands, whatever the queue's capacity."""
    recipe = stage_recipe("test", 3)
    student, queue, batch = student_of(teacher, recipe), filled(teacher), random_batch(count=1)
    task = PretrainTask(recipe, lambda b: teacher(b.rgb), queue, 0, 0, 3, None, views)
    first = task.losses(student, batch)["neighbourhood"].item()
    task.after_step(0, batch, {})
    again = task.losses(student, replace(batch, keys=torch.tensor([returns_as])))["neighbourhood"].item()
    assert (again == pytest.approx(first, rel=1e-5)) == masked


def test_gradients_reach_what_the_stage_trains_and_nothing_else(teacher):
    for stage in (1, 2, 3):
        recipe = stage_recipe("test", stage)
        student = student_of(teacher, recipe)
        task_of(teacher, recipe, filled(teacher)).losses(student, random_batch(Modality.SWIR))["total"].backward()
        for name, parameter in student.backbone.named_parameters():
            absent = name.startswith(("stems.nir", "stems.lwir"))
            assert (parameter.grad is not None) == (parameter.requires_grad and not absent), (stage, name)
    assert all(p.grad is None for p in teacher.parameters())


@pytest.mark.parametrize("parts", [2, 3, 4])
def test_a_batch_in_parts_has_the_gradient_of_the_whole(teacher, parts):
    recipe = stage_recipe("test", 3)
    made = []
    for count in (1, parts):
        student = student_of(teacher, recipe, grad_accum=count).double()
        batch = random_batch()
        batch = replace(batch, rgb=batch.rgb.double(), infrared=batch.infrared.double())
        task = PretrainTask(recipe, lambda b: teacher(b.rgb.float()).double(), filled(teacher), 0, 0, 3)
        losses = task.losses(student, batch)
        losses["total"].backward()
        made.append((losses, {n: p.grad for n, p in student.named_parameters() if p.grad is not None}))
    (whole, gradients), (parted, in_parts) = made
    assert parted["total"].item() == pytest.approx(whole["total"].item(), rel=1e-6)
    assert gradients.keys() == in_parts.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(in_parts[name], gradient, rtol=1e-4, atol=1e-6)  # the stem's norm is fp32


def test_activation_checkpointing_changes_nothing(teacher):
    recipe, gradients = stage_recipe("test", 3), []
    for checkpointing in (False, True):
        student = student_of(teacher, recipe)
        student.backbone.vit.activation_checkpointing = checkpointing
        task_of(teacher, recipe, filled(teacher)).losses(student, random_batch())["total"].backward()
        gradients.append([p.grad for p in student.parameters() if p.grad is not None])
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b)


def test_positions_are_those_of_the_seed_and_the_step(teacher):
    recipe = stage_recipe("test", 3)
    student, batch = student_of(teacher, recipe), random_batch()

    def patch_losses() -> list[float]:
        task = task_of(teacher, recipe, filled(teacher))
        found = []
        for step in range(4):
            losses = task.losses(student, batch)
            found.append(losses["patch"].item())
            task.after_step(step, batch, losses)
        return found

    assert patch_losses() == patch_losses()
    assert len(set(patch_losses())) > 1


def test_a_learned_temperature_learns_and_is_bounded(teacher):
    recipe = replace(stage_recipe("test", 1), learn_temperature=True)
    student = student_of(teacher, recipe, temperature=0.07)
    losses = task_of(teacher, recipe).losses(student, random_batch())
    assert losses["temperature"].item() == pytest.approx(0.07)
    fixed = task_of(teacher, recipe).losses(student_of(teacher, recipe), random_batch())
    assert losses["total"].item() == pytest.approx(fixed["total"].item(), rel=1e-5)
    losses["total"].backward()
    assert student.log_scale.grad.abs() > 0
    with torch.no_grad():
        student.log_scale.fill_(20.0)
    assert task_of(teacher, recipe).losses(student, random_batch())["temperature"].item() == pytest.approx(0.01)


def test_infrared_bands_of_an_item_are_aligned_on_request(teacher):
    recipe = stage_recipe("test", 1)
    batch = next(iter(batches(Patterns(12), 4, 1, extra=True)))
    assert set(batch.extra) == {Modality.SWIR, Modality.LWIR}
    student = student_of(teacher, recipe)
    assert "infrared" not in task_of(teacher, recipe).losses(student, batch)
    aligned = replace(recipe, weights=replace(recipe.weights, infrared=0.7))
    losses = task_of(teacher, aligned).losses(student, batch)
    cls = {
        band: student.backbone({band: frames})[band].cls
        for band, frames in {batch.band: batch.infrared, **batch.extra}.items()
    }
    expected = [contrastive_loss(cls[batch.band], cls[other], 0.07).item() for other in batch.extra]
    assert losses["infrared"].item() == pytest.approx(sum(expected) / 2, rel=1e-5)
    plain = task_of(teacher, recipe).losses(student, batch)["total"].item()
    assert losses["total"].item() == pytest.approx(plain + 0.7 * losses["infrared"].item(), rel=1e-5)
    losses["total"].backward()
    assert student.backbone.stems["lwir"].conv1.weight.grad.abs().sum() > 0


@pytest.mark.slow  # the gradients above cover the loss
def test_rgb_distillation_keeps_the_teachers_rgb(teacher):
    recipe = stage_recipe("test", 3)
    kept = replace(recipe, weights=replace(recipe.weights, rgb=2.0))
    batch, distances = random_batch(), {}
    for name, own in {"plain": recipe, "kept": kept}.items():
        student = student_of(teacher, own)
        with torch.no_grad():
            student.backbone.stems["rgb"].weight.mul_(torch.tensor([-1.0, 0.3, 1.0])[:, None, None, None])
        task = PretrainTask(own, lambda b: teacher.features(b.rgb), None, 0, 0, 3)
        optimiser = torch.optim.Adam(student.backbone.stems["rgb"].parameters(), lr=0.05)
        for _ in range(40):
            optimiser.zero_grad()
            losses = task.losses(student, batch)
            losses["total"].backward()
            optimiser.step()
        with torch.no_grad():
            features = student.backbone({Modality.RGB: batch.rgb})[Modality.RGB]
        distances[name] = patch_loss(features.patches, teacher.features(batch.rgb).patches).item()
    assert distances["kept"] < 0.5 * distances["plain"]
    rest = 0.5 * losses["distillation"] + 1.5 * losses["contrastive"] + 0.25 * losses["patch"]
    assert losses["total"].item() == pytest.approx((rest + 2 * losses["rgb"]).item(), rel=1e-5)
    with pytest.raises(ValueError, match="patch tokens"):
        task_of(teacher, kept).losses(student, batch)


def test_infrared_alignment_takes_the_items_that_have_more_bands(teacher):
    recipe = stage_recipe("test", 1)
    recipe = replace(recipe, weights=replace(recipe.weights, infrared=1.0))
    batch = next(iter(batches(Patterns(12), 4, 1, extra=True)))
    rows = torch.tensor([1, 3])
    partly = replace(batch, extra={Modality.LWIR: batch.extra[Modality.LWIR][rows]}, extra_rows={Modality.LWIR: rows})
    student = student_of(teacher, recipe)
    losses = task_of(teacher, recipe).losses(student, partly)
    a = student.backbone({batch.band: batch.infrared[rows]})[batch.band].cls
    b = student.backbone({Modality.LWIR: partly.extra[Modality.LWIR]})[Modality.LWIR].cls
    assert losses["infrared"].item() == pytest.approx(contrastive_loss(a, b, 0.07).item() / 2, rel=1e-5)  # SWIR: 0
    none = replace(batch, extra={}, extra_rows={})
    assert task_of(teacher, recipe).losses(student, none)["infrared"].item() == 0


def test_bf16_is_near_fp32(teacher):
    recipe = stage_recipe("test", 3)
    student, batch = student_of(teacher, recipe), random_batch()
    exact = task_of(teacher, recipe, filled(teacher)).losses(student, batch)
    with torch.autocast("cpu", torch.bfloat16):
        rough = task_of(teacher, recipe, filled(teacher)).losses(student, batch)
    for name, value in exact.items():
        assert rough[name].item() == pytest.approx(value.item(), rel=0.1, abs=0.05), name
    assert rough["total"].dtype == torch.float32
