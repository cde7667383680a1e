"""The baseline command suggested by `spectradino evaluate` trains a comparable baseline."""

from __future__ import annotations

import argparse
import re
import shlex
from dataclasses import replace

import pytest

from spectradino_core.cli import main
from spectradino_core.commands import finetune as finetune_command
from spectradino_core.commands.finetune import _changed, _of_dataset
from spectradino_core.datasets import find_benchmark
from spectradino_core.evaluation.comparison import same_task
from spectradino_core.models.checkpoints import save_spectradino
from spectradino_core.models.perception import Perception
from spectradino_core.models.perception_checkpoint import save_perception
from spectradino_core.models.spectradino import SpectraDINO
from spectradino_core.training.downstream import downstream_recipe
from spectradino_core.training.recipes import FinetuneRecipe


def hint(recipe: FinetuneRecipe, tmp_path, capsys, *words: str) -> list[str]:
    """Evaluate a model of this recipe on a scene and return the suggested baseline command."""
    info = recipe.info().with_(
        provenance={"dataset": recipe.dataset, "architecture": recipe.architecture.to_dict(), "mode": recipe.mode}
    )
    save_perception(tmp_path / "model.safetensors", Perception(recipe.architecture), info)
    words = words or ("--scenes", "1", "--workers", "1")
    assert main(["evaluate", "--model", str(tmp_path / "model.safetensors"), *words, "--device", "cpu"]) == 0
    out = capsys.readouterr().out
    assert ("Masks: logits enlarged bilinearly" in out) is bool(recipe.mask_classes)
    found = re.search(r"No baseline .*\n\n`(spectradino finetune [^`]*)`", out)
    assert found is not None
    return shlex.split(found[1])


@pytest.mark.parametrize(
    ("dataset", "changes"),
    [
        ("scenes", {}),
        ("scenes_nir", {"strides": "14-28", "task": "detection"}),
        ("scenes_swir", {"strides": "3.5-28", "detection": "linear", "segmentation": "linear4"}),
        ("scenes", {"fuse_at": "last", "upernet_width": 48, "fusion": "gated"}),
        ("scenes_nir", {"fuse_at": "taps", "task": "segmentation", "segmentation": "pyramid_linear"}),
    ],
)
def test_baseline_command_matches_heads_sizes_and_data(dataset, changes, tmp_path, capsys):
    recipe = replace(downstream_recipe(dataset, variant="test", **changes), input_size=(98, 84))
    words = hint(recipe, tmp_path, capsys)
    # The command names DINOv2 weights that the user must provide.
    save_spectradino(SpectraDINO("test"), tmp_path / "teacher.safetensors")
    words[words.index("TEACHER")] = str(tmp_path / "teacher.safetensors")
    parser = argparse.ArgumentParser()
    finetune_command.add(parser.add_subparsers())
    options = parser.parse_args(words[1:])
    baseline = _changed(_of_dataset(options, find_benchmark(options.dataset)), options)
    assert (baseline.dataset, baseline.input_size, baseline.mode) == (dataset, (98, 84), "head")
    assert baseline.architecture == replace(recipe.architecture, backbone="dinov2_repeat")
    same_task({"model": recipe.info(), "baseline": baseline.info()})


def test_baseline_command_uses_scenes_of_the_models_band(tmp_path, capsys):
    recipe = replace(downstream_recipe("scenes_swir", variant="test"), input_size=(98, 84), dataset=None, epochs=None)
    words = hint(recipe, tmp_path, capsys)
    assert words[words.index("--dataset") + 1] == "scenes_swir"


def test_baseline_command_does_not_use_another_data_sets_root(tmp_path, capsys):
    recipe = replace(downstream_recipe("scenes", variant="test"), input_size=(98, 84), dataset="flir", epochs=None)
    words = hint(recipe, tmp_path, capsys)
    assert words[words.index("--data") + 1] == "FOLDER"
