"""Calibration reads images with the node's decoder: the same encodings and the same crop of IR images."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from spectradino_core.bags.reader import BagReader
from spectradino_core.calibration.estimation import CalibrationError
from spectradino_core.calibration.estimation.recordings import pairs_of_bag, pairs_of_folder
from spectradino_core.streams.decode import DecodeOptions
from tests.core.bags.recorded import IR, RGB, SIZE, pairs, record


def test_pairs_from_bag_with_bayer_and_double_height_frames(tmp_path):
    rows = pairs(4)
    lower = {}
    for row in rows:
        if row.topic == IR:
            lower[row.stamp_ns] = row.pixels
            row.pixels = np.vstack([np.full_like(row.pixels, 65535), row.pixels])
        else:
            mosaic = row.pixels[..., 1].copy()
            mosaic[0::2, 0::2], mosaic[1::2, 1::2] = row.pixels[0::2, 0::2, 0], row.pixels[1::2, 1::2, 2]
            row.change = (("encoding", "bayer_rggb8"), ("step", SIZE[0]), ("data", mosaic.reshape(-1)))
    bag = record(tmp_path / "bag", rows)
    with BagReader(bag, decoding=DecodeOptions(ir_crop=(0, SIZE[1], 0, 0))) as reader:
        found = pairs_of_bag(reader, 4)
    assert len(found) == 4
    for pair, counts in zip(found, lower.values(), strict=True):
        np.testing.assert_array_equal(pair.infrared, counts)
        assert pair.rgb[20, 15].tolist() == [255, 0, 0] or pair.rgb[20, 90].tolist() == [60, 60, 60]


def test_unreadable_camera_is_named(tmp_path):
    rows = pairs(4)
    for row in rows:
        if row.topic == RGB:
            row.change = (("encoding", "yuv411"),)
    with (
        BagReader(record(tmp_path / "bag", rows)) as reader,
        pytest.raises(CalibrationError, match=rf"{RGB}: image encoding 'yuv411'.*republish"),
    ):
        pairs_of_bag(reader, 4)


def test_pairs_from_folder_are_cropped(tmp_path):
    counts = np.random.default_rng(0).integers(0, 60000, (384, 256)).astype(np.uint16)
    for folder, image in (("rgb", np.zeros((480, 640, 3), np.uint8)), ("lwir", counts)):
        (tmp_path / folder).mkdir()
        assert cv2.imwrite(str(tmp_path / folder / "1.png"), image)
    (pair,) = pairs_of_folder(tmp_path, 1, (0, 192, 256, 192))
    np.testing.assert_array_equal(pair.infrared, counts[192:])
    with pytest.raises(CalibrationError, match=r"lwir: ir_crop .* is not inside the infrared image of 256x384"):
        pairs_of_folder(tmp_path, 1, (0, 400, 0, 0))
