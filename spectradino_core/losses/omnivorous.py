"""Losses and image mixing of "A Mixed Diet Makes DINO an Omnivorous Vision Encoder" (Sections 3.1 to 3.3).

    B samples on this process    D width    S sampled patch positions    M modalities    H, W pixels    K palette bins

The equations are reconstructed from the paper's prose. Features are normalised here, in fp32 even under autocast.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from spectradino_core.losses.alignment import unit
from spectradino_core.losses.gathering import first_row, gather

PALETTE_BINS = 64
CLASS_BINS = 1024
"""Enough for 256 class ids at golden-ratio spacing (0.0019 apart or more) to share no bin."""
PALETTE_WIDTH = 5
PALETTE_EPS = 1e-6
_ROWS = 4096  # rows of a similarity matrix per chunk


class LogitScale(nn.Module):
    """Learned scale of similarities (inverse temperature) in (0, 100], initially 1 / 0.07 (assumed).

    The parameter itself is clipped, so that gradients can move it away from the limit.
    """

    LARGEST = 100.0

    def __init__(self) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def forward(self) -> Tensor:
        """Return the scale, a scalar."""
        with torch.no_grad():
            self.log_scale.clamp_(max=math.log(self.LARGEST))
        return self.log_scale.exp()


def alignment_loss(cls: Mapping[str, Tensor], scale: Tensor | float) -> Tensor:
    """Symmetric InfoNCE on CLS against the global batch, averaged over all pairs of modalities.

    Args:
        cls: the student's CLS [B, D] by modality; row i belongs to item i in all modalities.
        scale: factor on the similarities.

    Raises:
        ValueError: fewer than two modalities.
    """
    with torch.autocast(_device(cls), enabled=False):
        units = {key: unit(x) for key, x in cls.items()}
        everyone = {key: gather(x) for key, x in units.items()}

        def rows(a: str, b: str) -> Tensor:
            target = torch.arange(len(units[a]), device=units[a].device) + first_row(len(units[a]))
            return F.cross_entropy(scale * units[a] @ everyone[b].T, target)

        return _over_pairs(list(units), rows)


def dense_alignment_loss(tokens: Mapping[str, Tensor], scale: Tensor | float) -> Tensor:
    """Symmetric InfoNCE on patch tokens, averaged over all pairs of modalities.

    A token's positive is the token at the same position of the same item in the other modality; its negatives are the
    tokens of all *other* items. Other tokens of the same item are masked out, since they may show the same object.

    Args:
        tokens: the student's patch tokens [B, S, D] by modality, at the same sampled positions in all.
        scale: factor on the similarities.

    Raises:
        ValueError: fewer than two modalities.
    """
    with torch.autocast(_device(tokens), enabled=False):
        units = {key: unit(x) for key, x in tokens.items()}
        everyone = {key: gather(x).flatten(0, 1) for key, x in units.items()}
        return _over_pairs(list(units), lambda a, b: _dense_rows(units[a], everyone[b], scale))


def anchoring_loss(student: Mapping[str, Tensor], teacher: Mapping[str, Tensor]) -> Tensor:
    """Mean over modalities of `1 - cos(student, frozen teacher)`; tokens [..., D] by modality, the same in both."""
    if not student or student.keys() != teacher.keys():
        raise ValueError(f"the student has {', '.join(student)}, the teacher {', '.join(teacher)}")
    with torch.autocast(_device(student), enabled=False):
        distances = [1 - (unit(x) * unit(teacher[key])).sum(-1).mean() for key, x in student.items()]
        return torch.stack(distances).mean()


def luminance(rgb: Tensor) -> Tensor:
    """Compute luminance (ITU-R BT.601) of RGB in [0, 1], [B, 3, H, W] to [B, H, W]."""
    return (rgb * rgb.new_tensor([0.299, 0.587, 0.114])[:, None, None]).sum(dim=1)


def colourise(values: Tensor, rgb: Tensor, classes: bool = False) -> Tensor:
    """Colour each map by its own values: a value's colour is the mean RGB of the image's pixels where the map has it.

    The map's values are binned over its own range (assumed). Bins of a continuous map are box-smoothed over those that
    have pixels (assumed, as empty ones would darken their neighbours). Class ids have no neighbours: they are not
    smoothed, and each has a bin of its own.

    Args:
        values: [B, 1, H, W].
        rgb: paired RGB in [0, 1], [B, 3, H, W].
        classes: the values stand for class ids (`data.views.segmentation_values`).

    Returns:
        [B, 3, H, W].
    """
    bins = CLASS_BINS if classes else PALETTE_BINS
    flat = values.flatten(1)
    low, high = flat.amin(1, keepdim=True), flat.amax(1, keepdim=True)
    fraction = (flat - low) / (high - low).clamp(min=PALETTE_EPS)
    index = (fraction * bins).long().clamp_(0, bins - 1)[:, None]  # [B, 1, H·W]
    sums = rgb.new_zeros(len(rgb), 3, bins).scatter_add_(2, index.expand(-1, 3, -1), rgb.flatten(2))
    counts = rgb.new_zeros(len(rgb), 1, bins).scatter_add_(2, index, torch.ones_like(index, dtype=rgb.dtype))
    colours = sums / (counts + PALETTE_EPS)  # [B, 3, K]
    if not classes:
        box, known = rgb.new_ones(1, 1, PALETTE_WIDTH), (counts > 0).to(rgb.dtype)
        total = F.conv1d(colours.flatten(0, 1)[:, None], box, padding=PALETTE_WIDTH // 2).reshape(colours.shape)
        colours = total / F.conv1d(known, box, padding=PALETTE_WIDTH // 2).clamp(min=1)
    return colours.gather(2, index.expand(-1, 3, -1)).reshape(rgb.shape)


def mixup(image: Tensor, rgb: Tensor, alpha: Tensor) -> Tensor:
    """Blend `(1 - alpha)·image + alpha·rgb`, both [B, C, H, W], with one alpha per sample, [B]."""
    alpha = alpha[:, None, None, None]
    return (1 - alpha) * image + alpha * rgb


def _over_pairs(keys: Sequence[str], loss: Callable[[str, str], Tensor]) -> Tensor:
    """Mean of a loss from a to b and back over all pairs of modalities."""
    if len(keys) < 2:
        raise ValueError(f"alignment needs at least two modalities, got {', '.join(keys) or 'none'}")
    return torch.stack([0.5 * (loss(a, b) + loss(b, a)) for a, b in combinations(keys, 2)]).mean()


def _dense_rows(rows: Tensor, columns: Tensor, scale: Tensor | float) -> Tensor:
    """Mean cross entropy of tokens [B, S, D] against all processes' [W·B·S, D], in chunks to save memory."""
    positions, first = rows.shape[1], first_row(len(rows))
    step = max(1, _ROWS // positions)
    scale = torch.as_tensor(scale, device=rows.device)
    total = rows.new_zeros(())
    for start in range(0, len(rows), step):
        part = rows[start : start + step]
        arguments = (part, columns, scale, first + start)
        if step < len(rows) and torch.is_grad_enabled():
            total = total + checkpoint(_dense_part, *arguments, use_reentrant=False)
        else:
            total = total + _dense_part(*arguments)
    return total / (len(rows) * positions)


def _dense_part(rows: Tensor, columns: Tensor, scale: Tensor, first: int) -> Tensor:
    """Sum of the cross entropies of rows [b, S, D] starting at item `first`."""
    count, positions = rows.shape[:2]
    logits = scale * rows.flatten(0, 1) @ columns.T  # [b·S, W·B·S]
    token = torch.arange(count * positions, device=rows.device)
    target = token + first * positions
    own = (torch.arange(len(columns), device=rows.device) // positions)[None] == (target // positions)[:, None]
    own[token, target] = False
    return F.cross_entropy(logits.masked_fill(own, float("-inf")), target, reduction="sum")


def _device(tensors: Mapping[str, Tensor]) -> str:
    return next(iter(tensors.values())).device.type if tensors else "cpu"
