"""Neighbourhood KL and its queue."""

from __future__ import annotations

import copy
import logging
import math

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck

from spectradino_core.losses.neighbourhood import TeacherQueue, neighbourhood_loss, queue_capacity

E = torch.eye(3)


def test_by_hand():
    # Teacher on entry 0, student on entry 1: at temperature 1 the distributions over both are (e, 1) and (1, e).
    high, low = math.e / (math.e + 1), 1 / (math.e + 1)
    expected = high * math.log(high / low) + low * math.log(low / high)
    assert neighbourhood_loss(E[1:2], E[:1], E[:2], 2, 1.0).item() == pytest.approx(expected, rel=1e-6)


def test_neighbours_are_the_teachers():
    # With one neighbour both distributions are certain, whatever the student thinks.
    assert neighbourhood_loss(E[1:2], E[:1], E, 1, 0.07).item() == pytest.approx(0.0, abs=1e-7)
    # With two of three: the third entry, far from the teacher, takes no part although the student is on it.
    entries = F.normalize(torch.tensor([[1.0, 0, 0], [1.0, 1, 0], [0, 0, 1.0]]), dim=-1)
    loss = neighbourhood_loss(E[2:3], E[:1], entries, 2, 1.0).item()
    p = torch.softmax(torch.tensor([1.0, 0.5**0.5]), 0)
    assert loss == pytest.approx((p * (p / 0.5).log()).sum().item(), rel=1e-5)


def test_a_student_like_its_teacher_costs_nothing():
    x = torch.randn(5, 8, generator=torch.Generator().manual_seed(0))
    entries = F.normalize(torch.randn(40, 8, generator=torch.Generator().manual_seed(1)), dim=-1)
    assert neighbourhood_loss(3 * x, x, entries, 16, 0.07).item() == pytest.approx(0.0, abs=1e-6)


def test_gradient():
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(3, 5, dtype=torch.float64, generator=generator) for _ in range(2))
    entries = F.normalize(torch.randn(12, 5, dtype=torch.float64, generator=generator), dim=-1)
    assert gradcheck(lambda s: neighbourhood_loss(s, teacher, entries, 6, 0.3), (student.requires_grad_(),))


def test_an_empty_queue_teaches_nothing_and_keeps_the_graph():
    student = torch.randn(2, 3, requires_grad=True)
    loss = neighbourhood_loss(student, E[:2], torch.zeros(0, 3), 4, 0.07)
    loss.backward()
    assert loss.item() == 0
    assert (student.grad == 0).all()


def test_first_in_first_out():
    queue = TeacherQueue(4, 3)
    assert len(queue) == 0
    queue.put(2 * E[:2])  # stored with length 1
    assert torch.equal(queue.entries, E[:2])
    queue.put(E)
    assert len(queue) == 4
    held = sorted(map(tuple, queue.entries.tolist()))
    assert held == sorted(map(tuple, [*E[1:2].tolist(), *E.tolist()]))  # E[0], the oldest, has left


def test_a_batch_larger_than_the_queue_leaves_its_end():
    queue = TeacherQueue(2, 3)
    queue.put(E)
    assert sorted(queue.entries.tolist()) == sorted(E[1:].tolist())


def test_put_before_asked_finds_itself():
    """Why the order matters: the trap that the loss's docstring names."""
    generator = torch.Generator().manual_seed(0)
    teacher, student = torch.randn(4, 16, generator=generator), torch.randn(4, 16, generator=generator)
    queue = TeacherQueue(32, 16)
    queue.put(torch.randn(20, 16, generator=generator))
    before = (F.normalize(teacher, dim=-1) @ queue.entries.T).max(dim=-1).values
    honest = neighbourhood_loss(student, teacher, queue.entries, 8, 0.07)
    queue.put(teacher)
    after = (F.normalize(teacher, dim=-1) @ queue.entries.T).max(dim=-1).values
    assert before.max() < 0.9
    assert after.min() > 0.999
    assert neighbourhood_loss(student, teacher, queue.entries, 8, 0.07) != honest


def test_state_survives(tmp_path):
    queue = TeacherQueue(4, 3)
    queue.put(E)
    queue.put(-E[:2])
    torch.save(queue.state_dict(), tmp_path / "queue.pt")
    other = TeacherQueue(4, 3)
    other.load_state_dict(torch.load(tmp_path / "queue.pt", weights_only=True))
    queue.put(-E[2:])
    other.put(-E[2:])
    assert torch.equal(queue.entries, other.entries)


def test_a_loaded_state_counts_in_place_of_what_was_put_before():
    """The host remembers how much was put, and must not remember it beyond a load, nor in a copy of the queue."""
    queue, other = TeacherQueue(4, 2), TeacherQueue(4, 2)
    queue.put(torch.eye(2)[:1])
    other.put(torch.eye(2)[[0, 1, 0]])
    twin = copy.deepcopy(other)
    other.load_state_dict(queue.state_dict())
    assert (len(other), len(twin)) == (1, 3)
    other.put(torch.eye(2)[1:])
    torch.testing.assert_close(other.entries, torch.eye(2))
    assert int(other.written) == len(other) == 2
    twin.load_state_dict(queue.state_dict())
    assert len(twin) == 1


@pytest.mark.parametrize("capacity", [2, 4, 9])
def test_take_over_keeps_the_newest(capacity):
    queue = TeacherQueue(4, 3)
    queue.put(E)
    queue.put(-E[:2])  # in order: E1 E2 -E0 -E1
    other = TeacherQueue(capacity, 3)
    other.take_over(queue.state_dict())
    expected = torch.stack([E[1], E[2], -E[0], -E[1]])[-capacity:]
    assert torch.equal(other.entries, expected)
    other.put(E[:1])
    assert len(other) == min(capacity, 5)


def test_take_over_of_another_width_is_refused():
    with pytest.raises(ValueError, match="another variant"):
        TeacherQueue(4, 8).take_over(TeacherQueue(4, 3).state_dict())


def test_capacity_is_capped_at_half_the_data_and_says_so(caplog):
    with caplog.at_level(logging.WARNING):
        assert queue_capacity(100, 200) == 100
        assert not caplog.records
        assert queue_capacity(65_536, 1000) == 500
    assert "500" in caplog.text
    assert "65536" in caplog.text
    assert "its nearest neighbour" in caplog.text
