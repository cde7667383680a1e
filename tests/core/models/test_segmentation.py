"""Linear segmentation head: BatchNorm and a linear map."""

from __future__ import annotations

import torch

from spectradino_core.models.segmentation import LinearSegmentationHead


def test_equals_linear_map_of_normalised_features():
    torch.manual_seed(0)
    head = LinearSegmentationHead(4, 3).eval()
    head.norm.running_mean.uniform_(-1, 1)
    head.norm.running_var.uniform_(0.5, 2)
    x = torch.randn(2, 4, 5, 6)
    mean, std = head.norm.running_mean, (head.norm.running_var + head.norm.eps).sqrt()
    normalised = (x - mean[:, None, None]) / std[:, None, None]
    by_hand = torch.einsum("bchw,sc->bshw", normalised, head.classify.weight[:, :, 0, 0])
    torch.testing.assert_close(head(x), by_hand, atol=1e-5, rtol=1e-4)
