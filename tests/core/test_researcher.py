"""The researcher's path by the documented commands: DINOv2's weights, three sets, three stages, FLIR, a report.

The miniatures have the folders, names and image sizes of the sets (RASMD's and IR500K's sizes are assumed).
"""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from spectradino_core.cli import main
from spectradino_core.models.checkpoints import read_metadata
from spectradino_core.models.vit import ViT
from tests.core.data.ms2_miniature import write_ms2
from tests.core.datasets.miniatures import FLIR_PAIRS, voc_xml, write_image

SIZE = (640, 512)


def frame(seed: int, infrared: bool = False) -> np.ndarray:
    """Smooth blobs with two objects where `write_flir` says."""
    rng = np.random.default_rng(seed)
    grey = cv2.resize(rng.integers(40, 200, (8, 10), np.uint8), SIZE, interpolation=cv2.INTER_CUBIC)
    for x1, y1, x2, y2 in ((40, 64, 160, 427), (200, 107, 600, 427)):
        grey[y1:y2, x1:x2] = 230
    return 255 - grey if infrared else np.dstack([grey, grey // 2, grey // 4])


def write_pairs(root: Path, names: dict[str, str], count: int) -> None:
    """Write `count` pairs by the templates of the RGB and the infrared image."""
    for number in range(count):
        for band, template in names.items():
            write_image(root / template.format(number), frame(number, band != "rgb"))


def write_flir(root: Path) -> None:
    objects = [("person", (40.0, 64.0, 160.0, 427.0)), ("car", (200.0, 107.0, 600.0, 427.0))]
    for split, listed in (("train", "align_train.txt"), ("val", "align_validation.txt")):
        root.mkdir(exist_ok=True)
        (root / listed).write_text("".join(f"{pair}_PreviewData\n" for pair in FLIR_PAIRS[split]))
        (root / "Annotations").mkdir(exist_ok=True)
        for number, pair in enumerate(FLIR_PAIRS[split]):
            write_image(root / f"JPEGImages/{pair}_RGB.jpg", frame(number))
            write_image(root / f"JPEGImages/{pair}_PreviewData.jpeg", frame(number, infrared=True))
            (root / f"Annotations/{pair}_PreviewData.xml").write_text(voc_xml(objects, SIZE))


def run(*words: object) -> None:
    assert main([str(word) for word in words]) == 0, words


@pytest.mark.slow
def test_from_dinov2_to_a_report_one_command_each(tmp_path, monkeypatch, undrawn, undrawn_curves, capsys):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    torch.save(ViT("test").state_dict(), "dinov2_vittest14_pretrain.pth")  # official layout
    write_ms2(Path("MS2"), 4)
    for weather in ("1_sunny/data_1", "2_cloudy/data_1", "3_rainy/data_2"):
        folder = f"RASMD/{weather}_urban/croped_data"
        names = {"rgb": "rgb/rgb_aligned_{:06d}.jpg", "swir": "swir/swir_original_{:06d}.jpg"}
        write_pairs(Path(folder), names, 4)
    write_pairs(Path("IR500K"), {"rgb": "RGB/{:06d}.jpg", "lwir": "TIR/{:06d}.jpg"}, 6)
    write_flir(Path("align"))

    manifest = ("data", "make-manifest", "--data-root", ".", "--data")
    run(*manifest, "MS2", "--layout", "ms2", "--split", "train", "--bands", "nir", "--out", "MS2.jsonl")
    run(
        *manifest,
        "RASMD",
        "--layout",
        "rasmd",
        "--hold-out-sequences",
        "2_cloudy",
        "--limit",
        6,
        "--out",
        "RASMD.jsonl",
    )
    run(*manifest, "IR500K", "--layout", "ir500k", "--limit", 5, "--out", "IR500K.jsonl")
    made = capsys.readouterr().out
    for text in ("4 items (nir 4)", "6 items (swir 6), 2 seq", "RASMD_val.jsonl: 4 items", "5 items (lwir 5)"):
        assert text in made

    machine = ("--device", "cpu", "--workers", 0, "--amp", "fp32")
    run(
        "pretrain", "--variant", "test", "--teacher", "dinov2_vittest14_pretrain.pth", "--data-root", ".", "--manifest",
        "MS2.jsonl", "RASMD.jsonl", "IR500K.jsonl", "--val-manifest", "RASMD_val.jsonl", "--steps", 3, "--batch", 2,
        *machine, "--log-every", 1, "--out", "runs/test",
    )  # fmt: skip
    about = read_metadata(Path("runs/test/stage3/last.safetensors"))
    assert (about["stage"], about["start"]) == ("3", "stage2/last.safetensors")
    assert about["trained_bands"] == "nir,swir,lwir"
    assert "dinov2_vittest14_pretrain.pth" in about["teacher"]

    finetune = ("finetune", "--task", "detection", "--dataset", "flir", "--data", "align", "--variant", "test")
    finetune += ("--input-size", "140x112", "--steps", 60, "--batch", 2, *machine)
    run(*finetune, "--baseline", "--backbone", "dinov2_vittest14_pretrain.pth", "--out", "runs/baseline")
    run(*finetune, "--mode", "half", "--backbone", "runs/test/stage3/last.safetensors", "--out", "runs/flir")
    run(
        "evaluate", "--model", "runs/flir/model.safetensors", "--baseline", "runs/baseline/model.safetensors",
        "--dataset", "flir", "--data", "align", "--device", "cpu", "--workers", 1, "--out", "report",
    )  # fmt: skip
    (scored,) = json.loads(Path("report/result.json").read_text())["sets"]
    rows = scored["subsets"]["all"]["rows"]
    assert scored["subsets"]["all"]["images"] == len(FLIR_PAIRS["val"])
    assert len(rows) == 4
    assert all(row["mean"]["mAP50"]["mean"] > 0.5 for row in rows.values()), "the objects are always in the same place"
