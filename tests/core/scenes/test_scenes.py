"""Synthetic scenes: reproducible, consistent with their labels and physically plausible in every band."""

from __future__ import annotations

import dataclasses
from functools import cache
from itertools import pairwise

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spectradino_core.modality import Modality
from spectradino_core.scenes import (
    BOX_CLASSES,
    FAR_M,
    MASK_CLASSES,
    MASK_PALETTE,
    UNLABELLED,
    Scene,
    SceneOptions,
    render_moments,
    render_scene,
    render_sequence,
)
from spectradino_core.scenes.__main__ import contact_sheet, main
from spectradino_core.scenes.camera import seeded_homography
from spectradino_core.scenes.motion import follow, pace
from tests.examples import examples

RGB, NIR, SWIR, LWIR = Modality.RGB, Modality.NIR, Modality.SWIR, Modality.LWIR
SMALL = SceneOptions(width=160, height=128, bands=(RGB, NIR, SWIR, LWIR))
CLEAN = SceneOptions(width=320, height=256, noise=False)
NIGHT = SceneOptions(width=320, height=256, time_of_day="night")
ROAD, BUILDING, VEGETATION, SKY, PERSON, BICYCLE, CAR = range(7)


@cache
def rendered(seed: int, options: SceneOptions = CLEAN) -> Scene:
    """Render a scene once for all tests that only look at it, which is most of their time."""
    scene = render_scene(seed, options)
    for array in (*scene.images.values(), scene.boxes, scene.labels, scene.visible, scene.mask):
        array.flags.writeable = False
    return scene


def same(a: Scene, b: Scene) -> bool:
    for entry in dataclasses.fields(Scene):
        x, y = getattr(a, entry.name), getattr(b, entry.name)
        if entry.name == "images":
            if x.keys() != y.keys() or any(x[k].tobytes() != y[k].tobytes() for k in x):
                return False
        elif isinstance(x, np.ndarray):
            if x.dtype != y.dtype or x.shape != y.shape or x.tobytes() != y.tobytes():
                return False
        elif x != y:
            return False
    return True


def grow(region: np.ndarray, by: int) -> np.ndarray:
    return cv2.dilate(region.astype(np.uint8), np.ones((2 * by + 1, 2 * by + 1), np.uint8)) > 0


def celsius(scene: Scene) -> np.ndarray:
    return scene.images[LWIR] / 100.0 - 273.15


def test_same_arguments_give_same_bytes() -> None:
    for seed in (0, 7):
        assert same(render_scene(seed, SMALL), render_scene(seed, SMALL))


def test_different_seeds_give_different_scenes() -> None:
    masks = {rendered(seed, SMALL).mask.tobytes() for seed in range(12)}
    assert len(masks) == 12


def test_bands_are_rendered_independently() -> None:
    both = rendered(3, SMALL)
    alone = render_scene(3, dataclasses.replace(SMALL, bands=(LWIR,)))
    assert list(alone.images) == [LWIR]
    assert np.array_equal(both.images[LWIR], alone.images[LWIR])
    assert np.array_equal(both.boxes, alone.boxes)
    assert np.array_equal(both.mask, alone.mask)


def test_dtypes_and_shapes() -> None:
    scene = rendered(1, SMALL)
    for band, dtype, shape in (
        (RGB, np.uint8, (128, 160, 3)),
        (NIR, np.uint8, (128, 160)),
        (SWIR, np.uint16, (128, 160)),
        (LWIR, np.uint16, (128, 160)),
    ):
        assert scene.images[band].dtype == dtype
        assert scene.images[band].shape == shape
    assert scene.images[SWIR].max() < 1 << 14
    assert scene.boxes.dtype == np.float32
    assert scene.labels.dtype == np.int64
    assert scene.mask.dtype == np.uint8
    assert scene.depth.dtype == np.float32
    assert len(MASK_PALETTE) == len(MASK_CLASSES)


@pytest.mark.parametrize("size", [(160, 128), (197, 139), (320, 180)])
@pytest.mark.parametrize("supersample", [1, 2])
def test_arbitrary_image_size(size: tuple[int, int], supersample: int) -> None:
    options = SceneOptions(width=size[0], height=size[1], supersample=supersample)
    scene = render_scene(5, options)
    assert scene.images[RGB].shape == (size[1], size[0], 3)
    assert scene.mask.shape == scene.depth.shape == scene.instances.shape == (size[1], size[0])


@pytest.mark.slow  # the tests below cover single scenes
def test_scene_invariants_over_many_seeds() -> None:
    people = cars = bicycles = 0
    for seed in range(50):
        scene = rendered(seed, SMALL)
        boxes = scene.boxes
        assert boxes.shape == (len(scene.labels), 4)
        assert len(scene.labels) == len(scene.visible) == len(scene.tracks)
        assert (boxes[:, :2] >= 0).all()
        assert (boxes[:, 2] <= 160).all()
        assert (boxes[:, 3] <= 128).all()
        assert (boxes[:, 2:] > boxes[:, :2]).all()
        assert ((scene.visible >= 0.25) & (scene.visible <= 1.0)).all()
        assert set(np.unique(scene.mask)) <= {*range(len(MASK_CLASSES)), UNLABELLED}
        assert np.isfinite(scene.depth).all()
        assert scene.depth.min() > 0.3
        assert (scene.depth[scene.mask == SKY] == FAR_M).all()
        assert (scene.depth[np.isin(scene.mask, (PERSON, BICYCLE, CAR))] < 200.0).all()
        assert (celsius(scene) > -60).all()
        assert (celsius(scene) < 90).all()
        people += int((scene.labels == 0).sum())
        bicycles += int((scene.labels == 1).sum())
        cars += int((scene.labels == 2).sum())
    assert people > 60
    assert bicycles > 15
    assert cars > 60


@pytest.mark.slow  # the occluded object covers boxes
def test_boxes_match_extent_of_instance_pixels() -> None:
    exact = 0
    for seed in range(30):
        scene = rendered(seed)
        for k, box in enumerate(scene.boxes):
            rows, columns = np.nonzero(scene.instances == k + 1)
            extent = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
            # Occluded or not, an object is never visible outside its box.
            assert (extent[:2] >= box[:2]).all()
            assert (extent[2:] <= box[2:]).all()
            if scene.visible[k] == 1.0:
                assert np.array_equal(extent, box)
                exact += 1
    assert exact > 30


def test_occluded_object_keeps_its_full_box() -> None:
    wider = 0
    for seed in range(examples(30)):
        scene = rendered(seed)
        for k in np.flatnonzero(scene.visible < 0.7):
            rows, columns = np.nonzero(scene.instances == k + 1)
            extent = (columns.max() + 1 - columns.min()) * (rows.max() + 1 - rows.min())
            x1, y1, x2, y2 = scene.boxes[k]
            wider += extent < 0.95 * (x2 - x1) * (y2 - y1)
    assert wider > examples(30) / 6


def test_mask_instances_and_depth_agree() -> None:
    mask_class = [MASK_CLASSES.index(name) for name in BOX_CLASSES]
    for seed in range(20):
        scene = rendered(seed)
        for k, label in enumerate(scene.labels):
            own = scene.instances == k + 1
            assert (scene.mask[own] == mask_class[label]).all()
            spread = np.ptp(scene.depth[own])
            assert spread < (0.01 if BOX_CLASSES[label] != "car" else 6.0)


def test_road_depth_increases_up_the_image() -> None:
    for seed in range(10):
        scene = rendered(seed)
        for column in range(10, 320, 50):
            rows = np.flatnonzero(scene.mask[:, column] == ROAD)
            assert (np.diff(scene.depth[rows, column]) < 0).all()


@pytest.mark.slow  # the sizes above are rendered too
def test_scene_is_independent_of_resolution() -> None:
    for seed in range(12):
        small, large = rendered(seed), render_scene(seed, dataclasses.replace(CLEAN, width=640, height=512))
        assert small.time_of_day == large.time_of_day
        half = large.mask[::2, ::2]
        assert (half == small.mask).mean() > 0.96
        by_track = dict(zip(small.tracks, small.boxes))
        for track, box, visible in zip(large.tracks, large.boxes, large.visible):
            if box[3] - box[1] > 24 and visible > 0.5:
                assert np.abs(2 * by_track[track] - box).max() <= 4.0


@pytest.mark.slow  # nights are tested below
def test_brightness_decreases_from_day_to_dusk_to_night() -> None:
    means = [
        np.mean([rendered(s, dataclasses.replace(NIGHT, time_of_day=time)).images[RGB].mean() for s in range(10)])
        for time in ("day", "dusk", "night")
    ]
    assert means[0] > 1.3 * means[1] > 1.3 * 1.3 * means[2]


@pytest.mark.slow  # the contrast of people below covers nights
def test_people_are_warmer_than_their_surroundings_at_night() -> None:
    differences = []
    for seed in range(40):
        scene = rendered(seed, NIGHT)
        warmth = celsius(scene)
        person = scene.mask == PERSON
        around = grow(person, 8) & ~grow(person, 2) & np.isin(scene.mask, (ROAD, BUILDING, VEGETATION))
        if person.sum() > 150 and around.any():
            differences.append(warmth[person].mean() - warmth[around].mean())
    assert len(differences) > 15
    assert np.mean(differences) > 3.0
    assert np.mean(np.array(differences) > 0.5) > 0.9


def test_people_have_more_contrast_in_lwir_than_in_rgb_at_night() -> None:
    """Contrast is measured in standard deviations of the surrounding image."""
    rgb, lwir = [], []
    for seed in range(examples(40)):
        scene = rendered(seed, NIGHT)
        person = scene.mask == PERSON
        around = grow(person, 8) & ~grow(person, 2) & (scene.mask != SKY)
        if person.sum() < 150:
            continue
        grey = scene.images[RGB].mean(axis=2)
        for values, image in ((rgb, grey), (lwir, celsius(scene))):
            values.append(abs(image[person].mean() - image[around].mean()) / (image[around].std() + 1e-6))
    assert np.median(lwir) > 1.5 * np.median(rgb)


@pytest.mark.slow  # the contrast of people covers the bands
def test_sky_is_cold_and_leaves_are_bright_in_nir_by_day() -> None:
    leaves_brighter = cold = seen = 0
    for seed in range(20):
        options = dataclasses.replace(CLEAN, time_of_day="day", bands=(RGB, NIR, LWIR))
        scene = render_scene(seed, options)
        leaves, sky, road = (scene.mask == value for value in (VEGETATION, SKY, ROAD))
        if min(leaves.sum(), sky.sum()) < 500:
            continue
        seen += 1
        nir, green = scene.images[NIR].astype(float), scene.images[RGB][..., 1].astype(float)
        leaves_brighter += nir[leaves].mean() / nir[road].mean() > 1.1 * green[leaves].mean() / green[road].mean()
        cold += celsius(scene)[sky].mean() < celsius(scene)[road].mean() - 3.0
    assert seen > 8
    assert cold == seen
    assert leaves_brighter >= 0.9 * seen


def test_noise_changes_only_the_images() -> None:
    noisy = render_scene(4, dataclasses.replace(CLEAN, noise=True))
    clean = rendered(4)
    assert np.array_equal(noisy.boxes, clean.boxes)
    assert np.array_equal(noisy.mask, clean.mask)
    for band in (RGB, LWIR):
        difference = noisy.images[band].astype(float) - clean.images[band].astype(float)
        assert 0.5 < difference.std() < 40.0


@settings(max_examples=examples(50), deadline=None)
@given(seed=st.integers(0, 2**32), limit=st.floats(0.1, 12.0))
def test_seeded_homography_respects_its_displacement_limit(seed: int, limit: float) -> None:
    homography = seeded_homography(np.random.default_rng(seed), 320, 256, limit)
    x, y = np.meshgrid(np.linspace(0, 320, 23), np.linspace(0, 256, 19))
    points = np.stack([x.ravel(), y.ravel(), np.ones(x.size)])
    mapped = homography @ points
    moved = np.linalg.norm(mapped[:2] / mapped[2] - points[:2], axis=0)
    assert moved.max() <= limit * (1 + 1e-3) + 1e-6
    assert moved.max() >= 0.3 * limit


@pytest.mark.slow  # bags/test_make.py covers the homography
def test_reported_homography_maps_ir_pixels_to_rgb_pixels() -> None:
    measured, before = [], []
    fine = dataclasses.replace(CLEAN, supersample=2)
    for seed in range(5):
        straight = render_scene(seed, fine)
        shifted = render_scene(seed, dataclasses.replace(fine, misregistration_px=8.0))
        assert np.array_equal(straight.images[RGB], shifted.images[RGB])
        assert np.array_equal(straight.boxes, shifted.boxes)
        assert np.array_equal(straight.ir_to_rgb, np.eye(3))
        # OpenCV's pixel coordinates start at a pixel's centre, those of scenes at the image's corner.
        centre = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1.0]])
        warp = np.linalg.inv(centre) @ shifted.ir_to_rgb @ centre
        wanted = straight.images[LWIR].astype(np.float32)
        moved = shifted.images[LWIR].astype(np.float32)
        back = cv2.warpPerspective(moved, warp, (320, 256), flags=cv2.INTER_CUBIC)
        for top in (16, 92, 168):
            for left in (16, 122, 228):
                tile = np.s_[top : top + 72, left : left + 76]
                if wanted[tile].std() < 150.0:
                    continue
                window = cv2.createHanningWindow((76, 72), cv2.CV_32F)
                a, b, c = (image[tile] - image[tile].mean() for image in (wanted, back, moved))
                measured.append(np.hypot(*cv2.phaseCorrelate(a, b, window)[0]))
                before.append(np.hypot(*cv2.phaseCorrelate(a, c, window)[0]))
    assert len(measured) > 20
    assert np.median(before) > 2.0
    assert np.median(measured) < 0.2
    assert np.percentile(measured, 95) < 0.5


def test_clock_offset_changes_ir_stamps_and_images() -> None:
    options = dataclasses.replace(CLEAN, start_ns=5_000_000_000)
    together = render_scene(2, options)
    late = render_scene(2, dataclasses.replace(options, clock_offset_ms=200.0))
    assert late.stamps_ns[RGB] == together.stamps_ns[RGB] == together.stamps_ns[LWIR] == 5_000_000_000
    assert late.stamps_ns[LWIR] == 5_200_000_000
    assert np.array_equal(late.images[RGB], together.images[RGB])
    assert not np.array_equal(late.images[LWIR], together.images[LWIR])
    # An IR camera that is 200 ms late captures what a synchronised one captures 200 ms later.
    after = list(render_sequence(2, 2, rate_hz=5.0, options=options))[1]
    assert after.stamps_ns[LWIR] == 5_200_000_000
    assert np.array_equal(late.images[LWIR], after.images[LWIR])


def test_walkers_move_steadily_through_time_zero_and_turn_later() -> None:
    steps = np.array([pace(3.0, 12.0, 2.5, 1.4, t)[:2] for t in (-0.2, -0.1, 0.0, 0.1, 0.2)])
    assert np.allclose(np.diff(steps, axis=0), steps[1] - steps[0])
    track = np.array([pace(3.0, 12.0, 2.5, 1.4, t)[:2] for t in np.arange(0.0, 60.0, 0.1)])
    assert np.linalg.norm(np.diff(track, axis=0), axis=1).max() < 0.14 + 1e-6
    assert track[:, 1].min() > 4.0


@pytest.mark.parametrize("heading", [0.0, np.pi, 0.5 * np.pi, 2.0])
def test_drivers_start_in_place_and_wrap_around(heading: float) -> None:
    assert np.allclose(follow(4.0, 20.0, heading, 0.0), (4.0, 20.0, heading))
    track = np.array([follow(4.0, 20.0, heading, travelled) for travelled in np.arange(0.0, 400.0, 0.5)])
    steps = np.linalg.norm(np.diff(track[:, :2], axis=0), axis=1)
    assert np.median(steps) == pytest.approx(0.5)
    assert 2 <= (steps > 1.0).sum() <= 8
    assert np.abs(track[:, :2]).max() < 130.0


@pytest.mark.slow  # walkers and drivers are tested above
def test_sequence_moves_smoothly() -> None:
    moved = 0.0
    for seed in range(4):
        frames = list(render_sequence(seed, 6, rate_hz=10.0, options=CLEAN))
        assert same(frames[0], rendered(seed))
        for earlier, later in pairwise(frames):
            assert later.stamps_ns[RGB] - earlier.stamps_ns[RGB] == 100_000_000
            boxes = dict(zip(earlier.tracks.tolist(), earlier.boxes))
            labels = dict(zip(earlier.tracks.tolist(), earlier.labels))
            for track, box, label in zip(later.tracks.tolist(), later.boxes, later.labels):
                if track not in boxes:
                    continue
                assert labels[track] == label
                step = np.abs(box - boxes[track]).max()
                moved = max(moved, float(step))
                # A close, fast car crosses at most a fifth of the image width in a tenth of a second.
                assert step < 64.0
    assert moved > 2.0


@pytest.mark.slow  # walkers and drivers are tested above
def test_long_sequence_does_not_run_empty() -> None:
    """Scenes hold about as many visible objects after a minute as at the start."""
    start = later = 0
    for seed in range(25):
        start += len(rendered(seed, SMALL).labels)
        later += len(next(render_moments(seed, [60_000_000_000], SMALL)).labels)
    assert later > 0.6 * start


def test_traffic_scales_number_of_actors() -> None:
    none = [len(render_scene(s, dataclasses.replace(SMALL, traffic=0.0)).labels) for s in range(10)]
    usual = [len(rendered(s, SMALL).labels) for s in range(10)]
    assert sum(none) == 0
    assert sum(usual) > 20


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"width": 8}, "too small"),
        ({"time_of_day": "noon"}, "day, dusk, night"),
        ({"bands": ()}, "bands is empty"),
        ({"bands": ("radar",)}, "unknown band"),
        ({"misregistration_px": 900.0}, "misregistration_px"),
        ({"supersample": 9}, "supersample"),
        ({"noise_level": -1.0}, "negative"),
    ],
)
def test_invalid_options_are_named(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SMALL, **change)


def test_invalid_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="seed -1"):
        render_scene(-1)
    with pytest.raises(ValueError, match="rate_hz"):
        render_sequence(0, 3, rate_hz=0.0)


def test_contact_sheet_command(tmp_path, capsys) -> None:
    scenes = [render_scene(seed, dataclasses.replace(SMALL, misregistration_px=3.0)) for seed in (0, 1)]
    assert contact_sheet(scenes).shape == (2 * 128, 5 * 160, 3)
    out = tmp_path / "sheet.png"
    assert main(["--out", str(out), "--seeds", "0", "--size", "160", "128", "--bands", "rgb", "lwir"]) == 0
    assert cv2.imread(str(out)).shape == (128, 3 * 160, 3)
    capsys.readouterr()
    new = tmp_path / "absent" / "sheet.jpg"
    assert main(["--out", str(new), "--seeds", "0", "--size", "160", "128"]) == 0
    assert capsys.readouterr().out == f"{new}: 1 scene\n"
    assert new.stat().st_size > 1000
    for words, fault in (
        (["--out", str(tmp_path)], r".png or .jpg"),
        ([], f"{out} exists already"),
        (["--overwrite", "--size", "20", "4"], "20x4"),
        (["--overwrite", "--seeds", "-1"], "seed"),
        (["--overwrite", "--bands", "uv"], "uv"),
    ):
        with pytest.raises(SystemExit):
            main(["--out", str(out), *words])
        assert fault in capsys.readouterr().err
    assert cv2.imread(str(out)).shape == (128, 3 * 160, 3)
