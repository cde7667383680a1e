"""Stamps that no correct clock gives, drawn from a seed."""

from __future__ import annotations

import random

from builtin_interfaces.msg import Time

from tests.ros.harness import to_ns, to_stamp

__all__ = ["STAMP_FAULTS", "odd_stamp"]

_SECOND = 1_000_000_000
STAMP_FAULTS = ("zero", "negative", "backward", "duplicate", "jump back", "ahead", "far future", "too many nanoseconds")


def odd_stamp(draw: random.Random, now_ns: int, last: Time) -> tuple[str, Time]:
    """Draw a stamp, and the name of its fault.

    Args:
        draw: random generator.
        now_ns: time of a correct clock.
        last: stamp of the previous message.
    """
    name = draw.choice(STAMP_FAULTS)
    if name == "zero":
        return name, Time()
    if name == "negative":
        return name, Time(sec=draw.choice([-1, -(2**31)]), nanosec=draw.choice([0, 999_999_999]))
    if name == "duplicate":
        return name, last
    if name == "backward":
        return name, to_stamp(max(to_ns(last) - draw.randint(1, 450) * 1_000_000, 0))
    if name == "jump back":
        return name, to_stamp(now_ns - draw.choice([1, 60, 3600, 10**8]) * _SECOND)
    if name == "ahead":
        return name, to_stamp(now_ns + draw.randint(1, 450) * 1_000_000)
    if name == "far future":
        return name, Time(sec=draw.choice([2**31 - 1, now_ns // _SECOND + 3600]), nanosec=draw.randrange(_SECOND))
    return name, Time(sec=now_ns // _SECOND, nanosec=draw.choice([_SECOND, 2**32 - 1]))
