"""Neighbourhood loss and teacher queue."""

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
    # Teacher at entry 0, student at entry 1: at temperature 1 the distributions over both are (e, 1) and (1, e).
    high, low = math.e / (math.e + 1), 1 / (math.e + 1)
    expected = high * math.log(high / low) + low * math.log(low / high)
    assert neighbourhood_loss(E[1:2], E[:1], E[:2], 2, 1.0).item() == pytest.approx(expected, rel=1e-6)


def test_neighbours_are_selected_by_teacher():
    # With one neighbour both distributions are certain.
    assert neighbourhood_loss(E[1:2], E[:1], E, 1, 0.07).item() == pytest.approx(0.0, abs=1e-7)
    # With two of three, the third entry, far from the teacher, is excluded although the student is at it.
    entries = F.normalize(torch.tensor([[1.0, 0, 0], [1.0, 1, 0], [0, 0, 1.0]]), dim=-1)
    loss = neighbourhood_loss(E[2:3], E[:1], entries, 2, 1.0).item()
    p = torch.softmax(torch.tensor([1.0, 0.5**0.5]), 0)
    assert loss == pytest.approx((p * (p / 0.5).log()).sum().item(), rel=1e-5)


def test_loss_is_zero_if_student_equals_teacher():
    x = torch.randn(5, 8, generator=torch.Generator().manual_seed(0))
    entries = F.normalize(torch.randn(40, 8, generator=torch.Generator().manual_seed(1)), dim=-1)
    assert neighbourhood_loss(3 * x, x, entries, 16, 0.07).item() == pytest.approx(0.0, abs=1e-6)


def test_gradient_equals_finite_differences():
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(3, 5, dtype=torch.float64, generator=generator) for _ in range(2))
    entries = F.normalize(torch.randn(12, 5, dtype=torch.float64, generator=generator), dim=-1)
    assert gradcheck(lambda s: neighbourhood_loss(s, teacher, entries, 6, 0.3), (student.requires_grad_(),))


def test_empty_queue_gives_zero_loss_and_zero_gradient():
    student = torch.randn(2, 3, requires_grad=True)
    loss = neighbourhood_loss(student, E[:2], torch.zeros(0, 3), 4, 0.07)
    loss.backward()
    assert loss.item() == 0
    assert (student.grad == 0).all()


def test_queue_is_first_in_first_out():
    queue = TeacherQueue(4, 3)
    assert len(queue) == 0
    queue.put(2 * E[:2])  # stored with length 1
    assert torch.equal(queue.entries, E[:2])
    queue.put(E)
    assert len(queue) == 4
    held = sorted(map(tuple, queue.entries.tolist()))
    assert held == sorted(map(tuple, [*E[1:2].tolist(), *E.tolist()]))  # E[0], the oldest, is gone


def test_batch_larger_than_queue_keeps_its_end():
    queue = TeacherQueue(2, 3)
    queue.put(E)
    assert sorted(queue.entries.tolist()) == sorted(E[1:].tolist())


def test_sample_in_queue_is_its_own_nearest_neighbour():
    """Why entries must be read before the batch is put."""
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


def test_queue_state_round_trips(tmp_path):
    queue = TeacherQueue(4, 3)
    queue.put(E)
    queue.put(-E[:2])
    torch.save(queue.state_dict(), tmp_path / "queue.pt")
    other = TeacherQueue(4, 3)
    other.load_state_dict(torch.load(tmp_path / "queue.pt", weights_only=True))
    queue.put(-E[2:])
    other.put(-E[2:])
    assert torch.equal(queue.entries, other.entries)


def test_loaded_state_replaces_cached_count():
    """The count cached on the host must be invalidated by a load, also in a copy of the queue."""
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
def test_copy_between_queues_keeps_newest_entries(capacity):
    queue = TeacherQueue(4, 3)
    queue.put(E)
    queue.put(-E[:2])  # in order: E1 E2 -E0 -E1
    other = TeacherQueue(capacity, 3)
    other.take_over(queue.state_dict())
    expected = torch.stack([E[1], E[2], -E[0], -E[1]])[-capacity:]
    assert torch.equal(other.entries, expected)
    other.put(E[:1])
    assert len(other) == min(capacity, 5)


def test_copy_from_a_queue_of_other_width_is_rejected():
    with pytest.raises(ValueError, match="another variant"):
        TeacherQueue(4, 8).take_over(TeacherQueue(4, 3).state_dict())


def test_own_entries_are_no_neighbours():
    generator = torch.Generator().manual_seed(0)
    teacher, student, other = (torch.randn(n, 16, generator=generator) for n in (1, 1, 20))
    queue = TeacherQueue(32, 16)
    queue.put(other, torch.arange(20))
    expected = neighbourhood_loss(student, teacher, queue.entries, 8, 0.07)
    queue.put(teacher, torch.tensor([100]))
    own = queue.own(torch.tensor([100]))
    assert own.sum() == 1
    masked = neighbourhood_loss(student, teacher, queue.entries, 8, 0.07, own)
    torch.testing.assert_close(masked, expected)
    assert neighbourhood_loss(student, teacher, queue.entries, 8, 0.07) != expected


def test_fewer_others_than_neighbours_and_none_at_all():
    student = torch.randn(2, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    own = torch.tensor([[True, False, False], [True, True, True]])  # the second sample has only its own entries
    loss = neighbourhood_loss(student, E[:2], E, 128, 0.07, own)
    loss.backward()
    expected = neighbourhood_loss(student[:1], E[:1], E[1:], 128, 0.07) / 2
    torch.testing.assert_close(loss, expected)
    assert torch.isfinite(student.grad).all()
    assert not student.grad[1].any()


def test_keys_travel_with_their_entries(tmp_path):
    queue = TeacherQueue(4, 3)
    queue.put(E, torch.tensor([5, 6, 7]))
    queue.put(-E[:2], torch.tensor([8, 9]))  # overwrites 5
    torch.save(queue.state_dict(), tmp_path / "queue.pt")
    state = torch.load(tmp_path / "queue.pt", weights_only=True)
    for capacity, held in ((4, {6, 7, 8, 9}), (2, {8, 9}), (6, {6, 7, 8, 9})):
        other = TeacherQueue(capacity, 3)
        other.load_state_dict(state)
        found = other.own(torch.arange(5, 10))
        assert {int(key) + 5 for key in found.any(dim=1).nonzero()} == held
        (row,) = other.own(torch.tensor([9])).nonzero()[:, 1].tolist()
        assert torch.equal(other.entries[row], -E[1])


def test_a_queue_without_keys_loads_and_masks_nothing():
    queue = TeacherQueue(4, 3)
    queue.put(E, torch.arange(3))
    old = {name: value for name, value in queue.state_dict().items() if name != "item_keys"}
    other = TeacherQueue(4, 3)
    other.load_state_dict(old)
    assert torch.equal(other.entries, queue.entries)
    assert not other.own(torch.arange(3)).any()


def test_capacity_is_limited_by_the_smallest_band_with_warning(caplog):
    with caplog.at_level(logging.WARNING):
        assert queue_capacity(100, {"nir": 200, "lwir": 5000}) == 100
        assert not caplog.records
        assert queue_capacity(65_536, {"nir": 200, "swir": 9000, "lwir": 5000}) == 300
        assert queue_capacity(65_536, {"lwir": 1000}) == 500
    assert "300 embeddings from 65536: the 200 items of nir come round every 600" in caplog.text
