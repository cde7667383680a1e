"""Tables and plots from the evaluations written by the command line."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks.experiment import ros_machine, write_times
from spectradino_core.evaluation.representations import mean_of
from spectradino_core.evaluation.retrieval_report import neighbours_table, pairs_table, probes_table
from spectradino_core.files import write_file

EVALUATED_PARTS = ("stages", "systems", "anchors", "alphas", "unseen", "options")
HEADLINE = ("roadscene_val, lwir", "msrs_val, lwir", "epfl_val, nir", "road_val, swir", "scenes, swir")
PLOTS = {
    "chain/losses.png": "stages_losses.png",
    "stages-evaluated/pairs.png": "stages_pairs.png",
    "omnivorous/losses.png": "omnivorous_losses.png",
    "both/losses.png": "both_losses.png",
    "systems-evaluated/pairs.png": "systems_pairs.png",
}

Evaluated = Mapping[str, Mapping[str, Mapping[str, Any]]]


def write_report(work: Path, out: Path, note: str = "") -> None:
    """Write `tables.md`, `results.json`, `times.csv` and the plots of all parts evaluated in the jobs' folder `work`.

    Raises:
        ValueError: nothing was evaluated yet.
    """
    found: dict[str, dict[str, Any]] = {}
    for part in EVALUATED_PARTS:
        path = work / f"{part}-evaluated" / "retrieval.json"
        if path.is_file():
            found[part] = json.loads(path.read_text(encoding="utf-8"))
            found[part]["pairs"] = _plain_names(found[part]["pairs"])
    text = "\n".join(_section(part, result) for part, result in found.items())
    if detectors := _detectors(work):
        found["detectors"] = detectors
        text += f"\n## Detectors\n\n{detectors_table(detectors)}"
    if not found:
        raise ValueError(f"{work} holds no evaluations: run a part first")
    out.mkdir(parents=True, exist_ok=True)
    for name, content in (("tables.md", text), ("results.json", json.dumps(found, indent=1) + "\n")):
        write_file(out / name, content)
    for name, plot in PLOTS.items():
        if (work / name).is_file():
            _copy_small(work / name, out / plot)
    write_times(work, out, ros_machine(), note)
    print(f"\n{text}\n{out}: tables.md, results.json, times.csv and plots")


def brief_table(evaluated: Evaluated, pairs: Iterable[str]) -> str:
    """Return Markdown with a row per model: R@1 and R@5 in per cent, averaged over both directions, for those `pairs`
    that are available; RGB retention."""
    columns = [p for p in pairs if any(p in sets for sets in evaluated.values())]
    lines = [f"| model | {' | '.join(columns)} | RGB kept (CLS, patches) |", "|---|" + "---:|" * (len(columns) + 1)]
    for model, sets in evaluated.items():
        cells = [f"{_mean_recall(sets[p], 'r1'):.1f}, {_mean_recall(sets[p], 'r5'):.1f}" if p in sets else "–"
                 for p in columns]  # fmt: skip
        rows = [sets[p] for p in columns if p in sets and "retention_cls" in sets[p]]
        kept = "–"
        if rows:
            kept = ", ".join(f"{mean(row[key] for row in rows):.3f}" for key in ("retention_cls", "retention_patches"))
        lines.append(f"| {model} | {' | '.join(cells)} | {kept} |")
    return "\n".join(lines) + "\n\nR@1, R@5 in per cent, mean of both directions.\n"


def detectors_table(evaluated: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> str:
    """Return Markdown with mAP50 in per cent, mean and standard deviation over the seeds.

    Args:
        evaluated: by system, by number of labelled pairs, by streams: {"mean", "std", "values"} of mAP50.
    """
    counts = list(dict.fromkeys(count for by_count in evaluated.values() for count in by_count))
    lines = [f"| system | streams | {' | '.join(f'{count} pairs' for count in counts)} |"]
    lines.append("|---|---|" + "---:|" * len(counts))
    for system, by_count in evaluated.items():
        for streams in dict.fromkeys(streams for rows in by_count.values() for streams in rows):
            rows = [by_count.get(count, {}).get(streams) for count in counts]
            cells = ["–" if row is None or row["mean"] is None else _with_spread(row) for row in rows]
            lines.append(f"| {system} | {streams} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n\nmAP50 on MSRS val in per cent, mean ± standard deviation over the seeds.\n"


def mean_over_seeds(evaluated: Evaluated) -> dict[str, dict[str, dict[str, Any]]]:
    """Average models named "<option> <seed>" number by number under "<option>"; others are kept."""
    groups: dict[str, list[str]] = {}
    for name in evaluated:
        option, _, seed = name.rpartition(" ")
        groups.setdefault(option if seed.isdigit() else name, []).append(name)
    return {
        option: {pair: mean_of([evaluated[name][pair] for name in names]) for pair in evaluated[names[0]]}
        for option, names in groups.items()
    }


def _with_spread(row: Mapping[str, Any]) -> str:
    spread = "" if row["std"] is None else f" ± {100 * row['std']:.1f}"
    return f"{100 * row['mean']:.1f}{spread}"


def _detectors(work: Path) -> dict[str, dict[str, dict[str, Any]]]:
    """Read the evaluations of detectors: see `detectors_table`."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for path in sorted((work / "detectors").glob("*-evaluated/result.json"), key=lambda path: path.stat().st_mtime):
        system, count, _ = path.parent.name.split("-")
        (evaluated,) = json.loads(path.read_text(encoding="utf-8"))["sets"]
        rows = evaluated["subsets"]["all"]["rows"]
        found.setdefault(system, {})[count] = {
            streams: row["mean"]["mAP50"]
            for streams, row in rows.items()
            if row.get("mean") and row["mean"]["mAP50"]["mean"] is not None  # no baseline is given, nor its row
        }
    return found


def _copy_small(plot: Path, to: Path) -> None:
    """Copy a plot for committing: at most 1600 pixels wide, with 64 colours."""
    from PIL import Image  # Matplotlib brings it

    with Image.open(plot) as opened:
        image = opened.convert("RGB")
    image.thumbnail((1600, 1600))
    image.quantize(64, Image.Quantize.MAXCOVERAGE).save(to, optimize=True)


def _section(part: str, result: Mapping[str, Any]) -> str:
    evaluated = result["pairs"]
    every = list(dict.fromkeys(pair for sets in evaluated.values() for pair in sets))
    of_rgb = [pair for pair in every if " to " not in pair]
    if part == "stages":
        return (
            f"## Stages\n\n{pairs_table(_only(evaluated, HEADLINE))}\n### The other pairs\n\n"
            f"{pairs_table(_only(evaluated, [p for p in every if p not in HEADLINE]))}"
        )
    if part == "options":
        return (
            f"## Options\n\nEach seed:\n\n{brief_table(evaluated, every)}\n"
            f"Mean over the seeds:\n\n{brief_table(mean_over_seeds(evaluated), every)}"
        )
    texts = [f"## {part.capitalize()}", brief_table(evaluated, of_rgb), pairs_table(_only(evaluated, HEADLINE))]
    if part == "anchors":
        texts.pop()
    if "neighbours" in result:
        texts.append(neighbours_table(result["neighbours"]))
    if "probes" in result:
        texts.append(probes_table(result["probes"]))
    return "\n\n".join(text.rstrip() for text in texts) + "\n"


def _only(evaluated: Evaluated, pairs: Iterable[str]) -> dict[str, dict[str, Mapping[str, Any]]]:
    return {model: {pair: sets[pair] for pair in pairs if pair in sets} for model, sets in evaluated.items()}


def _plain_names(evaluated: Evaluated) -> dict[str, dict[str, Mapping[str, Any]]]:
    """Shorten "64 scenes, nir" to "scenes, nir": the row has the number."""
    return {model: {_plain(pair): row for pair, row in sets.items()} for model, sets in evaluated.items()}


def _plain(pair: str) -> str:
    number, _, rest = pair.partition(" ")
    return rest if number.isdigit() else pair


def _mean_recall(row: Mapping[str, Any], key: str) -> float:
    return 50 * (row["from_rgb"][key] + row["to_rgb"][key])
