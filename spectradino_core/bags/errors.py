"""The one exception for bags that can't be used."""

from __future__ import annotations

__all__ = ["BagError"]


class BagError(ValueError):
    """A bag, or a topic in it, can't be used; the message names it and says what to do."""
