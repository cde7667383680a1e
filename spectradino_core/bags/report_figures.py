"""Plots of evaluated recordings: timeline of a recording, and scores over a sweep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from spectradino_core.bags.labelled_frames import NO_ERROR
from spectradino_core.bags.results import BagEvidence
from spectradino_core.bags.sweep_run import LINES
from spectradino_core.evaluation.figures import COLOURS, legend, panels
from spectradino_core.runtime.perception_result import Mode

__all__ = ["LINE_NAMES", "TITLES", "sweep_curves", "timeline"]

LINE_NAMES = {"fused": "both cameras (the node)", "rgb_only": "RGB only", "ir_only": "IR only"}
TITLES = {"map": "mAP", "map50": "mAP50", "miou": "mIoU", "answered": "with result"}
"""Plot titles of a sweep's figures, in percent."""

_MODE_COLOURS = {
    Mode.FUSED.value: "#1b7f4b",
    Mode.RGB_ONLY.value: "#2a6fdb",
    Mode.IR_ONLY.value: "#d1462f",
    Mode.STALE.value: "#8a8f98",
}
_MOST_POINTS = 1500
"""Above this number points are rasterized: a vector file would grow with the recording."""


def timeline(bag: BagEvidence) -> Figure:
    """Plot modes, pairing errors, drops and latency over bag time."""
    results, facts = bag.results, bag.facts
    changes = facts["mode_changes"]
    figure = Figure(figsize=(10.5, 5.2), layout="constrained")
    strip, errors, drops, latency = figure.subplots(4, sharex=True, height_ratios=(0.35, 1.4, 1.0, 1.4))
    at_s = _relative_s(bag, results["ready_ns"])
    seconds = max(facts["seconds"], at_s.max(initial=0.0), 0.001)
    _modes(strip, changes, seconds)
    many: dict[str, Any] = {"rasterized": len(at_s) > _MOST_POINTS}
    there = results["error_ns"] != NO_ERROR
    errors.axhline(0, color="#b8bec9", lw=0.8)
    errors.scatter(
        at_s[there], results["error_ns"][there] / 1e6, s=5, color=_MODE_COLOURS["fused"], lw=0, label="pair", **many
    )
    for mode in (Mode.RGB_ONLY, Mode.IR_ONLY):
        alone = results["mode"] == (1 if mode is Mode.RGB_ONLY else 2)
        if alone.any():
            colour = _MODE_COLOURS[mode.value]
            errors.scatter(at_s[alone], np.zeros(alone.sum()), s=14, marker="|", color=colour, label=mode.value, **many)
    if len(at_s):
        errors.legend(loc="upper right", fontsize=8, frameon=False, ncols=3)
    errors.set_ylabel("IR minus RGB\n[ms]")
    low, high = errors.get_ylim()
    errors.set_ylim(min(low, -1.0), max(high, 1.0))
    for number, cause in enumerate(results["drop_causes"]):
        counts = results["drop_counts"][:, number]
        drop_s = np.append(_relative_s(bag, results["drop_ns"]), seconds)
        colour = COLOURS[number % len(COLOURS)]
        drops.step(drop_s, np.append(counts, counts[-1:]), where="post", label=str(cause), color=colour, lw=1.3)
    drops.set_ylabel("frames dropped\nso far")
    if len(results["drop_causes"]):
        drops.legend(loc="upper left", fontsize=8, frameon=False, ncols=2)
    else:
        drops.text(0.5, 0.5, "none", transform=drops.transAxes, ha="center", va="center", color="#5c6370")
    base = np.zeros(len(at_s))
    for number, (name, values) in enumerate(bag.steps.items()):
        top = base + np.nan_to_num(values)
        latency.fill_between(
            at_s, base, top, label=name, color=COLOURS[number % len(COLOURS)], alpha=0.75, lw=0, **many
        )
        base = top
    latency.set_ylabel("computing\n[ms]")
    if len(at_s):
        latency.set_ylim(0, max(1e-3, float(np.percentile(base, 99.5)) * 1.2))
        latency.legend(loc="upper right", fontsize=8, frameon=False, ncols=4)
    latency.set_xlabel("time in the bag [s]")
    for axes in (strip, errors, drops, latency):
        axes.set_xlim(0, seconds)
    return figure


def sweep_curves(sweep: Mapping[str, Any]) -> Figure:
    """Plot mAP, mAP50, with masks mIoU, and the fraction of frames with a result, over the swept value."""
    known = [name for name in TITLES if any(p[name] is not None for line in LINES for p in sweep[line])]
    names = known or ["answered"]
    figure, all_axes = panels(len(names), 3.2, 2.9, columns=len(TITLES))
    for axes, name in zip(all_axes, names, strict=True):
        for line in LINES:
            points = [np.nan if p[name] is None else 100 * p[name] for p in sweep[line]]
            style = "-" if line == "fused" else "--"
            axes.plot(
                sweep["values"], points, style, marker="o", ms=3.5, color=_MODE_COLOURS[line], label=LINE_NAMES[line]
            )
        axes.set(title=f"{TITLES[name]} [%]", xlabel=sweep["what"])
        axes.set_ylim(bottom=0)
    legend(figure, all_axes[0])
    return figure


def _modes(axes: Axes, changes: Sequence[Mapping[str, Any]], seconds: float) -> None:
    since, mode = 0.0, Mode.FUSED.value
    shown = set()
    for at_s, after in [*((c["at_s"], c["to"]) for c in changes), (seconds, "")]:
        if at_s > since:
            label = mode if mode not in shown else None
            shown.add(mode)
            axes.axvspan(since, at_s, color=_MODE_COLOURS[mode], lw=0, label=label)
        since, mode = max(since, at_s), after
    axes.set_yticks([])
    axes.set_ylabel("mode", rotation=0, ha="right", va="center")
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1.0), fontsize=8, frameon=False, ncols=4)


def _relative_s(bag: BagEvidence, at_ns: np.ndarray) -> np.ndarray:
    return (at_ns - bag.facts["first_ns"]) / 1e9
