"""What a run tells of itself while it runs: `log.jsonl`, TensorBoard where asked for, and its curves as a picture."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from spectradino_core.files import written_atomically

__all__ = ["Journal", "plot_losses", "read_log"]

log = logging.getLogger(__name__)

_NO_LOSS = ("step", "lr", "steps_per_s")


class Journal:
    """The log of a run. Rows of steps after `step`, which a run that died left behind, are forgotten: they come again.

    Args:
        folder: of the run.
        step: that the run goes on from.
        tensorboard: write to `<folder>/tensorboard` too.
        silent: write nothing (processes other than the first).
    """

    def __init__(self, folder: Path, step: int, tensorboard: bool = False, silent: bool = False) -> None:
        self._file, self._board = None, None
        if silent:
            return
        path = folder / "log.jsonl"
        if path.exists():
            rows = [row for row in read_log(path) if row.get("step", 0) <= step]
            with written_atomically(path) as scratch:
                scratch.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        self._file = path.open("a", encoding="utf-8")
        if tensorboard:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError:
                log.warning("no TensorBoard log: its package is not installed (pip install tensorboard)")
            else:
                self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=step)

    def write(self, row: Mapping[str, Any]) -> None:
        """One line; "step" is the row's place, other numbers go to TensorBoard under their names."""
        if self._file is None:
            return
        self._file.write(json.dumps(dict(row)) + "\n")
        self._file.flush()
        if self._board is not None:
            for name, value in row.items():
                if name != "step" and isinstance(value, (int, float)):
                    self._board.add_scalar(name, value, row["step"])

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
        if self._board is not None:
            self._board.close()


def read_log(path: Path) -> list[dict[str, Any]]:
    """The rows of a log; a last line that a killed process left half written is left out."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue
    return rows


def plot_losses(logs: Mapping[str, Path], picture: Path) -> None:
    """Draws every loss of one run or of several after another as curves over the steps.

    Args:
        logs: `log.jsonl` by the name of the run, e.g. of the stage.
        picture: the PNG to write.
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
        log.warning("%s: nothing to draw, the logs hold no losses", picture)
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
            # Upright: a short stage leaves no room for its name beside the next one's.
            place = {"xycoords": ("data", "axes fraction"), "xytext": (2, -2), "textcoords": "offset points"}
            axis.annotate(stage, (start, 1), fontsize=7, va="top", rotation=90, color="grey", **place)
        axis.set_title(name, fontsize=9)
        axis.set_xlabel("step")
        axis.legend(fontsize=7)
    for axis in axes[len(names) :]:
        axis.set_visible(False)
    with written_atomically(picture) as scratch:
        figure.savefig(scratch, format="png", dpi=120)
