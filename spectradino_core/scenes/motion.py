"""Motion of actors: riders and drivers follow a line and wrap around, walkers turn back periodically."""

from __future__ import annotations

import numpy as np

_BEHIND_M, _AHEAD_M, _ASIDE_M = -8.0, 95.0, 36.0
_LEG_S, _MIN_LEG_S, _NEAREST_M = 9.0, 2.0, 5.0


def follow(x: float, z: float, heading: float, distance: float) -> tuple[float, float, float]:
    """Return x, z, heading of an actor after `distance` metres straight ahead from (x, z).

    An actor that leaves the scene behind the camera or beyond the visible range re-enters at the other end of its
    line, so that long sequences do not run empty.
    """
    dx, dz = np.sin(heading), np.cos(heading)
    if abs(dz) > abs(dx):
        now = _BEHIND_M + (z - _BEHIND_M + dz * distance) % (_AHEAD_M - _BEHIND_M)
        return x + (now - z) * dx / dz, now, heading
    now = -_ASIDE_M + (x + _ASIDE_M + dx * distance) % (2.0 * _ASIDE_M)
    return now, z + (now - x) * dz / dx, heading


def pace(x: float, z: float, heading: float, speed: float, t: float) -> tuple[float, float, float]:
    """Return x, z, heading of a walker at time t, who turns every nine seconds, or earlier near the camera."""
    leg, towards = _LEG_S, -np.cos(heading) * speed
    if towards > 0.0:
        leg = max(min(leg, (z - _NEAREST_M) / towards), _MIN_LEG_S)
    turns, rest = divmod(t, leg) if t > 0.0 else (0.0, t)  # t < 0 with a camera clock that is ahead
    gone = speed * (leg - rest if turns % 2 else rest)
    return x + np.sin(heading) * gone, z + np.cos(heading) * gone, heading + (np.pi if turns % 2 else 0.0)


def ground_rectangle(x: float, z: float, heading: float, half_length: float, half_width: float) -> np.ndarray:
    """Return the corners [4, 3] of a rectangle on the ground around (x, z), in metres."""
    along = half_length * np.array([np.sin(heading), 0.0, np.cos(heading)])
    across = half_width * np.array([np.cos(heading), 0.0, -np.sin(heading)])
    return np.array([x, 0.0, z]) + np.array([along + across, along - across, -along - across, across - along])
