"""Stream and pairing statistics of a recording, the same at every replay."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from spectradino_core.bags.labelled_frames import MODES, NO_ERROR, Arrays
from spectradino_core.evaluation.spread import rounded
from spectradino_core.runtime.perception_result import Mode
from spectradino_core.streams.feed import FeedEvent

_MS = 1e6
_PERCENTILES = (5, 50, 95, 99)


def percentiles(values: np.ndarray) -> dict[str, float | int] | None:
    """Return n, mean, min, p5, p50, p95, p99, max; None without values."""
    if not len(values):
        return None
    figures = {"mean": values.mean(), "min": values.min(), "max": values.max()}
    figures |= dict(zip((f"p{p}" for p in _PERCENTILES), np.percentile(values, _PERCENTILES)))
    return {"n": len(values)} | {name: round(float(value), 3) + 0.0 for name, value in figures.items()}


def stream_figures(stamps_ns: np.ndarray) -> dict[str, Any]:
    """Summarise one camera's stamps: number of frames, duration, median period and longest gap [ms]."""
    steps = np.diff(np.unique(stamps_ns))
    return rounded(
        {
            "frames": len(stamps_ns),
            "seconds": float(np.ptp(stamps_ns)) / 1e9 if len(stamps_ns) else 0.0,
            "period_ms": float(np.median(steps)) / _MS if len(steps) else None,
            "longest_gap_ms": float(steps.max()) / _MS if len(steps) else None,
        }
    )


def pairing_figures(results: Sequence[Arrays]) -> dict[str, Any]:
    """Summarise the `answers` arrays of one or several bags: counts by mode, pairing errors and waits [ms]."""
    error_ns, mode, wait_ns, failed = (
        np.concatenate([part[key] for part in results]) if results else np.empty(0, np.int64)
        for key in ("error_ns", "mode", "wait_ns", "failed")
    )
    errors_ms = error_ns[error_ns != NO_ERROR] / _MS
    total = len(mode)
    counts = {m.value: int((mode == code).sum()) for code, m in enumerate(MODES)}
    return {
        "captures": total,
        "failed_captures": int(np.count_nonzero(failed)),
        "captures_by_mode": counts,
        "share_by_mode": rounded({key: count / total if total else None for key, count in counts.items()}),
        "pairs": len(errors_ms),
        "pairs_with_reused_ir": sum(_reused(part) for part in results),
        "error_ms": percentiles(errors_ms),
        "absolute_error_ms": percentiles(np.abs(errors_ms)),
        "wait_ms": percentiles(wait_ns / _MS),
    }


def _reused(part: Arrays) -> int:
    """Number of pairs whose IR frame is that of the pair before."""
    stamps_ns = part["ir_ns"][part["error_ns"] != NO_ERROR]
    return int(np.count_nonzero(stamps_ns[1:] == stamps_ns[:-1]))


def mode_seconds(events: Sequence[FeedEvent], first_ns: int, last_ns: int) -> dict[str, float]:
    """Return the duration of each mode in bag time [s]; a recording begins in mode fused."""
    seconds: Counter[str] = Counter({mode.value: 0 for mode in Mode})
    since, mode = first_ns, Mode.FUSED.value
    for event in events:
        if event.change is not None:
            at = min(max(event.change.time_ns, first_ns), last_ns)
            seconds[mode] += max(0, at - since)
            since, mode = max(at, since), event.change.mode.value
    seconds[mode] += max(0, last_ns - since)
    return rounded({name: held / 1e9 for name, held in seconds.items()})


def joined_health(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Sum the statistics of several bags: drops by cause, restarts, mode changes, seconds by mode."""
    drops: Counter[str] = Counter()
    seconds: Counter[str] = Counter()
    for part in parts:
        drops.update(part["drops"])
        seconds.update(part["mode_seconds"])
    return {
        "drops": dict(sorted(drops.items())),
        "restarts": sum(part["restarts"] for part in parts),
        "mode_changes": sum(len(part["mode_changes"]) for part in parts),
        "mode_seconds": rounded(dict(sorted(seconds.items()))),
    }
