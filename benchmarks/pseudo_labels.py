"""Pseudo-labels: write a model's detections on a set's unlabelled images as labels for fine-tuning.

    python -m benchmarks.pseudo_labels --model models/lwir_box.safetensors --input-size 518x406 \
        --data path/to/data/m3svd_rgb_lwir --out path/to/data/m3svd_pseudo
    python -m benchmarks.pseudo_labels --model models/swir_box.safetensors --input-size 518x406 --streams rgb \
        --data path/to/data/road_rgb_swir --out path/to/data/road_swir_pseudo

The model sees each image and its mirror image. An object found in both with a high score is labelled; one that is
found with a low score, or once, is marked as a crowd, which the losses ignore. OUT has the layout of the set, with
links to its images; images that have labels are skipped. `spectradino finetune --mix` takes it like any other set.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np

from benchmarks.experiment import run_main
from spectradino_core.commands.shared_options import parse_size
from spectradino_core.data.paired_folder import PairedFolder, PairedItem, read_index
from spectradino_core.export.torch_engine import TorchEngine
from spectradino_core.files import make_folder, write_file
from spectradino_core.models.perception_checkpoint import load_perception
from spectradino_core.options import FRACTION
from spectradino_core.runtime.boxes import iou_matrix, select_detections
from spectradino_core.runtime.pipeline import Pipeline

_SCORE_FLOOR = 0.2
"""Score from which on a detection is ignored in training, if it is not a label; those below it count as background."""

_MATCH_IOU = 0.5


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, type=Path, help="checkpoint (.safetensors) that labels")
    parser.add_argument("--input-size", type=parse_size, help="WxH; larger than in training finds smaller objects")
    parser.add_argument("--data", required=True, type=Path, help="folder with index_<split>.json")
    parser.add_argument("--split", default="train")
    parser.add_argument("--streams", choices=("both", "rgb", "ir"), default="both", help="images that the model sees")
    parser.add_argument("--min-score", type=FRACTION, default=0.45, help="minimum mean score of a label")
    parser.add_argument("--out", required=True, type=Path, help="folder to create")
    arguments = parser.parse_args(argv)

    if arguments.out.exists():
        parser.error(f"--out {arguments.out} exists: give a new folder, or remove it")
    model, info = load_perception(arguments.model)
    if arguments.input_size is not None:
        info = info.with_(input_size=arguments.input_size)
    pipeline = Pipeline(TorchEngine.of(model, info), score_threshold=_SCORE_FLOOR, smoothing=None)
    folder = PairedFolder(arguments.data, arguments.split, infrared=info.infrared.key)
    items = [item for item in folder if item.boxes is None]
    if not items:
        print(f"{arguments.data}: every image of its {arguments.split} split is labelled", file=sys.stderr)
        return 1
    images, annotations = [], []
    for number, item in enumerate(items, 1):
        path = item.rgb_path or item.infrared_path
        assert path is not None
        file = path.relative_to(folder.root)
        images.append({"id": number, "file_name": str(file), "width": item.size[0], "height": item.size[1]})
        for box, label, score in zip(*detect(pipeline, item, arguments.streams), strict=True):
            x1, y1, x2, y2 = (float(side) for side in box)
            annotations.append({
                "id": len(annotations) + 1, "image_id": number, "category_id": int(label) + 1,
                "bbox": [round(side, 2) for side in (x1, y1, x2 - x1, y2 - y1)],
                "area": round((x2 - x1) * (y2 - y1), 2), "iscrowd": int(score < arguments.min_score),
                "score": round(float(score), 4),
            })  # fmt: skip
    write(arguments.out, folder, items, images, annotations, info.box_classes)
    labels = [one for one in annotations if not one["iscrowd"]]
    counts = ", ".join(
        f"{sum(one['category_id'] == number for one in labels)} {name}"
        for number, name in enumerate(info.box_classes, 1)
    )
    print(f"{arguments.out}: {len(images)} images, {counts}, {len(annotations) - len(labels)} uncertain (ignored)")
    return 0


def detect(pipeline: Pipeline, item: PairedItem, streams: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Detect objects in an image and its mirror image.

    Returns:
        boxes float32 [K, 4] in pixels, labels int64 [K], and scores float32 [K]: the means of both images; a
        score of an object that was found in one of them is at most `_SCORE_FLOOR`.
    """
    rgb = item.load_rgb() if item.present[0] and streams != "ir" else None
    infrared = item.load_infrared() if item.present[1] and streams != "rgb" else None
    found = []
    for step in (1, -1):
        pipeline.reset()
        result = pipeline(
            None if rgb is None else np.ascontiguousarray(rgb[:, ::step]),
            None if infrared is None else np.ascontiguousarray(infrared[:, ::step]),
        )
        boxes = result.boxes.copy()
        if step < 0:
            boxes[:, [0, 2]] = item.size[0] - boxes[:, [2, 0]]
        found.append((boxes, result.labels, result.scores))
    boxes, labels, scores = (np.concatenate(parts) for parts in zip(*found, strict=True))
    image = np.repeat((0, 1), [len(labels) for _, labels, _ in found])
    same = (iou_matrix(boxes, boxes) >= _MATCH_IOU) & (labels[:, None] == labels) & (image[:, None] != image)
    if len(boxes):
        partner = np.where(same, scores, -1.0).argmax(axis=1)
        twice = same.any(axis=1)
        scores = np.where(twice, (scores + scores[partner]) / 2, np.minimum(scores, _SCORE_FLOOR))
        boxes = np.where(twice[:, None], (boxes + boxes[partner]) / 2, boxes)
    dense = np.zeros((len(labels), len(pipeline.info.box_classes)), np.float32)
    dense[np.arange(len(labels)), labels] = scores
    boxes, scores, labels = select_detections(
        boxes, dense, np.float32(_SCORE_FLOOR), pipeline.nms_iou, pipeline.max_detections
    )
    return boxes, labels, scores


def write(
    out: Path, folder: PairedFolder, items: list[PairedItem], images: list, annotations: list, classes: tuple[str, ...]
) -> None:
    """Write the labelled set: an index of the items, COCO labels, and links to the images."""
    index = read_index(folder.root / f"index_{folder.split}.json")
    ids = {item.id for item in items}
    index["items"] = [entry for entry in index["items"] if str(entry["id"]) in ids]
    make_folder(out)
    (out / folder.split).symlink_to((folder.root / folder.split).resolve(), target_is_directory=True)
    write_file(out / f"index_{folder.split}.json", json.dumps(index, indent=1))
    labels = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": number, "name": name} for number, name in enumerate(classes, 1)],
    }
    write_file(out / f"instances_{folder.split}.json", json.dumps(labels, indent=1))


if __name__ == "__main__":
    run_main(main)
