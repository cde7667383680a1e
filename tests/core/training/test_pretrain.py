"""Chain of stages: start of each stage, written files, refusals."""

from __future__ import annotations

import json
import logging
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from spectradino_core.cli import main
from spectradino_core.models.checkpoints import load_spectradino, read_metadata, save_spectradino
from spectradino_core.models.spectradino import SpectraDINO
from spectradino_core.training.pretrain import PretrainOptions, pretrain
from spectradino_core.training.stages import STAGES, stage_recipe
from spectradino_core.training.train_logger import read_log
from tests.core.training.patterns import CALM, Patterns

OPTIONS = {"steps": 4, "device": "cpu", "amp": "fp32", "workers": 0, "views": CALM, "log_every": 1}
RECIPES = [replace(stage_recipe("test", stage), batch=4) for stage in STAGES]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    options = PretrainOptions(folder, **OPTIONS, checkpoint_every=1)
    pretrain(RECIPES, [Patterns(16)], [Patterns(8, first=1000)], options)
    return folder


def test_each_stage_starts_from_the_papers_backbone(run):
    starts = [read_metadata(run / f"stage{stage}/last.safetensors")["start"] for stage in STAGES]
    assert starts == ["the teacher (random weights, seed 0)", "stage1/best.safetensors", "stage2/last.safetensors"]


def test_the_best_is_the_step_of_the_lowest_validation_loss(run):
    rows = [row for row in read_log(run / "stage1/log.jsonl") if "val_total" in row]
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    best = min(rows, key=lambda row: row["val_total"])
    record = read_metadata(run / "stage1/best.safetensors")
    assert int(record["step"]) == best["step"]
    assert json.loads(record["validation"])["val_total"] == best["val_total"]


def test_frozen_parts_are_the_teachers_to_the_end(run):
    teacher = load_file(run / "teacher.safetensors")
    for stage in STAGES:
        vit = load_spectradino(run / f"stage{stage}/last.safetensors").vit.state_dict()
        same = {name for name in vit if torch.equal(vit[name], teacher[name])}
        assert {"cls_token", "pos_embed", "patch_embed.proj.weight", "blocks.0.attn.qkv.weight"} <= same
        assert ("blocks.1.attn.qkv.weight" in same) == (stage < 3)
        assert "norm.weight" not in same


def test_stage_three_takes_over_the_queue(run):
    two, three = (load_file(run / f"stage{stage}/queue.safetensors") for stage in (2, 3))
    assert two["stored"].shape == (24, 48)  # half of three bands of 16 items, not 65,536
    assert int(two["written"]) == 16
    assert int(three["written"]) == 16 + 16  # began with what it took over
    assert set(two["item_keys"].tolist()) <= {-1, *range(16)}
    assert three["item_keys"].min() >= 0
    first = read_log(run / "stage3/log.jsonl")[0]
    assert first["neighbourhood"] > 0  # from its first step


def test_files_of_a_run_record_its_provenance(run):
    record = json.loads((run / "stage2/recipe.json").read_text())
    assert record["recipe"]["weights"]["neighbourhood"] == 0.5
    assert record["sources"] == {"16 patterns from 0": 16}
    assert record["teacher"] == "random weights, seed 0"
    assert (run / "losses.png").stat().st_size > 10_000
    assert read_metadata(run / "stage3/last.safetensors")["trained_bands"] == "nir,swir,lwir"


def test_a_run_that_is_done_is_left_as_it_is(run):
    before = (run / "stage3/log.jsonl").read_text()
    weights = load_file(run / "stage3/last.safetensors")
    pretrain(RECIPES, [Patterns(16)], [Patterns(8, first=1000)], PretrainOptions(run, **OPTIONS, checkpoint_every=1))
    assert (run / "stage3/log.jsonl").read_text() == before
    assert all(torch.equal(value, weights[name]) for name, value in load_file(run / "stage3/last.safetensors").items())


def test_a_stage_without_the_one_before_is_refused(tmp_path):
    for stage, before in ((2, "stage1/best"), (3, "stage2/last")):
        with pytest.raises(ValueError, match=rf"{before}\.safetensors, which does not exist: run the previous stage"):
            pretrain([RECIPES[stage - 1]], [Patterns(8)], [], PretrainOptions(tmp_path, **OPTIONS))


def test_a_stage_from_a_given_backbone(tmp_path, caplog):
    save_spectradino(SpectraDINO("test"), tmp_path / "b.safetensors")
    options = PretrainOptions(tmp_path / "run", start=tmp_path / "b.safetensors", **OPTIONS)
    with caplog.at_level(logging.WARNING):
        path = pretrain([RECIPES[2]], [Patterns(8)], [], options)
    assert "empty teacher queue" in caplog.text
    assert read_metadata(path)["start"].endswith("/b.safetensors")
    save_spectradino(SpectraDINO("tiny"), tmp_path / "t.safetensors")
    with pytest.raises(ValueError, match="is a ViT-Tiny/14, the teacher a ViT-Test/14"):
        pretrain(
            [RECIPES[0]], [Patterns(8)], [],
            PretrainOptions(tmp_path / "other", start=tmp_path / "t.safetensors", **OPTIONS),
        )  # fmt: skip


@pytest.mark.slow  # test_student.py covers the temperature
def test_a_learned_temperature_continues_in_the_next_stage(tmp_path):
    recipes = [replace(recipe, learn_temperature=True, lr=1e-2, clip=0.1) for recipe in RECIPES]
    pretrain(recipes, [Patterns(8)], [], PretrainOptions(tmp_path, **OPTIONS))
    learned = {stage: read_metadata(tmp_path / f"stage{stage}/last.safetensors")["temperature"] for stage in STAGES}
    rows = {stage: read_log(tmp_path / f"stage{stage}/log.jsonl") for stage in STAGES}
    assert rows[1][0]["temperature"] == pytest.approx(0.07)
    for stage in (2, 3):  # the first step's loss is computed before its update
        assert rows[stage][0]["temperature"] == pytest.approx(float(learned[stage - 1]), rel=1e-5)
        assert abs(rows[stage][0]["temperature"] / 0.07 - 1) > 1e-3
    assert all(row["clipped"] == (row["gradient"] > 0.1) for row in rows[1] if "total" in row)
    options = PretrainOptions(tmp_path / "given", start=tmp_path / "stage2/last.safetensors", **OPTIONS)
    pretrain(recipes[2:], [Patterns(8)], [], options)
    first = read_log(tmp_path / "given/stage3/log.jsonl")[0]
    assert first["temperature"] == pytest.approx(float(learned[2]), rel=1e-5)


def test_a_fixed_temperature_is_not_stored(run):
    assert "temperature" not in read_metadata(run / "stage1/last.safetensors")


def test_bands_without_pairs_are_named(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        pretrain([RECIPES[0]], [Patterns(8, ("nir", "lwir"))], [], PretrainOptions(tmp_path, **OPTIONS))
    assert "no pairs of swir: its stem and adapters stay untrained" in caplog.text
    teacherless = load_spectradino(tmp_path / "stage1/last.safetensors")
    assert teacherless.modality_embedding[1].abs().sum() > 0  # NIR learnt
    assert teacherless.modality_embedding[2].abs().sum() == 0  # SWIR: neither learnt nor decayed


def test_too_little_data_for_the_batch_is_reported(tmp_path):
    with pytest.raises(ValueError, match="the batch is 8"):
        pretrain([replace(RECIPES[0], batch=8)], [Patterns(4)], [], PretrainOptions(tmp_path, **OPTIONS))


@pytest.mark.slow
def test_from_the_command_line(tmp_path, capsys):
    command = ["pretrain", "--variant", "test", "--stages", "1", "--scenes", "8", "--batch", "4", "--steps", "3"]
    assert main([*command, "--out", str(tmp_path / "run"), "--device", "cpu", "--workers", "0"]) == 0
    assert "stage1/last.safetensors: backbone" in capsys.readouterr().out


def test_overrides_of_single_stages(monkeypatch, tmp_path, capsys):
    recipes = []
    monkeypatch.setattr("spectradino_core.training.pretrain.pretrain", lambda *a: recipes.extend(a[0]) or tmp_path)
    command = ["pretrain", "--variant", "s", "--scenes", "8", "--device", "cpu"]
    assert main([*command, "--lr", "1:2e-3,3:4e-5", "--batch", "32", "--epochs", "2:7"]) == 0
    assert [recipe.lr for recipe in recipes] == [2e-3, stage_recipe("s", 2).lr, 4e-5]
    assert [recipe.batch for recipe in recipes] == [32, 32, 32]
    assert [recipe.epochs for recipe in recipes] == [100, 7, 75]
    for wrong in ("1:", "4:1e-4", "1:1e-4,1:2e-4", "1:1e-4,2e-4", "x"):
        with pytest.raises(SystemExit):
            main([*command, "--lr", wrong])
        assert "give one value, or values of stages" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--variant", "test", "--scenes", "4", "--stages", "1", "--lr", "3:1e-4"], "--lr names stage 3"),
        (["--variant", "test", "--scenes", "8", "--system", "omnivorous", "--lr", "1:1"], "has no stages"),
        (["--variant", "test"], "nothing to train on"),
        (["--variant", "xl", "--scenes", "4"], "choose one of s, b, l, g"),
        (["--variant", "test", "--scenes", "4", "--stages", "1,3"], "not consecutive"),
        (["--variant", "test", "--manifest", "none.jsonl"], "none.jsonl"),
        (["--variant", "test", "--scenes", "4", "--data-root", "x"], "--data-root has no effect without --manifest"),
        (["--variant", "test", "--scenes", "4", "--steps", "2", "--epochs", "1"], "--epochs excludes --steps"),
        (["--variant", "test", "--scenes", "4", "--anchor", "1"], "--anchor is for --system omnivorous"),
        (
            ["--variant", "test", "--scenes", "4", "--no-palette"],
            "--no-palette is for --system omnivorous",
        ),
        (["--variant", "test", "--scenes", "4", "--system", "omnivorous", "--depth-range", "9,1"], "0 < near < far"),
        (
            ["--variant", "test", "--scenes", "4", "--system", "omnivorous", "--keep", "1"],
            "--keep is for SpectraDINO's",
        ),
        (["--variant", "test", "--scenes", "8", "--batch", "4", "--cache-teacher"], "drawn anew"),
        (["--variant", "test", "--scenes", "8", "--batch", "4", "--strategy", "fsdp"], "torchrun"),
        (["--variant", "test", "--scenes", "8", "--teacher", "none.pth"], "none.pth does not exist: check the path"),
    ],
)
def test_wrong_usage_is_reported(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert main(["pretrain", *arguments, "--device", "cpu", "--workers", "0"]) == 1
    assert message in capsys.readouterr().err
