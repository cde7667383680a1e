"""PyTorch engine for checkpoints: the reference for the parity of exported models."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from spectradino_core.modality import Modality
from spectradino_core.models.checkpoints import CheckpointError
from spectradino_core.models.perception import Fused, Perception, Predictions
from spectradino_core.models.perception_checkpoint import load_perception
from spectradino_core.models.segmentation import mask_at_source
from spectradino_core.runtime.bundle import BundleError, ModelInfo
from spectradino_core.runtime.engine import EngineError, RawPredictions, raw_predictions
from spectradino_core.runtime.preprocess import Letterbox


def cuda_is_available() -> bool:
    """Return whether torch can use a GPU."""
    return torch.cuda.is_available()


class ServingGraph(nn.Module):
    """Module to export: one pair to boxes, scores and a class mask.

    Letters: H x W network input, A anchor points, C box classes.
    """

    def __init__(self, model: Perception, size: tuple[int, int], streams: str = "both", features: bool = False) -> None:
        """Serve an input `size` (width, height) and `streams`, one of `bundle.STREAMS`.

        With a single stream the fusion's placeholder replaces the other, and the backbone processes only that stream.
        With `features` the graph of both streams gives the infrared features too.
        """
        super().__init__()
        self.model = model
        self.size = size
        self.streams = streams
        self.features = features

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Compute `outputs` from rgb [1, 3, H, W], ir [1, 1, H, W], present [2], or from a single stream's image.

        For "reuse", from rgb and the infrared features [L, N, D] of an earlier pass. Outputs are boxes [A, 4] and
        scores [A, C] of a detection head, mask uint8 [H, W] of a segmentation head, infrared features [L, N, D].
        """
        return self.outputs_of(*self.predict(*inputs))

    def predict(self, *inputs: Tensor) -> tuple[Predictions, Fused]:
        """Compute the model's own predictions and fused features from the inputs of `forward`."""
        if self.streams == "both":
            rgb, ir, present = inputs
            fused = self.model.fuse({Modality.RGB: rgb, self.model.infrared: ir}, present[None])
        elif self.streams == "reuse":
            rgb, features = inputs
            fused = self.model.fuse({Modality.RGB: rgb}, infrared_layers=features[:, None].unbind())
        else:
            (image,) = inputs
            fused = self.model.fuse({Modality.RGB if self.streams == "rgb" else self.model.infrared: image})
        return self.model.predict(fused), fused

    def outputs_of(self, predictions: Predictions, fused: Fused) -> tuple[Tensor, ...]:
        """Compute the outputs of `forward`."""
        outputs: tuple[Tensor, ...] = ()
        if predictions.boxes is not None and predictions.logits is not None:
            outputs = (predictions.boxes[0], predictions.logits[0].float().sigmoid())
        if predictions.mask_logits is not None:
            full = nn.functional.interpolate(
                predictions.mask_logits.float(), size=self.size[::-1], mode="bilinear", align_corners=False
            )
            outputs = (*outputs, full[0].argmax(dim=0).to(torch.uint8))
        if self.features:
            outputs = (*outputs, torch.cat(list(fused.infrared)))
        return outputs

    @property
    def outputs(self) -> list[str]:
        """Names of the outputs of `forward`, in order."""
        boxes = [] if self.model.detection is None else ["boxes", "scores"]
        mask = [] if self.model.segmentation is None else ["mask"]
        return boxes + mask + (["ir_features"] if self.features else [])


class TorchEngine:
    """PyTorch implementation of `runtime.engine.Engine`, with normalised inputs of both streams."""

    def __init__(self, path: str | Path, device: str = "cpu", threads: int = 0) -> None:
        """Load a checkpoint onto a torch device, such as "cpu" or "cuda:0"; `threads` 0: torch's default.

        Raises:
            BundleError, EngineError: the file is not a perception checkpoint; the device failed.
        """
        if threads:
            torch.set_num_threads(threads)
        try:
            model, info = load_perception(path, device)
        except CheckpointError as error:
            raise BundleError(str(error)) from None
        except BundleError:
            raise
        except RuntimeError as error:  # from torch, see `run`
            raise EngineError(
                f"{path} could not be loaded onto '{device}' ({error}): free its memory, or choose another device"
            ) from None
        self._start(model, info, torch.device(device))

    @classmethod
    def of(cls, model: Perception, info: ModelInfo) -> TorchEngine:
        """Create an engine for a module in memory, on its device."""
        engine = cls.__new__(cls)
        engine._start(model, info, next(model.parameters()).device)
        return engine

    def _start(self, model: Perception, info: ModelInfo, device: torch.device) -> None:
        self.info = info.with_(inputs="normalised", streams="both", features=())
        self.label = f"PyTorch {torch.__version__} on {device}"
        self.on_cpu = device.type == "cpu"
        self._device = device
        self._graph = ServingGraph(model, info.input_size, features=True).eval()
        self.ir_features: np.ndarray | None = None
        self._mask_logits: Tensor | None = None

    @property
    def model(self) -> Perception:
        """The underlying module."""
        return self._graph.model

    @torch.inference_mode()
    def run(self, *inputs: np.ndarray) -> RawPredictions:
        """See `Engine`."""
        try:
            with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):  # TF32 has a 10-bit mantissa
                given = [torch.from_numpy(x).to(self._device) for x in inputs]
                predictions, fused = self._graph.predict(*given)
                results = [x.cpu().numpy() for x in self._graph.outputs_of(predictions, fused)]
        except RuntimeError as error:  # torch raises these for out of memory and lost devices
            raise EngineError(f"{self.label} failed on a frame: {error}") from error
        outputs = dict(zip(self._graph.outputs, results, strict=True))
        self.ir_features = outputs["ir_features"]
        self._mask_logits = None if predictions.mask_logits is None else predictions.mask_logits[0]
        return raw_predictions(outputs)

    def source_mask(self, box: Letterbox) -> np.ndarray:
        """Return the last pass's mask in source pixels, see `mask_at_source`; ValueError if there is none."""
        if self._mask_logits is None:
            raise ValueError("no mask logits: the engine has not run, or its model has no segmentation head")
        return mask_at_source(self._mask_logits, box)
