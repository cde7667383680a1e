"""Teacher: loading from all kinds of files, a warning for random weights, and cached embeddings only while valid."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from spectradino_core.data.pretraining import pretraining_batches
from spectradino_core.data.views import ViewOptions
from spectradino_core.modality import Modality
from spectradino_core.models.checkpoints import CheckpointError, load_spectradino, read_metadata, save_spectradino
from spectradino_core.models.perception_checkpoint import save_perception
from spectradino_core.models.spectradino import SpectraDINO
from spectradino_core.models.vit import ViT
from spectradino_core.training.pretrain import PretrainOptions, pretrain
from spectradino_core.training.recipes import smoke
from spectradino_core.training.stages import freeze, stage_recipe
from spectradino_core.training.student import PretrainTask, Student
from spectradino_core.training.teacher import Teacher, TeacherCache, load_teacher, random_teacher
from tests.core.training.patterns import Patterns, on_cpu, random_batch
from tests.core.training.test_finetune import tiny_model
from tests.core.training.test_resume import losses


@pytest.fixture
def teacher() -> Teacher:
    torch.manual_seed(7)
    return Teacher(ViT("test"), "")


def test_a_teacher_is_frozen_and_stays_in_evaluation_mode(teacher):
    teacher.train()
    assert not any(module.training for module in teacher.modules())
    assert not any(p.requires_grad for p in teacher.parameters())
    assert not teacher(torch.randn(1, 3, 28, 28, requires_grad=True)).requires_grad


def test_fine_tuned_teacher_initialises_the_students_rgb_path(tmp_path):
    """Including stem, adapters and embedding of RGB: its features are not those of its ViT alone."""
    torch.manual_seed(1)
    model = SpectraDINO("test")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    save_spectradino(model, tmp_path / "b.safetensors")
    teacher = load_teacher(tmp_path / "b.safetensors", "test")
    rgb = torch.randn(2, 3, 56, 56)
    with torch.no_grad():
        expected = model.eval()({Modality.RGB: rgb})[Modality.RGB].cls
        assert torch.equal(teacher(rgb), expected)
        student = teacher.student()
        torch.testing.assert_close(student({Modality.RGB: rgb})[Modality.RGB].cls, expected)
        assert not torch.allclose(model.vit(rgb).cls, expected, atol=1e-3)
    assert student.bands == tuple(Modality)


def test_a_fine_tuned_model_can_teach(tmp_path):
    model = tiny_model()
    save_perception(tmp_path / "m.safetensors", model, smoke().info())
    teacher = load_teacher(tmp_path / "m.safetensors", "test")
    rgb = torch.randn(1, 3, 28, 28)
    with torch.no_grad():
        torch.testing.assert_close(teacher(rgb), model.eval().backbone({Modality.RGB: rgb})[Modality.RGB].cls)


def test_a_teacher_of_another_variant_is_refused(tmp_path, teacher):
    save_file(teacher.network.state_dict(), tmp_path / "t.safetensors")
    assert load_teacher(tmp_path / "t.safetensors", "test").config == teacher.config
    with pytest.raises(
        CheckpointError, match=r"t\.safetensors holds a ViT-Test/14 of 2 blocks; --variant asks for 's'"
    ):
        load_teacher(tmp_path / "t.safetensors", "s")
    with pytest.raises(CheckpointError, match="does not exist: check the path"):
        load_teacher(tmp_path / "none.pth", "s")


def test_random_teacher_warns_and_is_reproducible(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        first = random_teacher("test", 3, tmp_path / "t.safetensors")
    assert "THE TEACHER IS RANDOM" in caplog.text
    assert first.origin == "random weights, seed 3"
    again = random_teacher("test", 3, tmp_path / "t.safetensors")
    other = random_teacher("test", 4, tmp_path / "u.safetensors")
    assert first.fingerprint() == again.fingerprint() != other.fingerprint()


@pytest.mark.slow
def test_a_stage_one_step_from_an_official_vit_s(tmp_path):
    """Real sizes and the official layout (chunked, under "teacher", with its mask token); random values."""
    torch.manual_seed(0)
    vit = ViT("s")
    state = {"backbone." + name.replace("blocks.", "blocks.0."): value for name, value in vit.state_dict().items()}
    state["backbone.mask_token"] = torch.zeros(1, 384)
    torch.save({"teacher": state}, tmp_path / "dinov2_vits14_pretrain.pth")
    teacher = load_teacher(tmp_path / "dinov2_vits14_pretrain.pth", "s")
    recipe = stage_recipe("s", 1)
    path = pretrain(
        [replace(recipe, batch=2, crop=224)],
        [Patterns(4)],
        [],
        PretrainOptions(
            tmp_path / "run",
            teacher=tmp_path / "dinov2_vits14_pretrain.pth",
            steps=1,
            device="cpu",
            amp="fp32",
            workers=0,
        ),
    )
    student = load_spectradino(path)
    assert read_metadata(path)["teacher"] == "dinov2_vits14_pretrain.pth"
    frozen = {n: v for n, v in student.vit.state_dict().items() if not n.startswith("norm.")}
    assert all(torch.equal(v, vit.state_dict()[n]) for n, v in frozen.items())
    trained = [p for n, p in student.named_parameters() if n.startswith("stems.nir.conv1")]
    fresh = teacher.student()
    assert not any(torch.equal(p, q) for p, q in zip(trained, fresh.stems["nir"].conv1.parameters(), strict=False))
    row = losses(tmp_path / "run")[0][0]
    assert 0 < row["distillation"] < 2
    assert row["total"] == pytest.approx(2 * row["distillation"] + row["contrastive"] + 0.1 * row["patch"], rel=1e-5)


def cached(teacher: Teacher, folder, count: int = 2, items: int = 8, **about) -> TeacherCache:
    return TeacherCache(teacher, folder / "cache.f32", items * max(count, 1), count, {"crop": 56} | about)


def test_cached_embeddings_equal_computed_ones(teacher, tmp_path):
    """Losses with the cache equal those without, over epochs in which every view repeats."""
    recipe = stage_recipe("test", 1)
    torch.manual_seed(0)
    backbone = teacher.student()
    freeze(recipe, backbone)
    student = Student(backbone)
    cache = cached(teacher, tmp_path)
    found = []
    for ask in (lambda batch: teacher(batch.rgb), cache):
        task = PretrainTask(recipe, ask, None, 0, 0, 4)
        made = []
        stream = pretraining_batches(
            [Patterns(8)], 4, 56, 0, 12, views=ViewOptions(count=2, photometry=None), bands=[Modality.NIR]
        )
        for step, batch in enumerate(on_cpu(stream)):
            losses_now = task.losses(student, batch)
            made.append([value.item() for value in losses_now.values()])
            task.after_step(step, batch, losses_now)
        found.append(made)
    torch.testing.assert_close(torch.tensor(found[1]), torch.tensor(found[0]), rtol=1e-6, atol=1e-6)
    assert cache.misses == 4  # two views of eight items in fours; the other eight steps came from the file
    again = cached(teacher, tmp_path)  # a resumed run
    again(batch)
    assert again.misses == 0


def test_unlimited_views_can_not_be_cached(teacher, tmp_path):
    with pytest.raises(ValueError, match=r"every view is drawn anew.*--views"):
        cached(teacher, tmp_path, count=0)


def test_cache_of_other_views_or_teacher_is_refused(teacher, tmp_path):
    cached(teacher, tmp_path)
    with pytest.raises(ValueError, match="cache.*other views or another teacher: delete it"):
        cached(teacher, tmp_path, crop=224)
    torch.manual_seed(8)
    with pytest.raises(ValueError, match="cache.*other views or another teacher: delete it"):
        cached(Teacher(ViT("test"), ""), tmp_path)


def test_partial_cache_row_is_recomputed(teacher, tmp_path):
    cache, batch = cached(teacher, tmp_path), random_batch()
    said = cache(batch)
    cache._rows[2, -1] = 0  # what a killed process leaves: the mark comes last
    cache._rows[2, 5] = 99
    assert torch.equal(cache(batch), said)
    assert cache.misses == 2


def test_a_run_with_the_cache_equals_one_without(tmp_path):
    recipe = replace(stage_recipe("test", 1), batch=4)
    for name, keep in (("live", False), ("kept", True)):
        options = PretrainOptions(
            tmp_path / name, steps=8, device="cpu", amp="fp32", workers=0, log_every=1, cache_teacher=keep,
            views=ViewOptions(count=1, photometry=None),
        )  # fmt: skip
        pretrain([recipe], [Patterns(8, ("nir",))], [], options)
    for a, b in zip(losses(tmp_path / "live")[0], losses(tmp_path / "kept")[0], strict=True):
        assert a == pytest.approx(b, rel=1e-6, abs=1e-6)
