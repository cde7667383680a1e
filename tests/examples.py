"""How many examples a property is tried with: a quarter of them where slow tests are left out."""

from __future__ import annotations

__all__ = ["examples", "try_fewer"]

_divisor = 1


def try_fewer() -> None:
    """Try properties with fewer examples; for modules that are imported from now on."""
    global _divisor
    _divisor = 4


def examples(count: int) -> int:
    """Return `max_examples` of a property that `make test` tries with `count`."""
    return max(count // _divisor, min(count, 10))
