"""A checkpoint is scored and timed at every input size."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch

from benchmarks.input_sizes import main, sets_of
from spectradino_core.data.scene_sets import ScenePairs
from spectradino_core.evaluation.scorer import score_samples
from spectradino_core.export.torch_engine import TorchEngine
from spectradino_core.models.perception import Perception
from spectradino_core.models.perception_checkpoint import save_perception
from spectradino_core.runtime.pipeline import Pipeline
from spectradino_core.training.recipes import smoke


@pytest.mark.slow  # two exports; scoring and export have faster tests
def test_a_row_for_each_size(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    recipe = smoke()
    model, info = Perception(recipe.architecture), recipe.info()
    save_perception(tmp_path / "m.safetensors", model, info)
    words = ["--model", str(tmp_path / "m.safetensors"), "--input-size", "112x84", "168x140", "--scenes", "2"]
    assert main([*words, "--rounds", "2", "--threads", "1", "--out", str(tmp_path)]) == 0
    assert "| 112x84 |" in capsys.readouterr().out
    text = (tmp_path / "input_sizes_m.csv").read_text()
    small, large = csv.DictReader(line for line in text.splitlines() if not line.startswith("#"))
    assert [small["input"], large["input"]] == ["112x84", "168x140"]
    assert min(float(small["cpu_ms"]), float(large["cpu_ms"])) > 0
    pipeline = Pipeline(TorchEngine.of(model, info.with_(input_size=(168, 140))))
    expected = score_samples(pipeline, ScenePairs.held_out("report", 2, info.infrared))
    assert float(large["scenes_map50"]) == pytest.approx(100 * expected["map50"], rel=1e-2, abs=0.1)
    assert float(large["scenes_car"]) == pytest.approx(100 * expected["ap50"]["car"], rel=1e-2, abs=0.1)


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    recipe = smoke()
    save_perception(tmp_path / "m.safetensors", Perception(recipe.architecture), recipe.info())
    return ["--model", str(tmp_path / "m.safetensors"), "--out", str(tmp_path), "--input-size"]


def test_a_size_that_is_no_multiple_of_the_patch_is_refused(words: list[str]) -> None:
    with pytest.raises(ValueError, match="multiples of 14"):
        main([*words, "100x84"])


def test_sets_of_one_name_are_refused(words: list[str], tmp_path: Path) -> None:
    (tmp_path / "scenes").mkdir()
    with pytest.raises(ValueError, match="two sets are called scenes.*rename"):
        main([*words, "112x84", "--scenes", "2", "--data", str(tmp_path / "scenes")])


def test_a_model_without_boxes_is_only_timed() -> None:
    info = smoke().info().with_(box_classes=())
    with pytest.raises(ValueError, match="has no box classes: omit --data and --scenes"):
        sets_of([], 2, info)
    assert sets_of([], None, info) == {}
