"""Ablation recipes: the paper's rows, what each changes, and its printed scores."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from spectradino_core.ablation.layout import Results
from spectradino_core.ablation.paper import CELLS, figures
from spectradino_core.ablation.recipes import ABLATIONS, BASE, TEACHER, Table, find_ablation
from spectradino_core.ablation.work import Outcome, Setup, fingerprint, jobs_of, run_job
from spectradino_core.data.make_manifest import write_scenes
from spectradino_core.modality import Modality
from spectradino_core.models.checkpoints import read_metadata, save_state
from spectradino_core.models.vit import ViT
from tests.core.datasets.miniatures import MINIATURES


@pytest.mark.parametrize("name", ABLATIONS)
def test_every_recipe_is_whole(name):
    ablation = find_ablation(name)
    assert ablation.name == name
    used = {key for table in ablation.tables for _, key in table.rows} | {ablation.baseline}
    assert used <= {cell.key for cell in ablation.cells}
    baseline = ablation.cell(ablation.baseline)
    assert (baseline.recipe.architecture.backbone, baseline.recipe.mode) == ("dinov2_repeat", "head")
    assert baseline.backbone == TEACHER


def test_a_cell_differs_from_the_base_in_one_thing():
    ablation = find_ablation("tiny_scenes")
    base = ablation.cell(BASE)
    changed = {}
    for cell in ablation.cells:
        ours, theirs = cell.recipe.architecture.to_dict(), base.recipe.architecture.to_dict()
        found = {key for key in ours if ours[key] != theirs[key]}
        found |= {"mode"} if cell.recipe.mode != base.recipe.mode else set()
        found |= {cell.backbone} if cell.backbone != base.backbone else set()
        changed[cell.key] = found
    assert changed == {
        "base": set(),
        "no_adapters": {"backbone", "mode", TEACHER},
        "linear": {"detection", "segmentation", "fuse_at"},
        "head": {"mode"},
        "adapters": {"mode"},
        "full": {"mode"},
        "loss_distillation": {"stage3_distillation"},
        "loss_contrastive": {"stage3_contrastive"},
        "loss_patch": {"stage3_patch"},
        "stage1": {"stage1"},
        "stage2": {"stage2"},
        "cross_attention": {"fusion"},
        "gated": {"fusion"},
    }


def test_losses_are_added_one_after_another():
    ablation = find_ablation("paper_rasmd")
    weights = [ablation.pretraining(key).stage.weights for key in
               ("stage3_distillation", "stage3_contrastive", "stage3_patch", "stage3")]  # fmt: skip
    listed = [(w.distillation, w.contrastive, w.patch, w.neighbourhood) for w in weights]
    assert listed == [(0.5, 0, 0, 0), (0.5, 1.5, 0, 0), (0.5, 1.5, 0.25, 0), (0.5, 1.5, 0.25, 1.0)]
    assert {ablation.pretraining(key).after for key in ("stage3", "stage3_patch")} == {"stage2"}


def test_tables_have_the_papers_rows():
    both = find_ablation("tiny_scenes")
    assert [(t.number, len(t.rows)) for t in both.tables] == [(9, 2), (10, 4), (11, 4), (12, 4), (13, 3), (14, 3)]
    # the paper has its Tables 10 and 14 for detection only
    assert [table.number for table in find_ablation("paper_fmb").tables] == [9, 11, 12, 13]
    for name, dataset in (("paper_rasmd", "rasmd"), ("paper_fmb", "fmb")):
        for table in find_ablation(name).tables:
            for _, key in table.rows:
                assert figures(table.number, key, dataset), (table.number, key)
    assert set(CELLS) == {(table.number, key) for table in both.tables for _, key in table.rows}


def test_the_papers_figures_where_they_can_be_checked():
    assert figures(14, "cross_attention", "rasmd") == {"mAP50": 74.01, "mAP75": 45.29, "mAP": 44.26}
    # one model in four tables
    assert len({figures(number, "base", "rasmd")["mAP"] for number in (11, 12, 13, 14)}) == 1
    assert figures(14, "base", "scenes") == {}


def test_some_tables_need_only_their_cells():
    fusion = find_ablation("tiny_scenes").only([14])
    assert [cell.key for cell in fusion.cells] == ["base", "no_adapters", "cross_attention", "gated"]
    assert [one.key for one in fusion.pretrainings] == ["stage1", "stage2", "stage3"]
    with pytest.raises(ValueError, match="has no Table 3: choose from 9, 10, 11, 12, 13, 14"):
        find_ablation("tiny_scenes").only([3])


def test_what_does_not_hang_together_is_refused():
    ablation = find_ablation("smoke_scenes")
    with pytest.raises(ValueError, match="Table 7 names 'nowhere'"):
        replace(ablation, tables=(Table(7, "t", (("row", "nowhere"),)),))
    with pytest.raises(ValueError, match="the cell base occurs twice"):
        replace(ablation, cells=(ablation.cells[0], *ablation.cells))
    with pytest.raises(ValueError, match="the pretraining stage1 names 'stage2'"):
        replace(ablation, pretrainings=(replace(ablation.pretrainings[0], after="stage2"), *ablation.pretrainings[1:]))
    with pytest.raises(ValueError, match="choose one of tiny_scenes"):
        find_ablation("nonsense")


def test_jobs_come_after_what_they_need_and_know_what_made_them(tmp_path):
    ablation, setup = find_ablation("smoke_scenes"), Setup(tmp_path)
    jobs = jobs_of(ablation, setup)
    for place, job in enumerate(jobs):
        assert set(job.needs) <= {earlier.key for earlier in jobs[:place]}
    marks = {job.key: job.mark for job in jobs}
    assert len(set(marks.values())) == len(marks)
    stage1 = ablation.pretrainings[0]
    longer = replace(ablation, pretrainings=(replace(stage1, steps=3), *ablation.pretrainings[1:]))
    changed = {job.key for job in jobs_of(longer, setup) if job.mark != marks[job.key]}
    # everything that stands on Stage I, and nothing else
    untouched = {"data/train", "data/test", "data/pretrain", "teacher", "cells/no_adapters/seed0"}
    assert changed == set(marks) - untouched
    assert fingerprint(stage1) == fingerprint(replace(stage1))


def test_paper_recipes_report_missing_data(tmp_path):
    with pytest.raises(ValueError, match=r"needs --data DIR.*--manifest FILE.*--teacher FILE.*Looked for"):
        jobs_of(find_ablation("paper_fmb"), Setup(tmp_path))


@pytest.fixture
def given(tmp_path) -> Setup:
    """Data set, manifests and weights, as for the paper's own recipes."""
    MINIATURES["fmb"].write(tmp_path / "FMB")
    for name in ("one.jsonl", "dinov2.pth"):
        (tmp_path / name).write_bytes(name.encode())
    return Setup(tmp_path / "out", tmp_path / "FMB", (tmp_path / "one.jsonl",), tmp_path, tmp_path / "dinov2.pth")


def changed_jobs(name: str, before: dict[str, str], setup: Setup) -> set[str]:
    return {job.key.split("/")[0] for job in jobs_of(find_ablation(name), setup) if job.mark != before[job.key]}


def test_results_on_other_data_are_not_taken_for_these(given, tmp_path):
    marks = {job.key: job.mark for job in jobs_of(find_ablation("paper_fmb"), given)}
    assert changed_jobs("paper_fmb", marks, given) == set()
    MINIATURES["fmb"].write(tmp_path / "elsewhere")
    assert changed_jobs("paper_fmb", marks, replace(given, root=tmp_path / "elsewhere")) == {"cells"}
    for other in (replace(given, pairs_root=tmp_path / "elsewhere"), replace(given, pairs=given.pairs * 2)):
        assert changed_jobs("paper_fmb", marks, other) == {"pretraining", "cells"}
    # what a file holds counts, not where it lies
    assert given.teacher is not None
    moved = Path(given.teacher.rename(tmp_path / "moved.pth"))
    assert changed_jobs("paper_fmb", marks, replace(given, teacher=moved)) == set()
    moved.write_bytes(b"another")
    assert changed_jobs("paper_fmb", marks, replace(given, teacher=moved)) == {"pretraining", "cells"}
    baseline = "cells/no_adapters/seed0"
    jobs = {job.key: job for job in jobs_of(find_ablation("paper_fmb"), replace(given, teacher=moved))}
    assert jobs[baseline].mark != marks[baseline]
    (tmp_path / "moved.pth").write_bytes(b"dinov2.pth")
    given.pairs[0].write_bytes(b"other pairs")
    assert changed_jobs("paper_fmb", marks, replace(given, teacher=moved)) == {"pretraining", "cells"}


def test_results_on_scenes_depend_on_a_teacher_but_not_on_data_that_they_do_not_use(given):
    marks = {job.key: job.mark for job in jobs_of(find_ablation("smoke_scenes"), Setup(given.folder))}
    assert changed_jobs("smoke_scenes", marks, replace(given, teacher=None)) == set()
    assert changed_jobs("smoke_scenes", marks, Setup(given.folder, teacher=given.teacher)) == {"pretraining", "cells"}


def test_substitute_teacher_is_noted_only_if_used(given):
    ablation = find_ablation("smoke_scenes")
    for setup, noted in ((Setup(given.folder), True), (Setup(given.folder, teacher=given.teacher), False)):
        notes = Results.read(ablation, setup, Outcome(), "spectradino ablate smoke_scenes").notes
        assert any("No DINOv2 weights" in note for note in notes) == noted
        assert any(note.startswith("Synthetic scenes") for note in notes)


def test_missing_training_split_is_reported_before_anything_runs(given):
    assert given.root is not None
    shutil.rmtree(given.root / "train")
    with pytest.raises(ValueError, match="FMB"):
        jobs_of(find_ablation("paper_fmb"), given)


@pytest.mark.parametrize("name", ["paper_rasmd", "paper_fmb"])
def test_paper_recipes_have_the_papers_heads_and_hide_no_band(name):
    ablation = find_ablation(name)
    for cell in ablation.cells:
        made = cell.recipe.architecture
        assert cell.recipe.augmentation.band_dropout == 0
        assert made.strides == (3.5, 7, 14, 28)
        assert made.upernet_width == 512
    assert "Ours, as the paper gives none" in " ".join(ablation.notes)


@pytest.mark.slow  # it trains; test_pretrain covers the choice
@pytest.mark.usefixtures("undrawn_curves")
def test_validation_pairs_choose_what_stage_two_starts_from(tmp_path):
    torch.manual_seed(0)
    save_state(ViT("test"), tmp_path / "vit.safetensors")
    band = (Modality.LWIR,)
    held_out = write_scenes(tmp_path / "val", 8, (80, 64), 900_000, band, ())
    plain = Setup(tmp_path / "out", teacher=tmp_path / "vit.safetensors", device="cpu")
    setup = replace(plain, validation=(held_out,))
    ablation = find_ablation("smoke_scenes")
    marks = [{job.key: job.mark for job in jobs_of(ablation, one)} for one in (plain, setup)]
    assert marks[0]["pretraining/stage1"] != marks[1]["pretraining/stage1"]
    assert marks[0]["data/pretrain"] == marks[1]["data/pretrain"]
    for job in jobs_of(ablation, setup):
        if job.key in ("data/pretrain", "pretraining/stage1", "pretraining/stage2"):
            run_job(ablation, setup, job)
    best = tmp_path / "out/pretraining/stage1/stage1/best.safetensors"
    assert json.loads(read_metadata(best)["validation"])["val_total"] > 0
    assert (tmp_path / "out/pretraining/stage2/stage1/best.safetensors").read_bytes() == best.read_bytes()
    assert "best" in read_metadata(tmp_path / "out/pretraining/stage2/stage2/last.safetensors")["start"]


def test_missing_validation_pairs_are_noted(given):
    ablation = find_ablation("paper_fmb")
    for setup, noted in ((given, True), (replace(given, validation=given.pairs), False)):
        notes = Results.read(ablation, setup, Outcome(), "").notes
        assert ("no validation pairs were given (--val-manifest)" in " ".join(notes)) is noted
