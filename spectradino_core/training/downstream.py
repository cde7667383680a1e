"""Fine-tuning recipes of the benchmarks: all settings by data set and variant.

The paper gives the heads, the losses, AdamW, the fine-tuning modes and one learning rate per module group (Sections
4.2 to 4.4, Appendix A). Input sizes, batch sizes, epochs and the values of the learning rates are missing: **all values
in the tables below are assumed**. Input sizes keep a data set's aspect ratio and are multiples of the patch size.
"""

from __future__ import annotations

from dataclasses import dataclass

from spectradino_core.data.augment import Augmentation
from spectradino_core.datasets.benchmark import Benchmark
from spectradino_core.datasets.registry import find_benchmark
from spectradino_core.models.perception import Architecture
from spectradino_core.models.pyramid import PRESETS
from spectradino_core.models.registry import DETECTION, SEGMENTATION, choose
from spectradino_core.models.vit import vit_config
from spectradino_core.training.loop import LoopOptions
from spectradino_core.training.recipes import BY_EPOCH, FinetuneRecipe

TASKS = ("detection", "segmentation", "both")


@dataclass(frozen=True)
class Setting:
    """Training settings of a data set. Assumed.

    Attributes:
        input_size: (width, height) of the network's input in pixels, for S, B, L and G; for DINOv3 the nearest
            multiples of its patch, such as 640x512 for 644x518.
        small: the same for tiny and test.
        batch: pairs per step.
        epochs: passes over the training split.
    """

    input_size: tuple[int, int]
    small: tuple[int, int]
    batch: int
    epochs: int


SETTINGS = {
    "flir": Setting((644, 518), (280, 224), 16, 24),  # 640x512
    "llvip": Setting((644, 518), (280, 224), 16, 12),  # 1280x1024
    "rasmd": Setting((644, 518), (280, 224), 16, 12),
    "mfnet": Setting((644, 490), (280, 210), 16, 100),  # 640x480
    "semanticrt": Setting((644, 518), (280, 224), 16, 30),  # about 5:4
    "fmb": Setting((798, 602), (280, 210), 16, 60),  # 800x600
    "mcubes": Setting((518, 518), (252, 252), 8, 120),  # 1024x1024, and 1032x1024 in training
    "roadscene": Setting((518, 322), (280, 168), 8, 40),  # crops of many sizes
    "scenes": Setting((644, 518), (280, 224), 8, 12),  # 640x512
}
"""Settings by data set; `scenes_nir` and other bands use those of `scenes`."""

_OWN = Setting((644, 518), (280, 224), 8, 30)
"""Settings of a user's own data, with any aspect ratio: images are letterboxed."""


def settings_by_name() -> dict[str, Setting]:
    return {**SETTINGS, "own data": _OWN}


LEARNING_RATES = {
    "pretrained": {"head": 1e-4, "adapters": 5e-5, "blocks": 1e-5},
    "small": {"head": 1e-3, "adapters": 5e-4, "blocks": 1e-4},
}
"""Peak learning rates (assumed: the paper's are lost): "pretrained" for S, B, L and G, "small" for tiny and test."""

_SMALL = {"tiny": (64, 2), "test": (32, 1)}
"""Pyramid and UPerNet width, and tower depth, of the variants that are not the paper's."""


def downstream_recipe(
    dataset: str | Benchmark,
    task: str | None = None,
    variant: str = "b",
    *,
    mode: str = "half",
    backbone: str = "spectradino",
    detection: str = "dense",
    segmentation: str = "upernet",
    fusion: str = "concat",
    fuse_at: str | None = None,
    strides: str = "7-28",
    registers: int | None = None,
    layer_decay: float = 1.0,
    upernet_width: int | None = None,
    amp: str | None = None,
    seed: int = 0,
) -> FinetuneRecipe:
    """Return the fine-tuning recipe of a data set; change other fields with `dataclasses.replace`.

    Args:
        dataset: name in `datasets.registry`, or a data set object such as a user's own.
        task: one of `TASKS`; None: all that the data set has labels for. Heads of other tasks are not built.
        variant, backbone, detection, segmentation, fusion, registers: see `Architecture`.
        mode, layer_decay, seed: see `FinetuneRecipe`.
        fuse_at: "last" or "taps"; None: as in the paper, "taps" for "upernet" (and "linear4"), "last" for the others.
        strides: strides of the detection pyramid, one of `pyramid.PRESETS`.
        upernet_width: channels of UPerNet; None: 256, narrower for tiny and test.
        amp: see `LoopOptions`; None: bf16, and auto for own data, often trained on without a GPU.

    Raises:
        ValueError: an unknown name, or the data set lacks labels for the task.
    """
    own = isinstance(dataset, Benchmark)
    benchmark = dataset if isinstance(dataset, Benchmark) else find_benchmark(dataset)
    setting = _OWN if own else SETTINGS.get(benchmark.name) or SETTINGS.get(benchmark.name.split("_")[0])
    if setting is None:
        raise ValueError(f"no settings for {benchmark.name}: choose one of {', '.join(SETTINGS)}")
    if task is not None and task not in TASKS:
        raise ValueError(f"unknown task {task!r}: choose one of {', '.join(TASKS)}")
    tasks = benchmark.tasks if task is None else TASKS[:2] if task == "both" else (task,)
    for one in tasks:
        if one not in benchmark.tasks:
            raise ValueError(f"{benchmark.name} has no labels for {one}: choose {' or '.join(benchmark.tasks)}")
    boxes = benchmark.box_classes if "detection" in tasks else ()
    masks = benchmark.mask_classes if "segmentation" in tasks else ()
    several = bool(masks) and (
        segmentation == "upernet" or choose(SEGMENTATION, "segmentation head", segmentation).several
    )
    choose(DETECTION, "detection head", detection)
    small = variant in _SMALL
    width, depth = _SMALL.get(variant, (256, 2))
    patch = vit_config(variant).patch
    width_px, height_px = setting.small if small else setting.input_size
    heads = [name for name, there in ((detection, boxes), (segmentation, masks)) if there]
    return FinetuneRecipe(
        name="_".join([benchmark.name, variant, *heads, mode if backbone == "spectradino" else f"{backbone}_{mode}"]),
        architecture=Architecture(
            variant, benchmark.infrared.key, len(boxes), len(masks), registers=registers, pyramid_width=width,
            strides=tuple(patch * level for level in choose(PRESETS, "strides", strides)), tower_depth=depth,
            backbone=backbone, detection=detection, segmentation=segmentation, fusion=fusion,
            fuse_at=fuse_at or ("taps" if several else "last"), upernet_width=upernet_width or width,
        ),
        input_size=(round(width_px / patch) * patch, round(height_px / patch) * patch),
        loop=LoopOptions(
            steps=1, warmup=500, ema=0.999, amp=amp or ("auto" if own else "bf16"), checkpoint_every=BY_EPOCH
        ),
        batch=setting.batch,
        lr=LEARNING_RATES["small" if small else "pretrained"],
        mode=mode,
        layer_decay=layer_decay,
        dataset=benchmark.name,
        epochs=setting.epochs,
        box_classes=boxes,
        mask_classes=masks,
        palette=benchmark.palette if masks else (),
        augmentation=Augmentation(stretch=0.2, infrared_gamma=0.2),
        score_threshold=0.3,
        seed=seed,
    )  # fmt: skip
