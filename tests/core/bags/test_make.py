"""Synthetic recordings have the requested offset, homography and losses, and correct ground truth."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from spectradino_core.bags import BagError
from spectradino_core.bags.make import CameraSchedule, MakeOptions, exposures, make_bag
from spectradino_core.bags.reader import BagReader
from spectradino_core.bags.sources import FolderViews, SceneViews
from spectradino_core.data.paired_folder import PairedFolder
from spectradino_core.modality import Modality
from spectradino_core.streams.calibration_file import load_calibration
from spectradino_core.streams.queues import Stream

SIZE = (160, 128)
SHORT = MakeOptions(CameraSchedule(10.0), CameraSchedule(5.0), duration_s=0.6)


def street(seed: int = 4, **options: object) -> SceneViews:
    return SceneViews(seed, size=SIZE, time_of_day="day", **options)  # type: ignore[arg-type]


def images(path: Path) -> dict[str, list[tuple[int, int, np.ndarray]]]:
    """Return stamp, arrival time and pixels of both cameras' frames."""
    found: dict[str, list[tuple[int, int, np.ndarray]]] = {"rgb": [], "ir": []}
    with BagReader(path) as reader:
        for frame in reader.frames():
            found[frame.stream.value].append((frame.stamp_ns, frame.received_ns, frame.decode().pixels))
    return found


def test_an_offset_moves_the_stamps_and_nothing_else(tmp_path):
    plain = images(make_bag(street(), tmp_path / "a.mcap", SHORT).bag)
    late = replace(SHORT, ir=CameraSchedule(5.0, offset_ms=37.0))
    made = make_bag(street(), tmp_path / "b.mcap", late)
    shifted = images(made.bag)
    assert made.calibration is not None
    assert load_calibration(made.calibration).time_offset_ms == 37.0
    for (stamp, received, pixels), (stamp_b, received_b, pixels_b) in zip(plain["ir"], shifted["ir"], strict=True):
        assert (stamp_b - stamp, received_b) == (37_000_000, received)
        np.testing.assert_array_equal(pixels, pixels_b)
    assert [s for s, _, _ in plain["rgb"]] == [s for s, _, _ in shifted["rgb"]]


@pytest.mark.slow  # the ground truth of each frame is tested below
def test_each_frame_shows_the_scene_at_its_own_time(tmp_path):
    """IR frames that fall between RGB frames equal those of a recording with a higher RGB rate."""

    def infrared(name: str, schedule: CameraSchedule) -> dict[int, np.ndarray]:
        options = MakeOptions(CameraSchedule(2.0), schedule, duration_s=0.6, truth=False)
        made = make_bag(street(noise=False), tmp_path / name, options)
        return {stamp: pixels for stamp, _, pixels in images(made.bag)["ir"]}

    slow, between = infrared("a", CameraSchedule(5.0)), infrared("b", CameraSchedule(5.0, phase_ms=50.0))
    fast = infrared("c", CameraSchedule(20.0))
    assert (len(slow), len(between), len(fast)) == (3, 3, 12)
    for stamp, pixels in (slow | between).items():
        np.testing.assert_array_equal(fast[stamp], pixels)
    moved = [np.abs(a.astype(int) - b).max() for a, b in zip(slow.values(), between.values(), strict=True)]
    assert min(moved) > 50, "things move within 50 ms"


def test_the_homography_is_the_one_that_is_written_beside_it(tmp_path):
    """Warped by the true homography, the IR image matches one rendered in the RGB camera's view."""
    numbers = (2.1, 0.05, -6.0, -0.04, 2.05, 3.0, 1e-4, -5e-5, 1.0)
    size, options = (320, 256), replace(SHORT, duration_s=0.1)

    def infrared(name: str, **given: object) -> np.ndarray:
        source = SceneViews(4, size=size, time_of_day="day", noise=False, **given)  # type: ignore[arg-type]
        return images(make_bag(source, tmp_path / name, options).bag)["ir"][0][2].astype(np.float64)

    small, straight = infrared("a", ir_size=(160, 128), ir_to_rgb=numbers), infrared("b")
    registration = load_calibration(tmp_path / "a.calibration.yaml").registration
    assert (registration.ir_size, registration.rgb_size) == ((160, 128), size)
    np.testing.assert_allclose(registration.matrix, numbers, rtol=1e-9)
    back = cv2.warpPerspective(small, np.reshape(registration.matrix, (3, 3)), size)[32:-32, 32:-32]
    smooth = cv2.GaussianBlur(straight, (0, 0), 1.5)[32:-32, 32:-32]
    (x, y), _ = cv2.phaseCorrelate(smooth, cv2.GaussianBlur(back, (0, 0), 0.7))
    # Shapes are drawn to the nearest pixel, and an IR pixel is two RGB pixels: a tenth of it cannot be measured.
    # A wrong pixel-centre convention would be 0.55.
    assert max(abs(x), abs(y)) < 0.25, (x, y)


def test_a_seeded_misregistration_stays_within_its_limit_and_is_known(tmp_path):
    source = street(misregistration_px=6.0)
    assert source.registration is not None
    edges = np.array([[0, 0], [SIZE[0] - 1, 0], [0, SIZE[1] - 1], [SIZE[0] - 1, SIZE[1] - 1]], float)
    moved = np.linalg.norm(source.registration.points(edges, SIZE, SIZE) - edges, axis=1)
    assert 1.0 < moved.max() <= 6.0


def test_losses_jitter_and_ragged_ends():
    whole = exposures(Stream.RGB, CameraSchedule(30.0), 10.0, 3)
    assert len(whole) == 300
    some = exposures(Stream.RGB, CameraSchedule(30.0, dropout=0.3), 10.0, 3)
    assert 170 < len(some) < 250
    assert set(some) < set(whole)
    holes = exposures(Stream.IR, CameraSchedule(10.0, windows=((2.0, 3.0), (5.0, 5.5))), 10.0, 3)
    assert len(holes) == 85
    assert not [t for t in holes if 2e9 <= t < 3e9]
    ends = exposures(Stream.IR, CameraSchedule(10.0, start_s=1.0, stop_s=9.0), 10.0, 3)
    assert (ends[0], ends[-1], len(ends)) == (1_000_000_000, 8_900_000_000, 80)
    shaky = np.diff(exposures(Stream.IR, CameraSchedule(10.0, jitter_ms=4.0), 10.0, 3)) / 1e6
    assert 3 < np.std(shaky) < 9
    assert shaky.min() > 0
    assert exposures(Stream.IR, CameraSchedule(10.0, jitter_ms=4.0), 10.0, 3) != exposures(
        Stream.RGB, CameraSchedule(10.0, jitter_ms=4.0), 10.0, 3
    )


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda: CameraSchedule(0.0), "rate"),
        (lambda: CameraSchedule(5.0, dropout=1.5), "dropout"),
        (lambda: CameraSchedule(5.0, windows=((3.0, 2.0),)), "window"),
        (lambda: exposures(Stream.IR, CameraSchedule(5.0, dropout=1.0), 1.0, 0), "no frame of the ir camera"),
        (lambda: exposures(Stream.IR, CameraSchedule(5.0), 0.0, 0), "longer than 0 s"),
        (lambda: MakeOptions(rgb_form="gif"), "raw, png, jpeg"),
        (lambda: SceneViews(-1), "seed must be 0 or more, got -1"),
        (lambda: SceneViews(0, misregistration_px=3.0, ir_to_rgb=(1, 0, 0, 0, 1, 0, 0, 0, 1)), "not both"),
    ],
)
def test_what_makes_no_sense_is_refused(wrong, said):
    with pytest.raises(BagError, match=said):
        wrong()


def test_the_ground_truth_is_that_of_each_rgb_frame(tmp_path):
    made = make_bag(street(), tmp_path / "a.mcap", SHORT)
    stamps = [s for s, _, _ in images(made.bag)["rgb"]]
    assert made.labels is not None
    coco = json.loads(made.labels.read_text())
    assert [i["stamp_ns"] for i in coco["images"]] == stamps
    assert {(i["width"], i["height"]) for i in coco["images"]} == {SIZE}
    assert [c["name"] for c in coco["categories"]] == ["person", "bicycle", "car"]
    assert len(coco["annotations"]) > 10
    with BagReader(made.bag, cameras=False) as reader:
        labels = next(reader.messages("/ground_truth/label_info")).message
        assert [c.class_name for c in labels.class_map] == ["person", "bicycle", "car"]
        boxes = list(reader.messages("/ground_truth/detections"))
        masks = list(reader.messages("/ground_truth/segmentation/mask"))
    assert [m.stamp_ns for m in boxes] == [m.stamp_ns for m in masks] == stamps
    of_coco: dict[int, list] = {}
    for annotation in coco["annotations"]:
        of_coco.setdefault(annotation["image_id"], []).append(annotation)
    for number, found in enumerate(boxes):
        expected = of_coco.get(number, [])
        assert len(found.message.detections) == len(expected)
        for detection, annotation in zip(found.message.detections, expected, strict=True):
            x, y, w, h = annotation["bbox"]
            centre = detection.bbox.center.position
            np.testing.assert_allclose(
                (centre.x, centre.y, detection.bbox.size_x, detection.bbox.size_y), (x + w / 2, y + h / 2, w, h)
            )
            assert detection.results[0].hypothesis.class_id == str(annotation["category_id"])
            assert detection.id == annotation["track"]
    # the mask has the boxes' classes where they are
    mask = np.reshape(masks[0].message.data, (SIZE[1], SIZE[0]))
    large = max(of_coco[0], key=lambda a: a["area"] * a["visible_frac"])
    x, y, w, h = (round(v) for v in large["bbox"])
    assert (mask[y : y + h, x : x + w] == 4 + large["category_id"]).mean() > 0.2


def test_the_same_arguments_make_the_same_bytes(tmp_path):
    options = replace(SHORT, ir=CameraSchedule(5.0, jitter_ms=3.0, dropout=0.2), rgb_form="jpeg", ir_form="png")
    first, second = (make_bag(street(), tmp_path / name / "a.mcap", options) for name in "ab")
    assert first.bag.read_bytes() == second.bag.read_bytes()
    assert first.labels is not None
    assert second.labels is not None
    assert first.labels.read_bytes() == second.labels.read_bytes()
    with BagReader(first.bag) as reader:
        assert (reader.rgb_topic, reader.ir_topic) == ("/rgb/image_raw/compressed", "/ir/image_raw/compressed")
        assert all(frame.decode().pixels is not None for frame in reader.frames())


@pytest.mark.parametrize("name", ["drive.coco.json", "drive.calibration.yaml"])
def test_labels_of_that_name_are_never_written_over(tmp_path, name):
    """A real recording's labels and calibration have the names of the files written beside a synthetic one."""
    (tmp_path / name).write_text("work of a week")
    with pytest.raises(BagError, match=f"{name} exists already"):
        make_bag(street(), tmp_path / "drive.mcap", SHORT)
    assert (tmp_path / name).read_text() == "work of a week"
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_without_truth_there_is_none(tmp_path):
    made = make_bag(street(), tmp_path / "a", replace(SHORT, truth=False))
    assert (made.labels, made.calibration) == (None, None)
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
    with BagReader(made.bag) as reader:
        assert set(reader.topics) == {"/rgb/image_raw", "/ir/image_raw"}


def test_a_folder_of_real_pairs(shared_data, tmp_path):
    folder = PairedFolder(shared_data / "roadscene_rgb_lwir", "val")
    source = FolderViews(folder, 4.0, limit=5)
    assert source.registration is None
    options = MakeOptions(CameraSchedule(4.0), CameraSchedule(4.0, phase_ms=6.0), duration_s=source.duration_s)
    made = make_bag(source, tmp_path / "real", options)
    found = images(made.bag)
    for item, (_, _, rgb), (_, _, ir) in zip(folder.items[:5], found["rgb"], found["ir"], strict=True):
        np.testing.assert_array_equal(rgb, item.load_rgb())
        np.testing.assert_array_equal(ir, item.load_infrared())
    resized = FolderViews(folder, 4.0, size=(256, 192), ir_to_rgb=(1.1, 0, -8.0, 0, 1.1, -3.0, 0, 0, 1), limit=2)
    made = make_bag(resized, tmp_path / "moved", replace(options, duration_s=0.5))
    assert made.calibration is not None
    ir = images(made.bag)["ir"][0][2]
    straight = cv2.resize(folder.items[0].load_infrared(), (256, 192), interpolation=cv2.INTER_AREA)
    matrix = np.reshape(load_calibration(made.calibration).registration.matrix, (3, 3))
    back = cv2.warpPerspective(ir, matrix, (256, 192))
    assert np.abs(back[30:-30, 30:-30].astype(int) - straight[30:-30, 30:-30]).mean() < 4


def test_warping_images_of_several_sizes_needs_one_size(shared_data):
    folder = PairedFolder(shared_data / "roadscene_rgb_lwir", "val")
    with pytest.raises(BagError, match=r"have \d+ sizes: give one size"):
        FolderViews(folder, 4.0, ir_to_rgb=(1, 0, 5, 0, 1, 0, 0, 0, 1))


def test_other_bands(tmp_path):
    made = make_bag(street(band=Modality.SWIR), tmp_path / "a", SHORT)
    assert images(made.bag)["ir"][0][2].dtype == np.uint16
