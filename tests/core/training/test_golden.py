"""Twenty steps of each stage with fixed seeds give the losses recorded in tests/golden.

A changed result must be deliberate: `python -m tests.core.training.test_golden` rewrites the file, and the commit gives
the reason. Inputs and weights come from torch's seeded CPU generator only. The tolerance is for other processors and
versions of torch, whose sums round differently: differences of 1e-7 grow over twenty steps of AdamW to below 1e-4.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pytest
import torch

from spectradino_core.losses.neighbourhood import TeacherQueue
from spectradino_core.models.vit import ViT
from spectradino_core.training.loop import LoopOptions, train
from spectradino_core.training.optimiser import adamw_for
from spectradino_core.training.stages import STAGES, freeze, stage_recipe
from spectradino_core.training.student import PretrainTask, Student
from spectradino_core.training.teacher import Teacher
from spectradino_core.training.train_logger import read_log
from tests.core.training.patterns import smooth_batches

GOLDEN = Path(__file__).resolve().parents[2] / "golden" / "pretrain_losses.json"
STEPS, EPOCH, TOLERANCE = 20, 6, 2e-4
LEFT_OUT = ("step", "steps_per_s", "lr", "gradient", "clipped")


def golden_losses(folder: Path) -> dict[str, list[dict[str, float]]]:
    """Return the log of each stage, each started from the previous one; runs are made in `folder`."""
    torch.manual_seed(11)
    teacher = Teacher(ViT("test"), "")
    torch.manual_seed(12)
    backbone = teacher.student()
    queue = TeacherQueue(32, 48)
    logs: dict[str, list[dict[str, float]]] = {}
    for stage in STAGES:
        recipe = stage_recipe("test", stage)
        freeze(recipe, backbone)
        student = Student(backbone)
        optimiser = adamw_for(student, backbone, recipe.lr, recipe.weight_decay)
        task = PretrainTask(recipe, lambda b: teacher(b.rgb), queue if stage > 1 else None, stage, 0, EPOCH)
        options = LoopOptions(
            STEPS, round(recipe.warmup * STEPS), clip=recipe.clip, ema=recipe.ema, amp="fp32", log_every=1
        )  # fmt: skip
        inside = folder / f"stage{stage}"
        train(
            student, task.losses, smooth_batches(STEPS), optimiser, options, inside, torch.device("cpu"),
            after_step=task.after_step,
        )  # fmt: skip
        rows = read_log(inside / "log.jsonl")
        logs[f"stage {stage}"] = [{k: float(f"{v:.7g}") for k, v in row.items() if k not in LEFT_OUT} for row in rows]
    return logs


def test_losses_are_those_written_down(tmp_path):
    written = json.loads(GOLDEN.read_text(encoding="utf-8"))
    for stage, rows in golden_losses(tmp_path).items():
        assert len(rows) == len(written[stage]) == STEPS
        for step, (now, then) in enumerate(zip(rows, written[stage], strict=True)):
            assert now == pytest.approx(then, rel=TOLERANCE, abs=TOLERANCE), (stage, step)


def test_the_recorded_losses_decrease():
    written = json.loads(GOLDEN.read_text(encoding="utf-8"))
    first = [row["distillation"] for row in written["stage 1"]]
    assert sum(first[-6:]) < 0.8 * sum(first[:6])
    counts = ["neighbourhood" in row for row in written["stage 2"]]
    assert counts == [step >= EPOCH for step in range(STEPS)]
    assert all("neighbourhood" in row for row in written["stage 3"])


if __name__ == "__main__":
    GOLDEN.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        GOLDEN.write_text(json.dumps(golden_losses(Path(scratch)), indent=1) + "\n", encoding="utf-8")
