"""Averaged checkpoints hold the mean of all weights and the provenance of all models."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks.average_weights import main
from spectradino_core.models.perception import Perception
from spectradino_core.models.perception_checkpoint import load_perception, save_perception
from spectradino_core.training.recipes import smoke
from tests.blob_model import blob_info


def checkpoint(path: Path, seed: int, **changes) -> Path:
    torch.manual_seed(seed)
    recipe = smoke()
    architecture = replace(recipe.architecture, **changes)
    info = blob_info(recipe.input_size).with_(provenance={"seed": seed})
    save_perception(path, Perception(architecture), info)
    return path


def test_weights_are_averaged_and_origins_recorded(tmp_path: Path) -> None:
    first, second = (checkpoint(tmp_path / f"{seed}.safetensors", seed) for seed in (1, 2))
    out = tmp_path / "mean.safetensors"
    assert main([str(first), str(second), "--out", str(out)]) == 0
    (a, _), (b, _), (mean, info) = (load_perception(path) for path in (first, second, out))
    states = a.state_dict(), b.state_dict()
    for name, value in mean.state_dict().items():
        expected = (states[0][name].double() + states[1][name].double()) / 2
        torch.testing.assert_close(value.double(), expected.to(value.dtype).double())
    assert info.provenance == {"seed": 2, "averaged": [{"seed": 1}, {"seed": 2}]}


def test_other_architectures_and_existing_files_are_refused(tmp_path: Path, capsys) -> None:
    first = checkpoint(tmp_path / "first.safetensors", 1)
    other = checkpoint(tmp_path / "other.safetensors", 2, pyramid_width=16)
    mean = tmp_path / "mean.safetensors"
    with pytest.raises(ValueError, match=r"first.safetensors and .* differ in pyramid_width: 32 and 16"):
        main([str(first), str(other), "--out", str(mean)])
    with pytest.raises(ValueError, match="other.safetensors exists already"):
        main([str(first), str(first), "--out", str(other)])
    with pytest.raises(ValueError, match="a name that ends in .safetensors"):
        main([str(first), str(first), "--out", str(tmp_path / "mean.onnx")])
    with pytest.raises(SystemExit):
        main([str(first), "--out", str(mean)])
    assert "give two" in capsys.readouterr().err
    assert not mean.exists()
