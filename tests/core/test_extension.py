"""Extension by one registry line, from which everything else follows. See CONTRIBUTING.md."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from spectradino_core.cli import main
from spectradino_core.data.scene_sets import scene_sample
from spectradino_core.datasets.benchmark import Found, LabelledItem
from spectradino_core.datasets.registry import BENCHMARKS
from spectradino_core.export.onnx_model import export
from spectradino_core.modality import INFRARED, Modality
from spectradino_core.models.fusion import Fusion
from spectradino_core.models.perception import Perception
from spectradino_core.models.perception_checkpoint import load_perception, save_perception
from spectradino_core.models.registry import FUSIONS, SEGMENTATION, Kind
from spectradino_core.models.segmentation import LinearSegmentationHead
from spectradino_core.streams.settings import specs
from tests.core.test_combinations import PLAIN, images, info_of


class MeanFusion(Fusion):
    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.scale = nn.Parameter(torch.ones(width))

    def fuse(self, rgb, infrared, seen):
        return self.scale * (rgb + infrared) / 2


NEAREST = Kind(
    make=lambda arch, classes: LinearSegmentationHead(arch.vit.width, classes),
    run=lambda head, fused, strides: head(fused.image(fused.layers[-1])),
)


@pytest.fixture
def registered(monkeypatch):
    monkeypatch.setitem(FUSIONS, "mean", MeanFusion)
    monkeypatch.setitem(SEGMENTATION, "nearest", NEAREST)


def test_a_fusion_and_a_head_are_listed_trained_and_saved(registered, tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["finetune", "--help"])
    words = capsys.readouterr().out.replace("\n", " ").split()
    assert "mean" in words
    assert any(word.strip(",") == "nearest" for word in words)

    architecture = replace(PLAIN, fusion="mean", segmentation="nearest")
    torch.manual_seed(0)
    model = Perception(architecture)
    before = model.fusion.scale.detach().clone()
    found = model(images())
    loss = found.mask_logits.square().mean() + found.logits.square().mean() + found.boxes.square().mean()
    loss.backward()
    torch.optim.SGD(model.parameters(), 0.1).step()
    assert not torch.equal(model.fusion.scale, before)

    save_perception(tmp_path / "m.safetensors", model, info_of(architecture))
    loaded, _ = load_perception(tmp_path / "m.safetensors")
    assert loaded.architecture == architecture


@pytest.mark.slow  # test_export covers the export of the heads and fusions that are there
def test_a_fusion_and_a_head_are_exported(registered, tmp_path):
    architecture = replace(PLAIN, fusion="mean", segmentation="nearest")
    pairs = [scene_sample(9_000_000, Modality.LWIR, (140, 112))]
    assert export(Perception(architecture), info_of(architecture), tmp_path / "m.onnx", pairs)["pairs"] == 1


def test_an_unknown_fusion_is_refused_with_the_registered_names(registered):
    with pytest.raises(ValueError, match="unknown fusion 'max': choose one of concat, cross_attention, gated, mean"):
        replace(PLAIN, fusion="max")


def test_a_data_set_is_listed_and_read(monkeypatch, tmp_path, capsys):
    sample = scene_sample(9_000_000, Modality.LWIR, (140, 112))

    def find(root, split) -> Found:
        return Found([LabelledItem("only", seed=1)], sample=lambda item: sample)

    toy = replace(
        BENCHMARKS["roadscene"], name="toy", title="Toy set", splits={"train": 1, "val": 1}, find=find, time_rule=None,
        stated_subsets=(), box_classes=("person", "bicycle", "car"), mask_classes=(), palette=(),
    )  # fmt: skip
    monkeypatch.setitem(BENCHMARKS, "toy", toy)
    assert main(["data", "list"]) == 0
    assert "\ntoy " in capsys.readouterr().out
    pairs = BENCHMARKS["toy"].open(tmp_path, "val")
    np.testing.assert_array_equal(pairs.load(pairs[0]).rgb, sample.rgb)


def test_choices_of_bands_are_those_of_the_modalities():
    keys = [band.key for band in INFRARED]
    assert sorted(specs()["infrared_band"].choices) == sorted(["", *keys])
