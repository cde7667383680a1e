"""Transfer of batches to a device: images are sent as bytes and counts, and normalised on the device.

RGB bytes take a quarter of float32, 16-bit infrared half. The result equals that of `preprocess.rgb_input`,
`views.colour_tensor` and `ThermalNormaliser` exactly.

Letters: B images, H x W size of an image.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

Batch = TypeVar("Batch")


def map_tensors(value: Any, transform: Callable[[Tensor], Tensor]) -> Any:
    """Copy nested containers and dataclasses with `transform` applied to every tensor."""
    if isinstance(value, Tensor):
        return transform(value)
    if isinstance(value, dict):
        return {key: map_tensors(one, transform) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(map_tensors(one, transform) for one in value)
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{f.name: map_tensors(getattr(value, f.name), transform) for f in fields(value)})
    return value


@dataclass
class RawRGB:
    """RGB images as bytes.

    Attributes:
        pixels: uint8 [B, H, W, 3].
        table: float32 [3, 256], normalised value by channel and pixel value.
        content: int32 [B, 2], (width, height) of the image in the top left corner, with zeros elsewhere; None: images
            fill the input.
    """

    pixels: Tensor
    table: Tensor
    content: Tensor | None = None

    def normalised(self) -> Tensor:
        """Return float32 [B, 3, H, W] on the device of the pixels."""
        index = self.pixels.permute(0, 3, 1, 2).to(torch.int64, memory_format=torch.contiguous_format)
        index += 256 * torch.arange(3, device=index.device)[:, None, None]
        return _within(self.table.reshape(-1)[index], self.content)


@dataclass
class RawInfrared:
    """Infrared frames as counts.

    Attributes:
        counts: uint8, or the bits of uint16 as int16 (for which devices have all operators), [B, 1, H, W].
        low, gain: float32 [B], normalised value = (counts - low) * gain.
        valid: uint8 [B, 1, H, W], 0 at invalid pixels; None: all are valid.
        content: see `RawRGB`.
    """

    counts: Tensor
    low: Tensor
    gain: Tensor
    valid: Tensor | None = None
    content: Tensor | None = None

    def normalised(self) -> Tensor:
        """Return float32 [B, 1, H, W] in [0, 1] on the device of the counts."""
        counts = self.counts if self.counts.dtype == torch.uint8 else self.counts.to(torch.int32) & 0xFFFF
        x = counts.to(torch.float32).sub_(self.low[:, None, None, None])
        if self.valid is not None:
            x *= self.valid
        return _within(x.mul_(self.gain[:, None, None, None]).clamp_(0.0, 1.0), self.content)


def _within(images: Tensor, content: Tensor | None) -> Tensor:
    """Set pixels outside of the content to 0, in place."""
    if content is None:
        return images
    height, width = images.shape[-2:]
    rows = torch.arange(height, device=images.device) < content[:, 1:]  # [B, H]
    columns = torch.arange(width, device=images.device) < content[:, :1]
    return images.masked_fill_(~(rows[:, :, None] & columns[:, None])[:, None], 0.0)


Frame = tuple[np.ndarray, np.float32, np.float32, "np.ndarray | None"]


def infrared_counts(frames: Sequence[Frame], content: Tensor | None = None) -> RawInfrared:
    """Stack frames, each (counts uint8 or uint16 [H, W], low, gain, valid bool [H, W] or None), to a batch."""
    counts, lows, gains, valid = zip(*frames, strict=True)
    stacked = np.stack(counts)[:, None]
    masks = None
    if any(one is not None for one in valid):
        masks = np.stack([np.ones(c.shape, np.uint8) if v is None else v for c, v in zip(counts, valid, strict=True)])
    return RawInfrared(
        torch.from_numpy(stacked if stacked.dtype == np.uint8 else stacked.view(np.int16)),
        torch.from_numpy(np.array(lows, np.float32)),
        torch.from_numpy(np.array(gains, np.float32)),
        None if masks is None else torch.from_numpy(masks.astype(np.uint8))[:, None],
        content,
    )


@dataclass
class OnHost(Generic[Batch]):
    """A batch as made by workers: its class, and its fields by name with images as `RawRGB` and `RawInfrared`."""

    kind: type[Batch]
    content: dict[str, Any]

    def to(self, device: torch.device | str) -> Batch:
        """Return the batch itself on `device` with images as network input; asynchronous if the memory is pinned."""
        return self.kind(**_normalised(map_tensors(self.content, lambda x: x.to(device, non_blocking=True))))

    def pin_memory(self) -> OnHost[Batch]:
        """Return the batch in page-locked memory; PyTorch's DataLoader calls this method."""
        return map_tensors(self, Tensor.pin_memory)


def _normalised(value: Any) -> Any:
    if isinstance(value, (RawRGB, RawInfrared)):
        return value.normalised()
    return {key: _normalised(one) for key, one in value.items()} if isinstance(value, dict) else value
