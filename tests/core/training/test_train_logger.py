"""Training log, loss curves, TensorBoard."""

from __future__ import annotations

import json
import logging
import sys

import cv2
import pytest

from spectradino_core.training.train_logger import TrainLogger, plot_losses, read_log


def write(folder, steps, start=0, **options):
    journal = TrainLogger(folder, start, **options)
    for step in steps:
        journal.write({"step": step, "lr": 0.1, "total": 1.0 / step})
    journal.close()


def test_rows_after_the_resumed_step_are_rewritten(tmp_path):
    write(tmp_path, range(1, 6))
    write(tmp_path, range(4, 7), start=3)
    assert [row["step"] for row in read_log(tmp_path / "log.jsonl")] == [1, 2, 3, 4, 5, 6]


def test_a_run_that_starts_anew_has_no_rows_of_the_former_one(tmp_path):
    (tmp_path / "log.jsonl").write_text('{"step": 0, "val_map50": 0.5}\n{"step": 1, "total": 2.0}\n')
    TrainLogger(tmp_path, 0).close()
    assert read_log(tmp_path / "log.jsonl") == []


def test_every_row_is_on_disk_at_once(tmp_path):
    journal = TrainLogger(tmp_path, 0)
    journal.write({"step": 1, "total": 0.5})
    assert json.loads((tmp_path / "log.jsonl").read_text())["total"] == 0.5
    journal.close()


def test_other_processes_write_nothing(tmp_path):
    write(tmp_path, [1, 2], silent=True)
    assert not list(tmp_path.iterdir())


def test_curves_of_several_stages(tmp_path, drawn):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        write(tmp_path / name, range(1, 20))
    plot_losses({name: tmp_path / name / "log.jsonl" for name in ("one", "two")}, tmp_path / "losses.png")
    image = cv2.imread(str(tmp_path / "losses.png"))
    assert image.shape[0] > 200
    blue = (image[..., 0] > 150) & (image[..., 2] < 80)
    columns = blue.any(axis=0).nonzero()[0]
    assert columns.max() - columns.min() > image.shape[1] / 2  # the curve spans both stages


def test_empty_log_draws_nothing_and_warns(tmp_path, caplog):
    (tmp_path / "log.jsonl").write_text("")
    with caplog.at_level(logging.WARNING):
        plot_losses({"one": tmp_path / "log.jsonl"}, tmp_path / "losses.png")
    assert "nothing to draw" in caplog.text
    assert not (tmp_path / "losses.png").exists()


def test_missing_tensorboard_warns_and_training_continues(tmp_path, caplog, monkeypatch):
    monkeypatch.setitem(
        sys.modules, "torch.utils.tensorboard", None
    )  # importing it fails, as where it is not installed
    with caplog.at_level(logging.WARNING):
        write(tmp_path, [1], tensorboard=True)
    assert "pip install tensorboard" in caplog.text
    assert len(read_log(tmp_path / "log.jsonl")) == 1


def test_tensorboard_gets_every_number(tmp_path):
    pytest.importorskip("tensorboard", reason="TensorBoard is optional and not installed here")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    write(tmp_path, [1, 2, 3], tensorboard=True)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(e.step, round(e.value, 4)) for e in events.Scalars("total")] == [(1, 1.0), (2, 0.5), (3, 0.3333)]
