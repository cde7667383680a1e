"""Pairing statistics, computed by hand."""

from __future__ import annotations

import numpy as np

from spectradino_core.bags.health import (
    NO_ERROR,
    joined_health,
    mode_seconds,
    pairing_figures,
    percentiles,
    stream_figures,
)
from spectradino_core.bags.scored_bag import _gaps
from spectradino_core.runtime.perception_result import Mode
from spectradino_core.streams.feed import FeedEvent
from spectradino_core.streams.modes import ModeChange

MS, S = 1_000_000, 1_000_000_000


def test_percentiles_of_a_hundred_and_of_nothing() -> None:
    assert percentiles(np.arange(101.0)) == {
        "n": 101, "mean": 50.0, "min": 0.0, "max": 100.0, "p5": 5.0, "p50": 50.0, "p95": 95.0, "p99": 99.0,
    }  # fmt: skip
    assert percentiles(np.empty(0)) is None


def test_streams_are_identified_by_their_stamps() -> None:
    stamps = np.array([0, 100, 200, 200, 500]) * MS
    assert stream_figures(stamps) == {"frames": 5, "seconds": 0.5, "period_ms": 100.0, "longest_gap_ms": 300.0}
    assert stream_figures(np.empty(0, np.int64)) == {
        "frames": 0, "seconds": 0.0, "period_ms": None, "longest_gap_ms": None,
    }  # fmt: skip


def test_pairs_have_errors_and_single_cameras_none() -> None:
    answers = {
        "error_ns": np.array([-4 * MS, 2 * MS, NO_ERROR]),
        "ir_ns": np.array([100 * MS, 100 * MS, 200 * MS]),
        "mode": np.array([0, 0, 2], np.int8),
        "wait_ns": np.array([0, 3 * MS, 0]),
        "failed": np.array([False, True, False]),
    }
    found = pairing_figures([answers])
    assert found["captures_by_mode"] == {"fused": 2, "rgb_only": 0, "ir_only": 1}
    assert (found["pairs"], found["pairs_with_reused_ir"], found["failed_captures"]) == (2, 1, 1)
    assert (found["error_ms"]["mean"], found["absolute_error_ms"]["max"], found["wait_ms"]["n"]) == (-1.0, 4.0, 3)
    both = pairing_figures([answers, answers])
    assert (both["error_ms"]["n"], both["error_ms"]["mean"], both["error_ms"]["p50"]) == (4, -1.0, -1.0)
    assert pairing_figures([])["share_by_mode"]["fused"] is None


def test_modes_hold_from_change_to_change() -> None:
    changes = [
        ModeChange(Mode.RGB_ONLY, Mode.FUSED, "ir is silent", 12 * S),
        ModeChange(Mode.FUSED, Mode.RGB_ONLY, "both are alive", 15 * S),
    ]
    events = [FeedEvent("a line of the log", False, 11 * S), *(FeedEvent("", False, c.time_ns, c) for c in changes)]
    assert mode_seconds(events, 10 * S, 16 * S) == {"fused": 3.0, "rgb_only": 3.0, "ir_only": 0.0, "stale": 0.0}
    part = {"drops": {"unpaired_ir": 2}, "restarts": 1, "mode_changes": changes, "mode_seconds": {"fused": 3.0}}
    assert joined_health([part, part]) == {
        "drops": {"unpaired_ir": 4}, "restarts": 2, "mode_changes": 4, "mode_seconds": {"fused": 6.0},
    }  # fmt: skip


def test_the_gap_to_the_nearest_stamp() -> None:
    recorded = np.array([100, 200, 400])
    assert _gaps(np.array([0, 140, 160, 400, 900]), recorded).tolist() == [100, 40, 40, 0, 500]
    assert _gaps(np.array([5]), np.empty(0, np.int64)).tolist() == [np.iinfo(np.int64).max]
