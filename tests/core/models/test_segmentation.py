"""Linear segmentation head: BatchNorm and a linear map; masks in the pixels of the image."""

from __future__ import annotations

import cv2
import numpy as np
import torch
import torch.nn.functional as F

from spectradino_core.models.segmentation import LinearSegmentationHead, mask_at_source
from spectradino_core.runtime.preprocess import Letterbox


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


def test_mask_at_source_is_torchs_enlargement_where_the_image_fills_the_input():
    torch.manual_seed(0)
    logits = torch.randn(5, 6, 8)
    box = Letterbox((150, 111), (112, 84), (112, 84))
    full = F.interpolate(logits[None], size=(111, 150), mode="bilinear", align_corners=False)[0]
    assert (mask_at_source(logits, box) == full.argmax(dim=0).numpy()).mean() > 0.999  # but rounding


def test_mask_at_source_leaves_the_padding_out():
    # Class 1 right of the middle of the content, which is the left half of the network's input.
    x = torch.arange(8.0).expand(4, 8) + 0.5
    mask = mask_at_source(torch.stack([torch.zeros(4, 8), x - 2]), Letterbox((300, 300), (112, 56), (56, 56)))
    assert mask.shape == (300, 300)
    assert (mask[:, :150] == 0).all()
    assert (mask[:, 150:] == 1).all()


def test_enlarged_logits_follow_a_boundary_better_than_an_enlarged_class_map():
    y, x = np.mgrid[:480, :640] + 0.5
    slope = (x - 320) + 0.3 * (y - 240)  # bilinear interpolation of a plane is exact
    truth = (slope > 0).astype(np.uint8)
    box = Letterbox((640, 480), (112, 84), (112, 84))
    logits = torch.from_numpy(np.stack([np.zeros((6, 8)), cv2.resize(slope, (8, 6), interpolation=cv2.INTER_AREA)]))
    small = F.interpolate(logits[None], size=(84, 112), mode="bilinear", align_corners=False)[0].argmax(dim=0)
    masks = mask_at_source(logits, box), box.mask_to_source(small.to(torch.uint8).numpy())
    inner = slice(40, -40)  # of the first and last row of patches, half is beyond their centres
    wrong = [int((mask != truth)[inner].sum()) for mask in masks]
    assert wrong[1] > 400
    assert wrong[0] < 0.1 * wrong[1]
