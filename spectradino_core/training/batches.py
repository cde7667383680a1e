"""Labelled pairs as batches of tensors, made by the same preprocessing that serves.

Letters: B batch, H x W the network's input, K objects of one image.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from spectradino_core.data.mixture import Mixture
from spectradino_core.data.sample import PairedSample
from spectradino_core.losses.segmentation import IGNORE
from spectradino_core.modality import Modality
from spectradino_core.runtime.preprocess import Letterbox, infrared_input, rgb_input
from spectradino_core.thermal import ThermalContract, ThermalNormaliser

__all__ = ["BatchStream", "LabelledBatch", "make_batch", "stream"]

_SMALLEST_SIDE = 2.0
"""Network pixels; what is smaller after scaling teaches nothing and is left out."""


@dataclass
class LabelledBatch:
    """A batch for `Perception`.

    Attributes:
        images: RGB float32 [B, 3, H, W] and infrared float32 [B, 1, H, W].
        present: float32 [B, 2], which streams count.
        boxes: per image float32 [K, 4] in network pixels, or None where the image has no box labels.
        labels: per image int64 [K] or None.
        mask: uint8 [B, H, W], 255 where unlabelled.
    """

    images: dict[Modality, Tensor]
    present: Tensor
    boxes: list[Tensor | None]
    labels: list[Tensor | None]
    mask: Tensor

    def to(self, device: torch.device) -> LabelledBatch:
        """The same batch on `device`."""

        def move(t: Tensor | None) -> Tensor | None:
            return None if t is None else t.to(device, non_blocking=True)

        return LabelledBatch(
            images={band: x.to(device, non_blocking=True) for band, x in self.images.items()},
            present=self.present.to(device, non_blocking=True),
            boxes=[move(b) for b in self.boxes],
            labels=[move(x) for x in self.labels],
            mask=self.mask.to(device, non_blocking=True),
        )


def make_batch(
    samples: list[tuple[PairedSample, np.ndarray]],
    infrared: Modality,
    size: tuple[int, int],
    thermal: ThermalContract,
) -> LabelledBatch:
    """Samples and their present streams to one batch; size is the network's (width, height)."""
    rgb, ir, masks = [], [], []
    boxes: list[Tensor | None] = []
    labels: list[Tensor | None] = []
    for sample, _ in samples:
        letterbox = Letterbox.fit(sample.size, size)
        rgb.append(rgb_input(sample.rgb, letterbox))
        ir.append(infrared_input(sample.infrared, letterbox, ThermalNormaliser(thermal)))
        if sample.boxes is None or sample.labels is None:
            boxes.append(None)
            labels.append(None)
        else:
            scaled = letterbox.to_network(sample.boxes.reshape(-1, 4))
            keep = (scaled[:, 2:] - scaled[:, :2]).min(axis=1, initial=np.inf) >= _SMALLEST_SIDE
            boxes.append(torch.from_numpy(scaled[keep]))
            labels.append(torch.from_numpy(sample.labels[keep].astype(np.int64)))
        masks.append(
            np.full((size[1], size[0]), IGNORE, np.uint8)
            if sample.mask is None
            else letterbox.mask_to_network(np.ascontiguousarray(sample.mask), IGNORE)
        )
    return LabelledBatch(
        images={Modality.RGB: torch.from_numpy(np.stack(rgb)), infrared: torch.from_numpy(np.stack(ir))},
        present=torch.from_numpy(np.stack([p for _, p in samples]).astype(np.float32)),
        boxes=boxes,
        labels=labels,
        mask=torch.from_numpy(np.stack(masks)),
    )


class BatchStream(Dataset):
    """Batch i of a run, for i from `first` to `steps`: whole batches, so that a worker makes each by itself."""

    def __init__(
        self, mixture: Mixture, batch: int, infrared: Modality, size: tuple[int, int], thermal: ThermalContract,
        steps: int, first: int = 0,
    ) -> None:  # fmt: skip
        self._mixture, self._batch, self._infrared = mixture, batch, infrared
        self._size, self._thermal, self._steps, self._first = size, thermal, steps, first

    def __len__(self) -> int:
        return self._steps - self._first

    def __getitem__(self, index: int) -> LabelledBatch:
        start = (self._first + index) * self._batch
        samples = [self._mixture.sample(start + i) for i in range(self._batch)]
        return make_batch(samples, self._infrared, self._size, self._thermal)


def stream(batches: BatchStream, workers: int) -> DataLoader:
    """Batches in order, made ahead by `workers` processes (0: in this one)."""
    return DataLoader(batches, batch_size=None, shuffle=False, num_workers=workers, worker_init_fn=_quiet_worker)


def _quiet_worker(_: int) -> None:
    cv2.setNumThreads(0)  # the training process has the cores; a worker that spreads only slows it down
    torch.set_num_threads(1)
