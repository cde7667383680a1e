"""`recipe.json`: its content, and which changed options a run accepts when it resumes."""

from __future__ import annotations

import json
import logging
from dataclasses import replace

import pytest

from spectradino_core.data.manifest import ManifestItem, ManifestSource, write_manifest
from spectradino_core.data.scene_sets import SceneImages
from spectradino_core.data.sources import fingerprint, refuse_overlap
from spectradino_core.training.checkpoints import ResumeError
from spectradino_core.training.pretrain import PretrainOptions, pretrain
from spectradino_core.training.runs import resumed_record, write_record
from spectradino_core.training.stages import stage_recipe
from tests.core.training.patterns import CALM, Patterns

CONTENT = {
    "recipe": {"lr": 1e-4, "batch": 4, "weights": {"infrared": 0.0, "rgb": 0.0}},
    "steps": 100, "queue": 24, "data": ["a"], "views": {"scale": (0.35, 1.0)}, "grad_accum": 1, "processes": 2,
    "spectradino": "0.2.0",
}  # fmt: skip


def changed(**changes):
    recipe = CONTENT["recipe"] | changes.pop("recipe", {})
    return CONTENT | {"recipe": recipe} | changes


@pytest.fixture
def run(tmp_path):
    write_record(tmp_path, resumed_record(tmp_path, CONTENT, 0, ()))
    return tmp_path


def test_the_same_options_resume(run):
    assert resumed_record(run, CONTENT, 7, ()) == json.loads((run / "recipe.json").read_text())


def test_a_loss_that_the_earlier_version_did_not_know_had_no_weight(tmp_path):
    write_record(tmp_path, CONTENT | {"recipe": CONTENT["recipe"] | {"weights": {"infrared": 0.0}}})
    assert "changes" not in resumed_record(tmp_path, CONTENT, 7, ())
    with pytest.raises(ResumeError, match="rgb-distillation"):
        resumed_record(tmp_path, changed(recipe={"weights": {"infrared": 0.0, "rgb": 1.0}}), 7, ())


@pytest.mark.parametrize(
    ("changes", "option"),
    [
        ({"recipe": {"lr": 2e-4}}, "lr"),
        ({"recipe": {"weights": {"infrared": 1.0}}}, "infrared-alignment"),
        ({"recipe": {"weights": {"rgb": 1.0}}}, "rgb-distillation"),
        ({"recipe": {"batch": 8}, "steps": 50}, "batch"),
        ({"data": ["b"], "steps": 120, "queue": 30}, "manifest"),
        ({"views": {"scale": (0.5, 1.0)}}, "views"),
        ({"grad_accum": 2}, "grad-accum"),
    ],
)
def test_other_options_are_refused_unless_overridden(run, changes, option):
    content = changed(**changes)
    with pytest.raises(ResumeError, match=rf"other options: .* \(now .*--override .*{option}"):
        resumed_record(run, content, 7, ())
    with pytest.raises(ResumeError):
        resumed_record(run, content, 7, ("processes",))
    record = resumed_record(run, content, 7, (option,))
    assert record["recipe"] == content["recipe"]
    assert all(change["step"] == 7 for change in record["changes"])
    write_record(run, record)
    again = resumed_record(run, content, 9, ())  # from now on these are the run's options
    assert again["changes"] == record["changes"]


def test_versions_and_processes_may_change_and_are_recorded(run, caplog):
    with caplog.at_level(logging.WARNING):
        record = resumed_record(run, changed(spectradino="0.3.0", processes=4), 7, ())
    assert {"step": 7, "name": "spectradino", "from": "0.2.0", "to": "0.3.0"} in record["changes"]
    assert len(record["changes"]) == 2
    assert "changes at step 7" in caplog.text


def test_a_record_of_an_earlier_version_compares_what_it_has(run):
    old = {"recipe": {"lr": 1e-4, "batch": 4}, "steps": 100}
    (run / "recipe.json").write_text(json.dumps(old))
    assert resumed_record(run, CONTENT, 7, ())["queue"] == 24
    with pytest.raises(ResumeError, match="steps 100"):
        resumed_record(run, changed(steps=200), 7, ())


def test_a_record_with_former_names_is_compared_by_the_present_ones(run):
    old = {"recipe": {"rate": 1e-4, "batch": 4}, "steps": 100}
    (run / "recipe.json").write_text(json.dumps(old))
    assert resumed_record(run, CONTENT, 7, ())["recipe"]["lr"] == 1e-4
    with pytest.raises(ResumeError, match="lr 0.0001 .*--override lr"):
        resumed_record(run, changed(recipe={"lr": 2e-4}), 7, ())


def test_unknown_overrides_are_named(run):
    with pytest.raises(ValueError, match="--override lrr: no such option of a run; choose from bands, batch, "):
        resumed_record(run, CONTENT, 7, ("lrr",))


def test_a_stage_records_what_decides_its_result_and_refuses_changes(tmp_path, caplog):
    recipe = replace(stage_recipe("test", 1), batch=4)
    options = PretrainOptions(tmp_path, steps=2, device="cpu", amp="fp32", workers=0, views=CALM, log_every=1)
    with caplog.at_level(logging.WARNING):
        pretrain([recipe], [Patterns(8)], [], options)
    assert "best.safetensors is its last" in caplog.text
    record = json.loads((tmp_path / "stage1/recipe.json").read_text())
    assert record["data"] == [fingerprint(Patterns(8))]
    assert record["views"]["scale"] == [0.35, 1.0]
    assert {"queue", "validation", "teacher_hash", "strategy", "grad_accum", "adaptive", "spectradino"} <= record.keys()
    with pytest.raises(ResumeError, match=r"lr 0\.001 \(now 0\.002\).*--override lr$"):
        pretrain([replace(recipe, lr=2e-3)], [Patterns(8)], [], options)
    pretrain([replace(recipe, lr=2e-3)], [Patterns(8)], [], replace(options, override=("lr",)))
    record = json.loads((tmp_path / "stage1/recipe.json").read_text())
    assert record["changes"] == [{"step": 2, "name": "recipe.lr", "from": 1e-3, "to": 2e-3}]


def manifest(path, names):
    write_manifest([ManifestItem({"rgb": f"{name}.png", "nir": f"{name}_nir.png"}) for name in names], path)
    return ManifestSource(path)


def test_validation_items_that_are_trained_on_are_refused(tmp_path):
    training, other = manifest(tmp_path / "a.jsonl", "abc"), manifest(tmp_path / "b.jsonl", "de")
    refuse_overlap([training], [other])
    with pytest.raises(ValueError, match=r"2 validation items are training items too, for example .*b\.png"):
        refuse_overlap([training], [other, manifest(tmp_path / "c.jsonl", "bcd")])
    refuse_overlap([SceneImages(100)], [SceneImages.held_out(20)])
    with pytest.raises(ValueError, match="2 validation items .* scene 8"):
        refuse_overlap([SceneImages(10)], [SceneImages(10, first=8)])
    options = PretrainOptions(tmp_path / "run", steps=1, device="cpu")
    copy = manifest(tmp_path / "d.jsonl", "ab")
    with pytest.raises(ValueError, match="2 validation items .*--val-manifest"):
        pretrain([stage_recipe("test", 1)], [training], [copy], options)


def test_a_manifests_fingerprint_is_its_content(tmp_path):
    a, b = manifest(tmp_path / "a.jsonl", "abc"), manifest(tmp_path / "b.jsonl", "abc")
    assert fingerprint(a) == fingerprint(b)
    assert fingerprint(a) != fingerprint(manifest(tmp_path / "a.jsonl", "abd"))
