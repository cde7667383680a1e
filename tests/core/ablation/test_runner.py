"""The smallest matrix run for real: order, no repetition, continuation after a failure, and resuming after a kill."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest

from spectradino_core.ablation.layout import Results, write_tables
from spectradino_core.ablation.recipes import Ablation, find_ablation
from spectradino_core.ablation.work import Outcome, Setup, jobs_of, run, run_job
from spectradino_core.cli import main


def smallest() -> Ablation:
    """One table of two rows and the baseline, with cheap heads."""
    return find_ablation("smoke_scenes").only([9])


def unfit(ablation: Ablation, key: str) -> Ablation:
    """Like `smallest`, with a cell whose backbone has another shape than the pretrained one."""
    cell = ablation.cell(key)
    wider = replace(cell, recipe=replace(cell.recipe, architecture=replace(cell.recipe.architecture, variant="tiny")))
    return replace(ablation, cells=tuple(wider if one.key == key else one for one in ablation.cells))


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory) -> tuple[Path, list[str], Outcome]:
    """A matrix of which one cell fails, two jobs at a time."""
    folder, lines = tmp_path_factory.mktemp("ablation") / "out", []
    outcome = run(unfit(smallest(), "linear"), Setup(folder), 2, lines.append)
    return folder, lines, outcome


@pytest.mark.slow
def test_failed_cell_is_reported_and_the_rest_continues(finished_run):
    folder, lines, outcome = finished_run
    assert list(outcome.failed) == ["cells/linear/seed0"]
    assert "the model's backbone a" in outcome.failed["cells/linear/seed0"]
    assert outcome.skipped == []
    assert len(outcome.done) == 9
    assert any(line.startswith("failed: cells/linear/seed0: ") and "output.txt" in line for line in lines)
    assert "Traceback" in (folder / "cells/linear/seed0/output.txt").read_text()
    done = json.loads((folder / "cells/base/seed0/done.json").read_text())
    assert set(done["rows"]) == {"fused", "RGB only", "IR only"}
    assert set(done["pairs"]) == {"all", "day", "dusk", "night"}
    assert 0 < done["rows"]["fused"]["night"]["mIoU"] < 1


@pytest.mark.slow
def test_tables_list_results_and_failures(finished_run):
    folder, _, outcome = finished_run
    ablation = unfit(smallest(), "linear")
    write_tables(Results.read(ablation, Setup(folder), outcome, "spectradino ablate ..."), folder)
    text = (folder / "tables.md").read_text()
    assert "| Linear (failed: " in text
    assert "| frozen DINOv2, IR as grey |" in text
    assert "mIoU, night" in text
    assert "paper |" not in text  # synthetic scenes are not the paper's data
    page = (folder / "report.html").read_text()
    assert "The paper&#x27;s Table 9 on RASMD, Base: other data" in page
    assert (folder / "table09.png").read_bytes()[:4] == b"\x89PNG"
    rows = list(csv.DictReader((folder / "tables.csv").open()))
    found = {(r["cell"], r["subset"], r["streams"], r["metric"]): r["mean"] for r in rows}
    done = json.loads((folder / "cells/base/seed0/done.json").read_text())
    assert float(found["base", "night", "IR only", "mIoU"]) == pytest.approx(
        done["rows"]["IR only"]["night"]["mIoU"], abs=1e-6
    )
    assert found["linear", "all", "fused", "mAP"] == ""


@pytest.mark.slow
def test_finished_jobs_are_kept_and_stopped_jobs_resume(finished_run):
    folder, _, _ = finished_run
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("done.json")}
    # as a killed job leaves it: trained, not scored
    killed = folder / "cells/base/seed0/done.json"
    figures = json.loads(killed.read_text())["rows"]
    log = (killed.parent / "log.jsonl").read_text()
    killed.unlink()
    again = run(unfit(smallest(), "linear"), Setup(folder), 1, lambda _: None)
    assert sorted(again.done) == sorted(str(path.parent.relative_to(folder)) for path in before)
    assert json.loads(killed.read_text())["rows"] == figures
    assert (killed.parent / "log.jsonl").read_text() == log  # not a step was trained twice
    assert {p: p.stat().st_mtime_ns for p in before if p != killed} == {p: t for p, t in before.items() if p != killed}
    # the mended recipe is another one: its folder is not silently mixed with the old
    with pytest.raises(ValueError, match=r"cells/linear/seed0 was made by another recipe"):
        run(smallest(), Setup(folder), 1, lambda _: None)


@pytest.mark.slow
def test_jobs_that_need_a_failed_job_are_skipped(tmp_path):
    ablation = smallest()
    broken = replace(ablation.pretrainings[0], stage=replace(ablation.pretrainings[0].stage, batch=1000))
    outcome = run(
        replace(ablation, pretrainings=(broken, *ablation.pretrainings[1:])), Setup(tmp_path / "out"), 2, lambda _: None
    )
    assert list(outcome.failed) == ["pretraining/stage1"]
    assert set(outcome.skipped) == {
        "pretraining/stage2", "pretraining/stage3", "cells/base/seed0", "cells/linear/seed0",
    }  # fmt: skip
    assert "cells/no_adapters/seed0" in outcome.done


def test_a_folder_of_another_recipe_is_refused_before_anything_runs(tmp_path):
    ablation, setup = smallest(), Setup(tmp_path)
    job = jobs_of(ablation, setup)[0]
    run_job(ablation, setup, job)
    other = replace(ablation, scenes=replace(ablation.scenes, train=13))
    with pytest.raises(ValueError, match="data/train was made by another recipe or on other data: give another --out"):
        run(other, setup, 1)


def test_command_reports_missing_arguments(tmp_path, capsys):
    for words, message in (
        (["nonsense"], "choose one of tiny_scenes, smoke_scenes, paper_rasmd, paper_fmb"),
        (["paper_rasmd"], "needs --data DIR (the data set), --manifest FILE"),
        (["tiny_scenes", "--tables", "8"], "has no Table 8"),
        (["tiny_scenes", "--data", "x"], "--data has no effect on recipe tiny_scenes, which renders its data"),
        (["paper_rasmd", "--data-root", "x"], "--data-root has no effect without --manifest"),
    ):
        assert main(["ablate", "--recipe", *words, "--out", str(tmp_path / "out")]) == 1
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()
