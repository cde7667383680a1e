"""Omnivorous pretraining: trained parameters, inputs, alignment, anchoring, and resuming."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from spectradino_core.data.pretraining import available_groups, from_imagenet, omnivorous_batches
from spectradino_core.data.scene_sets import SceneImages
from spectradino_core.data.sources import MAPS
from spectradino_core.data.views import PLAIN, depth_values, segmentation_values
from spectradino_core.losses.omnivorous import colourise
from spectradino_core.models.checkpoints import CheckpointError, load_spectradino, read_dinov2, save_spectradino
from spectradino_core.models.encoders import BandedEncoder, PlainEncoder
from spectradino_core.models.spectradino import SpectraDINO
from spectradino_core.models.vit import VARIANTS, ViT
from spectradino_core.training.checkpoints import ResumeError
from spectradino_core.training.omnivorous import (
    OmnivorousOptions,
    OmnivorousStudent,
    OmnivorousTask,
    encoder_inputs,
    frozen_blocks,
    omnivorous_recipe,
    pretrain_omnivorous,
    trainable,
)
from tests.core.training.patterns import on_cpu

RECIPE = omnivorous_recipe("test")


@pytest.fixture(scope="module")
def scenes() -> SceneImages:
    return SceneImages(12, (84, 70))


@pytest.fixture(scope="module")
def batch(scenes):
    return next(on_cpu(omnivorous_batches([scenes], {"maps": ("depth", "segmentation")}, 4, 56, 0, 1)))


def test_the_papers_figures():
    recipe = omnivorous_recipe("b")
    assert (recipe.steps, recipe.batch, recipe.lr, recipe.tokens) == (20_000, 512, 1e-4, 64)
    assert (recipe.anchor, recipe.alpha_max, recipe.crop, recipe.colourise) == (10.0, 0.5, 224, True)
    assert [frozen_blocks(VARIANTS[v]) for v in ("s", "b", "l", "g", "tiny", "test")] == [8, 8, 16, 27, 4, 1]
    with pytest.raises(ValueError, match="no Omnivorous recipe for variant 'x'"):
        omnivorous_recipe("x")


def test_exactly_the_last_blocks_and_the_final_norm_are_trained():
    vit = ViT("test")
    assert trainable(vit) == [name for name, _ in vit.named_parameters() if name.startswith(("blocks.1.", "norm."))]
    model = SpectraDINO("test")
    prefixes = {name.split(".")[0] for name in trainable(model) if not name.startswith(("vit.blocks.1.", "vit.norm."))}
    assert prefixes == {"stems", "adapters", "modality_embedding"}
    assert not any(name.startswith("stems.rgb") for name in trainable(model))


def test_groups_are_what_the_sources_hold(scenes):
    assert available_groups([scenes]) == {
        "maps": ("depth", "segmentation"), "nir": ("nir",), "swir": ("swir",), "lwir": ("lwir",),
    }  # fmt: skip
    assert available_groups([SceneImages(1, (84, 70), maps=("depth",))]).keys() == {"nir", "swir", "lwir"}


def test_maps_of_one_kind_are_refused(tmp_path):
    depth, masks = (SceneImages(1, (84, 70), (), maps=(key,), first=n) for n, key in enumerate(MAPS))
    for sources in ([depth], [masks], [depth, masks]):
        with pytest.raises(ValueError, match="depth and segmentation maps are trained as a pair, and no item has both"):
            pretrain_omnivorous(RECIPE, sources, options(tmp_path / "run"))
    with pytest.raises(ValueError, match="no modality beside RGB"):
        pretrain_omnivorous(RECIPE, [SceneImages(1, (84, 70), (), maps=())], options(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_batches_are_functions_of_seed_and_step(scenes):
    groups = available_groups([scenes])
    whole = list(on_cpu(omnivorous_batches([scenes], groups, 4, 56, 3, 6)))
    assert [sorted(b.images) for b in whole[:2]] == [["depth", "rgb", "segmentation"], ["nir", "rgb"]]
    rest = list(on_cpu(omnivorous_batches([scenes], groups, 4, 56, 3, 6, first=4)))
    shares = [list(on_cpu(omnivorous_batches([scenes], groups, 4, 56, 3, 6, rank=r, world=2))) for r in (0, 1)]
    for step in (4, 5):
        for key, image in whole[step].images.items():
            assert torch.equal(image, rest[step - 4].images[key])
            assert torch.equal(image, torch.cat([share[step].images[key] for share in shares]))
            if key != "rgb":
                assert torch.equal(whole[step].alpha[key], torch.cat([share[step].alpha[key] for share in shares]))
                assert image.min() >= 0
                assert image.max() <= 1
    alphas = torch.cat([a for b in whole for a in b.alpha.values()])
    assert alphas.min() >= 0
    assert alphas.max() <= 0.5
    assert alphas.unique().numel() == alphas.numel()


def test_maps_as_brightness():
    depth = depth_values(np.array([[0.0, 0.5, 1.0], [10.0, 100.0, 1024.0]], np.float32))
    np.testing.assert_allclose(depth, [[0, 1, 1], [0.5, 0, 0]], atol=1e-6)
    indoors = depth_values(np.array([0.0, 0.5, 2.2360680, 10.0], np.float32), (0.5, 10.0))
    np.testing.assert_allclose(indoors, [0, 1, 0.5, 0], atol=1e-6)
    with pytest.raises(ValueError, match="depth range"):
        depth_values(depth, (2.0, 1.0))
    values = segmentation_values(np.arange(7, dtype=np.uint8)[None])[0]
    assert np.diff(np.sort(values)).min() > 0.05
    assert segmentation_values(np.full((1, 1), 255, np.uint8)) == 0


def test_encoder_inputs_are_colourised_and_blended_except_rgb(batch):
    plain, banded = PlainEncoder(ViT("test")), BandedEncoder(SpectraDINO("test"))
    colours = from_imagenet(batch.images["rgb"])
    grey = encoder_inputs(batch, plain, paint=False, blend=False)
    assert torch.equal(grey["rgb"], batch.images["rgb"])
    torch.testing.assert_close(from_imagenet(grey["depth"])[:, 1:2], batch.images["depth"], atol=1e-5, rtol=0)
    painted = from_imagenet(encoder_inputs(batch, plain, blend=False)["depth"])
    torch.testing.assert_close(painted, colourise(batch.images["depth"], colours), atol=1e-5, rtol=0)
    classes = from_imagenet(encoder_inputs(batch, plain, blend=False)["segmentation"])
    torch.testing.assert_close(
        classes, colourise(batch.images["segmentation"], colours, classes=True), atol=1e-5, rtol=0
    )
    blended = from_imagenet(encoder_inputs(batch, plain)["depth"])
    share = batch.alpha["depth"][:, None, None, None]
    torch.testing.assert_close(blended, (1 - share) * painted + share * colours, atol=1e-5, rtol=0)
    assert encoder_inputs(batch, banded)["segmentation"].shape[1] == 3


def test_infrared_stays_one_channel_on_a_spectradino(scenes):
    batch = next(on_cpu(omnivorous_batches([scenes], {"lwir": ("lwir",)}, 4, 56, 0, 1)))
    shown = encoder_inputs(batch, BandedEncoder(SpectraDINO("test")))
    assert shown["lwir"].shape == (4, 1, 56, 56)
    assert not torch.equal(shown["lwir"], batch.images["lwir"])
    assert torch.equal(
        encoder_inputs(batch, BandedEncoder(SpectraDINO("test")), blend=False)["lwir"], batch.images["lwir"]
    )


@pytest.mark.parametrize("model", [ViT, SpectraDINO])
def test_at_the_start_the_student_is_its_teacher(batch, model):
    torch.manual_seed(0)
    student = OmnivorousStudent(model("test"))
    task = OmnivorousTask(student, RECIPE, seed=0)
    losses = task(student, batch)
    assert losses["anchor_cls"].item() == pytest.approx(0, abs=1e-5)
    assert losses["anchor_dense"].item() == pytest.approx(0, abs=1e-5)
    assert losses["total"].item() == pytest.approx((losses["align_cls"] + losses["align_dense"]).item(), abs=1e-3)
    losses["total"].backward()
    names = set(trainable(student.backbone))
    for name, parameter in student.backbone.named_parameters():
        assert (parameter.grad is not None) <= (name in names)
    assert student.cls_scale.log_scale.grad is not None
    assert not any(p.requires_grad for p in task.teacher.parameters())


def test_the_total_weighs_anchoring(batch):
    torch.manual_seed(0)
    student = OmnivorousStudent(ViT("test"))
    task = OmnivorousTask(student, replace(RECIPE, anchor=7.0), seed=0)
    with torch.no_grad():
        for parameter in student.backbone.blocks[1].parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    losses = {key: value.item() for key, value in task(student, batch).items()}
    assert losses["anchor_cls"] > 1e-4
    expected = losses["align_cls"] + losses["align_dense"] + 7 * (losses["anchor_cls"] + losses["anchor_dense"])
    assert losses["total"] == pytest.approx(expected, rel=1e-5)


def rows(folder: Path) -> list[dict]:
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "steps_per_s"} for line in lines]


def options(folder: Path, **changes) -> OmnivorousOptions:
    return replace(
        OmnivorousOptions(folder, device="cpu", amp="fp32", workers=0, log_every=1, checkpoint_every=3, views=PLAIN),
        **changes,
    )


class Unplugged(SceneImages):
    """Scenes on a disk that disappears after so many reads."""

    reads = 0

    def load(self, item, modalities):
        self.reads += 1
        if self.reads > 3 * RECIPE.batch:
            raise OSError("gone")
        return super().load(item, modalities)


@pytest.mark.slow
def test_stopped_run_resumes_with_the_same_losses(tmp_path, scenes):
    whole = pretrain_omnivorous(RECIPE, [scenes], options(tmp_path / "whole", steps=6))
    with pytest.raises(OSError, match="gone"):
        pretrain_omnivorous(RECIPE, [Unplugged(12, (84, 70))], options(tmp_path / "half", steps=6))
    assert len(rows(tmp_path / "half")) == 3
    path = pretrain_omnivorous(RECIPE, [scenes], options(tmp_path / "half", steps=6))
    assert rows(tmp_path / "half") == rows(tmp_path / "whole")
    a, b = read_dinov2(path)[0], read_dinov2(whole)[0]
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert (tmp_path / "whole/losses.png").is_file()


@pytest.mark.slow
def test_it_aligns_modalities_and_stays_itself(tmp_path, scenes):
    torch.manual_seed(0)
    recipe = replace(RECIPE, batch=8, anchor=1.0, colourise=False, alpha_max=0.0)
    path = pretrain_omnivorous(recipe, [scenes], options(tmp_path, steps=60, log_every=5))
    log = rows(tmp_path)
    first, last = log[:4], log[-4:]
    mean = {key: [sum(row[key] for row in part) / 4 for part in (first, last)] for key in ("align_cls", "anchor_cls")}
    assert mean["align_cls"][1] < 0.8 * mean["align_cls"][0]
    assert last[-1]["anchor_cls"] < 0.5
    state, layout = read_dinov2(path)
    assert layout == "official"
    assert len(state) == len(ViT("test").state_dict())


def test_on_top_of_spectradino(tmp_path, scenes):
    torch.manual_seed(0)
    save_spectradino(SpectraDINO("test"), tmp_path / "start.safetensors")
    chosen = options(tmp_path / "run", steps=4, start=tmp_path / "start.safetensors", base="both", adaptive=True)
    path = pretrain_omnivorous(RECIPE, [scenes], chosen)
    before, after = load_spectradino(tmp_path / "start.safetensors"), load_spectradino(path)
    moved = {name for (name, a), b in zip(before.named_parameters(), after.parameters()) if not torch.equal(a, b)}
    assert moved
    assert moved <= set(trainable(before))
    assert any(name.startswith("stems.") for name in moved)


@pytest.mark.slow  # the test below covers refusals
def test_a_run_resumes_only_from_the_weights_that_it_was_started_from(tmp_path, scenes):
    first, other = tmp_path / "first.safetensors", tmp_path / "other.safetensors"
    for seed, path in enumerate((first, other)):
        torch.manual_seed(seed)
        save_spectradino(SpectraDINO("test"), path)
    for base in ("plain", "both"):
        chosen = options(tmp_path / base, steps=1, start=first, base=base, checkpoint_every=1)
        pretrain_omnivorous(RECIPE, [scenes], chosen)
        for steps, start in ((2, first), (3, None)):
            pretrain_omnivorous(RECIPE, [scenes], replace(chosen, steps=steps, start=start, override=("steps",)))
        again = replace(chosen, steps=4, override=("steps",))
        with pytest.raises(ResumeError, match=r"started from first\.safetensors.*other\.safetensors: give the former"):
            pretrain_omnivorous(RECIPE, [scenes], replace(again, start=other))
        with pytest.raises(CheckpointError, match="nowhere"):
            pretrain_omnivorous(RECIPE, [scenes], replace(again, start=tmp_path / "nowhere.safetensors"))


def test_a_resumed_run_names_changed_options_as_the_command_line_does(tmp_path, scenes):
    chosen = options(tmp_path, steps=1, checkpoint_every=1)
    pretrain_omnivorous(RECIPE, [scenes], chosen)
    changes = {"steps": 2, "alpha_max": 0.2, "colourise": False, "dense": 0.0, "depth_range_m": (0.5, 10.0)}
    recipe, again = replace(RECIPE, **changes), replace(chosen, steps=2)
    sources = [SceneImages(12, (84, 70), ("nir", "lwir"), maps=())]
    with pytest.raises(ResumeError) as refused:
        pretrain_omnivorous(recipe, sources, again)
    found, _, suggested = str(refused.value).rpartition(": --override ")
    assert found.count("steps") == 1
    assert set(suggested.split()) == {"steps", "alpha-max", "no-palette", "no-dense", "depth-range", "manifest"}
    named = ("alpha-max", "no-palette", "no-dense", "depth-range", "steps")
    with pytest.raises(ValueError, match="--override largest-alpha: no such option of a run"):
        pretrain_omnivorous(recipe, sources, replace(again, override=("largest-alpha",)))
    pretrain_omnivorous(recipe, sources, replace(again, override=(*named, "bands")))
    record = json.loads((tmp_path / "recipe.json").read_text())
    assert sorted(change["name"] for change in record["changes"]) == sorted(
        ["data", "steps", "recipe.colourise", "recipe.dense", "recipe.depth_range_m", "recipe.alpha_max"]
    )
    pretrain_omnivorous(recipe, [scenes], replace(again, steps=3, override=("maps", "steps")))


def test_wrong_starts_are_refused(tmp_path, scenes):
    with pytest.raises(ValueError, match='"both" starts from'):
        pretrain_omnivorous(RECIPE, [scenes], options(tmp_path / "a", base="both"))
    save_spectradino(SpectraDINO("test"), tmp_path / "test.safetensors")
    with pytest.raises(ValueError, match="variant"):
        pretrain_omnivorous(
            replace(RECIPE, variant="tiny"), [scenes],
            options(tmp_path / "b", start=tmp_path / "test.safetensors", base="both"),
        )  # fmt: skip
    with pytest.raises(ValueError, match="unknown base 'half'"):
        pretrain_omnivorous(RECIPE, [scenes], options(tmp_path / "c", start=tmp_path / "test.safetensors", base="half"))
