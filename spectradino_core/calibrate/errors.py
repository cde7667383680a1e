"""The one exception for recordings that do not tell what was asked of them."""

from __future__ import annotations

__all__ = ["CalibrationError"]


class CalibrationError(ValueError):
    """A calibration can't be had from these images; the message says why and what to record instead."""
