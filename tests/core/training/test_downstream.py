"""Recipes of the benchmarks, and their use on the command line."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest
import torch

from spectradino_core.cli import main
from spectradino_core.data.mixture import CachedPairs, Epochs
from spectradino_core.datasets.registry import BENCHMARKS, find_benchmark
from spectradino_core.modality import Modality
from spectradino_core.models import SpectraDINO, ViT
from spectradino_core.models.checkpoints import CheckpointError, save_spectradino
from spectradino_core.models.perception import Perception
from spectradino_core.models.perception_checkpoint import (
    backbone_config,
    load_backbone,
    load_network,
    load_perception,
    save_perception,
    weights_kind,
)
from spectradino_core.training.downstream import LEARNING_RATES, SETTINGS, downstream_recipe
from spectradino_core.training.finetune import TrainingData, _loop_of, finetune, open_training_data
from spectradino_core.training.modes import count_trainable
from spectradino_core.training.recipes import smoke
from tests.core.training.squares import Squares


# slow: recipes differ by data set, not by size of the backbone.
@pytest.mark.parametrize("name", BENCHMARKS)
@pytest.mark.parametrize("variant", ["test", *(pytest.param(name, marks=pytest.mark.slow) for name in ("b", "g"))])
def test_every_benchmark_has_a_recipe_that_can_be_built(name, variant):
    benchmark, recipe = find_benchmark(name), downstream_recipe(name, variant=variant)
    with torch.device("meta"):
        model = Perception(recipe.architecture)
    assert (model.detection is not None) == bool(benchmark.box_classes)
    assert (model.segmentation is not None) == bool(benchmark.mask_classes)
    info = recipe.info()
    assert info.bands[1] is benchmark.infrared
    assert info.box_classes == benchmark.box_classes
    assert info.mask_classes == benchmark.mask_classes
    assert recipe.mode == "half"
    assert all(side % 14 == 0 for side in recipe.input_size)


def test_dinov3_recipe_follows_its_patch():
    recipe = downstream_recipe("flir", variant="v3_s+", strides="14-28")
    assert recipe.input_size == (640, 512)
    assert recipe.architecture.strides == (16.0, 32.0)
    assert (recipe.architecture.registers, recipe.info().patch) == (4, 16)


def test_all_data_sets_of_the_paper_are_there():
    paper = {"flir", "llvip", "rasmd", "mfnet", "semanticrt", "fmb", "mcubes"}
    assert paper <= set(SETTINGS)
    for name in paper:
        wide = SETTINGS[name].input_size
        assert abs(SETTINGS[name].small[0] / SETTINGS[name].small[1] - wide[0] / wide[1]) < 0.1


def test_fusion_is_where_the_paper_has_it():
    assert downstream_recipe("flir").architecture.fuse_at == "last"
    assert downstream_recipe("mfnet").architecture.fuse_at == "taps"
    assert downstream_recipe("mfnet", segmentation="linear").architecture.fuse_at == "last"
    assert downstream_recipe("mfnet", segmentation="linear4").architecture.fused == (8, 9, 10, 11)
    assert downstream_recipe("mfnet", variant="l").architecture.fused == (5, 11, 17, 23)
    assert (
        downstream_recipe("flir").lr == LEARNING_RATES["pretrained"] == {"head": 1e-4, "adapters": 5e-5, "blocks": 1e-5}
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("coco",), "unknown data set 'coco': choose one of flir"),
        (("flir", "segmentation"), "flir has no labels for segmentation"),
        (("mfnet", "both"), "mfnet has no labels for detection"),
        (("flir", "tracking"), "unknown task 'tracking'"),
    ],
)
def test_what_a_data_set_can_not_give_is_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        downstream_recipe(*arguments)


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    torch.manual_seed(1)
    model = SpectraDINO("test")
    path = tmp_path_factory.mktemp("stage3") / "last.safetensors"
    save_spectradino(model, path, {"stage": "3"})
    return path, model


def test_a_pretrained_backbone_is_loaded_with_its_two_bands(backbone):
    path, source = backbone
    assert backbone_config(path) == source.config
    model = Perception(downstream_recipe("rasmd", variant="test").architecture)
    assert load_backbone(model, path).endswith("last.safetensors (stage 3)")
    batch = {Modality.RGB: torch.randn(1, 3, 56, 56), Modality.SWIR: torch.rand(1, 1, 56, 56)}
    with torch.no_grad():
        ours, theirs = model.backbone(batch), source(batch)
    for band in batch:
        torch.testing.assert_close(ours[band].patches, theirs[band].patches)


def test_the_shape_of_a_file_is_read_without_building_its_network(backbone, tmp_path):
    path, source = backbone
    recipe = downstream_recipe("flir", variant="test")
    save_perception(tmp_path / "model.safetensors", Perception(recipe.architecture), recipe.info())
    before = torch.get_rng_state()
    assert backbone_config(path) == source.config
    assert backbone_config(tmp_path / "model.safetensors") == source.config
    assert torch.equal(torch.get_rng_state(), before)  # a network draws its first weights


def test_kinds_of_weight_files_are_distinguished(backbone, tmp_path):
    path, source = backbone
    recipe = downstream_recipe("flir", variant="test")
    model = Perception(recipe.architecture)
    save_perception(tmp_path / "model.safetensors", model, recipe.info())
    torch.save(source.vit.state_dict(), tmp_path / "dinov2.pth")
    kinds = {file: weights_kind(tmp_path / file) for file in ("model.safetensors", "dinov2.pth")}
    assert kinds == {"model.safetensors": "model", "dinov2.pth": "dinov2"}
    assert weights_kind(path) == "backbone"
    for file, wanted in ((path, source), (tmp_path / "model.safetensors", model.backbone)):
        assert torch.equal(load_network(file).vit.cls_token, wanted.vit.cls_token)
    assert torch.equal(load_network(tmp_path / "dinov2.pth").cls_token, source.vit.cls_token)


def test_dinov2s_own_weights_start_both_backbones(tmp_path):
    torch.manual_seed(2)
    vit = ViT("test")
    torch.save(vit.state_dict(), tmp_path / "dinov2.pth")
    images = torch.randn(1, 3, 56, 56)
    for kind in ("spectradino", "dinov2_repeat"):
        model = Perception(downstream_recipe("flir", variant="test", backbone=kind).architecture)
        assert "DINOv2, official layout" in load_backbone(model, tmp_path / "dinov2.pth")
        with torch.no_grad():
            torch.testing.assert_close(model.backbone.vit(images).cls, vit(images).cls)


def test_backbones_that_do_not_fit_are_refused_by_name(backbone, tmp_path):
    path, source = backbone
    with pytest.raises(
        CheckpointError, match=r"last\.safetensors is a ViT-Test/14, the model's backbone a ViT-Tiny/14"
    ):
        load_backbone(Perception(downstream_recipe("flir", variant="tiny").architecture), path)
    save_spectradino(source.select_bands([Modality.RGB, Modality.NIR]), tmp_path / "nir.safetensors")
    with pytest.raises(CheckpointError, match=r"nir\.safetensors.*lwir"):
        load_backbone(Perception(downstream_recipe("flir", variant="test").architecture), tmp_path / "nir.safetensors")
    with pytest.raises(CheckpointError, match=r"does not exist: check the path"):
        load_backbone(Perception(downstream_recipe("flir", variant="test").architecture), tmp_path / "no.pth")


def test_missing_root_error_names_the_expected_files(tmp_path):
    with pytest.raises(ValueError, match="Looked for: JPEGImages"):
        open_training_data(downstream_recipe("flir", variant="test"), tmp_path)
    with pytest.raises(ValueError, match="--data"):
        open_training_data(downstream_recipe("flir", variant="test"), None)


def test_epochs_need_data_that_has_them(tmp_path):
    recipe = downstream_recipe("scenes", variant="test")
    data = TrainingData(None, [], {})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="counts in epochs"):
        finetune(recipe, tmp_path, None, device="cpu", training_data=data)
    with pytest.raises(ValueError, match="not from both"):
        finetune(recipe, tmp_path, None, tmp_path / "a", device="cpu", training_data=data, backbone=tmp_path / "b")


def test_recipes_that_contradict_themselves_are_refused():
    recipe = downstream_recipe("scenes", variant="test")
    for change, words in (
        ({"mode": "most"}, "choose one of head"),
        ({"lr": {"head": 1.0}}, "learning rates.*head, adapters, blocks"),
        ({"layer_decay": 0.0}, "layer_decay"),
        ({"box_classes": ("car",)}, "1 box classes"),
        ({"batch": 2, "loop": replace(recipe.loop, grad_accum=4)}, "4 micro-batches"),
    ):
        with pytest.raises(ValueError, match=words):
            replace(recipe, **change)


@pytest.mark.slow
def test_the_command_as_a_user_types_it(shared_data, backbone, tmp_path, capsys):
    """Half of a pretrained backbone on RoadScene, then the baseline; both evaluate and export like any model."""
    path, _ = backbone
    root = shared_data / "roadscene_rgb_lwir"
    words = [
        *("finetune", "--task", "detection", "--dataset", "roadscene", "--data", str(root), "--steps", "3"),
        *("--batch", "2", "--device", "cpu", "--workers", "0", "--input-size", "112x84", "--log-every", "1"),
    ]
    run = tmp_path / "run"
    assert main([*words, "--mode", "half", "--backbone", str(path), "--fusion", "gated", "--out", str(run)]) == 0
    model, info = load_perception(run / "model.safetensors")
    assert model.segmentation is None
    assert model.architecture.variant == "test"  # as the backbone's file says
    assert info.provenance["backbone"].endswith("last.safetensors (stage 3)")
    assert info.input_size == (112, 84)
    out = tmp_path / "baseline"
    plain = ["--baseline", "--head", "linear", "--backbone", str(path), "--out", str(out)]
    assert main([*words, *plain]) == 0
    record = json.loads((out / "recipe.json").read_text())
    assert record["recipe"]["mode"] == "head"
    assert not any(name.startswith("backbone") for name in record["trained"])
    assert main(["export", "--model", str(out / "model.safetensors"), "--out", str(tmp_path / "m.onnx")]) == 0
    capsys.readouterr()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--dataset", "flir", "--head", "dense,upernet"], "name one head for each of detection"),
        (["--dataset", "flir", "--head", "upernet"], "unknown detection head 'upernet'"),
        (["--dataset", "flir", "--input-size", "640x512"], "multiples of 14"),
        (["--dataset", "flir", "--mode", "half"], "mode half freezes blocks of the backbone, and without"),
        (["--dataset", "flir"], "mode half freezes blocks"),
        (["--dataset", "flir", "--baseline"], "mode head freezes blocks"),
        (["--recipe", "smoke", "--mode", "adapters"], "mode adapters freezes blocks"),
        (["--dataset", "flir", "--mode", "full"], "--data"),
        ([], "nothing to train on: give --data DIR"),
        (["--dataset", "flir", "--rgb", "x"], "--rgb is for own data"),
        (["--data", "x", "--data-root", "y"], "--data-root is for --recipe"),
        (["--data", "x"], "x: no such folder"),
        (["--data", "x", "--classes", ","], "--classes names no class"),
        (["--dataset", "flir", "--start", "models/lwir_box.onnx"], "is an exported model, which cannot be trained"),
        (["--dataset", "flir", "--start", "models/lwir_box.onnx"], "such as models/lwir_box.safetensors"),
        (
            ["--dataset", "flir", "--backbone", "models/lwir_box.onnx"],
            "give the .safetensors it was exported from",
        ),
        (["--data", "x", "--start", "models/lwir_box.onnx"], "is an exported model"),
        (["--dataset", "flir", "--epochs", "2", "--steps", "3"], "excludes --steps"),
        (["--dataset", "flir", "--mode", "full", "--data", "x"], "x"),
        (["--dataset", "scenes", "--data", "x"], "--data has no effect on scenes, which is rendered"),
        (["--dataset", "flir", "--mix", "msrs"], "--mix is for --recipe"),
        (
            ["--dataset", "mfnet", "--mode", "full", "--strides", "7-28"],
            "--strides has no effect without a detection head",
        ),
        (["--dataset", "flir", "--mode", "full", "--upernet-width", "256"], "no effect without an UPerNet head"),
        (["--dataset", "flir", "--mode", "head", "--lr-blocks", "1e-5"], "--lr-blocks has no effect in mode head"),
        (["--dataset", "flir", "--mode", "adapters", "--layer-decay", "0.9"], "--layer-decay has no effect in mode"),
        (["--dataset", "flir", "--mode", "head", "--lr-adapters", "1e-5"], "--lr-adapters has no effect in mode head"),
        (
            ["--recipe", "smoke", "--data-root", "x"],
            "--data-root has no effect on recipe smoke, which renders its data",
        ),
        (
            ["--recipe", "box_real", "--mix", "msrs"],
            "--mix needs the folder that holds its data sets: give --data-root",
        ),
        (["--recipe", "smoke", "--baseline"], "--baseline is for --dataset and --data: the recipe 'smoke' has its own"),
        (["--recipe", "smoke", "--variant", "b"], "--variant is for --dataset"),
        (["--recipe", "smoke", "--task", "both"], "--task is for --dataset"),
        (["--recipe", "smoke", "--head", "dense"], "--head is for --dataset"),
        (["--recipe", "smoke", "--fusion", "concat"], "--fusion is for --dataset"),
        (["--recipe", "smoke", "--fuse-at", "last"], "--fuse-at is for --dataset"),
        (["--recipe", "smoke", "--strides", "7-28"], "--strides is for --dataset"),
        (["--recipe", "smoke", "--upernet-width", "256"], "--upernet-width is for --dataset"),
        (["--recipe", "smoke", "--input-size", "100x84"], "'100x84' is not a size: give WIDTHxHEIGHT in pixels, both"),
        (["--dataset", "flir", "--backbone", "no.pth"], "no.pth"),
    ],
)
def test_wrong_arguments_get_a_one_line_error(words, message, tmp_path, capsys, repository, monkeypatch):
    monkeypatch.chdir(repository)
    assert main(["finetune", *words, "--out", str(tmp_path / "run"), "--device", "cpu"]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.strip().count("\n") == 0


@pytest.fixture(scope="module")
def wrong_backbones(tmp_path_factory):
    """Backbones that do not fit LWIR at the test variant, or files without one."""
    folder = tmp_path_factory.mktemp("wrong")
    whole = SpectraDINO("test")
    save_spectradino(whole.select_bands([Modality.RGB, Modality.NIR]), folder / "nir.safetensors")
    save_spectradino(whole, folder / "whole.safetensors")
    (folder / "cut.safetensors").write_bytes((folder / "whole.safetensors").read_bytes()[:-1000])
    (folder / "cut.pth").write_bytes(b"PK not a checkpoint")
    return folder


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--backbone", "whole.safetensors", "--variant", "b"], "holds a ViT-Test/14; --variant asks for 'b'"),
        (["--backbone", "nir.safetensors"], "lwir"),
        (["--backbone", "cut.safetensors"], "truncated"),
        (["--backbone", "cut.pth"], "is truncated, not a checkpoint, or holds more than tensors"),
        (["--backbone", "absent.safetensors"], "does not exist: check the path"),
    ],
)
def test_a_wrong_backbone_is_named_and_nothing_is_written(words, message, wrong_backbones, tmp_path, capsys):
    file = wrong_backbones / words[1]
    words = ["--dataset", "scenes", words[0], str(file), *words[2:], "--out", str(tmp_path / "run"), "--device", "cpu"]
    assert main(["finetune", *words]) == 1
    error = capsys.readouterr().err
    assert str(file) in error
    assert message in error
    assert error.strip().count("\n") == 0
    assert not (tmp_path / "run").exists()


def test_first_log_lines_describe_mode_data_and_folder(tmp_path, caplog):
    whole = smoke()
    recipe = replace(whole, mode="head", loop=replace(whole.loop, steps=1, warmup=0, checkpoint_every=1))
    pairs = Epochs(CachedPairs(Squares(12)), recipe.augmentation, 0)
    data = TrainingData(pairs, [], {"squares train": 1.0}, epoch=12)
    with caplog.at_level("INFO", "spectradino_core"):
        finetune(recipe, tmp_path / "run", None, device="cpu", workers=0, training_data=data)
    first, second, *_ = (record.getMessage() for record in caplog.records)
    found = re.fullmatch(r"smoke: mode head trains (.+) of (.+) million parameters, 1 steps of 4 pairs", first)
    assert found is not None
    whole_model = count_trainable(Perception(recipe.architecture))[1] / 1e6
    assert 0 < float(found[1]) < float(found[2]) == pytest.approx(whole_model, abs=0.01)
    described = "training on 12 pairs of squares train; 0 pairs held out for validation"
    assert second == f"smoke: {described}; results in {tmp_path / 'run'}"


def test_training_data_describes_its_sizes():
    recipe = downstream_recipe("scenes", variant="test")
    assert (
        open_training_data(recipe, None).describe()
        == "training on 600 pairs of scenes train; 60 pairs held out for validation"
    )
    mixed = TrainingData(None, iter([]), {"scenes": 0.75, "roadscene": 0.25})  # type: ignore[arg-type]
    assert mixed.describe() == "training on 75 % scenes, 25 % roadscene; some held out for validation"


@pytest.mark.parametrize(("epochs", "pairs"), [(1, 40), (3, 1000), (12, 4128), (50, 55), (100, 3)])
def test_checkpoints_are_at_most_ten_and_at_least_an_epoch_apart(epochs, pairs):
    recipe = replace(downstream_recipe("scenes", variant="test"), epochs=epochs)
    loop = _loop_of(recipe, TrainingData(None, [], {}, epoch=pairs))  # type: ignore[arg-type]
    assert -(-loop.steps // loop.checkpoint_every) <= 10
    assert loop.checkpoint_every >= min(loop.steps, pairs / recipe.batch)
