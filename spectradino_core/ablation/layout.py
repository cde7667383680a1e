"""Tables of an ablation in the paper's layout, as Markdown, CSV, plots and an HTML page.

Scores are means over seeds of the fused model ± their standard deviation. In addition to the paper's columns, every
table has the scores of each stream, of night scenes, and the baseline's row. The paper's results are shown beside ours
only if the data set is the paper's.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from spectradino_core.ablation.paper import DATASETS, METRICS, figures
from spectradino_core.ablation.recipes import Ablation, Table
from spectradino_core.ablation.work import Outcome, Setup, cell_folder, finished, jobs_of
from spectradino_core.datasets.registry import find_benchmark
from spectradino_core.evaluation.comparison import BASELINE, FUSED
from spectradino_core.evaluation.figures import grouped_bars
from spectradino_core.evaluation.page import Cell, Page, markdown_table
from spectradino_core.evaluation.scorer import ALL
from spectradino_core.evaluation.spread import Spread
from spectradino_core.files import write_file, written_atomically

_HEADLINE = {"detection": "mAP50", "segmentation": "mIoU"}
_SINGLE = ("RGB only", "IR only")


@dataclass(frozen=True)
class Results:
    """Results of the cells.

    Attributes:
        ablation: the ablation.
        cells: results of the finished seeds by cell (see `work.run_job`).
        reasons: why a seed is missing, by cell.
        command: command line.
        minutes: CPU time of all jobs.
        notes: notes on the ablation as it was run.
    """

    ablation: Ablation
    cells: Mapping[str, list[dict[str, Any]]]
    reasons: Mapping[str, str]
    command: str
    minutes: float
    notes: tuple[str, ...]

    @classmethod
    def read(cls, ablation: Ablation, setup: Setup, outcome: Outcome, command: str) -> Results:
        """Read the results of the finished jobs."""
        done = {job.key: finished(setup.folder, job) for job in jobs_of(ablation, setup)}
        cells, reasons = {}, {}
        for cell in ablation.cells:
            keys = [cell_folder(cell.key, seed) for seed in ablation.seeds]
            cells[cell.key] = [found for key in keys if (found := done[key]) is not None]
            for key in keys:
                if key in outcome.failed:
                    reasons[cell.key] = f"failed: {outcome.failed[key]}"
                elif done[key] is None:
                    reasons.setdefault(cell.key, "not run")
        seconds = sum(float(found["cpu_seconds"]) for found in done.values() if found is not None)
        notes = (*ablation.notes, *(ablation.substitute_notes if setup.teacher is None else ()))
        if ablation.scenes is None and not setup.validation:
            notes += (
                "Unlike the paper, Stage II started from Stage I's last backbone instead of its best: no validation "
                "pairs were given (--val-manifest).",
            )
        return cls(ablation, cells, reasons, command, seconds / 60, notes)

    @property
    def tasks(self) -> tuple[str, ...]:
        if self.ablation.scenes is not None:
            return ("detection", "segmentation")
        return find_benchmark(self.ablation.dataset).tasks[:1]

    @property
    def metrics(self) -> list[str]:
        return [metric for task in self.tasks for metric in METRICS[task]]

    @property
    def pairs(self) -> dict[str, int]:
        """Number of test pairs by subset, from the first finished cell; empty before."""
        return next((found["pairs"] for seeds in self.cells.values() for found in seeds), {})

    def figure(self, cell: str, metric: str, row: str = FUSED, subset: str = ALL) -> Spread:
        return Spread.of(found["rows"].get(row, {}).get(subset, {}).get(metric) for found in self.cells[cell])

    def rows(self, table: Table) -> list[tuple[str, str]]:
        """Return the table's rows, with the baseline appended if it is not among them."""
        baseline = self.ablation.baseline
        is_present = any(key == baseline for _, key in table.rows)
        return [*table.rows, *([] if is_present else [(BASELINE, baseline)])]


def write_tables(results: Results, folder: Path) -> None:
    """Write `tables.md`, `tables.csv`, `table09.png` .. and `report.html`."""
    for name, text in (("tables.md", _markdown(results)), ("tables.csv", _csv(results))):
        write_file(folder / name, text)
    for table in results.ablation.tables:
        if (figure := _bars(results, table)) is not None:
            with written_atomically(folder / f"table{table.number:02d}.png") as scratch:
                figure.savefig(scratch, format="png", dpi=90, metadata={"Software": None})
    _page(results).write(folder / "report.html")


def _header_and_rows(results: Results, table: Table) -> tuple[list[str], list[list[Cell]]]:
    metrics, dataset = results.metrics, results.ablation.dataset
    headlines = [_HEADLINE[task] for task in results.tasks]
    night = "night" in results.pairs
    paper = _paper_metrics(table, dataset)
    header = [
        table.title, *metrics, *(f"{m}, paper" for m in paper), *(f"{m}, {row}" for m in headlines for row in _SINGLE),
        *(f"{m}, night" for m in headlines if night), "trained (M)", "seeds",
    ]  # fmt: skip
    rows: list[list[Cell]] = []
    for title, key in results.rows(table):
        found = results.cells[key]
        label = f"{title} ({results.reasons[key]})" if not found and key in results.reasons else title
        theirs = figures(table.number, key, dataset)
        rows.append([
            label,
            *(results.figure(key, metric).per_cent() for metric in metrics),
            *(f"{theirs[m]:.2f}" if m in theirs else "–" for m in paper),
            *(results.figure(key, m, row).per_cent() for m in headlines for row in _SINGLE),
            *(results.figure(key, m, FUSED, "night").per_cent() for m in headlines if night),
            f"{found[0]['trained_parameters'] / 1e6:.2f}" if found else "–",
            len(found),
        ])  # fmt: skip
    return header, rows


def _paper_metrics(table: Table, dataset: str) -> list[str]:
    """Return the metrics that the paper has in a table; empty on data that is not the paper's."""
    known = [figures(table.number, key, dataset) for _, key in table.rows]
    return [metric for metric in METRICS.get(DATASETS.get(dataset, ""), ()) if any(metric in row for row in known)]


def _markdown(results: Results) -> str:
    parts = [f"# {results.ablation.title}\n", *(f"{note}\n" for note in _notes(results))]
    for table in results.ablation.tables:
        parts.append(f"## Table {table.number}: {table.title}\n")
        parts.append(markdown_table(*_header_and_rows(results, table)))
        parts += [f"{note}\n" for note in table.notes]
    return "\n".join([*parts, f"`{results.command}`\n"])


def _notes(results: Results) -> list[str]:
    seeds = len(results.ablation.seeds)
    spread = f", mean ± standard deviation over {seeds} seeds of fine-tuning" if seeds > 1 else ", one seed"
    counts = ", ".join(f"{count} {name}" for name, count in results.pairs.items())
    return [
        *results.notes,
        f"Fused scores in per cent{spread}; pretraining ran once. Pairs: {counts or 'none yet'}. RGB only and IR only "
        "are the same model without the other frame.",
        f"The last row of each table, or Table 10's first, is the baseline: {BASELINE}, the same head.",
        f"CPU time of all jobs: {results.minutes:.1f} minutes.",
    ]


def _csv(results: Results) -> str:
    """Return a line per score, in 0..1, with the paper's result if there is one."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["table", "row", "cell", "set", "subset", "streams", "metric", "mean", "std", "seeds", "paper"])
    dataset = results.ablation.dataset
    rows = ((table.number, *row) for table in results.ablation.tables for row in results.rows(table))
    columns = [
        (subset, streams, metric)
        for subset in results.pairs or (ALL,)
        for streams in (FUSED, *_SINGLE)
        for metric in results.metrics
    ]
    for number, title, key in rows:
        for subset, streams, metric in columns:
            spread = results.figure(key, metric, streams, subset)
            theirs = figures(number, key, dataset).get(metric) if (streams, subset) == (FUSED, ALL) else None
            writer.writerow([
                number, title, key, dataset, subset, streams, metric, _number(spread.mean), _number(spread.std),
                len(results.cells[key]), "" if theirs is None else f"{theirs / 100:.4f}",
            ])  # fmt: skip
    return text.getvalue()


def _number(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.6f}"


def _bars(results: Results, table: Table) -> Figure | None:
    """Plot a table's headline metrics, ours and, on the paper's data sets, the paper's; None without results."""
    rows = [(title, key) for title, key in results.rows(table) if results.cells[key]]
    if not rows:
        return None
    headlines = [_HEADLINE[task] for task in results.tasks]
    values = {metric: [results.figure(key, metric) for _, key in rows] for metric in headlines}
    for metric in headlines:
        theirs = [figures(table.number, key, results.ablation.dataset).get(metric) for _, key in rows]
        if any(value is not None for value in theirs):
            values[f"{metric}, paper"] = [Spread.of([None if v is None else v / 100]) for v in theirs]
    figure = grouped_bars([title for title, _ in rows], values, "per cent")
    figure.suptitle(f"Table {table.number}: {table.title}", fontsize=11)
    return figure


def _page(results: Results) -> Page:
    page = Page(results.ablation.title)
    for note in _notes(results):
        page.text(note, soft=True)
    page.code(results.command)
    for table in results.ablation.tables:
        page.heading(f"Table {table.number}: {table.title}")
        header, rows = _header_and_rows(results, table)
        page.table(header, rows, strong=[index for index, (_, key) in enumerate(table.rows) if key == "base"])
        for note in table.notes:
            page.text(note, soft=True)
        if (bars := _bars(results, table)) is not None:
            page.figure(bars, f"Table {table.number}: fused, mean over seeds")
        if results.ablation.dataset not in DATASETS:
            _add_paper_tables(page, table)
    return page


def _add_paper_tables(page: Page, table: Table) -> None:
    """Add the paper's rows as separate tables, because ours are on other data and not comparable."""
    for dataset in DATASETS:
        if metrics := _paper_metrics(table, dataset):
            rows = [
                [title, *(f"{figures(table.number, key, dataset)[m]:.2f}" for m in metrics)]
                for title, key in table.rows
            ]  # fmt: skip
            with page.details(
                f"The paper's Table {table.number} on {dataset.upper()}, Base: other data, other weights"
            ):
                page.table([table.title, *metrics], rows)
