"""Files of every kind that is read, damaged at random: they must be read, or refused by an error of this package."""

from __future__ import annotations

import os
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import torch
from safetensors.torch import save_file

from spectradino_core.files import FileError
from spectradino_core.models import SpectraDINO, ViT
from spectradino_core.models.checkpoints import save_spectradino
from tests.blob_model import make_blob_model
from tests.core.bags.recorded import pairs, record
from tests.core.hostile import READERS

__all__ = ["damage", "odd_files"]

_MAX_S = 30.0
_OWN = {
    "BagError", "BenchmarkError", "BundleError", "CheckpointError", "EngineError", "FileError", "GroundTruthError",
    "ImageFileError", "LabelError",
    "LayoutError", "ManifestError", "PairedFolderError", "ParameterError", "RegistrationError",
}  # fmt: skip

_CALIBRATION = """spectradino_calibration: 1
ir_to_rgb:
- [2.01, 0.012, -31.5]
- [-0.011, 2.0, 12.2]
- [1.0e-06, -2.0e-06, 1.0]
ir_size: [640, 512]
rgb_size: [1280, 1024]
time_offset_ms: 12.5
notes: outdoor rig
"""
_PARAMETERS = "detector_node:\n  ros__parameters:\n    score_threshold: 0.4\n    sync_slop_ms: 20.0\n    model: ''\n"
_MANIFEST = '{"rgb": "a.png", "nir": "b.png", "sequence": "s", "frame": 1, "source": "x"}\n' * 3
_COCO = (
    '{"images": [{"id": 1, "file_name": "1700000000.000000000.png", "stamp_ns": 5, "width": 100, "height": 80}], '
    '"annotations": [{"id": 1, "image_id": 1, "category_id": 2, "bbox": [1, 2, 30.5, 40], "iscrowd": 0}], '
    '"categories": [{"id": 2, "name": "red"}]}'
)
_VOC = (
    "<annotation><object><name>car</name><bndbox><xmin>1</xmin><ymin>2</ymin><xmax>3</xmax><ymax>4</ymax></bndbox>"
    "</object></annotation>"
)
_INDEX = '{"items": [{"id": "a", "rgb": "val/rgb/a.png", "lwir": "val/lwir/a.png", "width": 40, "height": 30}]}'

_WORDS = (
    b"\x1b[2J", b"\0", b"\xff\xfe", b"9" * 400, b"-", b"1e999", b"NaN", b"[" * 300, b"{", b"&a", b"*a", b"!!int ''",
    b"../../", b"\\", b"\xe2\x80\xae", b"null", b"true", b'""', b"<!DOCTYPE x>", b"\n", b"\x80" * 12, b"0" * 50,
)  # fmt: skip


def odd_files(count: int, seed: int = 0) -> Iterator[str]:
    """Return messages about failures with `count` damaged files; empty if there are none."""
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        whole = _wholes(Path(folder))
        readers = [reader for reader in READERS if reader in whole]
        for number in range(count):
            reader = readers[number % len(readers)]
            name, read = READERS[reader]
            place = Path(folder) / "now"
            place.mkdir(exist_ok=True)
            path = place / name
            content = damage(whole[reader], rng)
            path.write_bytes(content)
            complaint = _tried(read, path)
            if complaint:
                yield f"{reader}, file {number} of seed {seed}: {complaint}"
            os.unlink(path)


def damage(content: bytes, rng: random.Random) -> bytes:
    """Change some bytes, insert or overwrite words, cut, duplicate or truncate."""
    data = bytearray(content)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(data) + 1)
        kind = rng.randrange(6)
        if kind == 0 and at < len(data):
            data[at] = rng.randrange(256)
        elif kind == 1:
            data[at:at] = rng.choice(_WORDS)
        elif kind == 2:
            word = rng.choice(_WORDS)
            data[at : at + len(word)] = word
        elif kind == 3:
            del data[at : at + rng.randint(1, 64)]
        elif kind == 4:
            data[at:at] = data[max(0, at - 200) : at]
        elif rng.random() < 0.3:
            del data[at:]
    return bytes(data)


def _tried(read: Callable[[Path], object], path: Path) -> str:
    begin = time.monotonic()
    try:
        read(path)
    except Exception as error:
        if type(error).__name__ not in _OWN and not isinstance(error, FileError):
            return f"{type(error).__name__}: {str(error)[:200]}"
        if not str(error).isprintable():
            return f"an error that is not printable: {str(error)[:200]!r}"
        if len(str(error)) > 2000:
            return f"an error of {len(str(error))} characters"
    took = time.monotonic() - begin
    return f"took {took:.0f} s" if took > _MAX_S else ""


def _wholes(folder: Path) -> dict[str, bytes]:
    """A valid file for each reader."""
    torch.manual_seed(0)
    text = {
        "calibration": _CALIBRATION, "parameters": _PARAMETERS, "manifest": _MANIFEST, "COCO": _COCO,
        "COCO with stamps": _COCO, "VOC": _VOC, "list": "a\nb\nc\n", "index": _INDEX, "index of a layout": _INDEX,
    }  # fmt: skip
    found = {reader: content.encode() for reader, content in text.items()}
    found["image"] = cv2.imencode(".png", np.full((30, 40), 7, np.uint16))[1].tobytes()
    found["mask"] = cv2.imencode(".png", np.full((30, 40), 3, np.uint8))[1].tobytes()
    found["model"] = make_blob_model(folder / "blob.onnx", (70, 56)).read_bytes()
    save_spectradino(SpectraDINO("test"), folder / "m.safetensors")
    found["backbone"] = (folder / "m.safetensors").read_bytes()
    torch.save({"model_state_dict": ViT("test").state_dict(), "epoch": 3}, folder / "m.pth")
    found["weights"] = (folder / "m.pth").read_bytes()
    save_file(ViT("test").state_dict(), folder / "v.safetensors")
    found["weights, safetensors"] = (folder / "v.safetensors").read_bytes()
    for reader, name in (("bag, MCAP", "a.mcap"), ("bag, SQLite", "b")):
        made = record(folder / name, pairs(2))
        found[reader] = (made if made.is_file() else next(made.glob("*.db3"))).read_bytes()
    return found
