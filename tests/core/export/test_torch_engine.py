"""TorchEngine: device errors are reported with file and remedy."""

from __future__ import annotations

import pytest
import torch

from spectradino_core.export import torch_engine
from spectradino_core.export.torch_engine import TorchEngine
from spectradino_core.runtime.engine import EngineError


def test_out_of_memory_error_names_file_and_remedy(monkeypatch, tmp_path):
    def load(path, device):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 MiB")

    monkeypatch.setattr(torch_engine, "load_perception", load)
    with pytest.raises(
        EngineError, match=r"model\.safetensors could not be loaded onto 'cpu' \(CUDA out of memory.*another device"
    ):
        TorchEngine(tmp_path / "model.safetensors", device="cpu")
