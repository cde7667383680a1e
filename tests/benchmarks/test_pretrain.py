"""The pretraining experiments end to end at the smallest scale, with correct reports."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch.distributed import run as torchrun

from benchmarks.experiment import Job, run_job, times_of
from benchmarks.pretrain import __main__ as pretrain_main
from benchmarks.pretrain.__main__ import main
from benchmarks.pretrain.data import Pairs, labelled_folder
from benchmarks.pretrain.plan import FULL, PARTS, jobs_of
from benchmarks.pretrain.report import brief_table, detectors_table, mean_over_seeds, write_report
from spectradino_core.bench.plain import HookedDinov2
from spectradino_core.bench.train import our_step, plain_step, steps_in_turn
from spectradino_core.commands import evaluate, evaluate_retrieval, finetune, pretrain
from spectradino_core.data.scene_sets import SceneImages
from spectradino_core.modality import Modality
from spectradino_core.training.stages import stage_recipe
from tests.tables import read_table

SETS = {
    "roadscene_rgb_lwir": ("lwir",),
    "msrs_rgb_lwir": ("lwir",),
    "m3svd_rgb_lwir": ("lwir",),
    "epfl_rgb_nir": ("nir",),
    "road_rgb_swir": ("swir",),
    "s2_rgb_nir_swir": ("nir", "swir"),
    "camvid_rgb": (),
    "coco_street_rgb": (),
}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Layout of the shared data set, with synthetic scenes as images."""
    return write_sets(tmp_path_factory.mktemp("shared"), SETS)


def write_sets(root: Path, sets: dict[str, tuple[str, ...]]) -> Path:
    source, item = SceneImages(80, (84, 70), maps=()), 0
    for name, bands in sets.items():
        for split, count in (("train", 6), ("val", 4)):
            entries = []
            for number in range(count):
                images = source.load(item, bands).images
                stem = f"0111_{1000 + item}_0000" if name.startswith("m3svd") else f"FLIR_{200 * item:05d}"
                paths = {key: f"{split}/{key}/{stem}.png" for key in images}
                for key, path in paths.items():
                    (root / name / path).parent.mkdir(parents=True, exist_ok=True)
                    cv2.imwrite(str(root / name / path), images[key])
                scene = ("field", "forest")[number % 2] if name.startswith("epfl") else None
                entries.append(paths | {"id": str(item), "scene": scene})
                item += 1
            (root / name / f"index_{split}.json").write_text(json.dumps({"set": name, "items": entries}))
            if name.startswith("msrs"):
                (root / name / f"instances_{split}.json").write_text(json.dumps(boxes_of(entries)))
    return root


def boxes_of(entries: list[dict]) -> dict:
    """Return COCO labels with one person on each image."""
    images = [{"id": i, "width": 84, "height": 70, "file_name": one["rgb"]} for i, one in enumerate(entries, 1)]
    boxes = [
        {"id": one["id"], "image_id": one["id"], "category_id": 1, "bbox": [10, 10, 20, 40], "area": 800, "iscrowd": 0}
        for one in images
    ]
    return {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "person"}]}


@pytest.mark.slow
@pytest.mark.experiment
def test_everything_runs_and_what_is_there_is_not_run_again(shared, tmp_path, capfd):
    words = ["--quick", "--data", str(shared), "--work", str(tmp_path / "work"), "--out", str(tmp_path / "out")]
    assert main(["stages", "systems", *words]) == 0
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert list(results) == ["stages", "systems"]
    stages = results["stages"]["pairs"]
    assert list(stages) == ["baseline (teacher, infrared as grey)", "before", "I", "II", "III", "III gentle"]
    assert {"roadscene_val, lwir", "epfl_val, nir", "scenes, swir", "scenes, nir to lwir"} <= stages["III"].keys()
    # Before Stage I the student sees RGB as the teacher does; every stage leaves weights of its own.
    assert stages["before"]["epfl_val, nir"]["retention_cls"] > 0.999
    cosines = [stages[name]["scenes, swir"]["cosine"]["true"] for name in ("before", "I", "II", "III")]
    assert len(set(cosines)) == 4
    assert results["systems"]["probes"].keys() == results["systems"]["neighbours"].keys()
    for name in ("stages_losses", "stages_pairs", "omnivorous_losses", "both_losses", "systems_pairs"):
        assert cv2.imread(str(tmp_path / "out" / f"{name}.png")).std() > 1
    _, times = read_table(tmp_path / "out" / "times.csv")
    assert all(float(row["wall_s"]) > 0 and float(row["cpu_s"]) > 0 for row in times)

    capfd.readouterr()
    assert main(["stages", "report", *words]) == 0
    assert "==" not in capfd.readouterr().out


@pytest.mark.slow
@pytest.mark.experiment
def test_detectors_of_all_systems_are_trained_and_evaluated(shared, tmp_path):
    words = ["--quick", "--data", str(shared), "--work", str(tmp_path / "work"), "--out", str(tmp_path / "out")]
    assert main(["detectors", *words]) == 0
    found = json.loads((tmp_path / "out" / "results.json").read_text())["detectors"]
    assert list(found) == ["stages", "gentle", "fresh", "frozen"]
    assert all(0 <= row["2"]["fused"]["mean"] <= 1 for row in found.values())


def test_a_quick_run_touches_neither_committed_results_nor_the_weights_of_a_full_run(repository, tmp_path, monkeypatch):
    written = []
    monkeypatch.setattr(pretrain_main, "write_report", lambda work, out, note: written.append((work, out)))
    for words in (["report"], ["report", "--quick"], ["report", "--quick", "--work", str(tmp_path)]):
        assert main(words) == 0
    (full, committed), (quick, shown), (own, below) = written
    assert committed == repository / "benchmarks/results/pretrain"
    assert committed not in (shown, *shown.parents)
    assert full not in (quick, *quick.parents, *shown.parents)
    assert (own, below.parent) == (tmp_path, tmp_path)


def test_every_command_is_one_that_the_command_line_knows(tmp_path):
    """All parts at full scale; what a job needs is made by an earlier one."""
    few = {count: tmp_path / f"labelled_{count}" for count in FULL.labelled}
    pairs = Pairs(
        tmp_path, [tmp_path / "epfl_train.jsonl"], [tmp_path / "epfl_val.jsonl"], [tmp_path / "coco_train.jsonl"], few
    )
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers()
    pretrain.add(commands)
    finetune.add(commands)
    evaluate.add(commands)
    evaluate_retrieval.add(commands)
    for part in PARTS:
        made: set[str] = set()
        for job in jobs_of(part, FULL, pairs, tmp_path / "work"):
            needed = {word.rpartition("=")[2] for word in job.arguments if word.endswith(".safetensors")}
            missing = {path for path in needed if path not in made and Path(path).parent not in folders(made)}
            assert not missing, f"{part}: {job.name} needs {missing}"
            made.add(str(job.makes))
            if "spectradino_core.cli" in job.arguments:
                place = job.arguments.index("spectradino_core.cli")
                before, words = list(job.arguments[: place - 1]), list(job.arguments[place + 1 :])
                assert before == [] or torchrun.get_args_parser().parse_args([*before[2:], "script"])
                assert parser.parse_args([evaluate_retrieval.NAME, *words[2:]] if words[1] == "retrieval" else words)


def folders(made: set[str]) -> set[Path]:
    """Return the folders with files of the jobs so far, including those of a chain's stages."""
    own = {Path(path).parent for path in made}
    return own | {folder.parent / f"stage{stage}" for folder in own if folder.name == "stage3" for stage in (1, 2)}


def test_labelled_pairs_are_spread_over_the_set(tmp_path):
    shared = write_sets(tmp_path / "shared", {"msrs_rgb_lwir": SETS["msrs_rgb_lwir"]})
    folder = labelled_folder(shared / "msrs_rgb_lwir", tmp_path / "three", 3)
    every = sorted(path.name for path in (shared / "msrs_rgb_lwir" / "train" / "rgb").iterdir())
    kept = [every[0], every[2], every[5]]
    for key in ("rgb", "lwir"):
        assert sorted(path.name for path in (folder / key / "train").iterdir()) == kept
        assert len(list((folder / key / "val").iterdir())) == 4
    labels = json.loads((folder / "train.json").read_text())
    assert [image["file_name"] for image in labels["images"]] == kept
    assert [box["image_id"] for box in labels["annotations"]] == [image["id"] for image in labels["images"]]
    with pytest.raises(ValueError, match="has 6 training pairs, 7 are asked for"):
        labelled_folder(shared / "msrs_rgb_lwir", tmp_path / "seven", 7)


def test_a_failed_job_is_named_and_its_time_is_kept(tmp_path):
    job = Job("bad", ("-c", "raise SystemExit(3)"), tmp_path / "made")
    for _ in range(2):
        with pytest.raises(RuntimeError, match="bad ended with 3"):
            run_job(job, tmp_path)
    wall, cpu = times_of(tmp_path)["bad"]
    assert wall > 0
    assert cpu > 0
    with pytest.raises(ValueError, match="no evaluations"):
        write_report(tmp_path, tmp_path / "out")


def test_detectors_by_hand():
    row = {"fused": {"mean": 0.1, "std": 0.02, "values": [0.08, 0.12]}}
    lines = detectors_table({"stages": {"10": row, "50": row}, "frozen": {"10": row}}).splitlines()
    assert lines[0] == "| system | streams | 10 pairs | 50 pairs |"
    assert lines[2] == "| stages | fused | 10.0 ± 2.0 | 10.0 ± 2.0 |"
    assert lines[3] == "| frozen | fused | 10.0 ± 2.0 | – |"
    one = detectors_table({"stages": {"10": {"fused": {"mean": 0.1, "std": None, "values": [0.1]}}}})
    assert "| stages | fused | 10.0 |" in one


def test_tables_by_hand():
    def row(forth: float, back: float, kept: float) -> dict:
        return {
            "from_rgb": {"r1": forth, "r5": 0.5},
            "to_rgb": {"r1": back, "r5": 1.0},
            "retention_cls": kept,
            "retention_patches": 1.0,
        }

    found = {
        "plain 0": {"s, nir": row(0.2, 0.4, 0.5)},
        "plain 1": {"s, nir": row(0.4, 0.6, 0.7)},
        "teacher": {"s, nir": row(0.0, 0.1, 1.0)},
    }
    means = mean_over_seeds(found)
    assert list(means) == ["plain", "teacher"]
    assert means["plain"]["s, nir"]["from_rgb"]["r1"] == pytest.approx(0.3)
    lines = brief_table(means, ["s, nir", "s, lwir"]).splitlines()
    assert lines[0] == "| model | s, nir | RGB kept (CLS, patches) |"
    assert lines[2] == "| plain | 40.0, 75.0 | 0.600, 1.000 |"
    assert lines[3] == "| teacher | 5.0, 75.0 | 1.000, 1.000 |"


class TestPlainLoop:
    def test_hooks_add_the_bands_own_adapter_and_embedding(self):
        torch.manual_seed(0)
        model = HookedDinov2("test").eval()
        image = torch.rand(2, 1, 56, 56)
        before = model(Modality.NIR, image), model(Modality.LWIR, image)
        with torch.no_grad():
            model.adapters["nir"][1][2].bias += 1
            model.embeddings["nir"] += 1
        after = model(Modality.NIR, image), model(Modality.LWIR, image)
        assert not torch.allclose(before[0], after[0])
        assert torch.equal(before[1], after[1])

    def test_it_trains_as_many_parameters_as_ours(self):
        """Same adapters, stems, embeddings, norm and unfrozen blocks: both loops do the same work."""
        from spectradino_core.models.spectradino import SpectraDINO
        from spectradino_core.training.stages import trainable

        for stage in (1, 3):
            recipe = stage_recipe("test", stage)
            plain, ours = HookedDinov2("test"), SpectraDINO("test")
            plain.freeze(recipe)
            named = dict(ours.named_parameters())
            wanted = sum(named[name].numel() for name in trainable(recipe, ours))
            assert sum(p.numel() for p in plain.parameters() if p.requires_grad) == wanted

    def test_both_take_steps(self):
        recipe = stage_recipe("test", 3)
        taken = steps_in_turn({"plain": plain_step(recipe, None), "ours": our_step(recipe, None)}, recipe, 2, 1)
        assert all(np.isfinite(timing.median_ms) and timing.median_ms > 0 for timing in taken.values())
