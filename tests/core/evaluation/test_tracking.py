"""CLEAR MOT scores, against figures counted by hand."""

from __future__ import annotations

import numpy as np
import pytest

from spectradino_core.evaluation.tracking import TrackScorer, track_figures

BOX, OTHER = (0, 0, 10, 10), (100, 0, 110, 10)


def rows(boxes: list, labels: list[int] | None = None) -> tuple[np.ndarray, np.ndarray]:
    return np.array(boxes, float).reshape(-1, 4), np.array(labels or [0] * len(boxes), np.int64)


def scores(frames: list[tuple[list, list]]) -> dict:
    """Scores of frames, each of found (box, identity) and true (box, identity)."""
    scorer = TrackScorer()
    for found, true in frames:
        scorer.add(
            "a",
            (*rows([box for box, _ in found]), [name for _, name in found]),
            (*rows([box for box, _ in true]), np.zeros(len(true), bool), [name for _, name in true]),
        )
    return track_figures(scorer.counts())


def test_perfect_tracks() -> None:
    found = scores([([(BOX, "1"), (OTHER, "2")], [(BOX, "a"), (OTHER, "b")])] * 5)
    assert found == {
        "mota": 1.0, "recall": 1.0, "precision": 1.0, "labelled": 10, "found": 10, "false": 0, "switches": 0,
        "fragmentations": 0, "objects": 2, "mostly_tracked": 2, "mostly_lost": 0, "frames": 5,
    }  # fmt: skip


def test_switch_miss_false_positive_and_fragmentation() -> None:
    true = [(BOX, "a")]
    found = scores(
        [
            ([(BOX, "1")], true),
            ([(BOX, "2")], true),  # switch
            ([(BOX, "")], true),  # no identity: a miss
            ([(BOX, "2"), (OTHER, "3")], true),  # tracked again, beside a false track
        ]
    )
    assert found["switches"] == 1
    assert found["fragmentations"] == 1
    assert found["mota"] == pytest.approx(1 - (1 + 1 + 1) / 4)
    assert found["recall"] == 0.75
    assert found["precision"] == 0.75


def test_object_keeps_its_track_while_both_overlap() -> None:
    near = (3, 0, 13, 10)  # IoU 0.54 with BOX
    found = scores([([(BOX, "1")], [(BOX, "a")]), ([(near, "1"), (BOX, "2")], [(BOX, "a")])])
    assert found["switches"] == 0


def test_ignored_regions_and_classes() -> None:
    scorer = TrackScorer()
    true = (*rows([BOX, OTHER]), np.array([False, True]), ["a", "ignore"])
    scorer.add("a", (*rows([BOX, OTHER]), ["1", "2"]), true)
    assert track_figures(scorer.counts())["precision"] == 1
    scorer.add("a", (*rows([BOX], [1]), ["1"]), true)  # of another class
    assert track_figures(scorer.counts())["recall"] == 0.5
    assert track_figures(scorer.counts())["objects"] == 1


def test_one_track_counts_for_one_object() -> None:
    """Both objects have had track 1, and in the last frame its box overlaps both."""
    near = (3, 0, 13, 10)  # IoU 0.54 with BOX
    found = scores(
        [
            ([(BOX, "1")], [(BOX, "a")]),
            ([(BOX, "1")], [(BOX, "b")]),
            ([(BOX, "1")], [(BOX, "a"), (near, "b")]),
        ]
    )
    assert (found["labelled"], found["found"], found["false"]) == (4, 3, 0)
    assert found["mota"] == pytest.approx(0.75)


@pytest.mark.parametrize(("x", "false"), [(4, 0), (5, 0), (6, 1), (9.9, 1)])
def test_a_track_is_excused_by_a_region_with_half_of_its_area(x: float, false: int) -> None:
    scorer = TrackScorer()
    region = (*rows([(0, 0, 10, 10)]), np.array([True]), ["ignore"])
    scorer.add("a", (*rows([(x, 0, x + 10, 10)]), ["1"]), region)
    assert scorer.counts()["false"] == false
    scorer.add("a", (*rows([BOX], [1]), ["2"]), region)  # of another class
    assert scorer.counts()["false"] == false + 1


def test_recordings_are_apart_and_nothing_is_none() -> None:
    scorer = TrackScorer()
    for recording, name in (("a", "1"), ("b", "2")):
        scorer.add(recording, (*rows([BOX]), [name]), (*rows([BOX]), np.zeros(1, bool), ["person_0"]))
    assert track_figures(scorer.counts())["switches"] == 0
    assert track_figures(scorer.counts())["objects"] == 2
    empty = TrackScorer()
    empty.add("a", (*rows([]), []), (*rows([]), np.zeros(0, bool), []))
    assert (track_figures(empty.counts())["mota"], track_figures(empty.counts())["precision"]) == (None, None)
