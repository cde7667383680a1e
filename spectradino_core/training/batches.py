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

from spectradino_core.data.sample import PairedSample
from spectradino_core.data.transfer import Frame, OnHost, RawRGB, infrared_counts, map_tensors
from spectradino_core.losses.perception import IGNORE
from spectradino_core.modality import Modality
from spectradino_core.models.detection import AnchorPoints, assign
from spectradino_core.runtime.preprocess import RGB_VALUES, Letterbox, scaled_infrared, scaled_rgb
from spectradino_core.thermal import NoValidPixelError, ThermalContract, ThermalNormaliser

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
        owners: per image int64 [A], the object assigned to each anchor point (see `assign`); None without boxes, or
            without a detection head.
        counts: float64 [2], positive anchor points and labelled pixels of the *full* batch on this process.
        classes: per image int64, the classes that its boxes label completely (see `PairedSample.labelled_classes`);
            None: all. Logits of the other classes are ignored in the loss.
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
        return map_tensors(self, lambda x: x.to(device, non_blocking=True))

    def split(self, count: int) -> list[LabelledBatch]:
        """Split into `count` micro-batches (at most one per image); `counts` stay those of the full batch."""
        size = len(self.present)
        edges = [size * part // min(count, size) for part in range(min(count, size) + 1)]
        return [self._rows(slice(start, end)) for start, end in zip(edges, edges[1:])]

    def _rows(self, rows: slice) -> LabelledBatch:
        of_rows = {n: getattr(self, n)[rows] for n in ("present", "boxes", "labels", "mask", "owners", "classes")}
        return replace(self, images={band: x[rows] for band, x in self.images.items()}, **of_rows)


def make_batch(
    samples: list[tuple[PairedSample, np.ndarray]],
    infrared: Modality,
    size: tuple[int, int],
    thermal: ThermalContract,
    anchors: AnchorPoints | None = None,
    mask_stride: int = 1,
) -> OnHost[LabelledBatch]:
    """Make a batch of samples, each with the streams (RGB, infrared) that are used, bool [2].

    Args:
        samples, infrared: the samples, and the band beside RGB.
        size: (width, height) of the network's input.
        thermal: contract from counts to network input.
        anchors: anchor points of the detection head, to which objects are assigned; None: no such head.
        mask_stride: keep every n-th pixel of the mask in x and y, which makes the mask loss n² times cheaper.
    """
    rgb, ir, masks, contents = [], [], [], []
    boxes: list[Tensor | None] = []
    labels: list[Tensor | None] = []
    owners: list[Tensor | None] = []
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
        if anchors is None or boxes[-1] is None:
            owners.append(None)
        else:
            ignored = None if sample.ignored is None else letterbox.to_network(sample.ignored.reshape(-1, 4))
            owners.append(assign(boxes[-1], anchors, ignored=None if ignored is None else torch.from_numpy(ignored)))
        masks.append(
            np.full((size[1], size[0]), IGNORE, np.uint8)
            if sample.mask is None
            else letterbox.mask_to_network(np.ascontiguousarray(sample.mask), IGNORE)
        )
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


class Samples(Protocol):
    """Training samples of a run: `Mixture` or `Epochs`."""

    def sample(self, index: int) -> tuple[PairedSample, np.ndarray]:
        """Return sample `index` of the run, and which of its streams are used: bool [2] (RGB, infrared)."""
        ...


@dataclass
class BatchStream(Dataset):
    """Batches `first` to `steps` of a run; items are full batches, each made by one worker.

    Attributes:
        samples: source of the samples.
        batch: pairs per step over all processes.
        infrared, size, thermal, anchors, mask_stride: see `make_batch`.
        steps, first: number of steps of the run, and its first one to train.
        rank, world: this process makes one of `world` equal parts of each batch; together they are the batch that a
            single process would make.
        early: progressive resizing: (steps, (width, height), anchors) of the first steps; None: one size throughout.

    Raises:
        ValueError: the batch is not a multiple of the number of processes.
    """

    samples: Samples
    batch: int
    infrared: Modality
    size: tuple[int, int]
    thermal: ThermalContract
    steps: int
    first: int = 0
    anchors: AnchorPoints | None = None
    rank: int = 0
    world: int = 1
    early: tuple[int, tuple[int, int], AnchorPoints | None] | None = None
    mask_stride: int = 1

    def __post_init__(self) -> None:
        if self.batch % self.world:
            raise ValueError(
                f"a batch of {self.batch} can't be shared by {self.world} processes: choose a multiple (--batch)"
            )

    def __len__(self) -> int:
        return self.steps - self.first

    def __getitem__(self, index: int) -> OnHost[LabelledBatch]:
        step, count = self.first + index, self.batch // self.world
        start = step * self.batch + self.rank * count
        samples = [self.samples.sample(start + i) for i in range(count)]
        size, anchors = self.size, self.anchors
        if self.early is not None and step < self.early[0]:
            _, size, anchors = self.early
        return make_batch(samples, self.infrared, size, self.thermal, anchors, self.mask_stride)
