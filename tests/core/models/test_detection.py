"""Anchor points, box decoding and assignment, by hand-computed cases."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spectradino_core.models.detection import IGNORE_INDEX, AnchorPoints, DenseHead, assign, decode
from tests.examples import examples

STRIDES = (7.0, 14.0, 28.0)


def anchors_for(width: int = 322, height: int = 252) -> AnchorPoints:
    maps = [torch.zeros(1, 4, int(height // s), int(width // s)) for s in STRIDES]
    return AnchorPoints.of(maps, STRIDES)


def test_anchor_points_are_offset_by_half_a_stride():
    anchors = AnchorPoints.of([torch.zeros(1, 4, 2, 3), torch.zeros(1, 4, 1, 1)], (3.5, 14.0))
    expected = [[1.75, 1.75], [5.25, 1.75], [8.75, 1.75], [1.75, 5.25], [5.25, 5.25], [8.75, 5.25], [7.0, 7.0]]
    assert anchors.centres.tolist() == expected
    assert anchors.strides.tolist() == [3.5] * 6 + [14.0]


def test_decode_by_hand():
    anchors = AnchorPoints(torch.tensor([[10.5, 24.5]]), torch.tensor([7.0]))
    box = decode(torch.tensor([[[1.0, -0.5, math.log(2.0), 0.0]]]), anchors)
    # centre (17.5, 21.0), half sides 0.75 * 7 * (2, 1)
    torch.testing.assert_close(box, torch.tensor([[[7.0, 15.75, 28.0, 26.25]]]))


def test_extreme_outputs_decode_to_finite_boxes():
    for wild in (1e4, -1e4):
        box = decode(torch.full((1, 1, 4), wild), AnchorPoints(torch.zeros(1, 2), torch.tensor([28.0])))
        assert torch.isfinite(box).all()
        assert (box[..., 2:] >= box[..., :2]).all()


def test_head_predicts_for_all_points_of_all_levels():
    torch.manual_seed(0)
    head = DenseHead(8, classes=3, levels=3).eval()
    maps = [torch.randn(2, 8, 36, 46), torch.randn(2, 8, 18, 23), torch.randn(2, 8, 9, 11)]
    logits, boxes, anchors = head(maps, STRIDES)
    count = 36 * 46 + 18 * 23 + 9 * 11
    assert logits.shape == (2, count, 3)
    assert boxes.shape == (2, count, 4)
    assert anchors.centres.shape == (count, 2)
    assert logits.sigmoid().mean().item() == pytest.approx(0.01, abs=0.005)  # the prior


def test_objects_are_assigned_to_level_of_their_size():
    boxes = torch.tensor([[100.0, 100.0, 110.0, 130.0], [20.0, 20.0, 120.0, 90.0], [0.0, 0.0, 300.0, 240.0]])
    anchors = anchors_for()
    owner = assign(boxes, anchors)
    for index, stride in enumerate(STRIDES):
        assert set(anchors.strides[owner == index].tolist()) == {stride}


def test_assigned_points_are_near_centre_and_inside_box():
    box = torch.tensor([[53.5, 59.5, 93.5, 115.5]])
    anchors = anchors_for()
    mine = assign(box, anchors) == 0
    centres = anchors.centres[mine]
    assert mine.sum() == 9  # a 3 x 3 block of stride 7 around the point at (73.5, 87.5)
    assert ((centres - torch.tensor([73.5, 87.5])).abs() < 1.5 * 7).all()


def test_object_smaller_than_stride_gets_one_point():
    tiny = torch.tensor([[101.0, 101.0, 103.0, 104.0]])
    assert (assign(tiny, anchors_for()) == 0).sum() == 1


def test_smaller_of_two_objects_gets_the_point():
    big, small = [40.0, 40.0, 90.0, 90.0], [60.0, 60.0, 70.0, 70.0]
    anchors = anchors_for()
    owner = assign(torch.tensor([big, small]), anchors)
    centre = ((anchors.centres - 65.0).abs().sum(dim=1) + (anchors.strides != 7.0) * 1e6).argmin()
    assert owner[centre] == 1
    assert (owner == 0).any()


def test_without_objects_all_points_are_background():
    assert (assign(torch.zeros(0, 4), anchors_for()) == -1).all()


@settings(max_examples=examples(60), deadline=None)
@given(st.lists(st.tuples(*[st.floats(0, 250)] * 2, *[st.floats(2, 200)] * 2), min_size=1, max_size=6))
def test_every_single_object_is_assigned(rows):
    anchors = anchors_for()
    boxes = torch.tensor([[x, y, x + w, y + h] for x, y, w, h in rows], dtype=torch.float32)
    for box in boxes:
        assert (assign(box[None], anchors) == 0).any()
    owner = assign(boxes, anchors)
    assert owner.min() >= -1
    assert owner.max() < len(boxes)


def test_points_in_ignore_region_are_ignored_unless_assigned_to_an_object():
    anchors = anchors_for()
    crowd, person = torch.tensor([[20.0, 20.0, 120.0, 120.0]]), torch.tensor([[60.0, 60.0, 80.0, 90.0]])
    owner = assign(person, anchors, ignored=crowd)
    inside = ((anchors.centres > 20) & (anchors.centres < 120)).all(dim=1)
    assert ((owner == IGNORE_INDEX) == (inside & (owner != 0))).all()
    assert ((owner == 0) == (assign(person, anchors) == 0)).all()
    assert (assign(torch.zeros(0, 4), anchors, ignored=crowd) == IGNORE_INDEX).any()
