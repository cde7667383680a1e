"""Report of comparisons as JSON, Markdown and HTML."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from spectradino_core.evaluation.comparison import BASELINE, FUSED, METRICS, Comparison, metric_of
from spectradino_core.evaluation.detection import DetectionConfusion
from spectradino_core.evaluation.figures import class_bars, confusion_matrix, precision_recall, subset_bars
from spectradino_core.evaluation.page import Cell, Page, markdown_table
from spectradino_core.evaluation.scorer import ALL, Scores
from spectradino_core.evaluation.spread import known_mean, none_for_nan
from spectradino_core.evaluation.worst import add_gallery
from spectradino_core.files import write_file
from spectradino_core.runtime.bundle import ModelInfo

_HOW_TO_READ = (
    "mAP is COCO's (IoU 0.5 to 0.95), mIoU and mAcc are means over classes; all in per cent. RGB only and IR only are "
    "the same model without the other frame. The last row is plain frozen DINOv2 with infrared as a grey image and the "
    "same head; the difference to it is the gain of the adapters."
)
_NO_BASELINE = "No baseline was given. This command trains one, for `--baseline`:"


class Report:
    """Tables of one model, with one seed or several, on any number of data sets."""

    def __init__(
        self, models: Mapping[str, ModelInfo], baselines: Mapping[str, ModelInfo], command: str, train_baseline: str
    ) -> None:
        """Start without tables.

        Args:
            models: seeds of the model, by file.
            baselines: seeds of the baseline; empty: the report shows the command that trains one.
            command: command line of this report.
            train_baseline: command line that trains a baseline.
        """
        self.models, self.baselines = dict(models), dict(baselines)
        self.command, self.train_baseline = command, train_baseline
        self.comparisons: list[Comparison] = []

    @property
    def title(self) -> str:
        name = next(iter(self.models.values())).name
        return f"{name}, {len(self.models)} seeds" if len(self.models) > 1 else name

    def add(self, comparison: Comparison) -> None:
        self.comparisons.append(comparison)

    def write(self, folder: Path) -> None:
        """Write `result.json`, `result.md` and `report.html`."""
        page = self.page()
        texts = {
            "result.json": json.dumps(self.result(), indent=1, allow_nan=False) + "\n",
            "result.md": self.markdown(),
        }
        for name, text in texts.items():
            write_file(folder / name, text)
        page.write(folder / "report.html")

    def result(self) -> dict[str, Any]:
        """Return all results for other programs; scores are in 0..1, None without labels."""
        return {
            "format": 1,
            "command": self.command,
            "models": [_model(file, info) for file, info in self.models.items()],
            "baselines": [_model(file, info) for file, info in self.baselines.items()],
            "sets": [self._set_result(comparison) for comparison in self.comparisons],
        }

    def _set_result(self, comparison: Comparison) -> dict[str, Any]:
        return {
            "name": comparison.name,
            "about": list(comparison.about),
            "left_out_classes": list(comparison.unknown),
            "label_notes": list(comparison.label_notes),
            "masks": comparison.masks,
            "thresholds": [
                {"score_from": threshold} | none_for_nan(_rates(found))
                for threshold, found in comparison.thresholds.items()
            ],
            "subsets": {
                subset: {
                    "images": comparison.images[subset],
                    "rows": {
                        row: {
                            "mean": {m: comparison.figure(m, row, subset).to_dict() for m in comparison.metrics},
                            "seeds": [_scores(scores) for scores in seeds],
                        }
                        for row, seeds in comparison.scores[subset].items()
                    },
                }
                for subset in comparison.subsets
            },
        }

    def markdown(self) -> str:
        """Return the main tables and the tables by class."""
        parts = [f"# {self.title}\n"]
        for comparison in self.comparisons:
            parts.append(f"## {comparison.name} ({comparison.images[ALL]} pairs)\n")
            parts += [f"{note}\n" for note in _notes(comparison)]
            header, rows, strong = self._main_table(comparison)
            parts.append(markdown_table(header, rows, strong))
            for title, header, rows in _class_tables(comparison):
                parts.append(f"{title}\n")
                parts.append(markdown_table(header, rows))
            if best := _best_threshold(comparison):
                parts.append(f"{best}\n")
        parts += [f"{_HOW_TO_READ}\n", f"`{self.command}`\n"]
        if not self.baselines:
            parts.append(f"{_NO_BASELINE}\n\n`{self.train_baseline}`\n")
        return "\n".join(parts)

    def page(self) -> Page:
        """Return the HTML page, which adds curves, bars, confusion matrices and the worst frames."""
        page = Page(self.title, _HOW_TO_READ)
        page.code(self.command)
        if not self.baselines:
            page.text(_NO_BASELINE, soft=True)
            page.code(self.train_baseline)
        for comparison in self.comparisons:
            self._add_set(page, comparison)
        page.heading("Models")
        for kind, models in (("model", self.models), (BASELINE, self.baselines)):
            for file, info in models.items():
                with page.details(f"{file} ({kind})"):
                    page.code(json.dumps(json.loads(info.to_json()), indent=2))
        return page

    def _add_set(self, page: Page, comparison: Comparison) -> None:
        page.heading(f"{comparison.name} ({comparison.images[ALL]} pairs)")
        for note in _notes(comparison):
            page.text(note, soft=True)
        header, rows, strong = self._main_table(comparison)
        page.table(header, rows, strong=strong)
        for metric in comparison.metrics:
            if metric in ("mAP", "mIoU") and (bars := subset_bars(comparison, metric)) is not None:
                page.figure(bars, f"{metric} by subset (pairs)")
        for kind, name in (("ap", "AP"), ("iou", "IoU")):
            if (bars := class_bars(comparison, kind, name)) is not None:
                page.figure(bars, f"{name} by class")
        for title, header, rows in _class_tables(comparison):
            with page.details(title):
                page.table(header, rows)
        first = comparison.scores[ALL][FUSED][0]
        instances = {} if first.detection is None else first.detection.instances
        if (curves := precision_recall(comparison.precision(), instances)) is not None:
            page.figure(curves, "Precision over recall at IoU 0.5, by class (true boxes), mean over seeds")
        if first.boxes is not None:
            classes = comparison.info.box_classes
            counts = first.boxes.counts
            page.figure(
                confusion_matrix(counts, (*classes, "background"), (*classes, "missed"), "Boxes"),
                f"Boxes at the model's own threshold ({comparison.info.score_threshold:g}), first model, fused",
            )
            precision, recall = first.boxes.precision(), first.boxes.recall()
            rows = [[label, 100 * precision[label], 100 * recall[label]] for label in classes]
            page.table(["class", "precision", "recall"], rows, caption="At that threshold")
            rows = [
                [f"{threshold:g}", *(100 * known_mean(values.values()) for values in _rates(found).values())]
                for threshold, found in comparison.thresholds.items()
            ]
            best = [index for index, t in enumerate(comparison.thresholds) if t == comparison.best_threshold]
            caption = "Means over classes by threshold, first model, fused"
            with page.details(_best_threshold(comparison)):
                page.table(["score threshold", "precision", "recall", "F1"], rows, caption, best)
        if first.pixels is not None:
            classes = comparison.info.mask_classes
            counts, columns = first.pixels.counts, (*classes, "unlabelled")
            if not counts[:, -1].any():
                counts, columns = counts[:, :-1], classes
            page.figure(confusion_matrix(counts, classes, columns, "Pixels"), "Pixels, first model, fused")
        if frames := comparison.worst.frames():
            with page.details(f"The {len(frames)} worst frames of the first model, fused"):
                page.text("Left: RGB, with the predicted mask. Right: IR, with the true mask.")
                add_gallery(page, ((frame.jpeg, frame.caption) for frame in frames))

    def _main_table(self, comparison: Comparison) -> tuple[list[str], list[list[Cell]], list[int]]:
        """Return header, rows and the indices of the fused rows; every subset has all rows."""
        rows: list[list[Cell]] = []
        strong: list[int] = []
        for subset in comparison.subsets:
            for row in comparison.rows:
                label = row
                if not comparison.scores[subset][row]:
                    label += ", not trained"
                if row == FUSED:
                    strong.append(len(rows))
                figures = [comparison.figure(metric, row, subset).per_cent() for metric in comparison.metrics]
                rows.append([f"{subset} ({comparison.images[subset]})", label, *figures])
        return ["pairs", "streams", *comparison.metrics], rows, strong


def _notes(comparison: Comparison) -> list[str]:
    notes = [f"Rule: {rule}." for rule in comparison.about]
    if comparison.unknown:
        notes.append(f"Classes that the model does not have, excluded: {', '.join(comparison.unknown)}.")
    notes += [f"Labels: {text}." for text in comparison.label_notes]
    if comparison.masks and "mIoU" in comparison.metrics:
        notes.append(f"Masks: {comparison.masks}.")
    segmentation = next((s.segmentation for s in comparison.scores[ALL][FUSED] if s.segmentation), None)
    if segmentation is not None and segmentation.excluded:
        notes.append(f"Classes excluded from the means: {', '.join(segmentation.excluded)}.")
    return notes


def _class_tables(comparison: Comparison) -> list[tuple[str, list[str], list[list[Cell]]]]:
    """Return (title, header, rows) for AP, AP50 and IoU: a row per class, a column per row of the main table."""
    tables: list[tuple[str, list[str], list[list[Cell]]]] = []
    rows = [row for row in comparison.rows if comparison.scores[ALL][row]]
    first = comparison.scores[ALL][FUSED][0]
    for kind, title in (("ap", "AP by class"), ("ap50", "AP50 by class"), ("iou", "IoU by class")):
        columns = {row: found for row in rows if (found := comparison.by_class(kind, row))}
        if FUSED not in columns:
            continue
        body: list[list[Cell]] = [
            [label, *(found[label].per_cent() for found in columns.values())] for label in columns[FUSED]
        ]
        header = ["class", *columns]
        if kind != "iou" and first.detection is not None:
            header.insert(1, "true boxes")
            for row in body:
                row.insert(1, first.detection.instances[str(row[0])])
        tables.append((title, header, body))
    return tables


def _rates(found: DetectionConfusion) -> dict[str, dict[str, float]]:
    return {"precision": found.precision(), "recall": found.recall(), "f1": found.f1()}


def _best_threshold(comparison: Comparison) -> str:
    """Describe the threshold with the best F1; empty without box labels."""
    best = comparison.best_threshold
    if best is None:
        return ""
    f1 = 100 * known_mean(comparison.thresholds[best].f1().values())
    return (
        f"Best F1 (mean over classes, first model, fused): {f1:.1f} at a score threshold of {best:g}; the model's "
        f"threshold is {comparison.info.score_threshold:g}. To change it, export with `--score-threshold`, chosen on "
        "pairs that are not in these tables."
    )


def _model(file: str, info: ModelInfo) -> dict[str, Any]:
    return {"file": file, "name": info.name, "variant": info.variant, "provenance": info.provenance}


def _scores(scores: Scores) -> dict[str, Any]:
    out: dict[str, Any] = {name: none_for_nan(metric_of(scores, name)) for name in METRICS}
    if scores.detection is not None:
        out["detection"] = scores.detection.to_dict()
    if scores.boxes is not None:
        out["boxes_at_threshold"] = {
            "classes": list(scores.boxes.classes),
            "true_by_answered": scores.boxes.counts.tolist(),
        }
    if scores.segmentation is not None and scores.pixels is not None:
        out["segmentation"] = scores.segmentation.to_dict()
        out["pixels"] = {"classes": list(scores.pixels.classes), "true_by_answered": scores.pixels.counts.tolist()}
    return out


def files_by_name(files: Sequence[Path]) -> list[str]:
    """Return file names for a report, with the folder if two are equal."""
    names = [file.name for file in files]
    return [f"{f.parent.name}/{f.name}" if names.count(f.name) > 1 else f.name for f in files]
