"""How actors get on: riders and drivers follow their line and come again, walkers go to and fro."""

from __future__ import annotations

import numpy as np

__all__ = ["follow", "pace"]

_BEHIND_M, _AHEAD_M, _ASIDE_M = -8.0, 95.0, 36.0
_LEG_S, _SHORTEST_LEG_S, _NEAREST_M = 9.0, 2.0, 5.0


def follow(x: float, z: float, heading: float, travelled: float) -> tuple[float, float, float]:
    """Where an actor is that set out at (x, z) and went `travelled` metres straight on: x, z, heading.

    Who leaves the street at one end, behind the camera or too far to tell, enters at the other on the same line, so
    that a long sequence does not run empty.
    """
    dx, dz = np.sin(heading), np.cos(heading)
    if abs(dz) > abs(dx):
        now = _BEHIND_M + (z - _BEHIND_M + dz * travelled) % (_AHEAD_M - _BEHIND_M)
        return x + (now - z) * dx / dz, now, heading
    now = -_ASIDE_M + (x + _ASIDE_M + dx * travelled) % (2.0 * _ASIDE_M)
    return now, z + (now - x) * dz / dx, heading


def pace(x: float, z: float, heading: float, speed: float, t: float) -> tuple[float, float, float]:
    """Where a walker is at time t who turns round every nine seconds, sooner before the camera: x, z, heading."""
    leg, towards = _LEG_S, -np.cos(heading) * speed
    if towards > 0.0:
        leg = max(min(leg, (z - _NEAREST_M) / towards), _SHORTEST_LEG_S)
    turns, rest = divmod(t, leg) if t > 0.0 else (0.0, t)  # an early clock asks for the moment before the start
    gone = speed * (leg - rest if turns % 2 else rest)
    return x + np.sin(heading) * gone, z + np.cos(heading) * gone, heading + (np.pi if turns % 2 else 0.0)
