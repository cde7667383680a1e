"""Figures of an evaluation: the drive over time, precision over recall, scores as a sweep gets worse."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from spectradino_core.bags.health import NO_ERROR
from spectradino_core.bags.results import BagEvidence
from spectradino_core.bags.sweep_run import LINES
from spectradino_core.runtime.percepts import Mode

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["LINE_NAMES", "TITLES", "curves", "sweep_curves", "timeline"]

LINE_NAMES = {"fused": "both cameras (the node)", "rgb_only": "colour alone", "ir_only": "infrared alone"}
TITLES = {"map": "mAP", "map50": "mAP50", "miou": "mIoU", "answered": "answered"}
"""Of what is drawn of a sweep, in percent."""

_MODE_COLOURS = {
    Mode.FUSED.value: "#1b7f4b",
    Mode.RGB_ONLY.value: "#2a6fdb",
    Mode.IR_ONLY.value: "#d1462f",
    Mode.STALE.value: "#8a8f98",
}
_LINE_COLOURS = {"fused": "#1b7f4b", "rgb_only": "#2a6fdb", "ir_only": "#d1462f"}
_SET = ("#2a6fdb", "#d1462f", "#1b7f4b", "#b07d00", "#7a4fc2", "#0f8b8d", "#c2458a", "#5c6370", "#8c564b", "#9ca500")
_MOST_POINTS = 1500
"""More points than this are drawn as a picture inside the drawing: a file of vectors would grow with the drive."""


def timeline(bag: BagEvidence) -> Figure:
    """Modes, pairing errors, drops and latency over the bag's time."""
    answers, facts = bag.answers, bag.facts
    changes = facts["mode_changes"]
    figure, (strip, errors, drops, latency) = _figure(4, heights=(0.35, 1.4, 1.0, 1.4))
    at_s = _relative_s(bag, answers["ready_ns"])
    seconds = max(facts["seconds"], at_s.max(initial=0.0), 0.001)
    _modes(strip, changes, seconds)
    many: dict[str, Any] = {"rasterized": len(at_s) > _MOST_POINTS}
    there = answers["error_ns"] != NO_ERROR
    errors.axhline(0, color="#b8bec9", lw=0.8)
    errors.scatter(at_s[there], answers["error_ns"][there] / 1e6, s=5, color=_MODE_COLOURS["fused"], lw=0, **many)
    for mode in (Mode.RGB_ONLY, Mode.IR_ONLY):
        alone = answers["mode"] == (1 if mode is Mode.RGB_ONLY else 2)
        if alone.any():
            colour = _MODE_COLOURS[mode.value]
            errors.scatter(at_s[alone], np.zeros(alone.sum()), s=14, marker="|", color=colour, label=mode.value, **many)
            errors.legend(loc="upper right", fontsize=8, frameon=False)
    errors.set_ylabel("pairing error\n[ms]")
    low, high = errors.get_ylim()
    errors.set_ylim(min(low, -1.0), max(high, 1.0))
    for number, cause in enumerate(answers["drop_causes"]):
        counts = answers["drop_counts"][:, number]
        drop_s = np.append(_relative_s(bag, answers["drop_ns"]), seconds)
        colour = _SET[number % len(_SET)]
        drops.step(drop_s, np.append(counts, counts[-1:]), where="post", label=str(cause), color=colour, lw=1.3)
    drops.set_ylabel("frames dropped\nso far")
    if len(answers["drop_causes"]):
        drops.legend(loc="upper left", fontsize=8, frameon=False, ncols=2)
    else:
        drops.text(0.5, 0.5, "none", transform=drops.transAxes, ha="center", va="center", color="#5c6370")
    base = np.zeros(len(at_s))
    for number, (name, values) in enumerate(bag.steps.items()):
        top = base + np.nan_to_num(values)
        latency.fill_between(at_s, base, top, label=name, color=_SET[number % len(_SET)], alpha=0.75, lw=0, **many)
        base = top
    latency.set_ylabel("computing\n[ms]")
    if len(at_s):
        latency.set_ylim(0, max(1e-3, float(np.percentile(base, 99.5)) * 1.2))
        latency.legend(loc="upper right", fontsize=8, frameon=False, ncols=4)
    latency.set_xlabel("time in the bag [s]")
    for axes in (strip, errors, drops, latency):
        axes.set_xlim(0, seconds)
    return figure


def curves(scores: Mapping[str, Any]) -> Figure:
    """Precision over recall at IoU 0.5, a line a class."""
    figure, (axes,) = _figure(1, width=5.4, heights=(3.6,))
    recalls = scores["recalls"]
    for number, (name, precision) in enumerate(sorted(scores["precision"].items())):
        ap = scores["ap50"][name]
        axes.plot(recalls, precision, color=_SET[number % len(_SET)], lw=1.6, label=f"{name} (AP50 {100 * ap:.1f})")
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("recall")
    axes.set_ylabel("precision")
    axes.grid(color="#e4e7ec", lw=0.6)
    axes.legend(loc="best", fontsize=8, frameon=False)
    return figure


def sweep_curves(kind: str, sweep: Mapping[str, Any]) -> Figure:
    """mAP, mAP50, with masks mIoU, and the share of frames that were answered, as something gets worse."""
    names = [name for name in TITLES if any(p[name] is not None for line in LINES for p in sweep[line])]
    figure, all_axes = _figure(1, width=3.2 * max(1, len(names)), heights=(2.9,), columns=max(1, len(names)))
    for axes, name in zip(all_axes, names):
        for line in LINES:
            points = [np.nan if p[name] is None else 100 * p[name] for p in sweep[line]]
            style = "-" if line == "fused" else "--"
            axes.plot(
                sweep["values"], points, style, marker="o", ms=3.5, color=_LINE_COLOURS[line], label=LINE_NAMES[line]
            )
        axes.set_title(f"{TITLES[name]} [%]", fontsize=10)
        axes.set_ylim(bottom=0)
        axes.grid(color="#e4e7ec", lw=0.6)
    all_axes[0].legend(loc="best", fontsize=7.5, frameon=False)
    figure.supxlabel(sweep["what"], fontsize=9)
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


def _figure(
    rows: int, width: float = 10.5, heights: Sequence[float] = (), columns: int = 1
) -> tuple[Figure, list[Axes]]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, sum(heights) + 0.25 * rows), layout="constrained", dpi=110)
    grid = figure.subplots(rows, columns, sharex=rows > 1, squeeze=False, height_ratios=list(heights))
    flat = [axes for row in grid for axes in row]
    for axes in flat:
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8)
        axes.yaxis.label.set_size(9)
    return figure, flat
