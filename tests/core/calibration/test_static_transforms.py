"""Transforms composed from /tf_static: through a common ancestor, replaced, and what is missing or unusable."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest

from spectradino_core.calibration.camera_geometry import rotation_matrix
from spectradino_core.calibration.registration import RegistrationError
from spectradino_core.calibration.static_transforms import StaticTransforms

OPTICAL = (-0.5, 0.5, -0.5, 0.5)
"""Optical frame (x right, y down, z forward) in a link with x forward, y left, z up."""


def transform(parent, child, translation=(0.0, 0.0, 0.0), rotation=(0.0, 0.0, 0.0, 1.0)):
    moved = SimpleNamespace(**dict(zip("xyz", translation, strict=True)))
    turned = SimpleNamespace(**dict(zip("xyzw", rotation, strict=True)))
    return SimpleNamespace(
        header=SimpleNamespace(frame_id=parent),
        child_frame_id=child,
        transform=SimpleNamespace(translation=moved, rotation=turned),
    )


def rig() -> StaticTransforms:
    """RGB camera 0.2 m left of the robot's middle; IR camera 0.1 m right of it, 0.05 m higher, turned to the left."""
    transforms = StaticTransforms()
    turn = (0.0, 0.0, math.sin(math.radians(5)), math.cos(math.radians(5)))
    transforms.take([
        transform("rgb_link", "rgb_optical", rotation=OPTICAL),
        transform("base_link", "rgb_link", (1.0, 0.2, 0.5)),
        transform("ir_link", "ir_optical", rotation=OPTICAL),
    ])  # fmt: skip
    transforms.take([transform("base_link", "ir_link", (1.0, -0.1, 0.55), turn)])
    return transforms


def test_the_transform_between_optical_frames_goes_through_the_common_ancestor():
    rotation, translation = rig().between("rgb_optical", "ir_optical")
    np.testing.assert_allclose(translation, (0.3, -0.05, 0.0), atol=1e-12)
    # 10 degrees to the left: what is straight ahead of the IR camera lies to the left of the RGB camera's axis.
    angle = math.radians(10)
    np.testing.assert_allclose(rotation @ (0, 0, 1), (-math.sin(angle), 0, math.cos(angle)), atol=1e-12)
    np.testing.assert_allclose(rotation @ (0, 1, 0), (0, 1, 0), atol=1e-12)
    back, moved = rig().between("ir_optical", "rgb_optical")
    np.testing.assert_allclose(back @ rotation, np.eye(3), atol=1e-12)
    np.testing.assert_allclose(back @ translation + moved, 0.0, atol=1e-12)


def test_an_ancestor_the_frame_itself_and_a_leading_slash():
    transforms = rig()
    rotation, translation = transforms.between("/base_link", "rgb_optical")
    np.testing.assert_allclose(rotation, rotation_matrix(OPTICAL), atol=1e-12)
    np.testing.assert_allclose(translation, (1.0, 0.2, 0.5))
    rotation, translation = transforms.between("rgb_link", "rgb_link")
    np.testing.assert_array_equal(rotation, np.eye(3))
    np.testing.assert_array_equal(translation, 0.0)


def test_a_quaternion_of_any_length_is_normalised():
    transforms = StaticTransforms()
    transforms.take([transform("a", "b", rotation=(0.0, 0.0, 3.0, 3.0))])
    rotation, _ = transforms.between("a", "b")
    np.testing.assert_allclose(rotation @ (1, 0, 0), (0, 1, 0), atol=1e-12)


def test_a_newer_transform_replaces_the_older_one_of_its_frame():
    transforms = rig()
    transforms.take([transform("rgb_link", "ir_link", (0.0, -0.4, 0.0))])
    rotation, translation = transforms.between("rgb_optical", "ir_optical")
    np.testing.assert_allclose(rotation, np.eye(3), atol=1e-12)
    np.testing.assert_allclose(translation, (0.4, 0.0, 0.0), atol=1e-12)


@pytest.mark.parametrize(
    ("added", "target", "source", "reason"),
    [
        ([], "rgb_optical", "thermal", r"from frame 'thermal' to frame 'rgb_optical' .*: 'thermal' is not known there"),
        ([], "rgb", "thermal", "'thermal' and 'rgb' are not known there"),
        ([transform("map", "ir_link")], "rgb_optical", "ir_optical",
         "they are not connected: their topmost frames are 'map' and 'base_link'"),
        ([transform("ir_optical", "base_link")], "rgb_optical", "ir_optical", "form a loop"),
        ([transform("x", "y"), transform("y", "x")], "rgb_optical", "x", "of frame 'y' form a loop"),
        ([transform("base_link", "thermal", rotation=(0.0, 0.0, 0.0, 0.0))], "rgb_optical", "thermal",
         r"that of frame 'thermal' in 'base_link' is unusable: its quaternion .* is no rotation"),
        ([transform("base_link", "thermal", rotation=(0.0, 0.0, 0.0, 1e200))], "rgb_optical", "thermal",
         r"that of frame 'thermal' in 'base_link' is unusable: its quaternion .* is no rotation"),
        ([transform("base_link", "thermal", (0.0, math.nan, 0.0))], "rgb_optical", "thermal",
         r"'thermal' in 'base_link' is unusable: its translation is \[0.0, nan, 0.0\]"),
        ([transform("", "thermal")], "rgb_optical", "thermal", "'thermal' is not known there"),
    ],
)  # fmt: skip
def test_what_is_missing_or_unusable_is_named_with_both_frames(added, target, source, reason):
    transforms = rig()
    transforms.take(added)
    with pytest.raises(RegistrationError, match=reason) as raised:
        transforms.between(target, source)
    assert f"no transform from frame '{source}' to frame '{target}' in /tf_static" in str(raised.value)


def test_an_unusable_transform_elsewhere_does_not_matter():
    transforms = rig()
    transforms.take([transform("base_link", "arm", (math.inf, 0.0, 0.0)), transform("x", "y"), transform("y", "x")])
    transforms.between("rgb_optical", "ir_optical")


def test_a_loop_above_the_common_ancestor_does_not_matter():
    transforms, (rotation, translation) = rig(), rig().between("rgb_optical", "ir_optical")
    transforms.take([transform("map", "base_link"), transform("base_link", "map")])
    found = transforms.between("rgb_optical", "ir_optical")
    np.testing.assert_array_equal(found[0], rotation)
    np.testing.assert_array_equal(found[1], translation)
    np.testing.assert_allclose(transforms.between("base_link", "rgb_optical")[1], (1.0, 0.2, 0.5))


@pytest.mark.parametrize(
    "bad",
    [
        transform("base_link", "ir_link", (0.0, math.nan, 0.0)),
        transform("base_link", "ir_link", rotation=(0.0, 0.0, 0.0, 0.0)),
        transform("base_link", "ir_link", rotation=(0.0, 0.0, 0.0, 1e200)),
        transform("ir_link", "ir_link"),
        transform("", "ir_link"),
        transform("base_link", ""),
    ],
)
def test_an_unusable_transform_replaces_no_usable_one(bad, caplog):
    transforms, (rotation, translation) = rig(), rig().between("rgb_optical", "ir_optical")
    for _ in range(2):
        assert not transforms.take([bad])
    found = transforms.between("rgb_optical", "ir_optical")
    np.testing.assert_array_equal(found[0], rotation)
    np.testing.assert_array_equal(found[1], translation)
    is_reported = bad.child_frame_id == "ir_link" and bad.header.frame_id == "base_link"
    assert caplog.text.count("ignored a transform of frame 'ir_link'") == is_reported


def test_a_usable_transform_replaces_an_unusable_one_and_repeats_change_nothing():
    transforms = StaticTransforms()
    assert transforms.take([transform("a", "b", (math.nan, 0.0, 0.0))])
    assert transforms.take([transform("a", "b", (1.0, 0.0, 0.0))])
    assert not transforms.take([transform("/a", "/b", (1.0, 0.0, 0.0))])
    assert transforms.between("a", "b")[1].tolist() == [1.0, 0.0, 0.0]


def test_more_frames_than_a_robot_has_are_ignored():
    transforms = rig()
    transforms.take(transform("base_link", f"frame{number}") for number in range(5000))
    transforms.between("rgb_optical", "frame4000")
    transforms.take([transform("base_link", "ir_link", (1.0, -0.2, 0.5))])
    np.testing.assert_allclose(transforms.between("rgb_optical", "ir_optical")[1], (0.4, 0.0, 0.0), atol=1e-12)
    with pytest.raises(RegistrationError, match=r"'frame4999' is not known there \(frames beyond the first 4096"):
        transforms.between("rgb_optical", "frame4999")


def test_frame_names_are_escaped():
    with pytest.raises(RegistrationError) as raised:
        rig().between("rgb_optical", "\x1b[2J\nir")
    assert "\x1b" not in str(raised.value)
    assert "\n" not in str(raised.value)
