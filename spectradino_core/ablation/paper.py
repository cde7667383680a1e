"""Results of the paper's Tables 9 to 14 in per cent: SpectraDINO Base on RASMD (detection) and FMB (segmentation).

Values are as printed, even where they contradict each other: Table 9's ViTDet mAP (49.35) is Large's in Table 4, Table
10's first row repeats Table 9's linear head while Table 11 gives a third value for a frozen backbone, and Stage II's
mIoU on FMB (66.79) repeats its mAcc. Table 12's row labels are lost in the available text; it is assumed that its rows
add the losses in the order of the method section.
"""

from __future__ import annotations

METRICS = {"detection": ("mAP50", "mAP75", "mAP"), "segmentation": ("mAcc", "mIoU")}
"""Columns of the paper by task, in its order."""
DATASETS = {"rasmd": "detection", "fmb": "segmentation"}
"""Task of the paper's data sets."""

_ROWS: tuple[tuple[int, str, tuple[float | None, ...], tuple[float, ...]], ...] = (
    (9, "linear", (47.35, None, 25.64), (65.52, 58.93)),
    (9, "base", (73.14, None, 49.35), (72.71, 64.73)),
    (10, "no_adapters", (47.35, 23.34, 25.64), ()),
    (10, "adapters", (68.66, 40.89, 39.29), ()),
    (10, "base", (73.12, 44.41, 43.28), ()),
    (10, "full", (69.34, 39.90, 40.29), ()),
    (11, "head", (38.61, 21.79, 22.33), (58.70, 49.87)),
    (11, "adapters", (68.66, 40.89, 39.54), (69.60, 59.07)),
    (11, "base", (73.12, 44.43, 43.24), (72.71, 64.72)),
    (11, "full", (69.02, 39.90, 40.29), (67.83, 57.92)),
    (12, "loss_distillation", (64.73, 34.21, 37.61), (65.25, 58.91)),
    (12, "loss_contrastive", (69.27, 38.49, 37.68), (67.34, 60.83)),
    (12, "loss_patch", (70.89, 39.89, 40.17), (71.83, 63.70)),
    (12, "base", (73.12, 44.43, 43.24), (72.71, 64.72)),
    (13, "stage1", (61.04, 34.51, 35.09), (67.61, 60.84)),
    (13, "stage2", (63.16, 33.83, 35.09), (66.79, 66.79)),
    (13, "base", (73.12, 44.43, 43.24), (72.71, 64.72)),
    (14, "base", (73.12, 44.43, 43.24), ()),
    (14, "cross_attention", (74.01, 45.29, 44.26), ()),
    (14, "gated", (71.21, 39.98, 39.08), ()),
)
"""Table, cell (see `recipes.py`), and the results on RASMD and FMB; none in Tables 10 and 14 on FMB."""

CELLS = {(table, cell): {"rasmd": rasmd, "fmb": fmb} for table, cell, rasmd, fmb in _ROWS}


def figures(table: int, cell: str, dataset: str) -> dict[str, float]:
    """Return the paper's results in a row of a table for a data set; empty if it has none."""
    values = CELLS.get((table, cell), {}).get(dataset, ())
    return {metric: v for metric, v in zip(METRICS[DATASETS[dataset]], values) if v is not None} if values else {}
