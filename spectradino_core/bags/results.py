"""Combine the output folders of all bags into one result, independent of number and order of the processes.

What depends on the machine's speed goes into `timings`, everything else into `result`. Several bags are scored as one,
since the average precisions of parts cannot be averaged.
"""

from __future__ import annotations

import bisect
import csv
import io
import json
import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from spectradino_core import __version__
from spectradino_core.bags.evaluation_options import SWEEPS, Options
from spectradino_core.bags.health import joined_health, pairing_figures, percentiles
from spectradino_core.bags.labelled_frames import MODES, NO_ERROR, Arrays
from spectradino_core.bags.sweep_run import LINES, place_of
from spectradino_core.evaluation.detection import RECALLS, detection_scores, match_image
from spectradino_core.evaluation.scorer import ALL, Scorer, Scores
from spectradino_core.evaluation.spread import rounded
from spectradino_core.evaluation.tracking import track_figures
from spectradino_core.files import file_digest
from spectradino_core.runtime.bundle import ModelInfo

_FORMAT = 1

SUMMARY = ("map", "map50", "map75", "miou", "answered")
"""Figures that `summary` returns."""

_ANSWERED = "answered"
_AGES_MS = (10.0, 40.0, 75.0, 120.0)
"""Limits of the groups by the distance in time of the two frames: 0, 1, 2 and 3 periods at 30 Hz, and beyond."""

_AGES = tuple(
    f"{low:g} to {high:g} ms" if high < math.inf else f"over {low:g} ms"
    for low, high in zip((0.0, *_AGES_MS), (*_AGES_MS, math.inf))
)

Part = tuple[Arrays, Arrays]
"""Arrays of one bag: `truth_arrays` and `LabelledFrames.arrays`."""


@dataclass(frozen=True)
class BagEvidence:
    """Output files of one bag's runs, read on demand."""

    name: str
    folder: Path

    @cached_property
    def facts(self) -> dict[str, Any]:
        """See `node_run`."""
        return json.loads((self.folder / "node.json").read_text(encoding="utf-8"))

    @cached_property
    def worst_frames(self) -> list[dict[str, Any]]:
        """Worst frames, worst first: "file" (below `folder`/pictures), "mistakes", "stamp_ns", "caption"."""
        return json.loads((self.folder / "pictures" / "pictures.json").read_text(encoding="utf-8"))

    @cached_property
    def results(self) -> Arrays:
        return self._arrays("node", "answers")

    @cached_property
    def truth(self) -> Arrays:
        """Ground truth; empty without labels."""
        return self._arrays("node", "truth")

    @cached_property
    def steps(self) -> Arrays:
        """Milliseconds by step, float64 [K]; nan for results without that step."""
        with np.load(self.folder / "timings.npz", allow_pickle=False) as file:
            return {key: file[key] for key in file.files}

    @property
    def engine(self) -> dict[str, Any]:
        """Duration of the replay."""
        return json.loads((self.folder / "engine.json").read_text(encoding="utf-8"))

    def part(self, run: str = "node", name: str = "node") -> Part:
        """Return ground truth and results of one replay at the labelled frames."""
        return self.truth, self._arrays(run, name)

    def _arrays(self, run: str, name: str) -> Arrays:
        with np.load(self.folder / f"{run}.npz", allow_pickle=False) as file:
            return {key.partition("/")[2]: file[key] for key in file.files if key.partition("/")[0] == name}


def result(
    bags: Sequence[BagEvidence], errors: Mapping[str, str], info: ModelInfo, options: Options, alone: bool
) -> dict[str, Any]:
    """Return the content of `result.json` for the bags that succeeded and the errors of the others, by name.

    `alone`: a single bag was evaluated: its name is omitted, so that copies of a recording give the same bytes.
    """
    scored = [bag for bag in bags if bag.truth]
    rows = [
        ({} if alone else {"name": bag.name})
        | bag.facts
        | {
            "detections_sha256": file_digest(bag.folder / "detections.jsonl"),
            "scores": score([bag.part()], info, curves=False) if bag.truth else None,
        }
        for bag in bags
    ]
    return {
        "format": _FORMAT,
        "software": f"spectradino {__version__}",
        "model": {
            "sha256": file_digest(options.model),
            "served_score_threshold": options.settings.threshold_of(info),
            "description": json.loads(info.to_json()),
        },
        "settings": options.described(),
        "bags": rows,
        "failed": [{"name": name, "why": errors[name]} for name in sorted(errors)],
        "total": {
            "bags": len(bags),
            "failed": len(errors),
            "pairing": pairing_figures([bag.results for bag in bags]),
            **joined_health([bag.facts for bag in bags]),
            "scores": score([bag.part() for bag in scored], info) if scored else None,
            **_tracking(bags),
        },
        "sweeps": _sweeps(scored, info, options) if scored else {},
    }


def _tracking(bags: Sequence[BagEvidence]) -> dict[str, Any]:
    """Return the scores of tracks over all bags; empty if none were scored."""
    counts: Counter[str] = Counter()
    for bag in bags:
        counts.update(bag.facts.get("tracking", {}))
    return {"tracking": rounded(track_figures(counts))} if counts["frames"] else {}


def timings(bags: Sequence[BagEvidence], threads: int, jobs: int) -> dict[str, Any]:
    """Return the content of `timings.json`: times on this machine by step, in total and by mode.

    Of the parallel `jobs`, those finished earlier may have run with another number.
    """
    rows = {}
    for bag in bags:
        engine, count = bag.engine, len(bag.results["mode"])
        seconds = bag.facts["seconds"]
        rows[bag.name] = {
            **rounded(engine),
            "answers": count,
            "answers_per_s": round(count / engine["replay_s"], 3) if engine["replay_s"] else None,
            "recorded_captures_per_s": round(count / seconds, 3) if seconds else None,
            "steps_ms": _steps([bag], None),
            "steps_ms_by_mode": {
                mode.value: _steps([bag], code)
                for code, mode in enumerate(MODES)
                if (bag.results["mode"] == code).any()
            },
        }
    return {
        "threads": threads,
        "jobs": jobs,
        "cpus": os.cpu_count(),
        "engine": sorted({bag.facts["engine"] for bag in bags}),
        "bags": rows,
        "steps_ms": _steps(bags, None),
    }


def sweep_table(sweeps: Mapping[str, Any]) -> str:
    """Return the sweeps as CSV: one row per point and line."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["sweep", "value", "line", *SUMMARY])
    for kind, sweep in sweeps.items():
        for line in LINES:
            for value, point in zip(sweep["values"], sweep[line], strict=True):
                figures = [point[name] for name in SUMMARY]
                writer.writerow([kind, f"{value:.10g}", line, *("" if f is None else f for f in figures)])
    return out.getvalue()


def json_bytes(data: Any) -> bytes:
    """Encode JSON reproducibly: sorted keys, no nan."""
    return (json.dumps(data, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _sweeps(bags: Sequence[BagEvidence], info: ModelInfo, options: Options) -> dict[str, Any]:
    known: dict[tuple[str, str], dict[str, float | None]] = {}  # many points of a single camera are identical
    found: dict[str, Any] = {}
    for sweep in options.sweeps:
        found[sweep.kind] = {"what": SWEEPS[sweep.kind][0], "values": list(sweep.values)}
        for line in LINES:
            points = []
            for value in sweep.values:
                place = place_of(line, sweep.kind, value)
                if place not in known:
                    known[place] = summary([bag.part(*place) for bag in bags], info)
                points.append(known[place])
            found[sweep.kind][line] = points
    return found


def _steps(bags: Sequence[BagEvidence], mode: int | None) -> dict[str, Any]:
    names = list(dict.fromkeys(name for bag in bags for name in bag.steps))
    columns: dict[str, list[np.ndarray]] = {name: [] for name in names}
    totals = []
    for bag in bags:
        chosen = np.ones(len(bag.results["mode"]), bool) if mode is None else bag.results["mode"] == mode
        for name, values in bag.steps.items():
            columns[name].append(values[chosen & ~np.isnan(values)])
        if bag.steps:
            totals.append(np.nansum(np.stack(list(bag.steps.values())), axis=0)[chosen])
    figures = {name: percentiles(np.concatenate(parts)) for name, parts in columns.items() if parts}
    figures["total"] = percentiles(np.concatenate(totals)) if totals else None
    return {name: row for name, row in figures.items() if row is not None}


def score(parts: Sequence[Part], info: ModelInfo, curves: bool = True) -> dict[str, Any]:
    """Compute all scores of a replay of several bags, as JSON data, with `curves` precision at each of COCO's recalls.

    Returns:
        "frames" (number of labelled frames by outcome), "all" (misses count), "answered" (only frames with a result),
        "by_mode", and "by_ir_age" (detection by the distance in time of a pair's frames); see `_figures`. Figures are
        None without labels.
    """
    modes = _modes(parts)
    in_bag = np.concatenate([np.empty(0, bool), *(truth["in_bag"] for truth, _ in parts)])
    frames = {
        "scored": len(modes),
        "answered": int((modes >= 0).sum()),
        "missed": int((modes < 0).sum()),
        "missed_recorded": int(((modes < 0) & in_bag).sum()),
        "missed_not_recorded": int(((modes < 0) & ~in_bag).sum()),
        **{mode.value: int((modes == code).sum()) for code, mode in enumerate(MODES)},
    }
    scorer = _scorer(parts, info)
    return {
        "frames": frames,
        "all": _figures(scorer.scores(), info, curves),
        "answered": _figures(scorer.scores(_ANSWERED), info),
        "by_mode": {
            mode.value: _figures(scorer.scores(mode.value), info)
            for code, mode in enumerate(MODES)
            if (modes == code).any()
        },
        "by_ir_age": {
            age: {"frames": found.images, **_figures(found, info)}
            for age, found in ((age, scorer.scores(age)) for age in _AGES)
            if found.images
        },
    }


def summary(parts: Sequence[Part], info: ModelInfo) -> dict[str, float | None]:
    """Compute the figures `SUMMARY` of a sweep point, misses counted; "answered" is the fraction with a result."""
    figures = _figures(_scorer(parts, info).scores(), info)
    modes = _modes(parts)
    figures["answered"] = rounded(float((modes >= 0).mean())) if len(modes) else None
    return {name: figures[name] for name in SUMMARY}


def _modes(parts: Sequence[Part]) -> np.ndarray:
    return np.concatenate([np.empty(0, np.int8), *(run["mode"] for _, run in parts)])


def _scorer(parts: Sequence[Part], info: ModelInfo) -> Scorer:
    scorer = Scorer(info.box_classes, info.mask_classes, info.score_threshold)
    for truth, run in parts:
        rows = zip(_rows(run, ("boxes", "scores", "labels")), _rows(truth, ("boxes", "labels", "crowd")), strict=True)
        for place, (found, true) in enumerate(rows):
            labelled = truth["labelled"][place] and info.box_classes
            matches = match_image(found, true, len(info.box_classes), name=place) if labelled else None
            subsets = (*_subsets(run["mode"][place]), *_age(run["error_ns"][place]))
            scorer.count(subsets, matches, masked=bool(truth["masked"][place]))
        for code, counts in enumerate(run["confusion"] if info.mask_classes else ()):
            scorer.count_pixels(_subsets(code), counts)
    return scorer


def _age(error_ns: int) -> tuple[str, ...]:
    """Group of a pair by the distance of its frames; none without a pair."""
    return () if error_ns == NO_ERROR else (_AGES[bisect.bisect_left(_AGES_MS, abs(error_ns) / 1e6)],)


def _subsets(code: int) -> tuple[str, ...]:
    """Return the subsets of a frame by its mode code; -1 and the last row of pixel counts: without a result."""
    return (ALL, _ANSWERED, MODES[code].value) if 0 <= code < len(MODES) else (ALL,)


def _figures(scores: Scores, info: ModelInfo, curves: bool = False) -> dict[str, Any]:
    """Return the figures of one subset as JSON data.

    "map", "map50", "map75", by class "ap", "ap50", "ap75", "instances"; "miou", "iou" by class, "pixel_accuracy";
    "frames_with_boxes", "frames_with_masks"; with curves "precision" by class at COCO's "recalls", IoU 0.5.
    """
    detection = scores.detection or detection_scores((), info.box_classes)
    figures: dict[str, Any] = {
        **detection.to_dict(),
        "frames_with_boxes": scores.images_with_boxes,
        "frames_with_masks": scores.images_with_masks,
    }
    pixels = scores.segmentation
    figures["miou"] = None if pixels is None else pixels.miou
    figures["iou"] = {} if pixels is None else pixels.iou
    figures["pixel_accuracy"] = None if pixels is None else pixels.pixel_accuracy
    if curves and scores.images_with_boxes:
        figures["recalls"] = RECALLS.tolist()
        figures["precision"] = {
            name: values.tolist() for name, values in detection.precision.items() if detection.instances[name]
        }
    return rounded(figures)


def _rows(arrays: Arrays, keys: Sequence[str]) -> list[tuple[np.ndarray, ...]]:
    """Split arrays into one tuple per frame."""
    ends = np.cumsum(arrays["count"])
    starts = ends - arrays["count"]
    return [tuple(arrays[key][a:b] for key in keys) for a, b in zip(starts, ends, strict=True)]
