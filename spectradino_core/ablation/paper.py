"""Results of the paper's Tables 9 to 14 in per cent: SpectraDINO Base on RASMD (detection) and FMB (segmentation).

Values are as printed, even where they contradict each other: Table 9's ViTDet mAP (49.35) is Large's in Table 4, Table
10's first row repeats Table 9's linear head while Table 11 gives a third value for a frozen backbone, and Stage II's
mIoU on FMB (66.79) repeats its mAcc. Table 12's row labels are lost in the available text; it is assumed that its rows
add the losses in the order of the method section.
"""

from __future__ import annotations

__all__ = ["PAPER", "figures"]

Figures = dict[str, float]

PAPER: dict[int, dict[str, dict[str, Figures]]] = {
    9: {
        "linear": {"rasmd": {"mAP50": 47.35, "mAP": 25.64}, "fmb": {"mAcc": 65.52, "mIoU": 58.93}},
        "base": {"rasmd": {"mAP50": 73.14, "mAP": 49.35}, "fmb": {"mAcc": 72.71, "mIoU": 64.73}},
    },
    10: {
        "no_adapters": {"rasmd": {"mAP50": 47.35, "mAP75": 23.34, "mAP": 25.64}},
        "adapters": {"rasmd": {"mAP50": 68.66, "mAP75": 40.89, "mAP": 39.29}},
        "base": {"rasmd": {"mAP50": 73.12, "mAP75": 44.41, "mAP": 43.28}},
        "full": {"rasmd": {"mAP50": 69.34, "mAP75": 39.90, "mAP": 40.29}},
    },
    11: {
        "head": {
            "rasmd": {"mAP50": 38.61, "mAP75": 21.79, "mAP": 22.33},
            "fmb": {"mAcc": 58.70, "mIoU": 49.87},
        },
        "adapters": {
            "rasmd": {"mAP50": 68.66, "mAP75": 40.89, "mAP": 39.54},
            "fmb": {"mAcc": 69.60, "mIoU": 59.07},
        },
        "base": {
            "rasmd": {"mAP50": 73.12, "mAP75": 44.43, "mAP": 43.24},
            "fmb": {"mAcc": 72.71, "mIoU": 64.72},
        },
        "full": {
            "rasmd": {"mAP50": 69.02, "mAP75": 39.90, "mAP": 40.29},
            "fmb": {"mAcc": 67.83, "mIoU": 57.92},
        },
    },
    12: {
        "loss_distillation": {
            "rasmd": {"mAP50": 64.73, "mAP75": 34.21, "mAP": 37.61},
            "fmb": {"mAcc": 65.25, "mIoU": 58.91},
        },
        "loss_contrastive": {
            "rasmd": {"mAP50": 69.27, "mAP75": 38.49, "mAP": 37.68},
            "fmb": {"mAcc": 67.34, "mIoU": 60.83},
        },
        "loss_patch": {
            "rasmd": {"mAP50": 70.89, "mAP75": 39.89, "mAP": 40.17},
            "fmb": {"mAcc": 71.83, "mIoU": 63.70},
        },
        "base": {
            "rasmd": {"mAP50": 73.12, "mAP75": 44.43, "mAP": 43.24},
            "fmb": {"mAcc": 72.71, "mIoU": 64.72},
        },
    },
    13: {
        "stage1": {
            "rasmd": {"mAP50": 61.04, "mAP75": 34.51, "mAP": 35.09},
            "fmb": {"mAcc": 67.61, "mIoU": 60.84},
        },
        "stage2": {
            "rasmd": {"mAP50": 63.16, "mAP75": 33.83, "mAP": 35.09},
            "fmb": {"mAcc": 66.79, "mIoU": 66.79},
        },
        "base": {
            "rasmd": {"mAP50": 73.12, "mAP75": 44.43, "mAP": 43.24},
            "fmb": {"mAcc": 72.71, "mIoU": 64.72},
        },
    },
    14: {
        "base": {"rasmd": {"mAP50": 73.12, "mAP75": 44.43, "mAP": 43.24}},
        "cross_attention": {"rasmd": {"mAP50": 74.01, "mAP75": 45.29, "mAP": 44.26}},
        "gated": {"rasmd": {"mAP50": 71.21, "mAP75": 39.98, "mAP": 39.08}},
    },
}
"""Results by table, cell (see `matrix.py`) and data set."""


def figures(table: int, cell: str, dataset: str) -> Figures:
    """Return the paper's results in a row of a table for a data set; empty if it has none."""
    return PAPER.get(table, {}).get(cell, {}).get(dataset, {})
