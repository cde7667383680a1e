"""Registration in use by the parameters: one source at a time; CameraInfo that arrives, changes and has errors."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from geometry_msgs.msg import Quaternion, Transform, TransformStamped, Vector3
from sensor_msgs.msg import CameraInfo
from std_msgs.msg import Header

from spectradino_core.calibration.registration import Registration, RegistrationError
from spectradino_core.runtime.pipeline import Pipeline
from spectradino_core.streams import registering as module
from spectradino_core.streams.calibration_file import Calibration, save_calibration
from spectradino_core.streams.detecting import find
from spectradino_core.streams.frames import CameraFrame
from spectradino_core.streams.registering import Registering
from spectradino_core.streams.settings import ParameterError, Settings
from spectradino_ros.intake import camera_info_topic, tf_message_type

MATRIX = (2.0, 0.0, 10.0, 0.0, 2.0, 5.0, 0.0, 0.0, 1.0)


def info(width: int, height: int, focal: float) -> CameraInfo:
    k = [focal, 0.0, (width - 1) / 2, 0.0, focal, (height - 1) / 2, 0.0, 0.0, 1.0]
    return CameraInfo(width=width, height=height, distortion_model="plumb_bob", k=k, d=[0.0] * 5)


def test_without_any_source_there_is_none():
    registering = Registering(Settings())
    assert (registering.current, registering.residual_px, registering.time_offset_ms) == (None, None, None)
    assert not registering.pending
    registering.check()
    assert registering.describe().startswith("none: ")


def test_the_nine_numbers():
    registering = Registering(Settings(ir_to_rgb=MATRIX))
    assert registering.current == Registration(MATRIX, source="parameter ir_to_rgb")


def test_the_file(tmp_path):
    path = tmp_path / "rig.yaml"
    calibration = Calibration(Registration(MATRIX, (320, 240), (640, 480)), time_offset_ms=7.5, residual_px=0.5)
    save_calibration(path, calibration)
    registering = Registering(Settings(calibration_file=str(path)))
    assert registering.current is not None
    assert registering.current.matrix == MATRIX
    assert (registering.residual_px, registering.time_offset_ms) == (0.5, 7.5)
    assert registering.describe() == f"{path}, for 320x240 on 640x480, residual 0.50 px"


def test_two_sources_are_refused():
    with pytest.raises(ParameterError, match="'ir_to_rgb' and 'calibration_file' each give a registration"):
        Registering(Settings(ir_to_rgb=MATRIX, calibration_file="rig.yaml"))


def test_extrinsics_without_effect_are_named():
    settings = Settings(plane_distance_m=3.0, extrinsic_translation=(0.1, 0.0, 0.0))
    assert Registering(settings).without_effect == ["extrinsic_translation", "plane_distance_m"]
    assert Registering(settings.with_(registration_from_camera_info=True)).without_effect == []


def test_camera_info_comes_changes_and_errs():
    registering = Registering(Settings(registration_from_camera_info=True))
    assert registering.pending
    assert registering.missing == ["rgb", "ir"]
    assert not registering.take("rgb", info(640, 480, 600.0))
    assert registering.missing == ["ir"]
    with pytest.raises(RegistrationError, match="no message on ir/camera_info yet"):
        registering.check()
    assert registering.take("ir", info(320, 240, 300.0))
    first = registering.current
    assert first is not None
    assert registering.residual_px == 0.0
    registering.check()
    assert not registering.take("ir", info(320, 240, 300.0)), "the same again"
    assert registering.current is first
    assert registering.take("ir", info(160, 120, 150.0)), "the camera was set to another size"
    assert registering.current is not None
    assert registering.current.ir_size == (160, 120)
    with pytest.raises(RegistrationError, match="the ir camera is not calibrated"):
        registering.take("ir", info(160, 120, 0.0))
    assert registering.pending, "the old one is not for this camera"
    with pytest.raises(RegistrationError, match="camera_info can not be used"):
        registering.check()


def test_a_camera_info_is_of_the_whole_image_and_the_registration_of_the_part_that_is_used():
    whole = Registering(Settings(registration_from_camera_info=True))
    part = Registering(Settings(registration_from_camera_info=True, ir_crop=(0.0, 192.0, 256.0, 192.0)))
    for registering in (whole, part):
        registering.take("rgb", info(640, 480, 600.0))
        registering.take("ir", info(256, 384, 300.0))
    assert whole.current is not None
    assert part.current is not None
    assert part.current.ir_size == (256, 192)

    def mapped(registration: Registration, x: float, y: float) -> np.ndarray:
        point = np.reshape(registration.matrix, (3, 3)) @ (x, y, 1.0)
        return point[:2] / point[2]

    np.testing.assert_allclose(mapped(part.current, 30, 40), mapped(whole.current, 30, 40 + 192))
    outside = Registering(Settings(registration_from_camera_info=True, ir_crop=(0.0, 400.0, 0.0, 0.0)))
    outside.take("rgb", info(640, 480, 600.0))
    with pytest.raises(RegistrationError, match=r"ir_crop.*is not inside the infrared image of 256x384"):
        outside.take("ir", info(256, 384, 300.0))


def test_a_calibration_of_no_numbers_is_refused_once():
    """NaN differs from itself, so that at 30 messages per second each would be reported."""
    registering = Registering(Settings(registration_from_camera_info=True))
    assert not registering.take("rgb", info(640, 480, 600.0))
    with pytest.raises(RegistrationError, match="the ir camera is not calibrated"):
        registering.take("ir", info(320, 240, float("nan")))
    assert not registering.take("ir", info(320, 240, float("nan")))


def test_a_calibration_that_changes_in_the_middle_of_a_pair_does_not_take_its_registration_away(blob_model):
    """`take` runs on the executor's thread, and there is no registration while it computes a new one."""

    class Changing(Registering):
        def check(self):
            found = super().check()
            self.current = None
            return found

    registering = Changing(Settings(registration_from_camera_info=True))
    registering.take("rgb", info(160, 120, 150.0))
    registering.take("ir", info(80, 60, 75.0))
    made = registering.current
    pipeline = Pipeline.open(blob_model, device="cpu")
    header = Header()
    rgb = CameraFrame(header, lambda: np.full((120, 160, 3), 90, np.uint8))
    ir = CameraFrame(header, lambda: np.full((60, 80), 20, np.uint8))
    find(pipeline, registering, Settings(), rgb, ir, False, 0)
    assert made is not None
    assert pipeline.registration is made


def test_a_registration_is_replaced_at_once(monkeypatch):
    """Another thread that reads it meanwhile sees the old one, or the new one."""
    registering = Registering(Settings(registration_from_camera_info=True))
    registering.take("rgb", info(160, 120, 150.0))
    registering.take("ir", info(80, 60, 75.0))
    seen, compute = [], module.registration_from_camera_infos

    def watching(*args, **options):
        seen.append(registering.current)
        return compute(*args, **options)

    before = registering.current
    monkeypatch.setattr(module, "registration_from_camera_infos", watching)
    registering.take("ir", info(80, 60, 76.0))
    assert seen == [before]
    assert before is not None
    assert registering.current not in (None, before)


def test_infrared_results_on_the_rgb_grid_are_refused_if_the_registration_is_lost(blob_model):
    """Between the choice of the mode and inference camera_info may become unusable."""
    pipeline, ir = (
        Pipeline.open(blob_model, device="cpu"),
        CameraFrame(Header(), lambda: np.full((60, 80), 20, np.uint8)),
    )
    lost = Registering(Settings(registration_from_camera_info=True))
    with pytest.raises(RegistrationError, match="rgb_grid requires, was lost"):
        find(pipeline, lost, Settings(fallback_mode="rgb_grid"), None, ir, False, 0)
    assert not find(pipeline, lost, Settings(), None, ir, False, 0).registered


def transform(parent: str, child: str, *moved: float) -> TransformStamped:
    x, y, z = moved or (0.0, 0.0, 0.0)
    pose = Transform(translation=Vector3(x=x, y=y, z=z), rotation=Quaternion(x=-0.5, y=0.5, z=-0.5, w=0.5))
    return TransformStamped(header=Header(frame_id=parent), child_frame_id=child, transform=pose)


def of_frame(message: CameraInfo, frame_id: str) -> CameraInfo:
    message.header.frame_id = frame_id
    return message


def test_extrinsics_from_tf_come_change_and_go_missing():
    registering = Registering(Settings(registration_from_camera_info=True, extrinsics_from_tf=True))
    registering.take("rgb", of_frame(info(640, 480, 600.0), "rgb_optical"))
    assert not registering.take_transforms([transform("base", "rgb_optical", 0.0, 0.1, 0.0)]), "no camera_info of both"
    with pytest.raises(RegistrationError, match="no message on ir/camera_info yet"):
        registering.check()
    assert not registering.take("ir", of_frame(info(320, 240, 300.0), "ir_optical"))
    with pytest.raises(
        RegistrationError, match=r"from frame 'ir_optical' to frame 'rgb_optical' .*: 'ir_optical' is not"
    ):
        registering.check()
    assert "'ir_optical' is not known" in registering.describe()
    assert registering.take_transforms([transform("base", "ir_optical", 0.0, -0.1, 0.0)])
    first = registering.check()
    by_numbers = Registering(Settings(registration_from_camera_info=True, extrinsic_translation=(0.2, 0.0, 0.0)))
    by_numbers.take("rgb", info(640, 480, 600.0))
    by_numbers.take("ir", info(320, 240, 300.0))
    assert first is not None
    assert by_numbers.current is not None
    np.testing.assert_allclose(first.matrix, by_numbers.current.matrix, atol=1e-9)
    assert registering.describe().startswith("camera_info, /tf_static and a plane at 10 m")
    assert not registering.take_transforms(
        [transform("base", "wheel"), transform("base", "ir_optical", 0.0, -0.1, 0.0)]
    )
    assert registering.current is first, "other frames, and the same transform again"
    assert registering.take_transforms([transform("base", "ir_optical", 0.0, -0.2, 0.0)])
    assert registering.current != first
    assert not registering.take("ir", of_frame(info(320, 240, 300.0), "other"))
    assert registering.pending, "the driver was restarted with another frame_id"
    assert not registering.take("ir", of_frame(info(320, 240, 300.0), ""))
    with pytest.raises(RegistrationError, match="ir/camera_info has no frame_id"):
        registering.check()
    assert registering.take("ir", of_frame(info(320, 240, 300.0), "ir_optical"))


def test_extrinsics_from_tf_and_from_parameters_exclude_one_another():
    both = Settings(registration_from_camera_info=True, extrinsics_from_tf=True, extrinsic_translation=(0.1, 0.0, 0.0))
    with pytest.raises(
        ParameterError, match="'extrinsics_from_tf' and 'extrinsic_translation' each give the extrinsics"
    ):
        Registering(both)
    alone = Registering(Settings(extrinsics_from_tf=True))
    assert alone.without_effect == ["extrinsics_from_tf"]
    assert not alone.from_tf


def test_extrinsics_from_tf_without_tf2_msgs_are_refused(monkeypatch):
    monkeypatch.setitem(sys.modules, "tf2_msgs", None)
    monkeypatch.delitem(sys.modules, "tf2_msgs.msg", raising=False)
    with pytest.raises(ParameterError, match=r"'extrinsics_from_tf' needs the ROS package tf2_msgs.*rosdep install"):
        tf_message_type()


class Names:
    """Resolves names like a node with remappings."""

    def __init__(self, **remapped: str) -> None:
        self.remapped = {name.replace("__", "/"): to for name, to in remapped.items()}

    def resolve_topic_name(self, name: str, only_expand: bool = False) -> str:
        return f"/robot/{name}" if only_expand or name not in self.remapped else self.remapped[name]


@pytest.mark.parametrize(
    ("remapped", "topic"),
    [
        ({}, "/robot/ir/camera_info"),
        ({"ir__image_raw": "/flir/thermal/image"}, "/flir/thermal/camera_info"),
        ({"ir__image_raw": "/flir/thermal/image", "ir__camera_info": "/other/info"}, "/other/info"),
    ],
)
def test_the_calibration_lies_beside_the_image_unless_it_is_remapped(remapped, topic):
    assert camera_info_topic(Names(**remapped), "ir") == topic
