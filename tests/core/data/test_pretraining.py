"""Pretraining batches: content, dependence on seed and step only, and damaged files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from spectradino_core.data.manifest import ManifestItem, ManifestSource, write_manifest
from spectradino_core.data.plan import DamagedDataError
from spectradino_core.data.pretraining import available_bands, pretraining_batches, steps_per_epoch
from spectradino_core.data.sampling import AdaptiveBands
from spectradino_core.data.scene_sets import SceneImages
from spectradino_core.data.sources import FramePosition, ImageSet
from spectradino_core.data.views import PLAIN, ViewOptions, cut, take_view
from spectradino_core.modality import INFRARED, Modality
from tests.core.training.patterns import on_cpu

SIDE = 56


class Ramps:
    """Items whose red channel equals the IR image, so that any misalignment shows."""

    frame_gap = 1
    name = "ramps"

    def __init__(self, count: int, bands: tuple[str, ...]) -> None:
        self._count, self._bands = count, bands

    def __len__(self) -> int:
        return self._count

    def modalities(self, item: int) -> tuple[str, ...]:
        return self._bands

    def position(self, item: int) -> FramePosition:
        return FramePosition(str(item), 0)

    def load(self, item, modalities) -> ImageSet:
        image = np.random.default_rng(item).integers(0, 256, (6, 8), np.uint8)
        image = cv2.resize(image, (96, 72), interpolation=cv2.INTER_LINEAR)
        images = {"rgb": np.dstack([image] * 3)} | {
            key: cv2.resize(image, (48, 36), interpolation=cv2.INTER_AREA) if key == "lwir" else image
            for key in modalities
        }
        return ImageSet(images, f"ramp {item}")


@pytest.fixture(scope="module")
def scenes() -> SceneImages:
    return SceneImages(10, (96, 80))


def same(a, b) -> bool:
    return (
        a.band is b.band
        and a.names == b.names
        and torch.equal(a.keys, b.keys)
        and torch.equal(a.rgb, b.rgb)
        and torch.equal(a.infrared, b.infrared)
    )


def test_batches_hold_pairs_of_one_band_in_turn(scenes):
    batches = list(on_cpu(pretraining_batches([scenes], 4, SIDE, seed=0, steps=6)))
    assert [b.band for b in batches] == [*INFRARED, *INFRARED]
    for batch in batches:
        assert batch.rgb.shape == (4, 3, SIDE, SIDE)
        assert batch.infrared.shape == (4, 1, SIDE, SIDE)
        assert batch.rgb.dtype == batch.infrared.dtype == torch.float32
        assert batch.infrared.min() >= 0
        assert batch.infrared.max() <= 1
        assert len(set(batch.keys.tolist())) == 4  # nobody meets himself
        assert batch.extra == {}


def test_both_images_get_the_same_crop_and_flip():
    views = ViewOptions(photometry=None)
    for batch in on_cpu(pretraining_batches([Ramps(8, ("nir", "lwir"))], 8, SIDE, seed=1, steps=4, views=views)):
        red = batch.rgb[:, 0].numpy()
        infrared = batch.infrared[:, 0].numpy()
        for a, b in zip(red, infrared, strict=True):
            assert np.corrcoef(a.ravel(), b.ravel())[0, 1] > 0.98  # lwir comes with half the pixels
            assert np.corrcoef(a.ravel(), b[:, ::-1].ravel())[0, 1] < 0.9


@pytest.mark.parametrize("workers", [0, 1])
def test_resumed_run_gets_the_same_batches(scenes, workers):
    whole = list(on_cpu(pretraining_batches([scenes], 4, SIDE, seed=5, steps=9)))
    rest = list(on_cpu(pretraining_batches([scenes], 4, SIDE, seed=5, steps=9, first=4, workers=workers)))
    assert len(rest) == 5
    assert all(same(a, b) for a, b in zip(whole[4:], rest, strict=True))
    other = list(on_cpu(pretraining_batches([scenes], 4, SIDE, seed=6, steps=2)))
    assert not any(same(a, b) for a, b in zip(whole, other))


@pytest.mark.parametrize("world", [2, 4])
def test_ranks_share_the_same_global_batch(scenes, world):
    whole = list(on_cpu(pretraining_batches([scenes], 4, SIDE, seed=5, steps=4)))
    shares = [list(on_cpu(pretraining_batches([scenes], 4, SIDE, 5, 4, rank=r, world=world))) for r in range(world)]
    for step, batch in enumerate(whole):
        parts = [share[step] for share in shares]
        assert torch.equal(batch.rgb, torch.cat([p.rgb for p in parts]))
        assert torch.equal(batch.infrared, torch.cat([p.infrared for p in parts]))
        assert torch.equal(batch.keys, torch.cat([p.keys for p in parts]))
    with pytest.raises(ValueError, match="take a multiple|choose a multiple"):
        pretraining_batches([scenes], 4, SIDE, 5, 4, world=3)


def test_views_differ_each_epoch_unless_they_are_counted(scenes):
    def looks(views):
        batches = list(on_cpu(pretraining_batches([scenes], 10, SIDE, 0, 4, bands=[Modality.LWIR], views=views)))
        return [{int(k): b.rgb[i] for i, k in enumerate(b.keys)} for b in batches]

    fresh = looks(ViewOptions())
    assert not any(torch.equal(fresh[0][key], fresh[1][key]) for key in range(10))
    counted = looks(ViewOptions(count=2))
    assert sorted(counted[0]) == [2 * item for item in range(10)]
    assert sorted(counted[1]) == [2 * item + 1 for item in range(10)]
    assert all(torch.equal(counted[0][key], counted[2][key]) for key in counted[0])
    assert all(torch.equal(counted[1][key], counted[3][key]) for key in counted[1])
    assert not torch.equal(counted[0][0], counted[1][1])


def test_several_sources_share_a_band_and_more_bands_come_along(scenes):
    sources = [Ramps(6, ("nir",)), scenes]
    assert available_bands(sources) == INFRARED
    assert available_bands(sources[:1]) == (Modality.NIR,)
    assert steps_per_epoch(sources, 4) == 16 // 4 + 10 // 4 + 10 // 4
    seen = set()
    for batch in on_cpu(pretraining_batches(sources, 8, SIDE, 0, 8, bands=[Modality.NIR], extra=True)):
        rendered = [row for row, key in enumerate(batch.keys.tolist()) if key >= 6]
        for band in (Modality.SWIR, Modality.LWIR):
            assert batch.extra_rows[band].tolist() == rendered
            assert batch.extra[band].shape == (len(rendered), 1, SIDE, SIDE)
        seen |= set(batch.keys.tolist())
    assert seen == set(range(16))


def test_adaptive_sampling_drives_the_stream(scenes):
    sampling = AdaptiveBands([b.key for b in INFRARED], seed=1, period=4)
    stream = pretraining_batches([scenes], 4, SIDE, 0, 24, sampling=sampling)
    shown = []
    for step, batch in enumerate(on_cpu(stream)):
        shown.append(batch.band)
        sampling.record(step, batch.band.key, 3.0 if batch.band is Modality.LWIR else 0.01)
    assert shown[8:].count(Modality.LWIR) > 8


def test_too_little_data_is_refused(scenes):
    with pytest.raises(ValueError, match=r"10 items have nir.*the batch is 16"):
        pretraining_batches([scenes], 16, SIDE, 0, 1)
    with pytest.raises(ValueError, match="hold no infrared band"):
        pretraining_batches([Ramps(4, ("depth",))], 2, SIDE, 0, 1)
    with pytest.raises(ValueError, match="no sources"):
        pretraining_batches([], 2, SIDE, 0, 1, bands=[Modality.NIR])


# ------------------------------------------------------------------------------------------------------------- damage


def folder_of(root: Path, count: int, damaged: int) -> ManifestSource:
    items = []
    for k in range(count):
        for key in ("rgb", "nir"):
            (root / key).mkdir(exist_ok=True)
            noise = np.random.default_rng(k).integers(0, 255, (20, 20), np.uint8)
            cv2.imwrite(str(root / key / f"{k}.png"), noise)
        items.append(ManifestItem({"rgb": f"rgb/{k}.png", "nir": f"nir/{k}.png"}))
    for k in range(damaged):
        path = root / f"nir/{k}.png"
        path.write_bytes(path.read_bytes()[:100])
    write_manifest(items, root / "manifest.jsonl")
    return ManifestSource(root / "manifest.jsonl")


@pytest.mark.parametrize("workers", [0, 1])
def test_damaged_files_are_named_counted_and_skipped(tmp_path, caplog, workers):
    source = folder_of(tmp_path, 40, damaged=2)
    stream = pretraining_batches([source], 8, 28, 0, 15, max_damaged=0.05, workers=workers)
    with caplog.at_level("WARNING", "spectradino_core"):
        batches = list(on_cpu(stream))
    assert sorted(text.split(":")[0].rsplit("/", 1)[1] for text in stream.damage) == ["0.png", "1.png"]
    assert (
        sum("skipped a damaged item" in record.message for record in caplog.records) == 2
    )  # once each, though met every epoch
    for batch in batches:
        assert len(batch.names) == 8
        assert not {0, 1} & set(batch.keys.tolist())
    again = list(on_cpu(pretraining_batches([source], 8, 28, 0, 15, first=7, max_damaged=0.05)))
    assert all(same(a, b) for a, b in zip(batches[7:], again, strict=True))


def test_too_many_damaged_files_stop_the_run(tmp_path):
    stream = pretraining_batches([folder_of(tmp_path, 40, damaged=3)], 8, 28, 0, 15, max_damaged=0.05)
    with pytest.raises(DamagedDataError, match=r"3 of 40 items can't be read.*nir/\d\.png.*max_damaged"):
        list(stream)


def test_a_set_of_nothing_but_damage_is_refused(tmp_path):
    with pytest.raises(DamagedDataError, match="50 items in succession"):
        list(on_cpu(pretraining_batches([folder_of(tmp_path, 8, damaged=8)], 4, 28, 0, 2, max_damaged=1.0)))


# -------------------------------------------------------------------------------------------------------------- views


def test_the_plain_view_is_the_largest_centred_square():
    image = np.zeros((40, 60, 3), np.uint8)
    image[:, 10:50] = 200
    view = take_view(ImageSet({"rgb": image}, ""), PLAIN, 40, np.random.default_rng(0))["rgb"]
    assert view.shape == (40, 40, 3)
    assert (view == 200).all()


def drawn_boxes(width, height, options, count):
    """Recover x1, y1, x2, y2 in pixels of crops from images of coordinates; float64 [count, 4]."""
    options = replace(options, flip=0.0, photometry=None)
    empty, grid = np.zeros((height, width, 3), np.uint8), np.indices((height, width)).astype(np.float32)
    boxes = []
    for seed in range(count):
        y, x = (
            take_view(ImageSet({"rgb": empty, "depth": axis}, ""), options, 56, np.random.default_rng(seed))["depth"]
            for axis in grid
        )
        margins = (x.max() - x.min()) / 55 / 2, (y.max() - y.min()) / 55 / 2  # from pixel centres to the edges
        boxes.append([x.min() - margins[0], y.min() - margins[1], x.max() + margins[0], y.max() + margins[1]])
    return np.array(boxes)


@pytest.mark.parametrize(("width", "height"), [(1224, 384), (640, 480), (490, 392)])
def test_crops_differ_and_cover_images_of_any_shape(width, height):
    options = ViewOptions()
    boxes = drawn_boxes(width, height, options, 150)
    x1, y1, x2, y2 = boxes.T
    assert len(np.unique(boxes.round(), axis=0)) > 145  # hardly any two are the same
    assert x1.min() > -4
    assert y1.min() > -4
    assert x2.max() < width + 3
    assert y2.max() < height + 3
    w, h = x2 - x1, y2 - y1
    largest = np.minimum(width, height * w / h) * np.minimum(height, width * h / w)
    fractions = w * h / largest
    assert fractions.min() > 0.3
    assert fractions.max() < 1.07
    assert np.median(fractions) == pytest.approx(0.675, abs=0.08)  # uniform between 0.35 and 1
    ratios = np.log(w / h)
    assert np.abs(ratios).max() < np.log(4 / 3) + 0.06
    assert ratios.std() == pytest.approx(2 * np.log(4 / 3) / 12**0.5, rel=0.2)
    for first, size, full in ((x1, w, width), (y1, h, height)):  # the position is uniform in the room that is left
        room = full - size
        places = (first / np.maximum(room, 1))[room > 0.1 * full]
        assert places.mean() == pytest.approx(0.5, abs=0.1)
        assert places.std() == pytest.approx(12**-0.5, abs=0.06)


def test_half_of_the_largest_crop_at_the_centre():
    options = ViewOptions(scale=(0.25, 0.25), ratio=(1.0, 1.0), centred=True)
    (box,) = drawn_boxes(400, 200, options, 1)
    np.testing.assert_allclose(box, [150, 50, 250, 150], atol=2)


def test_class_numbers_are_not_averaged():
    mask = np.zeros((30, 30), np.uint8)
    mask[:, 15:] = 200
    assert set(np.unique(cut(mask, (0, 0, 1, 1), 17, nearest=True))) == {0, 200}


@pytest.mark.parametrize("wrong", [{"scale": (0, 1)}, {"scale": (0.5, 1.5)}, {"ratio": (2, 1)}, {"flip": 1.5}])
def test_impossible_views_are_refused(wrong):
    with pytest.raises(ValueError, match="not|empty|must"):
        ViewOptions(**wrong)
