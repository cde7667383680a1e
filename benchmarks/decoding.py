"""Cost of decoding a valid image compared with OpenCV alone, and memory of a stream of large frames.

    python -m benchmarks.decoding

Times are CPU time, medians of interleaved rounds, as the machine has other load. `bare` is decoding without damage
checks: for JPEG `cv2.imdecode` and BGR to RGB, for PNG and TIFF `cv2.imdecode`, for raw images OpenCV's conversion
alone. `ratio` is the decoder's time over the bare one; without simplejpeg in rows of "JPEG without simplejpeg".

Memory is the peak resident set of a process that pairs and prepares a stream, in 10^6 bytes: RGB of 1920x1080 with
mono16 of 640x512 at 30 Hz, and a slower model, so that most frames are skipped.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from time import thread_time
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np

from benchmarks.experiment import parser_of, run_main, show
from spectradino_core.bench.machine import describe
from spectradino_core.bench.tables import write_table
from spectradino_core.streams import jpeg
from spectradino_core.streams.feed import Feed
from spectradino_core.streams.frames import CameraFrame
from spectradino_core.streams.settings import Settings

ROUNDS = 25
FRAMES = 300
STREAMS = ("rgb8", "nv12", "bayer_rggb8", "yuv422_yuy2")


def scene(width: int, height: int, seed: int = 0) -> np.ndarray:
    """Draw shapes of all sizes with sensor noise: uint8 [h, w, 3]."""
    rng = np.random.default_rng(seed)
    image = np.zeros((height, width, 3), np.float32)
    for cells in (6, 24, 96):
        coarse = rng.integers(0, 256, (cells, cells * 4 // 3, 3)).astype(np.float32)
        image += cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC) / 3
    return np.clip(image + rng.normal(0, 3, image.shape), 0, 255).astype(np.uint8)


def counts(width: int, height: int) -> np.ndarray:
    """Draw thermal counts: uint16 [h, w]."""
    return (29000 + scene(width, height, 1)[..., 1].astype(np.uint16) * 8).astype(np.uint16)


def raw(encoding: str, width: int, height: int, data: np.ndarray, row: int) -> SimpleNamespace:
    return SimpleNamespace(
        header=None, height=height, width=width, encoding=encoding, is_bigendian=0, step=row, data=data.tobytes()
    )


def packed(extension: str, image: np.ndarray, text: str) -> SimpleNamespace:
    data = cv2.imencode(extension, image, [cv2.IMWRITE_PNG_COMPRESSION, 1])[1]
    return SimpleNamespace(header=None, format=text, data=data.tobytes())


def rgb_message(encoding: str, width: int, height: int) -> SimpleNamespace:
    """Make a raw RGB message; its content does not affect the cost."""
    size = {"rgb8": 3, "bgr8": 3, "nv12": 1.5, "bayer_rggb8": 1, "yuv422_yuy2": 2}[encoding]
    data = np.random.default_rng(2).integers(0, 256, int(width * height * size), np.uint8)
    return raw(encoding, width, height, data, width * (1 if encoding == "nv12" else int(size)))


def cases() -> dict[str, tuple[Callable[[], Any], Callable[[], Any]]]:
    """Map case names to (bare, decoder)."""
    found: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {}

    def decoder(key: str, message: SimpleNamespace) -> Callable[[], Any]:
        return lambda: CameraFrame.decode(key, message).pixels

    def opencv(message: SimpleNamespace, flags: int, code: int | None = None) -> Callable[[], Any]:
        def bare() -> np.ndarray:
            image = cv2.imdecode(np.frombuffer(message.data, np.uint8), flags)
            return image if code is None else cv2.cvtColor(image, code)

        return bare

    for width, height in ((640, 480), (1920, 1080)):
        message = packed(".jpg", scene(width, height), "rgb8; jpeg compressed bgr8")
        bare = opencv(message, cv2.IMREAD_COLOR, cv2.COLOR_BGR2RGB)
        found[f"JPEG {width}x{height}"] = bare, decoder("rgb", message)

        def without(message: SimpleNamespace = message) -> Any:
            kept, jpeg.simplejpeg = jpeg.simplejpeg, None
            try:
                return CameraFrame.decode("rgb", message).pixels
            finally:
                jpeg.simplejpeg = kept

        found[f"JPEG without simplejpeg {width}x{height}"] = bare, without
        for encoding, shape, code in (
            ("nv12", (height * 3 // 2, width), cv2.COLOR_YUV2RGB_NV12),
            ("bayer_rggb8", (height, width), cv2.COLOR_BayerBG2RGB),
            ("yuv422_yuy2", (height, width, 2), cv2.COLOR_YUV2RGB_YUY2),
            ("bgr8", (height, width, 3), cv2.COLOR_BGR2RGB),
        ):
            sent = rgb_message(encoding, width, height)
            pixels = np.frombuffer(sent.data, np.uint8).reshape(shape)
            found[f"{encoding} {width}x{height}"] = (
                lambda pixels=pixels, code=code: cv2.cvtColor(pixels, code),
                decoder("rgb", sent),
            )
    thermal = counts(640, 512)
    for extension, name in ((".png", "PNG"), (".tiff", "TIFF")):
        message = packed(extension, thermal, f"mono16; {name.lower()} compressed")
        found[f"{name} mono16 640x512"] = opencv(message, cv2.IMREAD_UNCHANGED), decoder("ir", message)
    return found


def timed() -> list[dict[str, Any]]:
    rows = []
    for name, (bare, decode) in cases().items():
        taken: tuple[list[float], list[float]] = ([], [])
        for _ in range(ROUNDS):
            for times, run in zip(taken, (bare, decode), strict=True):
                start = thread_time()
                run()
                times.append(1e3 * (thread_time() - start))
        ratio = statistics.median(b / a for a, b in zip(*taken, strict=True))
        bare_ms, decoder_ms = map(statistics.median, taken)
        rows.append(
            {"case": name, "bare_ms": round(bare_ms, 2), "decoder_ms": round(decoder_ms, 2), "ratio": round(ratio, 2)}
        )
        show(rows[-1])
    return rows


def stream(encoding: str) -> float:
    """Return the peak resident set of this process after a stream, in 10^6 bytes."""
    cv2.setNumThreads(1)
    thermal = counts(640, 512)
    noise = np.random.default_rng(3)
    feed: Feed[CameraFrame] = Feed(Settings(), 0)
    rgb = rgb_message(encoding, 1920, 1080)
    for number in range(FRAMES):
        now = 1 + number * 33_000_000
        for key in ("rgb", "ir"):
            message = SimpleNamespace(**vars(rgb))
            if key == "rgb":
                message.data = bytes(bytearray(rgb.data))  # a message of its own, as the middleware gives it
            else:
                thermal[::8, ::8] = noise.integers(29000, 31000, thermal[::8, ::8].shape)
                message = raw("mono16", 640, 512, thermal, 1280)
            frame = CameraFrame.decode(key, message)
            for capture in feed.frame(key, now, now, frame, frame.fingerprint):
                if number % 3 == 0:
                    for one in (capture.rgb, capture.ir):
                        assert one is not None
                        cv2.resize(one.pixels, (280, 224), interpolation=cv2.INTER_AREA)
    status = Path("/proc/self/status").read_text()  # not getrusage, which knows of the process that started this one
    return int(re.search(r"VmHWM:\s+(\d+)", status)[1]) * 1024 / 1e6  # type: ignore[index]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = parser_of("decoding", __doc__)
    parser.add_argument("--stream", choices=STREAMS, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    cv2.setNumThreads(1)
    if options.stream:
        print(json.dumps(stream(options.stream)))
        return 0
    rows = timed()
    for encoding in STREAMS:
        words = [sys.executable, "-m", "benchmarks.decoding", "--stream", encoding]
        peak = json.loads(subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True).stdout)
        rows.append({"case": f"stream of {encoding} 1920x1080 and mono16 640x512", "peak_mb": round(peak, 1)})
        show(rows[-1])
    write_table(options.out / "decoding.csv", describe(), rows)
    return 0


if __name__ == "__main__":
    run_main(main)
