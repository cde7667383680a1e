"""Cells, decoding and assignment, by hand-computed cases."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spectradino_core.heads.detection import NEITHER, Cells, DenseHead, assign, decode

STRIDES = (7.0, 14.0, 28.0)


def cells_for(width: int = 322, height: int = 252) -> Cells:
    maps = [torch.zeros(1, 4, int(height // s), int(width // s)) for s in STRIDES]
    return Cells.of(maps, STRIDES)


def test_cell_centres_are_half_a_stride_in():
    cells = Cells.of([torch.zeros(1, 4, 2, 3), torch.zeros(1, 4, 1, 1)], (3.5, 14.0))
    expected = [[1.75, 1.75], [5.25, 1.75], [8.75, 1.75], [1.75, 5.25], [5.25, 5.25], [8.75, 5.25], [7.0, 7.0]]
    assert cells.centres.tolist() == expected
    assert cells.strides.tolist() == [3.5] * 6 + [14.0]


def test_decoding_a_cell_by_hand():
    cells = Cells(torch.tensor([[10.5, 24.5]]), torch.tensor([7.0]))
    box = decode(torch.tensor([[[1.0, -0.5, math.log(2.0), 0.0]]]), cells)
    # centre (17.5, 21.0), half sides 0.75 * 7 * (2, 1)
    torch.testing.assert_close(box, torch.tensor([[[7.0, 15.75, 28.0, 26.25]]]))


def test_a_wild_logit_stays_finite():
    for wild in (1e4, -1e4):
        box = decode(torch.full((1, 1, 4), wild), Cells(torch.zeros(1, 2), torch.tensor([28.0])))
        assert torch.isfinite(box).all()
        assert (box[..., 2:] >= box[..., :2]).all()


def test_head_speaks_of_all_cells_of_all_levels():
    torch.manual_seed(0)
    head = DenseHead(8, classes=3, levels=3).eval()
    maps = [torch.randn(2, 8, 36, 46), torch.randn(2, 8, 18, 23), torch.randn(2, 8, 9, 11)]
    logits, boxes, cells = head(maps, STRIDES)
    count = 36 * 46 + 18 * 23 + 9 * 11
    assert logits.shape == (2, count, 3)
    assert boxes.shape == (2, count, 4)
    assert cells.centres.shape == (count, 2)
    assert logits.sigmoid().mean().item() == pytest.approx(0.01, abs=0.005)  # the prior keeps background quiet


def test_objects_go_to_the_level_of_their_size():
    boxes = torch.tensor([[100.0, 100.0, 110.0, 130.0], [20.0, 20.0, 120.0, 90.0], [0.0, 0.0, 300.0, 240.0]])
    cells = cells_for()
    owner = assign(boxes, cells)
    for index, stride in enumerate(STRIDES):
        assert set(cells.strides[owner == index].tolist()) == {stride}


def test_cells_that_answer_lie_near_the_centre_and_inside():
    box = torch.tensor([[53.5, 59.5, 93.5, 115.5]])
    cells = cells_for()
    mine = assign(box, cells) == 0
    centres = cells.centres[mine]
    assert mine.sum() == 9  # a 3 x 3 block of stride 7 around the cell at (73.5, 87.5)
    assert ((centres - torch.tensor([73.5, 87.5])).abs() < 1.5 * 7).all()


def test_an_object_smaller_than_a_cell_still_has_one():
    tiny = torch.tensor([[101.0, 101.0, 103.0, 104.0]])
    assert (assign(tiny, cells_for()) == 0).sum() == 1


def test_of_two_objects_the_smaller_has_the_cell():
    big, small = [40.0, 40.0, 90.0, 90.0], [60.0, 60.0, 70.0, 70.0]
    cells = cells_for()
    owner = assign(torch.tensor([big, small]), cells)
    centre = ((cells.centres - 65.0).abs().sum(dim=1) + (cells.strides != 7.0) * 1e6).argmin()
    assert owner[centre] == 1
    assert (owner == 0).any()


def test_no_objects_is_all_background():
    assert (assign(torch.zeros(0, 4), cells_for()) == -1).all()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(*[st.floats(0, 250)] * 2, *[st.floats(2, 200)] * 2), min_size=1, max_size=6))
def test_every_lone_object_is_answered_for(rows):
    cells = cells_for()
    boxes = torch.tensor([[x, y, x + w, y + h] for x, y, w, h in rows], dtype=torch.float32)
    for box in boxes:
        assert (assign(box[None], cells) == 0).any()
    owner = assign(boxes, cells)
    assert owner.min() >= -1
    assert owner.max() < len(boxes)


def test_cells_in_a_region_to_be_ignored_are_neither_and_an_object_in_it_keeps_its_own():
    cells = cells_for()
    crowd, person = torch.tensor([[20.0, 20.0, 120.0, 120.0]]), torch.tensor([[60.0, 60.0, 80.0, 90.0]])
    owner = assign(person, cells, ignored=crowd)
    inside = ((cells.centres > 20) & (cells.centres < 120)).all(dim=1)
    assert ((owner == NEITHER) == (inside & (owner != 0))).all()
    assert ((owner == 0) == (assign(person, cells) == 0)).all()
    assert (assign(torch.zeros(0, 4), cells, ignored=crowd) == NEITHER).any()
