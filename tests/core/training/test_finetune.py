"""From recipe to checkpoint to exported model file, at the smallest size."""

from __future__ import annotations

import dataclasses
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from spectradino_core.data.scene_sets import held_out_seeds, scene_sample
from spectradino_core.export.onnx_model import TOLERANCE, measure_parity
from spectradino_core.export.torch_engine import TorchEngine
from spectradino_core.losses.perception import IGNORE
from spectradino_core.modality import Modality
from spectradino_core.models.checkpoints import CheckpointError
from spectradino_core.models.perception import Architecture, Perception, perception_roles
from spectradino_core.models.perception_checkpoint import load_perception, save_perception, warm_start
from spectradino_core.runtime.bundle import BundleError
from spectradino_core.runtime.onnx_engine import OnnxEngine
from spectradino_core.runtime.parity import Difference
from spectradino_core.scenes import BOX_CLASSES
from spectradino_core.thermal import ThermalContract
from spectradino_core.training.batches import BatchStream, LabelledBatch, make_batch
from spectradino_core.training.checkpoints import ResumeError
from spectradino_core.training.finetune import (
    TrainingData,
    _check_resumed,
    anchor_points,
    finetune,
    perception_loss,
)
from spectradino_core.training.recipes import DATA_TERMS, RECIPES, data_terms, smoke
from spectradino_core.training.runs import write_record

SIZE = (168, 140)
BOTH = np.ones(2, bool)


@pytest.fixture(scope="module")
def batch() -> LabelledBatch:
    samples = [(scene_sample(seed, Modality.LWIR, (200, 160)), BOTH) for seed in range(4)]
    samples[3][0].boxes = samples[3][0].labels = samples[3][0].mask = None
    return make_batch(samples, Modality.LWIR, SIZE, ThermalContract(), anchor_points(smoke())).to("cpu")


def tiny_model() -> Perception:
    torch.manual_seed(0)
    return Perception(smoke().architecture)


def test_a_batch_is_what_serving_would_feed(batch):
    assert batch.images[Modality.RGB].shape == (4, 3, 140, 168)
    assert batch.images[Modality.LWIR].shape == (4, 1, 140, 168)
    assert batch.images[Modality.LWIR].min() >= 0
    assert batch.images[Modality.LWIR].max() <= 1
    assert batch.boxes[3] is None
    assert (batch.mask[3] == IGNORE).all()
    assert (batch.mask[0] != IGNORE).any()


@pytest.mark.slow
def test_loss_falls_when_a_batch_is_learnt_by_heart(batch):
    recipe, model = smoke(), tiny_model()
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3)
    losses = []
    for _ in range(40):
        loss = perception_loss(model(batch.images, batch.present), batch, recipe)
        optimiser.zero_grad()
        loss["total"].backward()
        optimiser.step()
        losses.append(loss["total"].item())
    assert losses[-1] < 0.5 * losses[0]


def test_unlabelled_images_teach_nothing(batch):
    model = tiny_model().eval()
    only = batch.split(4)[3]
    assert only.boxes == [None]
    loss = perception_loss(model(only.images, only.present), only, smoke())
    loss["total"].backward()
    assert loss["total"].item() == 0
    assert all((p.grad == 0).all() for p in model.parameters() if p.grad is not None)


def test_single_streams_equal_both_with_one_absent(batch):
    model = tiny_model().eval()
    torch.nn.init.normal_(model.fusion.absent)
    with torch.no_grad():
        alone = model({Modality.RGB: batch.images[Modality.RGB]})
        hidden = model(batch.images, torch.tensor([[1.0, 0.0]] * 4))
        torch.testing.assert_close(alone.logits, hidden.logits, atol=1e-4, rtol=1e-4)
        thermal = model({Modality.LWIR: batch.images[Modality.LWIR]})
        assert not torch.allclose(thermal.logits, alone.logits)


def test_every_parameter_has_a_role():
    roles = perception_roles(tiny_model())
    heads = {name.split(".")[0] for name, role in roles.items() if role == "head"}
    assert heads == {"fusion", "pyramid", "detection", "segmentation"}
    assert {role for role in roles.values() if role.startswith("stems")} == {"stems.rgb", "stems.lwir"}


def test_bundled_recipe_fits_the_size_limit():
    recipe = RECIPES["box"]()
    parameters = sum(p.numel() for p in Perception(recipe.architecture).parameters())
    assert parameters * 4 <= 12e6


def test_checkpoint_round_trip(tmp_path):
    model, info = tiny_model().eval(), smoke().info()
    save_perception(tmp_path / "m.safetensors", model, info)
    loaded, loaded_info = load_perception(tmp_path / "m.safetensors")
    assert loaded_info == info
    assert loaded.architecture == model.architecture
    for (name, a), (_, b) in zip(model.state_dict().items(), loaded.state_dict().items(), strict=True):
        assert torch.equal(a, b), name


def test_a_model_for_one_band_starts_another(tmp_path):
    lwir = tiny_model().eval()
    torch.nn.init.normal_(lwir.backbone.stems["lwir"].conv1.weight)
    save_perception(tmp_path / "lwir.safetensors", lwir, smoke().info())
    nir = Perception(replace(smoke().architecture, infrared="nir")).eval()
    warm_start(nir, tmp_path / "lwir.safetensors")
    rgb, ir = torch.randn(1, 3, 140, 168), torch.rand(1, 1, 140, 168)
    with torch.no_grad():
        a = lwir({Modality.RGB: rgb, Modality.LWIR: ir}).logits
        b = nir({Modality.RGB: rgb, Modality.NIR: ir}).logits
    torch.testing.assert_close(a, b)
    with pytest.raises(BundleError, match=r"its variant is test, not tiny; omit the option") as failed:
        warm_start(Perception(RECIPES["box"]().architecture), tmp_path / "lwir.safetensors")
    assert "registers" not in str(failed.value)
    gated = Perception(replace(smoke().architecture, fusion="gated"))
    with pytest.raises(BundleError, match="its fusion is concat, not gated"):
        warm_start(gated, tmp_path / "lwir.safetensors")


@pytest.mark.parametrize("kept", ["box", "mask"])
def test_a_model_with_both_heads_starts_one_with_either(tmp_path, kept):
    both = tiny_model().eval()
    save_perception(tmp_path / "both.safetensors", both, smoke().info())
    without = {"box": {"mask_classes": 0, "segmentation": "linear"}, "mask": {"box_classes": 0, "tower_depth": 3}}
    one = Perception(replace(smoke().architecture, **without[kept])).eval()
    warm_start(one, tmp_path / "both.safetensors")
    images = {Modality.RGB: torch.randn(1, 3, 140, 168), Modality.LWIR: torch.rand(1, 1, 140, 168)}
    with torch.no_grad():
        a, b = both(images), one(images)
    wanted, found = (a.logits, b.logits) if kept == "box" else (a.mask_logits, b.mask_logits)
    torch.testing.assert_close(found, wanted)
    assert (b.mask_logits if kept == "box" else b.logits) is None
    save_perception(tmp_path / "one.safetensors", one, one_headed_info(kept))
    whole = tiny_model()
    started = warm_start(whole, tmp_path / "one.safetensors")
    missing = "segmentation head" if kept == "box" else "detection head"
    assert missing in started.fresh
    torch.testing.assert_close(whole.backbone.state_dict(), one.backbone.state_dict())


def test_a_start_model_with_other_classes_is_matched_by_name(tmp_path):
    whole = tiny_model().eval()
    save_perception(tmp_path / "m.safetensors", whole, smoke().info())  # person, bicycle, car
    for names in (("forklift", "car", "person"), ("car",), ("forklift", "dog", "cat", "person", "tram")):
        other = Perception(replace(smoke().architecture, box_classes=len(names), mask_classes=0))
        before = other.detection.classify.weight.detach().clone()
        started = warm_start(other, tmp_path / "m.safetensors", names)
        theirs = whole.detection.classify
        for place, name in enumerate(names):
            if name in BOX_CLASSES:
                row = BOX_CLASSES.index(name)
                torch.testing.assert_close(other.detection.classify.weight[place], theirs.weight[row])
                torch.testing.assert_close(other.detection.classify.bias[place], theirs.bias[row])
            else:
                torch.testing.assert_close(other.detection.classify.weight[place], before[place])
                assert f"class {name}" in started.fresh
        torch.testing.assert_close(other.pyramid.state_dict(), whole.pyramid.state_dict())
        assert "segmentation head" in started.dropped
        assert ("class bicycle" in started.dropped) == ("bicycle" not in names)
        assert "loads backbone, fusion, pyramid, detection head (" in str(started)


def test_nothing_is_loaded_from_another_head_or_pyramid(tmp_path):
    whole = tiny_model().eval()
    save_perception(tmp_path / "m.safetensors", whole, smoke().info())
    for changes, fresh in (
        ({"detection": "linear", "mask_classes": 0}, {"detection head"}),
        ({"strides": (14.0, 28.0)}, {"pyramid", "detection head", "segmentation head"}),
        ({"tower_depth": 2}, {"detection head"}),
    ):
        other = Perception(replace(smoke().architecture, **changes))
        assert set(warm_start(other, tmp_path / "m.safetensors").fresh) == fresh
        torch.testing.assert_close(other.backbone.state_dict(), whole.backbone.state_dict())


def one_headed_info(kept: str):
    info = smoke().info()
    return info.with_(mask_classes=(), palette=()) if kept == "box" else info.with_(box_classes=())


def test_foreign_and_damaged_checkpoints_are_refused_by_name(tmp_path):
    from safetensors.torch import save_file

    save_file({"x": torch.zeros(2)}, tmp_path / "foreign.safetensors")
    with pytest.raises(BundleError, match=r"foreign\.safetensors is not a perception checkpoint"):
        load_perception(tmp_path / "foreign.safetensors")
    good = tmp_path / "good.safetensors"
    save_perception(good, tiny_model(), smoke().info())
    (tmp_path / "cut.safetensors").write_bytes(good.read_bytes()[:5000])
    with pytest.raises(CheckpointError, match=r"cut\.safetensors"):
        load_perception(tmp_path / "cut.safetensors")


@pytest.mark.slow
def test_smoke_recipe_runs_stops_and_resumes(tmp_path):
    recipe = smoke()
    short = replace(recipe, loop=replace(recipe.loop, steps=4, warmup=2, checkpoint_every=2, log_every=1))
    first = finetune(short, tmp_path / "run", data=None, device="cpu", workers=0).read_bytes()
    longer = replace(short, loop=replace(short.loop, steps=6))
    path = finetune(longer, tmp_path / "run", data=None, device="cpu", workers=0)
    _, info = load_perception(path)
    assert info.provenance["recipe"] == "smoke"
    assert info.provenance["sources"] == {"scenes": 1.0}
    assert info.provenance["steps"] == 6
    assert len((tmp_path / "run" / "log.jsonl").read_text().splitlines()) >= 6 + 3
    before = path.read_bytes()
    assert finetune(longer, tmp_path / "run", data=None, device="cpu", workers=0) == path
    assert path.read_bytes() == before  # with the minutes that the run took
    path.write_bytes(first)  # as if the longer run had ended between its last checkpoint and its model
    finetune(longer, tmp_path / "run", data=None, device="cpu", workers=0)
    assert load_perception(path)[1].provenance["steps"] == 6
    before = path.read_bytes()
    with pytest.raises(ResumeError, match="at step 6, beyond the 4 steps"):
        finetune(short, tmp_path / "run", data=None, device="cpu", workers=0)
    other = {
        r"seed 0 \(now 1\)": {"seed": 1},
        r"lr.head \S+ \(now 0\.5\)": {"lr": {**longer.lr, "head": 0.5}},
        r"batch \d \(now 7\)": {"batch": 7},
    }
    for named, changes in other.items():
        with pytest.raises(ResumeError, match=rf"run with other settings: {named}\. .*new folder \(--out\)"):
            finetune(replace(longer, **changes), tmp_path / "run", data=None, device="cpu", workers=0)
    with pytest.raises(ResumeError, match=r"start null \(now .*start_sha256 null \(now"):
        finetune(longer, tmp_path / "run", data=None, start=path, device="cpu", workers=0)
    assert path.read_bytes() == before


@pytest.fixture(scope="module")
def recorded(tmp_path_factory) -> tuple[Path, dict]:
    """Folder with the record of a run, and that record."""
    folder = tmp_path_factory.mktemp("recorded")
    record = {
        "recipe": dataclasses.asdict(smoke()),
        "provenance": {"sources": {"scenes": 1.0}, "start": "a", "data": {"pairs": {"train": 5}}},
        "start_sha256": "0a",
        "pairs": None,
    }
    write_record(folder, record)
    return folder, record


def test_a_run_resumes_with_what_does_not_change_it(recorded):
    folder, record = recorded
    loop = record["recipe"]["loop"] | {"steps": 7, "amp": "bf16", "log_every": 3}
    _check_resumed(folder, record | {"recipe": record["recipe"] | {"loop": loop}})
    moved = record | {"provenance": record["provenance"] | {"start": "b"}}  # the same file
    _check_resumed(folder, moved)


def test_a_run_with_former_names_resumes_and_refuses_what_differs(recorded, tmp_path):
    _, record = recorded
    former = {"lr": "rates", "grad_accum": "parts", "cached_scale": "kept_scale", "scene_fraction": "scene_share"}
    former |= {"out_indices": "taps", "min_visible": "least_visible"}

    def as_written(value):
        return {former.get(n, n): as_written(v) for n, v in value.items()} if isinstance(value, dict) else value

    write_record(tmp_path, record | {"recipe": as_written(record["recipe"])})
    assert '"rates"' in (tmp_path / "recipe.json").read_text()
    _check_resumed(tmp_path, record)
    for name, value in {"lr": {"head": 0.5}, "scene_fraction": 0.25}.items():
        with pytest.raises(ResumeError, match=f"other settings: {name}"):
            _check_resumed(tmp_path, record | {"recipe": record["recipe"] | {name: value}})


@pytest.mark.parametrize(
    "change",
    [
        {"sources": {"scenes": 0.5, "road": 0.5}},
        {"sources": {"road": 1.0}},
        {"data": {"rgb only": {"train": 5}}},
    ],
)
def test_other_data_are_refused(recorded, change):
    folder, record = recorded
    with pytest.raises(ResumeError, match=next(iter(change))):
        _check_resumed(folder, record | {"provenance": record["provenance"] | change})


@pytest.mark.parametrize("text", ['{"recipe": {}}', '["recipe"]', '{"recipe": null, "provenance": {}}', "{}"])
def test_the_record_of_something_else_is_refused(recorded, tmp_path, text):
    (tmp_path / "recipe.json").write_text(text)
    with pytest.raises(ResumeError, match="is not the record of a fine-tuning run"):
        _check_resumed(tmp_path, recorded[1])


def test_a_missing_data_set_is_named(tmp_path):
    recipe = RECIPES["box"]()
    with pytest.raises(ValueError, match="roadscene_rgb_lwir"):
        recipe.mixture(Path(tmp_path))


def test_architecture_survives_json():
    architecture = Architecture("s", "swir", 6, 0, registers=4, strides=(3.5, 7.0))
    assert Architecture.from_dict(architecture.to_dict()) == architecture


def test_withheld_streams_cost_nothing_and_change_nothing(batch):
    model = tiny_model()
    torch.nn.init.normal_(model.fusion.absent)
    present = torch.tensor([[1.0, 1.0], [1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    seen: list[dict[str, int]] = []
    model.backbone.register_forward_pre_hook(
        lambda _, given: seen.append({band.key: len(images) for band, images in given[0].items()})
    )
    model.segmentation.eval()  # BatchNorm's statistics are the batch's in training
    trained = model(batch.images, present)
    expected = model.eval()(batch.images, present)
    assert seen == [{"rgb": 3, "lwir": 2}, {"rgb": 4, "lwir": 4}]
    torch.testing.assert_close(trained.logits, expected.logits, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(trained.mask_logits, expected.mask_logits, atol=1e-4, rtol=1e-4)
    only_rgb = torch.tensor([[1.0, 0.0]] * 4)
    model.train()(batch.images, only_rgb).logits.sum().backward()
    assert seen[-1] == {"rgb": 4, "lwir": 1}  # every parameter has a gradient on every process
    assert all(p.grad is not None for p in model.backbone.parameters())


@pytest.mark.parametrize(
    ("size", "early"), [((392, 308), (280, 224)), ((784, 616), (560, 448)), ((196, 154), (140, 112))]
)
def test_another_input_size_changes_the_early_one_in_proportion(size, early):
    found = RECIPES["box_real"]().with_input_size(size)
    assert (found.input_size, found.early_size) == (size, early)
    assert smoke().with_input_size(size).early_size is None


def test_early_steps_take_smaller_images_and_masks_may_be_thinned():
    class Scenes:
        def sample(self, index):
            return scene_sample(index, Modality.LWIR, (200, 160)), BOTH

    early = (3, (84, 70), None)
    batches = BatchStream(
        Scenes(), 1, Modality.LWIR, SIZE, ThermalContract(), steps=5, first=1, early=early, mask_stride=2
    )
    made = [batches[i].to("cpu") for i in range(len(batches))]
    masks = [batch.mask.shape[1:] for batch in made]
    assert masks == [(35, 42), (35, 42), (70, 84), (70, 84)]
    whole = BatchStream(Scenes(), 1, Modality.LWIR, SIZE, ThermalContract(), steps=5, first=1)[3].to("cpu")
    assert torch.equal(made[3].mask, whole.mask[:, 1::2, 1::2])
    assert torch.equal(made[3].images[Modality.RGB], whole.images[Modality.RGB])


@pytest.mark.slow  # export/test_export.py covers parity; this shows that the bundled files belong together
@pytest.mark.parametrize("band", ["lwir", "nir", "swir"])
def test_bundled_weights_compute_what_the_bundled_model_file_does(band):
    folder = Path(__file__).resolve().parents[3] / "models"
    model, info = load_perception(folder / f"{band}_box.safetensors")
    samples = [scene_sample(seed, info.infrared, (320, 256)) for seed in held_out_seeds("report", 2)]
    found = measure_parity(TorchEngine.of(model, info), OnnxEngine(folder / f"{band}_box.onnx", device="cpu"), samples)
    assert TOLERANCE.problem(Difference.from_dict(found)) == ""


def test_terms_follow_the_names_of_folders_and_of_their_pseudo_labels():
    road, m3svd = DATA_TERMS["road_"], DATA_TERMS["m3svd"]
    assert data_terms(["road_rgb_swir", "scenes", "m3svd_rgb_lwir", "m3svd_pseudo", "mine"]) == [road, m3svd]
    assert data_terms(["roadscene_pseudo"]) == [DATA_TERMS["roadscene"]]


@pytest.mark.slow  # the terms by name are tested above
def test_model_trained_on_real_images_records_their_terms(tmp_path):
    """Terms of the sets used, and of the start model: a derived model stays under its terms."""
    recipe = replace(smoke(), loop=replace(smoke().loop, steps=1, warmup=1))
    samples = recipe.mixture(None)[0]
    start, terms = None, {}
    for name, sources in (("scenes", {"scenes": 1.0}), ("real", {"msrs_rgb_lwir": 0.5, "scenes": 0.5})):
        data = TrainingData(samples, [], sources)
        start = finetune(recipe, tmp_path / name, None, training_data=data, workers=0)
        terms[name] = load_perception(start)[1].provenance.get("terms")
    assert terms == {"scenes": None, "real": DATA_TERMS["msrs"]}
    data = TrainingData(samples, [], {"scenes": 0.5, "camvid_rgb": 0.5})
    derived = finetune(recipe, tmp_path / "derived", None, start, training_data=data, workers=0)
    assert load_perception(derived)[1].provenance["terms"] == "; ".join(DATA_TERMS[name] for name in ("camvid", "msrs"))
