"""Batches of labelled pairs, made with the preprocessing that is used in serving.

Letters: B batch, H x W network input, K objects of one image, A anchor points.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from spectradino_core.data.loading import Loader
from spectradino_core.data.sample import PairedSample
from spectradino_core.data.transfer import Frame, OnHost, RawRGB, infrared_counts, map_tensors
from spectradino_core.losses.segmentation import IGNORE
from spectradino_core.modality import Modality
from spectradino_core.models.detection import AnchorPoints, assign
from spectradino_core.runtime.preprocess import RGB_VALUES, Letterbox, scaled_infrared, scaled_rgb
from spectradino_core.thermal import NoValidPixelError, ThermalContract, ThermalNormaliser

__all__ = ["BatchStream", "LabelledBatch", "Samples", "make_batch", "stream"]

_MIN_SIDE = 2.0
"""Network pixels; objects that are smaller after scaling are dropped."""


@dataclass
class LabelledBatch:
    """A batch for `Perception`.

    Attributes:
        images: RGB float32 [B, 3, H, W] and infrared float32 [B, 1, H, W].
        present: float32 [B, 2], 1 for the streams (RGB, infrared) that are used.
        boxes: per image float32 [K, 4] in network pixels, or None without box labels.
        labels: per image int64 [K] or None.
        mask: uint8 [B, H, W], 255 where unlabelled; coarser by the `mask_stride` of `make_batch`.
        classes: per image int64, the classes that its boxes label completely (see `PairedSample.labelled_classes`);
            None: all. Logits of the other classes are ignored in the loss.
        owners: per image int64 [A], the object assigned to each anchor point (see `assign`), or None. All None if the
            batch was made without anchor points: then the loss assigns, and the batch can't be split.
        counts: float64 [2], positive anchor points and labelled pixels of the *full* batch on this process, even if
            this is one of its micro-batches.
    """

    images: dict[Modality, Tensor]
    present: Tensor
    boxes: list[Tensor | None]
    labels: list[Tensor | None]
    mask: Tensor
    owners: list[Tensor | None]
    counts: Tensor
    classes: list[Tensor | None] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not self.classes:
            self.classes = [None] * len(self.boxes)

    def to(self, device: torch.device) -> LabelledBatch:
        """Return the batch on `device`."""
        return map_tensors(self, lambda x: x.to(device, non_blocking=True))

    def split(self, count: int) -> list[LabelledBatch]:
        """Split into `count` micro-batches (at most one per image); `counts` stay those of the full batch."""
        size = len(self.present)
        edges = [size * part // min(count, size) for part in range(min(count, size) + 1)]
        return [
            replace(
                self,
                images={band: x[start:end] for band, x in self.images.items()},
                present=self.present[start:end],
                boxes=self.boxes[start:end],
                labels=self.labels[start:end],
                mask=self.mask[start:end],
                owners=self.owners[start:end],
                classes=self.classes[start:end],
            )
            for start, end in zip(edges, edges[1:])
        ]


def make_batch(
    samples: list[tuple[PairedSample, np.ndarray]],
    infrared: Modality,
    size: tuple[int, int],
    thermal: ThermalContract,
    anchors: AnchorPoints | None = None,
    mask_stride: int = 1,
) -> OnHost[LabelledBatch]:
    """Make a batch of samples.

    Args:
        samples: each with the streams (RGB, infrared) that are used, bool [2].
        infrared: the band beside RGB.
        size: (width, height) of the network's input.
        thermal: contract from counts to network input.
        anchors: anchor points of the detection head; given, `owners` is filled here, in the data loading process.
        mask_stride: keep every n-th pixel of the mask in x and y, which makes the mask loss n² times cheaper.
    """
    rgb, ir, masks, contents = [], [], [], []
    boxes: list[Tensor | None] = []
    labels: list[Tensor | None] = []
    for sample, _ in samples:
        letterbox = Letterbox.fit(sample.size, size)
        rgb.append(_pad(scaled_rgb(sample.rgb, letterbox), size))
        ir.append(_frame(sample.infrared, letterbox, ThermalNormaliser(thermal)))
        contents.append(letterbox.content)
        if sample.boxes is None or sample.labels is None:
            boxes.append(None)
            labels.append(None)
        else:
            scaled = letterbox.to_network(sample.boxes.reshape(-1, 4))
            keep = (scaled[:, 2:] - scaled[:, :2]).min(axis=1, initial=np.inf) >= _MIN_SIDE
            boxes.append(torch.from_numpy(scaled[keep]))
            labels.append(torch.from_numpy(sample.labels[keep].astype(np.int64)))
        masks.append(
            np.full((size[1], size[0]), IGNORE, np.uint8)
            if sample.mask is None
            else letterbox.mask_to_network(np.ascontiguousarray(sample.mask), IGNORE)
        )
    owners = [
        None if anchors is None or b is None else assign(b, anchors, ignored=_ignored(sample, size))
        for b, (sample, _) in zip(boxes, samples, strict=True)
    ]
    mask = torch.from_numpy(np.stack(masks)[:, mask_stride // 2 :: mask_stride, mask_stride // 2 :: mask_stride].copy())
    content = None if all(one == size for one in contents) else torch.tensor(contents, dtype=torch.int32)
    positives = sum(int((owner >= 0).sum()) for owner in owners if owner is not None)
    fields = {
        "images": {
            Modality.RGB: RawRGB(torch.from_numpy(np.stack(rgb)), torch.from_numpy(RGB_VALUES), content),
            infrared: infrared_counts(ir, content),
        },
        "present": torch.from_numpy(np.stack([p for _, p in samples]).astype(np.float32)),
        "boxes": boxes,
        "labels": labels,
        "mask": mask,
        "owners": owners,
        "counts": torch.tensor([positives, int((mask != IGNORE).sum())], dtype=torch.float64),
        "classes": [
            None if sample.labelled_classes is None else torch.tensor(sample.labelled_classes, dtype=torch.int64)
            for sample, _ in samples
        ],
    }
    return OnHost(LabelledBatch, fields)


def _frame(infrared: np.ndarray, box: Letterbox, normaliser: ThermalNormaliser) -> Frame:
    """Return the scaled counts and normalisation parameters from which `preprocess.infrared_input` is computed."""
    try:
        counts, valid = scaled_infrared(infrared, box, valid=normaliser.valid_pixels(infrared))
    except NoValidPixelError:  # a single such frame must not end the run
        return np.zeros(box.network[::-1], np.uint8), np.float32(0), np.float32(0), None
    low, gain = normaliser.levels(counts, valid)
    return _pad(counts, box.network), low, gain, None if valid is None else _pad(valid, box.network)


def _pad(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Pad an image with zeros at the right and bottom to (width, height)."""
    if image.shape[1::-1] == size:
        return image
    out = np.zeros((size[1], size[0], *image.shape[2:]), image.dtype)
    out[: image.shape[0], : image.shape[1]] = image
    return out


def _ignored(sample: PairedSample, size: tuple[int, int]) -> Tensor | None:
    """Return the ignored regions in network pixels."""
    if sample.ignored is None:
        return None
    return torch.from_numpy(Letterbox.fit(sample.size, size).to_network(sample.ignored.reshape(-1, 4)))


class Samples(Protocol):
    """Training samples of a run: `Mixture` or `Epochs`."""

    def sample(self, index: int) -> tuple[PairedSample, np.ndarray]:
        """Return sample `index` of the run, and which of its streams are used: bool [2] (RGB, infrared)."""
        ...


class BatchStream(Dataset):
    """Batches `first` to `steps` of a run; items are full batches, each made by one worker.

    Args:
        samples: source of the samples.
        batch: pairs per step over all processes.
        infrared, size, thermal, anchors, mask_stride: see `make_batch`.
        steps, first: number of steps of the run, and its first one to train.
        early: progressive resizing: (steps, (width, height), anchors) of the first steps; None: one size throughout.
        rank, world: this process makes one of `world` equal parts of each batch; together they are the batch that a
            single process would make.

    Raises:
        ValueError: the batch is not a multiple of the number of processes.
    """

    def __init__(
        self, samples: Samples, batch: int, infrared: Modality, size: tuple[int, int], thermal: ThermalContract,
        steps: int, first: int = 0, *, anchors: AnchorPoints | None = None, rank: int = 0, world: int = 1,
        early: tuple[int, tuple[int, int], AnchorPoints | None] | None = None, mask_stride: int = 1,
    ) -> None:  # fmt: skip
        if batch % world:
            raise ValueError(f"a batch of {batch} can't be shared by {world} processes: choose a multiple (--batch)")
        self._samples, self._batch, self._infrared = samples, batch, infrared
        self._size, self._thermal, self._steps, self._first = size, thermal, steps, first
        self._anchors, self._local_batch, self._rank, self._early = anchors, batch // world, rank, early
        self._mask_stride = mask_stride

    def __len__(self) -> int:
        return self._steps - self._first

    def __getitem__(self, index: int) -> OnHost[LabelledBatch]:
        start = (self._first + index) * self._batch + self._rank * self._local_batch
        samples = [self._samples.sample(start + i) for i in range(self._local_batch)]
        size, anchors = self._size, self._anchors
        if self._early is not None and self._first + index < self._early[0]:
            _, size, anchors = self._early
        return make_batch(samples, self._infrared, size, self._thermal, anchors, self._mask_stride)


def stream(batches: BatchStream, workers: int, pin: bool = False) -> Loader[OnHost[LabelledBatch]]:
    """Load batches in order, prefetched by `workers` processes (0: in this one); `pin`: see `Loader`."""
    return Loader(batches, workers, pin=pin)
