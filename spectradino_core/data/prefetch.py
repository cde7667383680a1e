"""Reading ahead of a loop in threads: decoding and scaling images release Python's lock.

Threads rather than processes: what a reader keeps (rendered scenes, notes on label files) stays in one place, and
errors arrive as they were raised. Training, which augments in Python, loads in processes (`loading`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

Key = TypeVar("Key")
Loaded = TypeVar("Loaded")

_AHEAD = 2
"""Results that are loaded ahead, per worker."""


def prefetched(load: Callable[[Key], Loaded], keys: Iterable[Key], workers: int = 0) -> Iterator[Loaded]:
    """Yield `load(key)` for each key, in order.

    Args:
        load: must be thread-safe if there are workers.
        keys: what to load.
        workers: number of threads, each of which loads up to two results ahead; 0: load when the result is needed.
    """
    if workers < 0:
        raise ValueError(f"the number of workers must be at least 0, not {workers}")
    if not workers:
        yield from map(load, keys)
        return
    remaining = iter(keys)
    with ThreadPoolExecutor(workers) as pool:
        pending = deque(pool.submit(load, key) for key in islice(remaining, _AHEAD * workers))
        try:
            while pending:
                done = pending.popleft()
                pending.extend(pool.submit(load, key) for key in islice(remaining, 1))
                yield done.result()
        finally:
            for future in pending:
                future.cancel()
