"""Sliding-window inference on images larger than the network's input.

As usual in segmentation benchmarks, the logits of all windows over a pixel are averaged with equal weights before the
argmax. The boxes of all windows are concatenated, and duplicates are removed by non-maximum suppression. This is an
engine like any other, so it runs in the serving pipeline.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from spectradino_core.modality import Modality
from spectradino_core.models.perception import Perception
from spectradino_core.models.perception_checkpoint import load_perception
from spectradino_core.models.segmentation import mask_at_source
from spectradino_core.runtime.bundle import ModelInfo
from spectradino_core.runtime.engine import RawPredictions
from spectradino_core.runtime.preprocess import Letterbox


def window_starts(length: int, window: int, stride: int) -> list[int]:
    """Return the start of each window along one side: every `stride` pixels, with the last window at the end."""
    return [*range(0, max(0, length - window), stride), max(0, length - window)]


class SlidingEngine:
    """Engine (see `runtime.engine.Engine`) whose `info.input_size` is the size of the whole image."""

    def __init__(
        self, model: Perception, info: ModelInfo, size: tuple[int, int], stride: tuple[int, int] | None = None
    ) -> None:
        """Place the windows of a model whose metadata's input size is the window's.

        Args:
            model: the model, on its device.
            info: its metadata.
            size: (width, height) of the whole input, at least the window's; rounded up to multiples of the patch size.
            stride: (x, y) pixels between windows, at most the window's size; None: two thirds of it, as is usual.

        Raises:
            ValueError: an input smaller than the window, or a stride that leaves gaps.
        """
        window = info.input_size
        stride = (max(1, window[0] * 2 // 3), max(1, window[1] * 2 // 3)) if stride is None else stride
        patch = model.architecture.vit.patch
        width, height = (-(-side // patch) * patch for side in size)
        if width < window[0] or height < window[1]:
            raise ValueError(
                f"a window of {window[0]}x{window[1]} can't slide over {size[0]}x{size[1]}: choose a larger size"
            )
        if not (1 <= stride[0] <= window[0] and 1 <= stride[1] <= window[1]):
            raise ValueError(
                f"a stride of {stride[0]}x{stride[1]} leaves gaps between windows of {window[0]}x{window[1]}: choose a "
                "smaller one"
            )
        self.info = info.with_(input_size=(width, height), inputs="normalised")
        self._model, self._window = model.eval(), window
        self._device = next(model.parameters()).device
        self._origins = [
            (x, y)
            for y in window_starts(height, window[1], stride[1])
            for x in window_starts(width, window[0], stride[0])
        ]
        self.label = f"PyTorch {torch.__version__} on {self._device}, {len(self._origins)} windows"
        self.on_cpu = self._device.type == "cpu"
        self._mask_logits: Tensor | None = None

    @classmethod
    def open(
        cls, path: str | Path, size: tuple[int, int], stride: tuple[int, int] | None = None, device: str = "auto"
    ) -> SlidingEngine:
        """Open a checkpoint (`.safetensors`); exported graphs have no logits to average.

        Raises:
            ValueError: the file is not a checkpoint, or see the constructor.
            BundleError, CheckpointError: the file can't be read.
        """
        if Path(path).suffix != ".safetensors":
            raise ValueError(
                f"{path}: only a checkpoint (.safetensors) supports sliding windows, as an exported model has no logits"
            )
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        return cls(*load_perception(path, device), size=size, stride=stride)

    @torch.inference_mode()
    def run(self, *inputs: np.ndarray) -> RawPredictions:
        """See `Engine`."""
        rgb, infrared, streams = (torch.from_numpy(x).to(self._device) for x in inputs)
        boxes, scores = [], []
        total: Tensor | None = None
        count = torch.zeros(rgb.shape[-2:], device=self._device)
        width, height = self._window
        for x, y in self._origins:
            rows, columns = slice(y, y + height), slice(x, x + width)
            images = {Modality.RGB: rgb[..., rows, columns], self._model.infrared: infrared[..., rows, columns]}
            found = self._model(images, streams[None])
            if found.boxes is not None and found.logits is not None:
                boxes.append(found.boxes[0] + torch.tensor([x, y, x, y], device=self._device))
                scores.append(found.logits[0].float().sigmoid())
            if found.mask_logits is not None:
                logits = nn.functional.interpolate(
                    found.mask_logits.float(), size=(height, width), mode="bilinear", align_corners=False
                )[0]
                if total is None:
                    total = torch.zeros((len(logits), *count.shape), device=self._device)
                total[:, rows, columns] += logits
                count[rows, columns] += 1
        self._mask_logits = None if total is None else total / count
        mask = None if self._mask_logits is None else self._mask_logits.argmax(dim=0).to(torch.uint8).cpu().numpy()
        if not boxes:
            return np.zeros((0, 4), np.float32), np.zeros((0, 0), np.float32), mask
        return torch.cat(boxes).cpu().numpy(), torch.cat(scores).cpu().numpy(), mask

    def source_mask(self, box: Letterbox) -> np.ndarray:
        """See `TorchEngine.source_mask`."""
        if self._mask_logits is None:
            raise ValueError("no mask logits: the engine has not run, or its model has no segmentation head")
        return mask_at_source(self._mask_logits, box)
