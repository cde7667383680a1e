"""LLVIP: Jia et al., "LLVIP: A Visible-infrared Paired Dataset for Low-light Vision" (ICCV workshops 2021)."""

from __future__ import annotations

from pathlib import Path

from spectradino_core.datasets.benchmark import Benchmark, Found
from spectradino_core.datasets.files import locate
from spectradino_core.modality import Modality


def _find(root: Path, split: str) -> Found:
    folders = {"rgb": f"visible/{split}", "infrared": f"infrared/{split}", "boxes": "Annotations"}
    return Found.matched(locate(root, tuple(folders.values()), nested=("LLVIP",)), folders)


LLVIP = Benchmark(
    name="llvip",
    title="LLVIP",
    infrared=Modality.LWIR,
    box_classes=("person",),
    splits={"train": 12025, "test": 3463},
    find=_find,
    layout="visible/{train,test}/<id>.jpg, infrared/{train,test}/<id>.jpg and Annotations/<id>.xml",
    source="the links in https://github.com/bupt-ai-cz/LLVIP/blob/main/download_dataset.md (the registered pairs, not "
    "the raw data); unzip LLVIP.zip and give the folder",
    licence="non-commercial (its own terms)",
    ignore="nothing is ignored; corners are taken as stored",
    notes=(
        "Annotations were corrected on 2023-02-21; scores on the older ones are not comparable. State the version.",
        "The image size in the XML files is ignored; the image's own is used.",
        "24 of its 26 scenes are dark and the set does not list their pairs, so there are no subsets day and night.",
        "SemanticRT is made from LLVIP's images: do not train on one and test on the other.",
    ),
)
