"""Images that take long to decode or are found damaged in decoding, and the encodings of real cameras, over DDS."""

from __future__ import annotations

import struct
import time
import zlib
from collections.abc import Callable

import cv2
import numpy as np
import pytest
from rcl_interfaces.srv import GetParameters
from sensor_msgs.msg import CompressedImage, Image
from spectradino_msgs.msg import FrameReport

from tests.ros.harness import corners, image, ir_pixels, rgb_pixels, running, to_stamp
from tests.ros.harness import wait_until as wait
from tests.ros.test_inputs import Rig, raw_ir

# slow: a node for each; tests/core/streams covers decoders.
pytestmark = pytest.mark.slow

SIZE = (160, 120)
RED, HOT = (20, 20, 60, 50), (80, 60, 120, 100)
RGB, IR = rgb_pixels(SIZE, RED), ir_pixels(SIZE, HOT)
NOISY = np.clip(RGB.astype(int) + np.random.default_rng(0).integers(-9, 10, RGB.shape), 0, 255).astype(np.uint8)


def file_message(data: bytes, text: str, stamp: int, frame: str) -> CompressedImage:
    message = CompressedImage(format=text)
    message.header.stamp, message.header.frame_id = to_stamp(stamp), frame
    message.data.frombytes(data)
    return message


def jpeg(*options: int) -> bytes:
    good, data = cv2.imencode(".jpg", NOISY[..., ::-1], list(options))
    assert good
    return data.tobytes()


def of_jpeg(data: bytes) -> Callable[[int], CompressedImage]:
    return lambda stamp: file_message(data, "rgb8; jpeg compressed bgr8", stamp, "rgb_optical")


JPEG = jpeg()
CUT = JPEG[: len(JPEG) * 3 // 10] + b"\xff\xd9"
HOLED = JPEG[: len(JPEG) // 3] + bytes(min(4096, len(JPEG) // 3)) + JPEG[len(JPEG) // 3 + min(4096, len(JPEG) // 3) :]


@pytest.fixture(params=["simplejpeg", "opencv"])
def without(request, tmp_path, monkeypatch) -> str:
    """The node with the strict decoder, and without it."""
    if request.param == "opencv":
        (tmp_path / "simplejpeg.py").write_text('raise ImportError("not on this robot")\n')
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return request.param


def test_half_grey_frames_are_dropped_and_their_partners_get_results(blob_model, peer, without):
    with running("-r", "__ns:=/half", model=blob_model, device="cpu", rgb_transport="compressed") as node:
        rig = Rig(peer, "/half")
        rig.camera("rgb", of_jpeg(JPEG + bytes(50_000)))  # a buffer sent whole, as USB cameras do
        rig.camera("ir", raw_ir)
        rig.wait_for_subscriptions()
        wait(rig.answers, "an answer")
        assert node.count("simplejpeg is not installed") == (without == "opencv")
        assert rig.drops().get("rgb_corrupt_data", 0) == 0, "padding is no damage"
        for number, spoilt in enumerate((CUT, CUT + bytes(50_000)), start=1):
            stamp = rig.send(rgb=of_jpeg(spoilt))
            report = wait(lambda stamp=stamp: rig.answered(stamp), "the answer to the partner")
            assert report.mode == FrameReport.MODE_IR_ONLY
            assert to_ns_or_0(report.rgb_stamp) == 0
            assert rig.drops()["rgb_corrupt_data"] == number
        rig.send(rgb=of_jpeg(HOLED))  # seen as it comes, so that its partner waits for another one
        wait(lambda: rig.drops()["rgb_corrupt_data"] == 3, "a drop that is counted")
        assert node.count(r"\[WARN\].*dropped a frame of /half/rgb/image_raw/compressed: the jpeg image.*damaged") == 1
        assert node.count("^Corrupt JPEG|^Premature end|^libpng") == 0, node.log
        assert node.count("Traceback") == 0


def to_ns_or_0(stamp) -> int:
    return stamp.sec * 1_000_000_000 + stamp.nanosec


def png_of(width: int, height: int, bits: int = 16) -> bytes:
    """Encode a black PNG of any size, without holding its pixels twice."""

    def part(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    head = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
    packer = zlib.compressobj(1)
    row = bytes(1 + width * bits // 8)
    body = b"".join([packer.compress(row) for _ in range(height)] + [packer.flush()])
    return b"\x89PNG\r\n\x1a\n" + part(b"IHDR", head) + part(b"IDAT", body) + part(b"IEND", b"")


def test_services_respond_while_hostile_images_arrive(blob_model, peer):
    """Thousands of scans, a PNG of 100 megapixels in a few bytes, and one just below the limit that takes a while."""
    progressive = jpeg(cv2.IMWRITE_JPEG_PROGRESSIVE, 1)
    last = progressive.rindex(b"\xff\xda")
    scans = progressive[:-2] + progressive[last:-2] * 1000 + b"\xff\xd9"
    huge, slow = png_of(10_000, 10_000), png_of(4800, 4900)
    both = {"rgb_transport": "compressed", "ir_transport": "compressed", "learn_ir_time_offset": True}
    with running("-r", "__ns:=/bombs", model=blob_model, device="cpu", **both) as node:
        rig = Rig(peer, "/bombs")
        rig.camera("rgb", of_jpeg(JPEG))
        good, png = cv2.imencode(".png", IR)
        assert good
        rig.camera("ir", lambda stamp: file_message(png.tobytes(), "mono16; png compressed", stamp, "ir_optical"))
        rig.wait_for_subscriptions()
        wait(rig.answers, "an answer")
        before_mb = node.rss_mb()
        begun = time.monotonic()
        for _ in range(5):  # without a partner, so that nobody but the comparison of both cameras asks for its pixels
            stamp = peer.now()
            publisher, _ = rig.cameras["ir"]
            publisher.publish(file_message(slow, "mono16; png", stamp, "ir_optical"))
            time.sleep(0.1)
        peer.call(GetParameters, "/bombs/detector_node/get_parameters", GetParameters.Request(names=["model"]))
        assert time.monotonic() - begun < 1.5  # half a second each, were it on the executor's thread
        took = []
        for _ in range(6):
            for data in (huge, slow):
                rig.send(ir=lambda stamp, data=data: file_message(data, "mono16; png", stamp, "ir_optical"))
            rig.send(rgb=of_jpeg(scans))
            begun = time.monotonic()
            peer.call(GetParameters, "/bombs/detector_node/get_parameters", GetParameters.Request(names=["model"]))
            took.append(time.monotonic() - begun)
        assert sorted(took)[len(took) // 2] < 0.5, took  # 10 s each, were it on the executor's thread
        drops = wait(lambda: rig.drops(), "an answer after all of them")
        assert drops["ir_implausible_size"] >= 3  # a best-effort message may be lost on the way
        assert drops["rgb_too_many_scans"] >= 3
        assert node.rss_mb() < before_mb + 300  # the slow one is 47 MB, and 94 while it is read
        assert node.count("Traceback") == 0
        assert node.count(r"\[WARN\].*compressed images of /bombs/ir/image_raw/compressed are too large") == 1


def zstd(pixels: np.ndarray, encoding: str, frame: str) -> Callable[[int], CompressedImage]:
    raw = np.ascontiguousarray(pixels)
    height, width = raw.shape[:2]
    head = struct.pack("<IIBII", height, width, 0, raw.nbytes // height, len(encoding)) + encoding.encode()
    packer = zlib.compressobj(3, wbits=31)
    data = head + packer.compress(raw.tobytes()) + packer.flush()
    return lambda stamp: file_message(data, "zstd", stamp, frame)


def bayer(stamp: int) -> Image:
    mosaic = RGB[..., 1].copy()
    mosaic[0::2, 0::2], mosaic[1::2, 1::2] = RGB[0::2, 0::2, 0], RGB[1::2, 1::2, 2]
    message = image(mosaic, "mono8", stamp, "rgb_optical")
    message.encoding = "bayer_rggb8"
    return message


def nv12(stamp: int) -> Image:
    is_red = RGB[..., 0] > 150
    y = np.where(is_red, 81, 16 + 219 * int(RGB[0, 0, 0]) // 255).astype(np.uint8)
    uv = np.dstack([np.where(is_red, 90, 128)[::2, ::2], np.where(is_red, 240, 128)[::2, ::2]]).astype(np.uint8)
    message = image(y, "mono8", stamp, "rgb_optical")
    message.encoding = "nv12"
    message.data.frombytes(uv.tobytes())
    return message


def celsius(stamp: int) -> Image:
    message = image(IR, "mono16", stamp, "ir_optical")
    message.encoding, message.step = "32FC1", 4 * SIZE[0]
    del message.data[:]
    message.data.frombytes((IR / 100 - 273.15).astype(np.float32).tobytes())
    return message


def double_height(stamp: int) -> Image:
    return image(np.vstack([np.full_like(IR, 65535), IR]), "mono16", stamp, "ir_optical")


@pytest.mark.parametrize(
    ("rgb", "ir", "parameters"),
    [
        (bayer, celsius, {"ir_float_unit": "celsius"}),
        (nv12, double_height, {"ir_crop": f"[0.0, {SIZE[1]}.0, 0.0, 0.0]"}),
        (zstd(RGB, "rgb8", "rgb_optical"), zstd(IR, "mono16", "ir_optical"),
         {"rgb_transport": "zstd", "ir_transport": "zstd"}),
    ],
    ids=["bayer+32FC1", "nv12+crop", "zstd"],
)  # fmt: skip
def test_encodings_of_real_cameras_get_results(blob_model, peer, rgb, ir, parameters):
    with running(
        "-r", "__ns:=/real", model=blob_model, device="cpu", fallback_mode="fused_only", pairing="one_to_one",
        **parameters,
    ) as node:  # fmt: skip
        rig = Rig(peer, "/real")
        for key, make in (("rgb", rgb), ("ir", ir)):
            suffix = "/zstd" if parameters.get(f"{key}_transport") == "zstd" else ""
            kind = type(make(0))
            rig.cameras[key] = (peer.node.create_publisher(kind, f"/real/{key}/image_raw{suffix}", 5), make)
        rig.wait_for_subscriptions()
        wait(rig.answers, "an answer")
        found = {d.results[0].hypothesis.class_id: corners(d) for d in rig.detections[-1].detections}
        np.testing.assert_allclose(found["0"], RED, atol=2.05)
        np.testing.assert_allclose(found["1"], HOT, atol=2.05)
        assert node.count(r"\[(WARN|ERROR)\]") == 0, node.log


def test_the_zstd_transport_is_pointed_to(blob_model, peer):
    with running(
        "-r", "__ns:=/hint", model=blob_model, device="cpu", no_message_timeout_s=0.5, warning_period_s=0.5
    ) as node:
        publisher = peer.node.create_publisher(CompressedImage, "/hint/rgb/image_raw/zstd", 5)
        node.wait_for_line(
            r"\[WARN\].*/hint/rgb/image_raw/zstd has a publisher: set the parameter rgb_transport to zstd"
        )
        peer.node.destroy_publisher(publisher)
