"""Linear detection probe: BatchNorm and a linear map per token, with the dense head's box encoding."""

from __future__ import annotations

import pytest
import torch

from spectradino_core.models.detection import PRIOR, LinearDetectionHead, decode


def test_equals_linear_map_of_each_token():
    torch.manual_seed(0)
    head = LinearDetectionHead(6, 3).eval()
    torch.nn.init.normal_(head.regress.weight)
    x = torch.randn(2, 6, 4, 5)
    logits, boxes, anchors = head([x], [14.0])
    assert anchors.strides.unique().tolist() == [14.0]
    assert anchors.centres[0].tolist() == [7.0, 7.0]
    tokens = (x / (1 + head.norm.eps) ** 0.5).flatten(2).transpose(1, 2)
    by_hand = tokens @ head.classify.weight[:, :, 0, 0].T + head.classify.bias
    torch.testing.assert_close(logits, by_hand, atol=1e-5, rtol=1e-5)
    deltas = tokens @ head.regress.weight[:, :, 0, 0].T + head.regress.bias
    torch.testing.assert_close(boxes, decode(deltas, anchors), atol=1e-4, rtol=1e-4)


def test_initial_scores_equal_prior():
    logits, _, _ = LinearDetectionHead(6, 3).eval()([torch.randn(1, 6, 8, 8)], [14.0])
    assert logits.sigmoid().mean().item() == pytest.approx(PRIOR, rel=0.2)
