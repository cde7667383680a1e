"""ONNX export of the backbone: both streams in one pass, with the results of PyTorch."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from spectradino_core.modality import Modality
from spectradino_core.models import VARIANTS, SpectraDINO

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

RGB, LWIR = Modality.RGB, Modality.LWIR


class TwoStreams(nn.Module):
    """Exportable wrapper: tensors in, tensors out."""

    def __init__(self, model: SpectraDINO) -> None:
        super().__init__()
        self.model = model

    def forward(self, rgb: Tensor, lwir: Tensor) -> tuple[Tensor, ...]:
        out = self.model({RGB: rgb, LWIR: lwir}, out_indices=self.model.config.out_indices)
        return tuple(tensor for f in out.values() for tensor in (f.cls, f.patches, *f.intermediate))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the exporters warn of their own deprecations and of static shapes
@pytest.mark.parametrize(("dynamo", "registers"), [(True, 0), (True, 4), (False, 0)])
def test_onnx_runtime_equals_torch(dynamo: bool, registers: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = SpectraDINO(dataclasses.replace(VARIANTS["test"], registers=registers)).select_bands((RGB, LWIR))
    with torch.no_grad():
        model.modality_embedding.normal_()
        for parameter in model.adapters.parameters():
            parameter.normal_(std=0.1)
    module = TwoStreams(model).eval()
    inputs = torch.randn(1, 3, 70, 84), torch.rand(1, 1, 70, 84)
    with torch.no_grad():
        expected = module(*inputs)
    model.freeze_grid(5, 6)
    path = tmp_path / "backbone.onnx"
    torch.onnx.export(module, inputs, path, dynamo=dynamo, opset_version=20, input_names=["rgb", "lwir"])

    operators = [node.op_type for node in onnx.load(path).graph.node]
    assert "Resize" not in operators  # the position embedding is fixed
    assert "LayerNormalization" in operators
    assert operators.count("ReduceMean") == 4  # the instance norm; no LayerNorm was decomposed

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    outputs = session.run(None, {"rgb": inputs[0].numpy(), "lwir": inputs[1].numpy()})
    assert len(outputs) == len(expected)
    for ours, theirs in zip(outputs, expected, strict=True):
        np.testing.assert_allclose(ours, theirs.numpy(), rtol=0, atol=1e-4)
