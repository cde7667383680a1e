"""Training log: `log.jsonl`, TensorBoard and a plot of the loss curves."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from spectradino_core.files import write_error, written_atomically

__all__ = ["TrainLogger", "plot_losses", "read_log"]

log = logging.getLogger(__name__)

_NO_LOSS = ("step", "lr", "steps_per_s")


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
        self._file, self._board = None, None
        self._path = path = folder / "log.jsonl"
        self._pending: list[str] = []
        if silent:
            return
        if path.exists():
            rows = [row for row in read_log(path) if row.get("step", 0) <= step]
            with written_atomically(path) as scratch:
                scratch.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        self._file = path.open("ab", buffering=0)
        self._end, self._warned = self._file.seek(0, 2), False
        if tensorboard:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError:
                log.warning("no TensorBoard log: the package is not installed (pip install tensorboard)")
            else:
                self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=step)

    def write(self, row: Mapping[str, Any]) -> None:
        """Append one row; all numbers but "step" also go to TensorBoard under their names."""
        if self._file is None:
            return
        self._pending.append(json.dumps(dict(row)) + "\n")
        self._write_pending()
        if self._board is not None:
            try:
                for name, value in row.items():
                    if name != "step" and isinstance(value, (int, float)):
                        self._board.add_scalar(name, value, row["step"])
            except Exception as error:  # errors of any class from its writer thread are raised here
                log.warning("TensorBoard log stopped: %s", write_error(self._path.parent / "tensorboard", error))
                self._board = None

    def close(self) -> None:
        if self._file is not None:
            self._write_pending()
            if self._pending:
                log.error("%s lacks its last %d rows: the disk is full", self._path, len(self._pending))
            self._file.close()
        if self._board is not None:
            with suppress(OSError):  # a full disk is already reported by the checkpoints
                self._board.close()

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
    """Plot every loss over the steps of one run or of several consecutive runs.

    Args:
        logs: `log.jsonl` by the name of the run, e.g. of the stage.
        image: PNG file to write.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

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
    figure = Figure(figsize=(4.5 * min(3, len(names)), 3.0 * -(-len(names) // 3)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(-(-len(names) // 3), min(3, len(names)), squeeze=False).ravel()
    for axis, name in zip(axes, names):
        for key in sorted(curves):
            if key.removeprefix("val_") == name:
                steps, values = zip(*sorted(curves[key]))
                axis.plot(steps, values, linewidth=1, label="validation" if key.startswith("val_") else "training")
        for start, stage in edges:
            axis.axvline(start, color="grey", linewidth=0.5)
            # Vertical text: a short stage has no room for a horizontal name.
            position = {"xycoords": ("data", "axes fraction"), "xytext": (2, -2), "textcoords": "offset points"}
            axis.annotate(stage, (start, 1), fontsize=7, va="top", rotation=90, color="grey", **position)
        axis.set_title(name, fontsize=9)
        axis.set_xlabel("step")
        axis.legend(fontsize=7)
    for axis in axes[len(names) :]:
        axis.set_visible(False)
    with written_atomically(image) as scratch:
        figure.savefig(scratch, format="png", dpi=120)
