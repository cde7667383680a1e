"""Pseudo-labels lie on the objects, skip labelled images, and are read by the training mixture."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from benchmarks.pseudo_labels import detect, main
from spectradino_core.data.paired_folder import PairedFolder
from spectradino_core.data.scene_sets import scene_sample
from spectradino_core.modality import Modality
from spectradino_core.runtime.boxes import iou_matrix
from spectradino_core.runtime.pipeline import Pipeline
from spectradino_core.training.recipes import box_real

MODEL = Path(__file__).parents[2] / "models" / "lwir_box.safetensors"
SEEDS = (10_001, 10_002, 10_003)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three scenes, of which the first is labelled."""
    root = tmp_path_factory.mktemp("set") / "streets_rgb_lwir"
    items = []
    for seed in SEEDS:
        scene = scene_sample(seed, Modality.LWIR, (480, 384))
        for camera, image in (("rgb", scene.rgb[..., ::-1]), ("lwir", scene.infrared)):
            (root / "train" / camera).mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(root / "train" / camera / f"{seed}.png"), image)
        paths = {camera: f"train/{camera}/{seed}.png" for camera in ("rgb", "lwir")}
        items.append({"id": str(seed), "width": 480, "height": 384, "label": None} | paths)
    (root / "index_train.json").write_text(json.dumps({"set": root.name, "items": items}))
    labelled = {"id": 1, "file_name": items[0]["rgb"], "width": 480, "height": 384}
    coco = {"images": [labelled], "annotations": [], "categories": [{"id": 1, "name": "person"}]}
    (root / "instances_train.json").write_text(json.dumps(coco))
    return root


@pytest.fixture(scope="module")
def labels(folder: Path) -> Path:
    out = folder.parent / "streets_pseudo"
    assert main(["--model", str(MODEL), "--data", str(folder), "--out", str(out)]) == 0
    return out


def test_labels_lie_on_objects_and_labelled_images_are_skipped(labels: Path) -> None:
    written = PairedFolder(labels, "train")
    assert [item.id for item in written] == [str(seed) for seed in SEEDS[1:]]
    for item, seed in zip(written, SEEDS[1:], strict=True):
        assert item.boxes is not None
        assert len(item.boxes)
        truth = scene_sample(seed, Modality.LWIR, (480, 384))
        overlap = np.where(item.labels[:, None] == truth.labels, iou_matrix(item.boxes, truth.boxes), 0).max(axis=1)
        assert (overlap > 0.4).mean() > 0.7


def test_uncertain_detections_are_ignored_in_training(labels: Path) -> None:
    annotations = json.loads((labels / "instances_train.json").read_text())["annotations"]
    assert {one["iscrowd"] for one in annotations} == {0, 1}
    assert all((one["score"] < 0.45) == bool(one["iscrowd"]) for one in annotations)
    ignored = [item.ignored for item in PairedFolder(labels, "train")]
    assert sum(len(boxes) for boxes in ignored if boxes is not None) == sum(one["iscrowd"] for one in annotations)


def test_mirrored_images_get_mirrored_labels(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = Pipeline.open(MODEL, score_threshold=0.2, smoothing=None)
    item = PairedFolder(folder, "train")[1]
    boxes, labels, scores = detect(pipeline, item, "both")
    rgb, infrared = item.load_rgb()[:, ::-1], item.load_infrared()[:, ::-1]
    monkeypatch.setattr(type(item), "load_rgb", lambda self: rgb)
    monkeypatch.setattr(type(item), "load_infrared", lambda self: infrared)
    mirrored, same_labels, same_scores = detect(pipeline, item, "both")
    mirrored[:, [0, 2]] = item.size[0] - mirrored[:, [2, 0]]
    certain = scores > 0.3
    overlap = iou_matrix(boxes[certain], mirrored)
    assert overlap.max(axis=1).min() > 0.5
    np.testing.assert_allclose(sorted(scores[certain]), sorted(same_scores[same_scores > 0.3]), atol=1e-4)
    assert sorted(labels[certain]) == sorted(same_labels[same_scores > 0.3])


def test_objects_found_in_one_image_only_are_not_labelled(folder: Path) -> None:
    class Flickering(Pipeline):
        """Finds its objects in every second image."""

        def __call__(self, *given, **options):
            self.calls = getattr(self, "calls", 0) + 1
            result = super().__call__(*given, **options)
            return result if self.calls % 2 else result.selected(np.zeros(len(result), bool))

    _, _, scores = detect(Flickering.open(MODEL, score_threshold=0.2), PairedFolder(folder, "train")[1], "both")
    assert len(scores)
    assert scores.max() <= np.float32(0.2)


def test_mixture_reads_the_labels(labels: Path) -> None:
    recipe = replace(box_real(), mix=(("streets_pseudo", 1),))
    mixture, sources = recipe.mixture(labels.parent)
    sample, _ = mixture.sample(0)
    assert list(sources) == ["streets_pseudo"]
    assert sample.boxes is not None


def test_existing_output_and_labelled_set_are_refused(folder: Path, labels: Path, capsys) -> None:
    with pytest.raises(SystemExit):
        main(["--model", str(MODEL), "--data", str(folder), "--out", str(labels)])
    assert str(labels) in capsys.readouterr().err
    assert main(["--model", str(MODEL), "--data", str(labels), "--out", str(labels.parent / "none")]) == 1
    assert "labelled" in capsys.readouterr().err
    assert not (labels.parent / "none").exists()
