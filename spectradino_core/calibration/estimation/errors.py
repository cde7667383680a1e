"""Exception for recordings that do not allow the requested calibration."""

from __future__ import annotations

__all__ = ["CalibrationError"]


class CalibrationError(ValueError):
    """A calibration cannot be estimated from these images; the message gives the reason and what to record."""
