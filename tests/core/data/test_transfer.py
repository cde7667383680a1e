"""Conversion of bytes and counts on the device equals that of workers bit for bit; batches can be pinned."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from spectradino_core.data.loading import Loader, _Packed
from spectradino_core.data.plan import LoadedView
from spectradino_core.data.pretraining import make_batch as pretrain_batch
from spectradino_core.data.pretraining import omnivorous_batches
from spectradino_core.data.sample import PairedSample
from spectradino_core.data.scene_sets import SceneImages
from spectradino_core.data.transfer import OnHost, RawInfrared, RawRGB, map_tensors
from spectradino_core.data.views import COLOURS, colour_tensor, infrared_tensor
from spectradino_core.modality import Modality
from spectradino_core.runtime.preprocess import Letterbox, infrared_input, rgb_input
from spectradino_core.thermal import ThermalContract, ThermalNormaliser
from spectradino_core.training.batches import make_batch

SIZE = (56, 42)
CONTRACT = ThermalContract()


def counts(seed: int, shape: tuple[int, int], bits: int = 16, damaged: bool = False) -> np.ndarray:
    rng = np.random.default_rng(seed)
    # Beyond 32,767 the sign bit of an int16 is set.
    frame = (
        rng.integers(20_000, 60_000, shape).astype(np.uint16) if bits == 16 else rng.integers(0, 256, shape, np.uint8)
    )
    if damaged:
        frame[2:9, 3:12] = 0
    return frame


def pair(seed: int, shape: tuple[int, int], **options: object) -> PairedSample:
    rgb = np.random.default_rng(seed).integers(0, 256, (*shape, 3), np.uint8)
    return PairedSample(rgb, counts(seed, shape, **options), name=f"pair {seed}")


def test_labelled_images_are_those_of_preprocessing():
    pairs = [
        pair(0, (84, 112)), pair(1, (60, 112)), pair(2, (84, 70), bits=8), pair(3, (84, 112), damaged=True),
        PairedSample(pair(4, (84, 112)).rgb, np.zeros((84, 112), np.uint16), name="blind"),
    ]  # fmt: skip
    made = make_batch([(one, np.ones(2, bool)) for one in pairs], Modality.LWIR, SIZE, CONTRACT)
    batch = made.to("cpu")
    for row, one in enumerate(pairs):
        box = Letterbox.fit(one.size, SIZE)
        assert torch.equal(batch.images[Modality.RGB][row], torch.from_numpy(rgb_input(one.rgb, box))), one.name
        expected = (
            torch.zeros(1, SIZE[1], SIZE[0])
            if one.name == "blind"
            else torch.from_numpy(infrared_input(one.infrared, box, ThermalNormaliser(CONTRACT)))
        )
        assert torch.equal(batch.images[Modality.LWIR][row], expected), one.name
    assert batch.images[Modality.RGB].is_contiguous()
    assert batch.images[Modality.LWIR].max() == 1


def test_images_that_fill_the_input_send_one_byte_a_value():
    pairs = [(pair(seed, (84, 112), bits=8), np.ones(2, bool)) for seed in range(2)]
    images = make_batch(pairs, Modality.LWIR, SIZE, CONTRACT).content["images"]
    assert images[Modality.RGB].pixels.dtype == images[Modality.LWIR].counts.dtype == torch.uint8
    assert images[Modality.RGB].content is images[Modality.LWIR].content is images[Modality.LWIR].valid is None


@pytest.mark.parametrize("kind", [{}, {"kind": "none"}, {"kind": "fixed", "low": -10.0, "high": 4e4, "depths": (16,)}])
def test_pretraining_views_are_those_of_the_tensors(kind):
    contract = ThermalContract(**kind)
    least = min(contract.depths)
    views = []
    for row in range(4):
        images = {"rgb": np.random.default_rng(row).integers(0, 256, (28, 28, 3), np.uint8)}
        images["lwir"] = counts(row, (28, 28), bits=least if row == 1 else 16, damaged=row == 2)
        if row != 3:
            images["nir"] = counts(row + 9, (28, 28), bits=least)
        views.append(LoadedView(images, str(row), row))
    batch = pretrain_batch(views, Modality.LWIR, contract).to("cpu")
    assert torch.equal(batch.rgb, torch.from_numpy(np.stack([colour_tensor(v.images["rgb"]) for v in views])))
    assert batch.rgb.is_contiguous()
    expected = np.stack([infrared_tensor(view.images["lwir"], contract) for view in views])
    assert torch.equal(batch.infrared, torch.from_numpy(expected))
    nir = np.stack([infrared_tensor(view.images["nir"], contract) for view in views[:3]])
    assert torch.equal(batch.extra[Modality.NIR], torch.from_numpy(nir))
    assert batch.extra_rows[Modality.NIR].tolist() == [0, 1, 2]


def test_omnivorous_batches_send_bytes_and_keep_maps():
    groups = {"maps": ("depth", "segmentation"), "lwir": ("lwir",)}
    maps, lwir = omnivorous_batches([SceneImages(4, (84, 70))], groups, 2, 28, 0, 2)
    assert isinstance(maps.content["images"]["rgb"], RawRGB)
    assert isinstance(lwir.content["images"]["lwir"], RawInfrared)
    assert {image.dtype for image in maps.to("cpu").images.values()} == {torch.float32}


def tensors(value: object) -> list[Tensor]:
    found: list[Tensor] = []
    map_tensors(value, lambda x: found.append(x) or x)
    return found


def test_all_of_a_batch_is_pinned(monkeypatch):
    """PyTorch's loader calls `pin_memory` of unknown types; without a GPU it is simulated here."""
    samples = [(pair(seed, (84, 112), damaged=True), np.ones(2, bool)) for seed in range(2)]
    batch = make_batch(samples, Modality.LWIR, SIZE, CONTRACT)
    pinned: list[Tensor] = []

    def pin(tensor: Tensor) -> Tensor:
        pinned.append(tensor.clone())
        return pinned[-1]

    monkeypatch.setattr(Tensor, "pin_memory", pin)
    moved = batch.pin_memory()
    assert isinstance(moved, OnHost)
    assert [id(x) for x in tensors(moved)] == [id(x) for x in pinned]
    assert len(pinned) == len(tensors(batch)) > 6
    for ours, theirs in zip(tensors(moved.to("cpu")), tensors(batch.to("cpu")), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("packed", [False, True])
def test_the_loader_pins_when_it_is_asked_to(monkeypatch, packed):
    """Also batches received through a pipe, which PyTorch's loader sees as bytes."""
    import pickle

    batch = OnHost(dict, {"x": torch.arange(3)})
    asked = []
    monkeypatch.setattr(Tensor, "pin_memory", lambda x: asked.append(x) or x)
    found = _Packed(pickle.dumps(batch)) if packed else batch
    loader: Loader = Loader([found], 0, pin=True)
    assert loader._loader(0).pin_memory
    real = Loader._loader
    monkeypatch.setattr(Loader, "_loader", lambda self, workers: iter([found]) if packed else real(self, workers))
    (made,) = loader
    assert made.to("cpu")["x"].tolist() == [0, 1, 2]
    assert asked or not packed


def test_the_colour_table_is_that_of_the_tensors():
    image = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    found = np.stack([COLOURS[channel][image[..., channel]] for channel in range(3)])
    np.testing.assert_array_equal(found, colour_tensor(image))
