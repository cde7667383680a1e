"""Training log: `log.jsonl`, TensorBoard, mean losses and a plot of the loss curves."""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from spectradino_core.files import write_error, write_file, written_atomically

log = logging.getLogger(__name__)

_NO_LOSS = ("step", "lr", "steps_per_s")
_MARKED = 20
"""Number of points from which on a curve is drawn without markers."""


class TrainLogger:
    """Write the log of a run.

    Rows of steps after `step`, left by an interrupted run, are removed: those steps are trained again.

    Args:
        folder: folder of the run.
        step: step that the run resumes from.
        tensorboard: also write to `<folder>/tensorboard`.
        silent: write nothing (processes other than the first).
    """

    def __init__(self, folder: Path, step: int, tensorboard: bool = False, silent: bool = False) -> None:
        self._file, self._tensorboard = None, None
        self._path = path = folder / "log.jsonl"
        self._pending: list[str] = []
        if silent:
            return
        if path.exists():
            rows = [row for row in read_log(path) if row.get("step", 0) <= step] if step else []
            write_file(path, "".join(json.dumps(row) + "\n" for row in rows))
        self._file = path.open("ab", buffering=0)
        self._end, self._warned = self._file.seek(0, 2), False
        if tensorboard:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError:
                log.warning("no TensorBoard log: the package is not installed (pip install tensorboard)")
            else:
                self._tensorboard = SummaryWriter(str(folder / "tensorboard"), purge_step=step)

    def write(self, row: Mapping[str, Any]) -> None:
        """Append one row; all numbers but "step" also go to TensorBoard under their names."""
        if self._file is None:
            return
        self._pending.append(json.dumps(dict(row)) + "\n")
        self._write_pending()
        if self._tensorboard is not None:
            try:
                for name, value in row.items():
                    if name != "step" and isinstance(value, (int, float)):
                        self._tensorboard.add_scalar(name, value, row["step"])
            except Exception as error:  # errors of any class from its writer thread are raised here
                log.warning("TensorBoard log stopped: %s", write_error(self._path.parent / "tensorboard", error))
                self._tensorboard = None

    def close(self) -> None:
        if self._file is not None:
            self._write_pending()
            if self._pending:
                log.error("%s lacks its last %d rows: the disk is full", self._path, len(self._pending))
            self._file.close()
        if self._tensorboard is not None:
            with suppress(OSError):  # a full disk is already reported by the checkpoints
                self._tensorboard.close()

    def _write_pending(self) -> None:
        """Write complete rows; on a full disk they stay pending, because only a failed checkpoint ends a run."""
        assert self._file is not None
        left = data = "".join(self._pending).encode()
        try:
            while left:
                left = left[self._file.write(left) :]
        except OSError as error:
            self._file.truncate(self._end)
            if not self._warned:
                log.warning("%s (rows are kept until there is room)", write_error(self._path, error).strerror)
            self._warned = True
            return
        self._end, self._warned, self._pending = self._end + len(data), False, []


class RecentMeans:
    """Mean losses since the previous log row; part of the checkpoint, so that a resumed run logs the same values.

    Consecutive steps train different bands, so the losses of a single step would describe one band.

    Args:
        every: steps between rows.
        last: number of steps of the run; the last step always has a row.
        only: names to average; None: all, and the total of each band.
    """

    def __init__(self, every: int, last: int, only: Collection[str] | None = None) -> None:
        self._every, self._last, self._only = every, last, only
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}

    def after_step(self, step: int, group: str, losses: dict[str, Tensor]) -> None:
        """Add a step's scalars and, where a log row is due, replace them by the means in place.

        A name that only some steps report is averaged over those, "total" also as "total_<group>" for the band or group
        that the step (0-based) trained. Scalars are read without waiting for the device.
        """
        for name, value in [*losses.items(), (f"total_{group}", losses["total"])]:
            if self._only is not None and name not in self._only:
                continue
            value = value.detach().double()
            self._sums[name] = self._sums[name].to(value.device) + value if name in self._sums else value
            self._counts[name] = self._counts.get(name, 0) + 1
        if (step + 1) % self._every == 0 or step + 1 == self._last:
            losses.update({name: total / self._counts[name] for name, total in self._sums.items()})
            self._sums, self._counts = {}, {}

    def state_dict(self) -> dict[str, Any]:
        return {"sums": dict(self._sums), "counts": dict(self._counts)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._sums = {name: torch.as_tensor(total) for name, total in state["sums"].items()}
        self._counts = {name: int(count) for name, count in state["counts"].items()}


def read_log(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a log, skipping incomplete lines that a killed process left."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue
    return rows


def plot_losses(logs: Mapping[str, Path], image: Path) -> None:
    """Plot every loss over the steps of consecutive runs, from their `log.jsonl` by name, to a PNG file."""
    from spectradino_core.evaluation.figures import panels

    curves: dict[str, list[tuple[int, float]]] = {}
    edges: list[tuple[int, str]] = []
    offset = 0
    for name, path in logs.items():
        rows = read_log(path)
        edges.append((offset, name))
        for row in rows:
            for key, value in row.items():
                if key not in _NO_LOSS and isinstance(value, (int, float)):
                    curves.setdefault(key, []).append((offset + row["step"], value))
        offset += max((row["step"] for row in rows), default=0)
    names = sorted({key.removeprefix("val_") for key in curves})
    if not names:
        log.warning("%s not written: nothing to draw, the logs hold no losses", image)
        return
    figure, axes = panels(len(names), 4.5, 3.0)
    for axis, name in zip(axes, names, strict=True):
        for key in sorted(curves):
            if key.removeprefix("val_") == name:
                steps, values = zip(*sorted(curves[key]))
                marker = "." if len(steps) < _MARKED else ""
                label = "validation" if key.startswith("val_") else "training"
                axis.plot(steps, values, marker=marker, linewidth=1, label=label)
        for start, stage in edges:
            axis.axvline(start, color="grey", linewidth=0.5)
            # Vertical text: a short stage has no room for a horizontal name.
            position: dict[str, Any] = {
                "xycoords": ("data", "axes fraction"),
                "xytext": (2, -2),
                "textcoords": "offset points",
            }
            axis.annotate(stage, (start, 1), fontsize=7, va="top", rotation=90, color="grey", **position)
        axis.set_title(name, fontsize=9)
        axis.set_xlabel("step")
        axis.legend(fontsize=7)
    with written_atomically(image) as scratch:
        figure.savefig(scratch, format="png", dpi=120)
