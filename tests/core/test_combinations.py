"""Every head, fusion and backbone: building, gradients, export, checkpoints; compatibility with old checkpoints."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from spectradino_core.data.mixture import CachedPairs, Epochs
from spectradino_core.data.scene_sets import scene_sample
from spectradino_core.evaluation.sliding import SlidingEngine
from spectradino_core.export.onnx_model import export
from spectradino_core.export.torch_engine import TorchEngine
from spectradino_core.modality import Modality
from spectradino_core.models.perception import BACKBONES, Architecture, Perception, perception_roles
from spectradino_core.models.perception_checkpoint import load_perception, save_perception
from spectradino_core.models.vit import VARIANTS, ViTConfig
from spectradino_core.runtime.bundle import METADATA_KEY, BundleError, ModelInfo
from spectradino_core.runtime.onnx_engine import OnnxEngine
from spectradino_core.runtime.perception_result import Mode
from spectradino_core.runtime.pipeline import Pipeline
from spectradino_core.thermal import ThermalContract
from spectradino_core.training.finetune import TrainingData, finetune
from spectradino_core.training.loop import LoopOptions
from spectradino_core.training.recipes import FinetuneRecipe
from tests.core.training.squares import Squares

SIZE = (98, 84)
PLAIN = Architecture("test", "lwir", 3, 4, pyramid_width=16, tower_depth=1, upernet_width=16, strides=(7.0, 14.0))

# Every registered name at least once, each fusion at both positions, each head alone and with another.
COMBINATIONS = {
    "as it was": PLAIN,
    "cross attention": replace(PLAIN, fusion="cross_attention"),
    "gated": replace(PLAIN, fusion="gated"),
    "cross attention at taps, finest levels": replace(
        PLAIN, fusion="cross_attention", fuse_at="taps", strides=(3.5, 7.0, 14.0, 28.0)
    ),
    "gated at taps, upernet": replace(PLAIN, fusion="gated", fuse_at="taps", segmentation="upernet"),
    "upernet on the last layer alone": replace(PLAIN, box_classes=0, segmentation="upernet"),
    "upernet alone": replace(PLAIN, box_classes=0, segmentation="upernet", fuse_at="taps"),
    "linear alone": replace(PLAIN, box_classes=0, segmentation="linear"),
    "linear4 alone": replace(PLAIN, box_classes=0, segmentation="linear4", fuse_at="taps"),
    "boxes alone": replace(PLAIN, mask_classes=0, strides=(14.0, 28.0)),
    "linear boxes alone": replace(PLAIN, mask_classes=0, detection="linear"),
    "both linear, baseline": replace(PLAIN, detection="linear", segmentation="linear", backbone="dinov2_repeat"),
    "baseline at taps": replace(PLAIN, backbone="dinov2_repeat", fuse_at="taps", segmentation="upernet"),
}


def info_of(architecture: Architecture) -> ModelInfo:
    return ModelInfo(
        name="combination",
        variant="test",
        bands=architecture.bands,
        box_classes=("a", "b", "c")[: architecture.box_classes],
        mask_classes=("p", "q", "r", "s")[: architecture.mask_classes],
        palette=tuple((40 * i, 0, 0) for i in range(architecture.mask_classes)),
        input_size=SIZE,
        thermal=ThermalContract(),
        score_threshold=0.05,
        strides=architecture.cell_strides,
    )


def lively(architecture: Architecture) -> Perception:
    """Random weights with spatially varying outputs, so that comparisons are meaningful."""
    torch.manual_seed(0)
    model = Perception(architecture).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if perception_roles(model)[name] == "head" and parameter.ndim > 1:
                parameter.normal_(std=parameter[0].numel() ** -0.5)
            if name.endswith("classify.bias"):
                parameter.normal_(std=0.3)
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.normal_(std=0.3)
                module.running_var.uniform_(0.5, 2)
        logits = model(images()).mask_logits
        if logits is not None:  # no class wins everywhere
            list(model.segmentation.parameters())[-1].sub_(logits.mean(dim=(0, 2, 3)))
    return model


def images(count: int = 2) -> dict[Modality, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    width, height = SIZE
    return {
        Modality.RGB: torch.randn(count, 3, height, width, generator=generator),
        Modality.LWIR: torch.rand(count, 1, height, width, generator=generator),
    }


@pytest.mark.parametrize("name", COMBINATIONS)
def test_every_parameter_of_every_combination_gets_a_gradient(name):
    model = lively(COMBINATIONS[name]).train()
    out = model(images(), torch.tensor([[1.0, 1.0], [1.0, 0.0]]))
    outputs = [x for x in (out.logits, out.boxes, out.mask_logits) if x is not None]
    sum((x.float() * torch.randn_like(x.float())).sum() for x in outputs).backward()
    untrained = {key for key, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0}
    assert not untrained


@pytest.mark.parametrize("name", COMBINATIONS)
def test_absent_stream_equals_masked_stream(name):
    model = lively(COMBINATIONS[name])
    both = images()
    with torch.no_grad():
        for index, band in enumerate((Modality.RGB, Modality.LWIR)):
            present = torch.eye(2)[index].expand(2, 2)
            alone, hidden = model({band: both[band]}), model(both, present)
            for a, b in zip((alone.logits, alone.mask_logits), (hidden.logits, hidden.mask_logits), strict=True):
                assert (a is None) == (b is None)
                if a is not None and b is not None:
                    torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", COMBINATIONS)
def test_every_combination_exports_with_parity(name, tmp_path):
    architecture = COMBINATIONS[name]
    model, info = lively(architecture), info_of(architecture)
    pairs = [scene_sample(9_000_000 + i, Modality.LWIR, (140, 112)) for i in range(2)]
    parity = export(model, info, tmp_path / "m.onnx", pairs)  # raises on a deviation
    assert parity["pairs"] == 2
    onnx, reference = Pipeline(OnnxEngine(tmp_path / "m.onnx", device="cpu")), Pipeline(TorchEngine.of(model, info))
    assert onnx.info.strides == architecture.cell_strides
    for frames in ((pairs[0].rgb, pairs[0].infrared), (None, pairs[0].infrared)):
        a, b = onnx(*frames), reference(*frames)
        assert a.mode is (Mode.FUSED if frames[0] is not None else Mode.IR_ONLY)
        assert (a.mask is None) == (b.mask is None) == (architecture.mask_classes == 0)
        assert len(a) == len(b)
        assert (len(a) > 0) == (architecture.box_classes > 0)
        np.testing.assert_allclose(a.scores, b.scores, atol=1e-3)
        if a.mask is not None and b.mask is not None:
            assert (a.mask != b.mask).mean() < 1e-3
            assert len(np.unique(a.mask)) > 1


@pytest.mark.parametrize("name", COMBINATIONS)
def test_checkpoints_round_trip(name, tmp_path):
    architecture = COMBINATIONS[name]
    model = lively(architecture)
    save_perception(tmp_path / "m.safetensors", model, info_of(architecture))
    loaded, info = load_perception(tmp_path / "m.safetensors")
    assert loaded.architecture == architecture
    assert info == info_of(architecture)
    assert all(
        torch.equal(a, b) for a, b in zip(model.state_dict().values(), loaded.state_dict().values(), strict=True)
    )


def test_checkpoint_of_version_0_1_loads(tmp_path):
    """It has eight fields, one fusion and one head of each kind."""
    plain = replace(PLAIN, upernet_width=256)
    model, info = lively(plain), info_of(plain)
    known = ("variant", "infrared", "box_classes", "mask_classes", "registers", "pyramid_width", "tower_depth")
    old = {key: value for key, value in asdict(plain).items() if key in known} | {"strides": [7.0, 14.0]}
    names = {name.split(".")[0] for name in model.state_dict()}
    assert names == {"backbone", "fusion", "pyramid", "detection", "segmentation"}
    assert {n.split(".")[1] for n in model.state_dict() if n.startswith("fusion.")} == {"project", "norm", "absent"}
    metadata = {METADATA_KEY: info.to_json(), "architecture": json.dumps(old)}
    save_file(model.state_dict(), tmp_path / "old.safetensors", metadata=metadata)
    loaded, _ = load_perception(tmp_path / "old.safetensors")
    assert loaded.architecture == plain


def test_out_indices_with_their_former_name_are_read():
    chosen = replace(PLAIN, fuse_at="taps", out_indices=(0, 1))
    stored = chosen.to_dict()
    stored["taps"] = stored.pop("out_indices")
    assert Architecture.from_dict(stored) == chosen


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"fusion": "sum"}, "unknown fusion 'sum': choose one of concat, cross_attention, gated"),
        ({"detection": "yolo"}, "unknown detection head 'yolo': choose one of dense, linear"),
        ({"segmentation": "fcn"}, "choose one of pyramid_linear, linear, linear4, upernet"),
        ({"backbone": "resnet"}, "choose one of spectradino, dinov2_repeat"),
        ({"fuse_at": "first"}, "choose one of last, taps"),
        ({"segmentation": "linear4"}, "needs fuse_at 'taps'"),
        ({"out_indices": (0,)}, "the last one 1"),
        ({"out_indices": (1, 1)}, "ascending"),
        ({"strides": (8.0,)}, "stride 8 is not one that patch 14 gives"),
    ],
)
def test_invalid_architectures_are_rejected(change, words):
    with pytest.raises(ValueError, match=words):
        Perception(replace(PLAIN, **change))


def test_unknown_field_of_newer_version_is_rejected(tmp_path):
    metadata = {METADATA_KEY: info_of(PLAIN).to_json(), "architecture": json.dumps(PLAIN.to_dict() | {"head": "new"})}
    save_file({"x": torch.zeros(1)}, tmp_path / "new.safetensors", metadata=metadata)
    with pytest.raises(BundleError, match=r"new\.safetensors.*head"):
        load_perception(tmp_path / "new.safetensors")


def test_baseline_equals_dinov2_on_repeated_channel():
    torch.manual_seed(0)
    backbone = BACKBONES["dinov2_repeat"]("test", (Modality.RGB, Modality.LWIR)).eval()
    batch = images()
    grey = batch[Modality.LWIR].expand(-1, 3, -1, -1)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    with torch.no_grad():
        out = backbone(batch, [0, 1])
        by_hand = backbone.vit((grey - mean[:, None, None]) / std[:, None, None], [0, 1])
        rgb = backbone.vit(batch[Modality.RGB])
    torch.testing.assert_close(out[Modality.LWIR].patches, by_hand.patches)
    torch.testing.assert_close(out[Modality.LWIR].intermediate[0], by_hand.intermediate[0])
    torch.testing.assert_close(out[Modality.RGB].cls, rgb.cls)
    assert not any("stem" in name or "adapter" in name for name, _ in backbone.named_parameters())


@pytest.fixture(params=["test16", "v3_test"])
def patch_16(request, monkeypatch):
    """Register a variant with patches of 16 pixels, as in most other ViTs, or a DINOv3 with the gated MLP of S+."""
    sizes = {"width": 48, "depth": 2, "heads": 3, "patch": 16}
    if request.param == "v3_test":
        config = ViTConfig("v3_test", **sizes, registers=4, pos_grid=0, mlp_ratio=6, swiglu=True)
    else:
        config = ViTConfig("test16", **sizes, pos_grid=14)
    monkeypatch.setitem(VARIANTS, config.name, config)
    return config.name


@pytest.mark.slow
def test_patch_16_backbone_is_trained_exported_and_served(tmp_path, patch_16):
    architecture = Architecture(
        patch_16, "lwir", 2, 3, pyramid_width=16, tower_depth=1, upernet_width=16, segmentation="upernet"
    )
    assert architecture.strides == (8.0, 16.0, 32.0)
    assert replace(architecture, detection="linear").cell_strides == (16.0,)
    recipe = FinetuneRecipe(
        name="squares", architecture=architecture, input_size=(96, 80), loop=LoopOptions(2, warmup=1, log_every=1),
        batch=2, lr={"head": 1e-3, "adapters": 1e-3, "blocks": 1e-3}, mode="full", mask_stride=2,
        box_classes=("red", "hot"), mask_classes=("nothing", "red", "hot"),
        palette=((0, 0, 0), (255, 0, 0), (255, 255, 0)),
    )  # fmt: skip
    data = TrainingData(Epochs(CachedPairs(Squares(4)), recipe.augmentation, 0), [], {"squares": 1.0}, epoch=4)
    path = finetune(recipe, tmp_path / "run", None, device="cpu", workers=0, training_data=data)
    model, info = load_perception(path)
    pairs = [scene_sample(9_000_000, Modality.LWIR, (140, 112))]
    assert (info.patch, ModelInfo.from_json(info.to_json(), path)) == (16, info)
    assert export(model, info, tmp_path / "m.onnx", pairs)["pairs"] == 1
    assert Pipeline(OnnxEngine(tmp_path / "m.onnx", device="cpu"))(pairs[0].rgb, pairs[0].infrared).mask is not None
    assert SlidingEngine(model, info, (150, 100)).info.input_size == (160, 112)
    save_perception(tmp_path / "odd.safetensors", model, info.with_(patch=14, input_size=(98, 84)))
    with pytest.raises(BundleError, match=r"odd\.safetensors: .* patches of 14 pixels, its backbone \w+ has 16"):
        load_perception(tmp_path / "odd.safetensors")
