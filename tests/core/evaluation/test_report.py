"""Reports on sets with known ground truth: content of all tables, spread of seeds, and refusals."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from spectradino_core.data.sample import PairedSample
from spectradino_core.datasets.registry import open_benchmark
from spectradino_core.evaluation.comparison import BASELINE, FUSED, compare, same_task
from spectradino_core.evaluation.report import Report
from spectradino_core.evaluation.scorer import ALL
from spectradino_core.export.torch_engine import TorchEngine
from spectradino_core.modality import Modality
from spectradino_core.models.perception import Architecture, Perception
from spectradino_core.runtime.bundle import ModelInfo
from spectradino_core.runtime.pipeline import Pipeline
from spectradino_core.scenes import BOX_CLASSES, MASK_CLASSES, MASK_PALETTE
from spectradino_core.thermal import ThermalContract
from tests.blob_model import make_blob_model

RED_BOX, HOT_BOX = (40, 30, 200, 150), (300, 200, 420, 330)


@pytest.fixture(scope="module")
def blob(tmp_path_factory):
    return make_blob_model(tmp_path_factory.mktemp("blob") / "blob.onnx")


def pair(subset: str, red: bool = True) -> PairedSample:
    """A red and a hot object; the red one may be invisible although it is labelled."""
    rgb = np.full((476, 644, 3), 60, np.uint8)
    infrared = np.full((476, 644), 100, np.uint8)
    mask = np.zeros((476, 644), np.uint8)
    if red:
        rgb[RED_BOX[1] : RED_BOX[3], RED_BOX[0] : RED_BOX[2]] = (255, 0, 0)
    infrared[HOT_BOX[1] : HOT_BOX[3], HOT_BOX[0] : HOT_BOX[2]] = 250
    mask[RED_BOX[1] : RED_BOX[3], RED_BOX[0] : RED_BOX[2]] = 1
    mask[HOT_BOX[1] : HOT_BOX[3], HOT_BOX[0] : HOT_BOX[2]] = 2
    boxes = np.array([RED_BOX, HOT_BOX], np.float32)
    return PairedSample(rgb, infrared, boxes, np.array([0, 1]), mask, name=f"a {subset} pair", subsets=(subset,))


class Pairs:
    """Two pairs by day, of which one hides the red object, and one by night."""

    name = "pairs"
    infrared = Modality.LWIR
    ignore = "nothing is ignored here"

    def __init__(self, info, boxes=None) -> None:
        self.box_classes, self.mask_classes = boxes or info.box_classes, info.mask_classes

    def __len__(self) -> int:
        return 3

    def samples(self, workers: int = 0) -> Iterator[PairedSample]:
        return iter([pair("day"), pair("day", red=False), pair("night")])


def made(blob, seeds: int = 1, baselines: int = 0) -> Report:
    models = [Pipeline.open(blob, device="cpu", score_threshold=0.3 + 0.1 * n) for n in range(seeds + baselines)]
    infos = {f"m{n}.onnx": m.info for n, m in enumerate(models)}
    names = list(infos)
    report = Report(
        {n: infos[n] for n in names[:seeds]},
        {n: infos[n] for n in names[seeds:]},
        "spectradino evaluate ...",
        "train <it>",
    )
    report.add(compare(models[:seeds], models[seeds:], Pairs(models[0].info), worst=2))
    return report


@pytest.fixture(scope="module")
def report(blob) -> Report:
    return made(blob)


def test_every_table_has_all_streams_and_the_baseline_command(report):
    text = report.markdown()
    for subset in ("all (3)", "day (2)", "night (1)"):
        for row in (
            f"**{subset}** | **fused**",
            f"{subset} | RGB only",
            f"{subset} | IR only",
            f"{subset} | {BASELINE}",
        ):
            assert f"| {row}" in text, row
    assert f"{BASELINE}, not trained | – | – | – | – | – |" in text
    assert text.endswith("`--baseline`:\n\n`train <it>`\n")
    assert "Rule: nothing is ignored here." in text
    assert "Masks: class maps of the network's size, enlarged to the image, for 1 of 1 models: exported" in text
    page = report.page().html()
    assert "<pre>train &lt;it&gt;</pre>" in page
    assert page.count("data:image/svg+xml") >= 6  # mAP and mIoU by subset, two kinds of bars, curves, two confusions
    assert page.count("data:image/jpeg") == 1  # the one pair with a mistake


def test_figures_equal_those_of_the_results(report):
    comparison = report.comparisons[0]
    assert comparison.subsets == (ALL, "day", "night")
    assert comparison.figure("mAP50", FUSED, "night").mean == pytest.approx(1.0)
    assert comparison.by_class("ap50", FUSED, "day")["hot"].mean == pytest.approx(1.0)
    assert comparison.by_class("ap50", FUSED, "day")["red"].mean == pytest.approx(51 / 101)
    assert comparison.figure("mAP50", "RGB only", "night").mean == pytest.approx(0.5)
    assert math.isnan(comparison.figure("mAP", BASELINE).mean)


def test_best_f1_threshold_is_reported_and_all_are_listed(report):
    comparison = report.comparisons[0]
    low, high = (comparison.thresholds[t] for t in (0.3, 0.9))
    assert low.precision() == {"red": 1.0, "hot": 1.0}
    assert low.recall() == pytest.approx({"red": 2 / 3, "hot": 1.0})
    assert low.f1() == pytest.approx({"red": 0.8, "hot": 1.0})
    assert high.f1() == {"red": 0.0, "hot": 1.0}  # red things score 0.8, hot ones 0.9
    assert comparison.best_threshold is not None
    best = comparison.thresholds[comparison.best_threshold].f1()
    assert sum(best.values()) == max(sum(found.f1().values()) for found in comparison.thresholds.values())
    assert "Best F1 (mean over classes, first model, fused): 90.0 at a score threshold of " in report.markdown()
    by_threshold = report.result()["sets"][0]["thresholds"]
    assert [row["score_from"] for row in by_threshold] == list(comparison.thresholds)
    assert by_threshold[5]["recall"]["red"] == pytest.approx(2 / 3)
    assert "Means over classes by threshold" in report.page().html()


def test_given_baseline_is_in_its_row(blob):
    report = made(blob, seeds=1, baselines=1)
    assert "not trained" not in report.markdown()
    assert "No baseline" not in report.markdown()
    assert "No baseline" not in report.page().html()
    comparison = report.comparisons[0]
    assert comparison.figure("mAP", BASELINE) == comparison.figure("mAP", FUSED)


def test_several_seeds_have_a_mean_and_a_spread(blob):
    report = made(blob, seeds=3)
    assert "lwir" not in report.title
    assert "3 seeds" in report.title
    assert len(report.comparisons[0].figure("mAP", FUSED).values) == 3
    # three times the same model: known figures, no spread
    assert "± 0.0" in report.markdown()


@pytest.mark.slow  # the tests above cover the content
def test_what_is_written_agrees_and_repeats(blob, report, tmp_path):
    for name, one in (("a", report), ("b", made(blob))):
        one.write(tmp_path / name)
    files = ["report.html", "result.json", "result.md"]
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == files
    assert all((tmp_path / "a" / f).read_bytes() == (tmp_path / "b" / f).read_bytes() for f in files)
    result = json.loads((tmp_path / "a" / "result.json").read_text())
    (found,) = result["sets"]
    rows = found["subsets"]["night"]["rows"]
    assert rows["RGB only"]["seeds"][0]["detection"]["ap50"] == pytest.approx({"red": 1.0, "hot": 0.0})
    assert rows["RGB only"]["mean"]["mAP50"]["mean"] == pytest.approx(0.5)
    assert rows[BASELINE]["seeds"] == []
    assert result["baselines"] == []


def test_class_excluded_from_the_means_is_named(blob):
    model = Pipeline.open(blob, device="cpu")
    nothing = model.info.mask_classes[0]
    report = Report({"m": model.info}, {}, "c", "t")
    report.add(compare([model], [], Pairs(model.info), excluded=[nothing]))
    assert f"Classes excluded from the means: {nothing}." in report.markdown()
    comparison = report.comparisons[0]
    others = [v.mean for label, v in comparison.by_class("iou", FUSED).items() if label != nothing]
    assert comparison.figure("mIoU", FUSED).mean == pytest.approx(sum(others) / len(others))


def test_classes_that_the_model_lacks_are_named(blob):
    model = Pipeline.open(blob, device="cpu")
    comparison = compare([model], [], Pairs(model.info, ("red", "lorry")))
    assert comparison.unknown == ("lorry",)
    report = Report({"m": model.info}, {}, "c", "t")
    report.add(comparison)
    assert "Classes that the model does not have, excluded: lorry." in report.markdown()


def test_what_does_not_belong_together_is_refused(blob):
    model = Pipeline.open(blob, device="cpu")
    other = model.info.with_(box_classes=("dog", "cat"))
    with pytest.raises(ValueError, match=r"b.onnx can't be compared with a.onnx: it has .* \['dog', 'cat'\]"):
        same_task({"a.onnx": model.info, "b.onnx": other})
    with pytest.raises(ValueError, match="sky can't be excluded from the means: the mask classes are"):
        compare([model], [], Pairs(model.info), excluded=["sky"])
    data = Pairs(model.info)
    data.infrared = Modality.NIR
    with pytest.raises(ValueError, match="pairs pairs RGB with nir, blob takes lwir"):
        compare([model], [], data)


@pytest.mark.slow  # datasets/ covers the readers
def test_a_benchmarks_reader_is_such_a_set():
    """Pairs of `open_benchmark` with an untrained model."""
    torch.manual_seed(0)
    architecture = Architecture("test", "lwir", len(BOX_CLASSES), len(MASK_CLASSES), pyramid_width=16, tower_depth=1)
    info = ModelInfo(
        "untrained", "test", architecture.bands, BOX_CLASSES, MASK_CLASSES, MASK_PALETTE, (112, 98), ThermalContract()
    )
    pipeline = Pipeline(TorchEngine.of(Perception(architecture).eval(), info))
    pairs = open_benchmark("scenes", None, "test")[:3]
    comparison = compare([pipeline], [], pairs)
    assert comparison.images == {"all": 3, "day": 1, "dusk": 1, "night": 1}
    assert comparison.about == (pairs.ignore,)
    assert comparison.unknown == ()
    night = next(sample for sample in pairs.samples() if "night" in sample.subsets)
    pipeline.masks_from_logits = True
    answered = pipeline(None, night.infrared).mask
    counted = night.mask != 255
    right = (answered == night.mask)[counted].mean()
    assert comparison.scores["night"]["IR only"][0].segmentation.pixel_accuracy == pytest.approx(right)
