"""Report of evaluated recordings: an HTML file, and a summary for the terminal."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from spectradino_core.bags.labelled_frames import MODES, NO_ERROR
from spectradino_core.bags.results import BagEvidence, timings
from spectradino_core.bags.sweep_run import LINES
from spectradino_core.data.labels import describe_notes
from spectradino_core.evaluation.figures import COLOURS, legend, panels, precision_recall
from spectradino_core.evaluation.page import Cell, Page, markdown_table
from spectradino_core.evaluation.worst import add_gallery
from spectradino_core.runtime.perception_result import Mode
from spectradino_core.text import counted

_MAX_FRAMES = 12
_MAX_EVENTS = 100
_HEAD = ["frames", "mAP", "mAP50", "mAP75", "mIoU"]
_LINE_NAMES = {"fused": "both cameras (the node)", "rgb_only": "RGB only", "ir_only": "IR only"}
_TITLES = {"map": "mAP", "map50": "mAP50", "miou": "mIoU", "answered": "with result"}
"""Plot titles of a sweep's figures, in percent."""

_MODE_COLOURS = {
    Mode.FUSED.value: "#1b7f4b",
    Mode.RGB_ONLY.value: "#2a6fdb",
    Mode.IR_ONLY.value: "#d1462f",
    Mode.STALE.value: "#8a8f98",
}
_MAX_POINTS = 1500
"""Above this number points are rasterized: a vector file would grow with the recording."""


def write_report(path: Path, result: Mapping[str, Any], bags: Sequence[BagEvidence]) -> None:
    """Write the content of `result.json`, and the files of the bags that succeeded, as an HTML file."""
    total, info = result["total"], result["model"]["description"]
    name = bags[0].name if len(bags) == 1 else f"{total['bags']} bags"
    page = Page(f"{name}: {info['name']}", _lead(result))
    for text in warnings(result, [bag.name for bag in bags]):
        page.text(f"⚠ {text}")
    if result["failed"]:
        page.heading("Bags that failed")
        page.table(["bag", "why"], [[row["name"], row["why"]] for row in result["failed"]])
    if total["scores"] is not None:
        _write_scores(page, result, bags)
    for kind, sweep in result["sweeps"].items():
        if kind == next(iter(result["sweeps"])):
            page.heading("Sweeps")
            page.text(
                "All labelled frames count: one without a result, because a frame was lost or found no partner, is a "
                "miss. The last plot shows the fraction of frames with a result. A dropout line can rise towards its "
                "end: while a few frames still arrive the node waits for pairs, and once a camera is silent for "
                "stale_ms it uses the other alone.",
                soft=True,
            )
        _write_sweep(page, kind, sweep)
    _write_worst(page, bags, is_scored=total["scores"] is not None)
    _write_pairing(page, total)
    for bag in bags:
        page.heading(f"{bag.name} over time" if len(bags) > 1 else "Over time")
        _write_bag(page, bag)
    _write_timings(page, bags)
    _write_provenance(page, result)
    page.write(path)


def summary_lines(result: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    """Return what the command prints, for the names of the bags that succeeded: scores, pairing, and warnings."""
    lines = [_lead(result), ""]
    for number, (title, rows) in enumerate(_score_tables(result, names)):
        lines += ([""] if number else []) + markdown_table([title, *_HEAD], rows).splitlines()
    for kind, sweep in result["sweeps"].items():
        lines += ["", f"{kind}: {sweep['what']}"]
        header, rows = _sweep_rows(sweep, ("map50", "answered"))
        lines += markdown_table(header, rows).splitlines()
    lines += [f"warning: {text}" for text in warnings(result, names)]
    lines += [f"failed: {row['name']}: {row['why']}" for row in result["failed"]]
    return lines


def warnings(result: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    """Return problems that affect how the figures are read."""
    found = []
    for name, bag in zip(names, result["bags"], strict=True):
        truth, scores = bag["truth"], bag["scores"]
        if not bag["pairing"]["captures"]:
            found.append(f"{name}: no captures, see the drops: {_counts(bag['drops']) or 'none'}")
        if bag["pairing"]["failed_captures"]:
            reason = "; ".join(f"{cause}: {text}" for cause, text in bag["failures"].items())
            found.append(f"{name}: {counted(bag['pairing']['failed_captures'], 'capture')} failed ({reason})")
        found += [f"{name}: {text}" for text in bag["damage"] + bag["unreadable"]]
        if truth is None:
            continue
        if truth["unknown_classes"]:
            found.append(
                f"{name}: labels of classes that the model does not have are not scored: "
                f"{_counts(truth['unknown_classes'])}"
            )
        found += [f"{name}: labels: {text}" for text in describe_notes(truth.get("label_notes", {}))]
        if scores["frames"]["missed"]:
            frames = scores["frames"]
            found.append(
                f"{name}: {frames['missed']} of {frames['scored']} labelled frames have no result and count as missed "
                f"({frames['missed_recorded']} recorded but dropped, {frames['missed_not_recorded']} not in the bag)"
            )
        if truth["outside_the_bag"]:
            found.append(f"{name}: {truth['outside_the_bag']} labels lie before or after the recording, not scored")
    return found


def _lead(result: Mapping[str, Any]) -> str:
    total = result["total"]
    pairing, info = total["pairing"], result["model"]["description"]
    if not total["bags"]:
        return f"{info['name']}: no bag could be evaluated."
    text = f"{info['name']} ({' + '.join(info['bands'])}): {counted(pairing['captures'], 'capture')}"
    modes = {mode: count for mode, count in pairing["captures_by_mode"].items() if count}
    text += f" ({_counts(modes)})" if modes else ""
    if pairing["absolute_error_ms"] is not None:
        error = pairing["absolute_error_ms"]
        text += f"; pairing error {error['p50']:.1f} ms (median; 95 % within {error['p95']:.1f} ms)"
    drops = _counts(total["drops"])
    return text + (f"; dropped: {drops}." if drops else "; nothing dropped.")


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items())


def _percent(value: float | None) -> float | None:
    return None if value is None else 100 * value


def _score_row(name: str, frames: int, figures_: Mapping[str, Any]) -> list[Cell]:
    return [name, frames, *(_percent(figures_[key]) for key in ("map", "map50", "map75", "miou"))]


def _score_tables(result: Mapping[str, Any], names: Sequence[str]) -> list[tuple[str, list[list[Cell]]]]:
    """Return titles and rows: of all frames, by mode, by age of the IR frame, by recording; nothing without scores."""
    scores = result["total"]["scores"]
    if scores is None:
        return []
    rows = [_score_row("all", scores["frames"]["scored"], scores["all"])]
    if scores["frames"]["missed"]:
        rows.append(_score_row("frames with a result", scores["frames"]["answered"], scores["answered"]))
    tables = [("", rows)]
    if len(scores["by_mode"]) > 1:
        rows = [_score_row(mode, scores["frames"][mode], row) for mode, row in scores["by_mode"].items()]
        tables.append(("by cameras used", rows))
    if len(scores["by_ir_age"]) > 1:
        rows = [_score_row(age, row["frames"], row) for age, row in scores["by_ir_age"].items()]
        tables.append(("by distance in time of the IR frame from the RGB frame", rows))
    if len(names) > 1:
        rows = [
            _score_row(name, bag["scores"]["frames"]["scored"], bag["scores"]["all"])
            for name, bag in zip(names, result["bags"], strict=True)
            if bag["scores"] is not None
        ]
        tables.append(("by recording, misses counted", rows))
    return tables


def _write_scores(page: Page, result: Mapping[str, Any], bags: Sequence[BagEvidence]) -> None:
    scores = result["total"]["scores"]
    page.heading("Scores")
    caption = "in percent; a labelled frame without a result counts as missed"
    for title, table in _score_tables(result, [bag.name for bag in bags]):
        page.table([title, *_HEAD], table, "" if title else caption, strong=[] if title else [0])
    found = scores["all"]
    if any(found["instances"].values()):
        rows: list[list[Cell]] = [
            [name, count, *(_percent(found[key][name]) for key in ("ap", "ap50", "ap75"))]
            for name, count in found["instances"].items()
        ]
        page.table(["class", "true boxes", "AP", "AP50", "AP75"], rows)
        curves = precision_recall({"all": found["precision"]}, found["instances"])
        if curves is not None:
            page.figure(curves, "Precision over recall at IoU 0.5, by class (true boxes)")
    if tracks := result["total"].get("tracking"):
        columns = {
            "mota": "MOTA", "recall": "recall", "precision": "precision", "switches": "identity switches",
            "fragmentations": "fragmentations", "objects": "objects", "mostly_tracked": "mostly tracked",
            "mostly_lost": "mostly lost", "frames": "frames",
        }  # fmt: skip
        cells: list[Cell] = [
            _percent(value) if name in ("mota", "recall", "precision") else value
            for name, value in ((name, tracks[name]) for name in columns)
        ]
        caption = "track identities, IoU 0.5; a labelled frame without a result counts as one without tracks"
        page.table(list(columns.values()), [cells], caption)
    if found["iou"]:
        rows = [[name, _percent(value)] for name, value in found["iou"].items()]
        page.table(["mask class", "IoU"], [*rows, ["pixel accuracy", _percent(found["pixel_accuracy"])]])


def _sweep_rows(sweep: Mapping[str, Any], keys: Sequence[str]) -> tuple[list[str], list[list[Cell]]]:
    header = [""] + [f"{line}: {_TITLES[key]}" for line in LINES for key in keys]
    rows: list[list[Cell]] = [
        [f"{value:g}", *(_percent(sweep[line][number][key]) for line in LINES for key in keys)]
        for number, value in enumerate(sweep["values"])
    ]
    return header, rows


def _write_sweep(page: Page, kind: str, sweep: Mapping[str, Any]) -> None:
    page.heading(f"{kind}: {sweep['what']}", level=3)
    page.figure(_sweep_curves(sweep), f"Scores by {sweep['what']}")
    with page.details("Figures"):
        keys = [key for key in _TITLES if any(p[key] is not None for p in sweep["fused"])]
        page.table(*_sweep_rows(sweep, keys))


def _write_worst(page: Page, bags: Sequence[BagEvidence], is_scored: bool) -> None:
    rows = [(bag, row) for bag in bags for row in bag.worst_frames]
    rows.sort(key=lambda row: -row[1]["mistakes"])  # stable: equal counts stay in order
    if rows:
        page.heading("Worst frames" if is_scored else "Sample frames")
        frames = []
        for bag, row in rows[:_MAX_FRAMES]:
            caption = f"{bag.name}: {row['caption']}" if len(bags) > 1 else row["caption"]
            frames.append(((bag.folder / "pictures" / row["file"]).read_bytes(), caption))
        add_gallery(page, frames, is_scored)


def _write_pairing(page: Page, total: Mapping[str, Any]) -> None:
    pairing = total["pairing"]
    page.heading("Pairing")
    figures_ = ["error_ms", "absolute_error_ms", "wait_ms"]
    names = ["IR stamp minus RGB stamp [ms]", "pairing error [ms]", "wait for the partner [ms]"]
    keys = ("n", "mean", "p5", "p50", "p95", "p99", "max")
    rows = [[name, *(pairing[key][k] for k in keys)] for key, name in zip(figures_, names) if pairing[key]]
    if rows:
        page.table(["", *keys], rows)
    counts, fractions, seconds = pairing["captures_by_mode"], pairing["share_by_mode"], total["mode_seconds"]
    modes: list[list[Cell]] = [
        [mode, counts.get(mode), _percent(fractions.get(mode)), seconds.get(mode)]
        for mode in [*(m.value for m in MODES), "stale"]
    ]
    page.table(["mode", "captures", "captures %", "seconds"], modes)
    page.text(
        f"{pairing['pairs']} pairs, {pairing['pairs_with_reused_ir']} with a reused IR frame, "
        f"{total['mode_changes']} mode changes, {total['restarts']} stream restarts, "
        f"{pairing['failed_captures']} failed captures."
    )
    if total["drops"]:
        page.table(["cause of the drop", "frames"], [[cause, count] for cause, count in total["drops"].items()])


def _write_bag(page: Page, bag: BagEvidence) -> None:
    facts = bag.facts
    page.figure(_timeline(bag), f"{bag.name}: modes, pairing errors, drops and computing time")
    rows: list[list[Cell]] = []
    for key, camera in facts["cameras"].items():
        size = "–" if camera["size"] is None else f"{camera['size'][0]}x{camera['size'][1]}"
        figures = (camera[name] for name in ("frames", "period_ms", "longest_gap_ms"))
        rows.append([key, camera["topic"] or "none", camera["encoding"] or "–", size, *figures])
    page.table(["camera", "topic", "encoding", "size", "frames", "period [ms]", "longest gap [ms]"], rows)
    learnt = facts["learnt_offset"]
    offset = f"IR time offset at the end: {facts['ir_time_offset_ms'] or 0.0:+.1f} ms"
    if learnt is not None:
        offset += f" (estimated: {learnt['offset_ms']:+.1f} ms, confidence {learnt['confidence']:.2f})"
    page.text(f"{offset}. Registration: {facts['registration']}. Thermal: {facts['thermal']}. {facts['engine']}.")
    if invalid := facts.get("ir_invalid_pixels"):
        page.text(
            f"Invalid IR pixels (dead pixels, borders, telemetry) in {invalid['frames']} frames: "
            f"{invalid['mean']:.2%} of all pixels, {invalid['max']:.2%} in the worst frame."
        )
    if temperatures := facts.get("temperatures"):
        columns = ("detections", "measured", "minimum", "mean", "maximum")
        page.table(
            ["inside the boxes of", "detections", "measured", "minimum [°C]", "mean [°C]", "maximum [°C]"],
            [[name, *(row.get(column) for column in columns)] for name, row in temperatures.items()],
            "temperatures of valid infrared pixels",
        )
    if facts["mode_changes"]:
        rows = [[f"{c['at_s']:.2f}", c["from"], c["to"], c["why"]] for c in facts["mode_changes"][:_MAX_EVENTS]]
        page.table(["at [s]", "from", "to", "why"], rows, caption="mode changes")
    if facts["events"]:
        with page.details(f"Log of the node ({len(facts['events'])})"):
            events = [[f"{e['at_s']:.2f}", e["text"]] for e in facts["events"][:_MAX_EVENTS]]
            page.table(["at [s]", "text"], events)


def _write_timings(page: Page, bags: Sequence[BagEvidence]) -> None:
    if not bags:
        return
    found = timings(bags, 0, 0)
    page.heading("Computing time")
    keys = ("n", "mean", "p50", "p95", "p99", "max")
    page.table(
        ["step [ms]", *keys], [[step, *(row[k] for k in keys)] for step, row in found["steps_ms"].items()], strong=[]
    )
    rows: list[list[Cell]] = [
        [name, row["answers"], row["answers_per_s"], row["recorded_captures_per_s"]]
        for name, row in found["bags"].items()
    ]
    page.table(["bag", "results", "results per second", "recorded captures per second"], rows)
    page.text(
        "A robot with this machine keeps up if the second figure is at least the third; otherwise the node skips "
        "all but the newest frames.",
        soft=True,
    )


def _write_provenance(page: Page, result: Mapping[str, Any]) -> None:
    page.heading("Provenance")
    truth = next((bag["truth"] for bag in result["bags"] if bag["truth"]), None)
    if truth is not None:
        page.text(
            f"Ground truth: {truth['source']}, matched by header stamp within {truth['tolerance_ms']:g} ms; boxes of "
            f"{', '.join(truth['classes']) or 'no class'}; masks of {', '.join(truth['mask_classes']) or 'no class'}; "
            f"{truth['ignored_regions']} ignored regions."
        )
    page.text(f"{result['software']}, model sha256 {result['model']['sha256']}.")
    for title, data in (("Model", result["model"]), ("Settings", result["settings"])):
        with page.details(title):
            page.code(json.dumps(data, indent=1, ensure_ascii=False))


def _timeline(bag: BagEvidence) -> Figure:
    """Plot modes, pairing errors, drops and latency over bag time."""
    results, facts = bag.results, bag.facts
    changes = facts["mode_changes"]
    figure = Figure(figsize=(10.5, 5.2), layout="constrained")
    strip, errors, drops, latency = figure.subplots(4, sharex=True, height_ratios=(0.35, 1.4, 1.0, 1.4))
    at_s = _relative_s(bag, results["ready_ns"])
    seconds = max(facts["seconds"], at_s.max(initial=0.0), 0.001)
    _modes(strip, changes, seconds)
    many: dict[str, Any] = {"rasterized": len(at_s) > _MAX_POINTS}
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


def _sweep_curves(sweep: Mapping[str, Any]) -> Figure:
    """Plot mAP, mAP50, with masks mIoU, and the fraction of frames with a result, over the swept value."""
    known = [name for name in _TITLES if any(p[name] is not None for line in LINES for p in sweep[line])]
    names = known or ["answered"]
    figure, all_axes = panels(len(names), 3.2, 2.9, columns=len(_TITLES))
    for axes, name in zip(all_axes, names, strict=True):
        for line in LINES:
            points = [np.nan if p[name] is None else 100 * p[name] for p in sweep[line]]
            style = "-" if line == "fused" else "--"
            axes.plot(
                sweep["values"], points, style, marker="o", ms=3.5, color=_MODE_COLOURS[line], label=_LINE_NAMES[line]
            )
        axes.set(title=f"{_TITLES[name]} [%]", xlabel=sweep["what"])
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
