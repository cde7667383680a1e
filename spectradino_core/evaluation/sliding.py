"""Pictures larger than the network's input, seen through a window that slides over them.

As the peers of segmentation benchmarks do it: the class scores (logits) of all windows over a pixel are averaged with
equal weights, and the class is chosen then. Boxes of all windows are put together; what two windows find twice is left
to non-maximum suppression. An engine like any other, so the pipeline around it is the one that serves.

Letters: H x W the whole input, h x w a window, A cells of a window, C box classes, S mask classes.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from spectradino_core.modality import Modality
from spectradino_core.models.perception import Perception
from spectradino_core.models.perception_checkpoint import load_perception
from spectradino_core.runtime.bundle import ModelInfo
from spectradino_core.runtime.engine import RawPredictions

__all__ = ["SlidingEngine", "window_starts"]


def window_starts(length: int, window: int, stride: int) -> list[int]:
    """Where windows begin along one side so that all of it is seen: every `stride` pixels, the last one at its end."""
    return [*range(0, max(0, length - window), stride), max(0, length - window)]


class SlidingEngine:
    """See `runtime.engine.Engine`; its `info.input_size` is that of the whole picture."""

    def __init__(
        self, model: Perception, info: ModelInfo, size: tuple[int, int], stride: tuple[int, int] | None = None
    ) -> None:
        """
        Args:
            model: in evaluation mode, on its device.
            info: of the model; its input size is the window's.
            size: (width, height) of the whole input, at least the window's; rounded up to multiples of the patch.
            stride: (x, y) pixels from one window to the next, at most the window's size; None: two thirds of it, the
                usual choice.

        Raises:
            ValueError: a picture smaller than the window, or a stride that leaves gaps.
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
                f"a stride of {stride[0]}x{stride[1]} leaves gaps between windows of {window[0]}x{window[1]}"
            )
        self.info = info.with_(input_size=(width, height), inputs="normalised")
        self._model, self._window = model.eval(), window
        self._device = next(model.parameters()).device
        self._places = [
            (x, y)
            for y in window_starts(height, window[1], stride[1])
            for x in window_starts(width, window[0], stride[0])
        ]
        self.label = f"PyTorch {torch.__version__} on {self._device}, {len(self._places)} windows"
        self.on_cpu = self._device.type == "cpu"

    @classmethod
    def open(
        cls, path: str | Path, size: tuple[int, int], stride: tuple[int, int] | None = None, device: str = "auto"
    ) -> SlidingEngine:
        """The engine of a checkpoint (`.safetensors`); an exported graph gives no scores to average.

        Raises:
            ValueError: the file is no checkpoint, or see the constructor.
            BundleError, CheckpointError: the file can't be read.
        """
        if Path(path).suffix != ".safetensors":
            raise ValueError(
                f"{path}: only a checkpoint (.safetensors) can slide; an exported model holds no class scores"
            )
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        return cls(*load_perception(path, device), size=size, stride=stride)

    @torch.inference_mode()
    def run(self, *inputs: np.ndarray) -> RawPredictions:
        """See `Engine`."""
        colour, heat, streams = (torch.from_numpy(x).to(self._device) for x in inputs)
        boxes, scores = [], []
        total: Tensor | None = None
        count = torch.zeros(colour.shape[-2:], device=self._device)
        width, height = self._window
        for x, y in self._places:
            rows, columns = slice(y, y + height), slice(x, x + width)
            images = {Modality.RGB: colour[..., rows, columns], self._model.infrared: heat[..., rows, columns]}
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
        mask = None if total is None else (total / count).argmax(dim=0).to(torch.uint8).cpu().numpy()
        if not boxes:
            return np.zeros((0, 4), np.float32), np.zeros((0, 0), np.float32), mask
        return torch.cat(boxes).cpu().numpy(), torch.cat(scores).cpu().numpy(), mask
