"""Every reader of untrusted files with every kind of invalid file: `python -m tests.core.hostile FOLDER`.

Runs in its own process, since a faulty reader may block. Prints one JSON object per line: {"reader", "kind", "error",
"text", "seconds"}.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

import cv2

from spectradino_core.bags.ground_truth_coco import read_coco as read_truth
from spectradino_core.bags.storage import Storage
from spectradino_core.data.images import read_image
from spectradino_core.data.labels.coco import read_coco
from spectradino_core.data.labels.cvat import read_cvat
from spectradino_core.data.labels.masks import read_mask
from spectradino_core.data.labels.voc import read_voc
from spectradino_core.data.labels.yolo import read_yolo, read_yolo_names
from spectradino_core.data.layouts import find_pairs
from spectradino_core.data.manifest import read_manifest
from spectradino_core.data.paired_folder import PairedFolder
from spectradino_core.datasets.files import names_of
from spectradino_core.models.checkpoints import load_spectradino, read_dinov2
from spectradino_core.models.perception_checkpoint import load_perception
from spectradino_core.runtime.engines import open_engine
from spectradino_core.runtime.onnx_engine import OnnxEngine
from spectradino_core.streams.calibration_file import load_calibration
from spectradino_core.streams.parameter_values import settings_from_file
from tests.blob_model import blob_info

READERS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "calibration": ("rig.yaml", load_calibration),
    "parameters": ("node.yaml", settings_from_file),
    "model": ("model.onnx", open_engine),
    "model on the CPU": ("model.onnx", OnnxEngine),
    "checkpoint as model": ("model.safetensors", open_engine),
    "checkpoint": ("model.safetensors", load_perception),
    "backbone": ("model.safetensors", load_spectradino),
    "weights": ("dinov2.pth", read_dinov2),
    "weights, safetensors": ("dinov2.safetensors", read_dinov2),
    "manifest": ("pairs.jsonl", read_manifest),
    "index": ("index_val.json", lambda path: PairedFolder(path.parent, "val")),
    "index of a layout": ("index_train.json", lambda path: find_pairs("folder", path.parent)),
    "COCO": ("labels.json", read_coco),
    "COCO with stamps": ("labels.json", lambda path: read_truth(path, blob_info())),
    "CVAT": ("annotations.xml", read_cvat),
    "VOC": ("labels.xml", read_voc),
    "YOLO": ("labels.txt", lambda path: read_yolo(path, {0: "car"}, (64, 48))),
    "YOLO names": ("data.yaml", read_yolo_names),
    "list": ("train.txt", names_of),
    "image": ("image.png", lambda path: read_image(path, cv2.IMREAD_UNCHANGED)),
    "mask": ("mask.png", read_mask),
    "bag, MCAP": ("bag.mcap", Storage),
    "bag, SQLite": ("bag.db3", Storage),
    "bag, part of a folder": ("bag_0.mcap", lambda path: Storage(path.parent)),
    "bag, its metadata": ("metadata.yaml", lambda path: Storage(path.parent)),
}
"""By name: what the file is called, and what reads it."""


def bound(path: Path) -> None:
    """Create a socket; its address is short because it is bound from within its folder."""
    before = Path.cwd()
    os.chdir(path.parent)
    socket.socket(socket.AF_UNIX).bind(path.name)
    os.chdir(before)


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"4d" * 32 + b"\nsize 346345912\n"
KINDS: dict[str, Callable[[Path], object]] = {
    "pipe": os.mkfifo,
    "socket": bound,
    "device": lambda path: path.symlink_to("/dev/zero"),
    "folder": Path.mkdir,
    "git lfs": lambda path: path.write_bytes(POINTER),
    "git-annex": lambda path: path.write_bytes(b"/annex/objects/SHA256E-s1--0a.bin\n"),
    "git-annex link": lambda path: path.symlink_to("../.git/annex/objects/x/y/SHA256E-s1--0a.bin"),
    "web page": lambda path: path.write_bytes(b"<!DOCTYPE html>\n<html><head><title>Sign in</title>"),
    "link to itself": lambda path: path.symlink_to(path.name),
}


def main() -> None:
    root = Path(sys.argv[1])
    for number, (reader, (name, read)) in enumerate(READERS.items()):
        for kind, make in KINDS.items():
            folder = root / f"{number}" / kind
            folder.mkdir(parents=True)
            make(folder / name)
            if reader == "bag, its metadata":
                (folder / "bag_0.mcap").write_bytes(b"")
            begin, error = time.monotonic(), None
            try:
                read(folder / name)
            except Exception as caught:
                error = caught
            result = {"reader": reader, "kind": kind, "error": type(error).__name__, "text": str(error)}
            print(json.dumps(result | {"seconds": time.monotonic() - begin}), flush=True)


if __name__ == "__main__":
    main()
