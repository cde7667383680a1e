"""Reading ahead in threads: order, errors, and how far ahead."""

from __future__ import annotations

import threading

import pytest

from spectradino_core.data.prefetch import prefetched


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_results_come_in_order(workers):
    assert list(prefetched(lambda x: x * x, iter(range(20)), workers)) == [x * x for x in range(20)]
    assert list(prefetched(lambda x: x, [], workers)) == []


def test_errors_arrive_as_they_were_raised_and_end_the_reading():
    started = []

    def load(key: int) -> int:
        started.append(key)
        if key == 3:
            raise ValueError("item 3 is damaged")
        return key

    found = prefetched(load, range(1000), 2)
    assert [next(found) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="^item 3 is damaged$"):
        next(found)
    assert max(started) < 10
    with pytest.raises(ValueError, match="at least 0, not -1"):
        next(prefetched(load, [1], -1))


def test_workers_load_at_the_same_time_and_only_a_little_ahead():
    both, started = threading.Barrier(2, timeout=10), []

    def load(key: int) -> int:
        started.append(key)
        if key < 2:
            both.wait()  # fails unless the other one is loaded meanwhile
        return key

    found = prefetched(load, range(100), 2)
    assert next(found) == 0
    found.close()
    assert max(started) <= 4
