"""SpectraDINO pretraining losses: distillation, contrastive and patch loss (Sections 3.2.1 to 3.2.3).

    B samples on this process    D width    N patches    S sampled patches    W processes

All losses normalise their inputs and are computed in fp32 even under autocast. They are means over this process's
samples, so the mean over processes is the loss of the global batch.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from spectradino_core.losses.gathering import first_row, gather, processes


def distillation_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean of `1 - cos(student, teacher)`, 0 to 2 (Equation 6).

    Args:
        student: CLS of the infrared images, [B, D].
        teacher: the frozen teacher's CLS of the paired RGB images, [B, D].
    """
    return (1 - _cosine(student, teacher)).mean()


def contrastive_loss(rgb: Tensor, infrared: Tensor, temperature: float | Tensor, valid: Tensor | None = None) -> Tensor:
    """Symmetric InfoNCE, averaged over RGB to infrared and infrared to RGB (Equations 7 and 8).

    Negatives are the other pairs of the global batch, gathered from all processes.

    Args:
        rgb, infrared: the student's CLS of the two images of each pair, [B, D].
        temperature: divisor of the similarities.
        valid: bool [B], the valid pairs; others are neither queries nor negatives. None: all. Without any valid pair in
            the global batch the loss is 0.
    """
    # fp32 also under autocast: bf16 similarities have an error of 0.004, 6 % after division by the temperature.
    with torch.autocast(rgb.device.type, enabled=False):
        a, b = unit(rgb), unit(infrared)
        all_a, all_b = gather(a), gather(b)  # [W·B, D]
        target = torch.arange(len(a), device=a.device) + first_row(len(a))
        to_infrared, to_rgb = a @ all_b.T / temperature, b @ all_a.T / temperature  # [B, W·B]
        if valid is None:
            return 0.5 * (F.cross_entropy(to_infrared, target) + F.cross_entropy(to_rgb, target))
        all_valid = gather(valid.float()) > 0
        to_infrared, to_rgb = (logits.masked_fill(~all_valid, -1e9) for logits in (to_infrared, to_rgb))
        both = F.cross_entropy(to_infrared, target, reduction="none") + F.cross_entropy(
            to_rgb, target, reduction="none"
        )
        # The mean over the valid pairs of all processes, scaled for averaging over processes.
        return 0.5 * torch.where(valid, both, 0).sum() * processes() / all_valid.sum().clamp(min=1)


def patch_loss(rgb: Tensor, infrared: Tensor) -> Tensor:
    """Mean of `1 - cos` between the student's patch tokens at the same positions (Equation 9).

    Both are tokens at the sampled positions, [B, S, D].
    """
    return (1 - _cosine(rgb, infrared)).mean()


def sample_positions(patches: int, ratio: float, generator: torch.Generator) -> Tensor:
    """Sample floor(ratio·N), at least one, distinct patch positions, int64 [S], for all images of a step.

    Raises:
        ValueError: the ratio is not in (0, 1].
    """
    if not 0 < ratio <= 1:
        raise ValueError(f"the fraction of sampled patches must be in (0, 1], not {ratio}")
    count = max(1, int(ratio * patches + 1e-9))
    return torch.randperm(patches, generator=generator)[:count].sort().values


def unit(x: Tensor) -> Tensor:
    """Normalise vectors [.., D] to length 1, in fp32 or, if given so, fp64."""
    return F.normalize(x if x.dtype == torch.float64 else x.float(), dim=-1)


def _cosine(a: Tensor, b: Tensor) -> Tensor:
    return (unit(a) * unit(b)).sum(dim=-1)
