"""Exception for bags that cannot be used."""

from __future__ import annotations

__all__ = ["BagError"]


class BagError(ValueError):
    """A bag, or a topic in it, cannot be used; the message names it and the remedy."""
