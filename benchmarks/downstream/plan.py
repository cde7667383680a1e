"""Plan of the experiment: a teacher, SpectraDINO's stages from it, and per seed a model and its baseline on synthetic
scenes and on RoadScene; on scenes also a model without the stages. Every job is a command that is printed before it
runs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.experiment import Job, cli
from benchmarks.pretrain.data import PATTERNS, TRAINED, copied, rendered
from spectradino_core.data.make_manifest import make_manifest
from spectradino_core.modality import Modality

PARTS = ("pretraining", "streets", "fresh", "roadscene")


@dataclass(frozen=True)
class Scale:
    """Size of the experiment.

    Attributes:
        variant, crop: of the backbone; side of the views in pixels.
        teacher: steps, and different scenes, of the placeholder for DINOv2.
        streets: scenes for pretraining, besides RoadScene's pairs.
        evaluated: unseen scenes for retrieval.
        epochs: of the three stages.
        fine: steps of fine-tuning, on scenes and on RoadScene.
        seeds: of fine-tuning.
        tested: scenes that tables are made of; None: the test split of the data set "scenes", 150 of them.
    """

    variant: str = "tiny"
    crop: int = 112
    teacher: tuple[int, int] = (1200, 2000)
    streets: int = 600
    evaluated: int = 64
    epochs: tuple[int, int, int] = (16, 3, 20)
    fine: tuple[int, int] = (400, 200)
    seeds: tuple[int, ...] = (0, 1, 2)
    tested: int | None = None


FULL = Scale()
QUICK = Scale("test", 56, (2, 4), 8, 4, (1, 1, 1), (2, 2), (0,), 4)
"""To see that it runs; its figures mean nothing."""

EVERY = 250
"""Steps between checkpoints: their scores take time and decide nothing."""
MODELS = {"model": (), "baseline": ("--baseline",)}


@dataclass(frozen=True)
class Pairs:
    """Manifests whose paths are relative to one folder.

    Attributes:
        root: that folder.
        train: pairs for pretraining.
        evaluated: RoadScene's val split.
        roadscene: the data set itself, with its boxes.
    """

    root: Path
    train: list[Path]
    evaluated: Path
    roadscene: Path


def gather(data: Path, folder: Path, streets: int) -> Pairs:
    """Copy RoadScene from the shared `data` to the git-ignored `folder`, render as many scenes into it and write the
    manifests; existing files are kept."""
    home = copied(data / TRAINED["roadscene"], folder / TRAINED["roadscene"])
    train, evaluated = (folder / f"roadscene_{split}.jsonl" for split in ("train", "val"))
    for split, path in (("train", train), ("val", evaluated)):
        if not path.is_file():
            make_manifest("folder", home, path, split, PATTERNS["roadscene"], folder)
    scenes = rendered(folder / f"streets_{streets}.jsonl", streets, bands=(Modality.LWIR,), maps=())
    return Pairs(folder, [train, scenes], evaluated, home)


def jobs_of(part: str, scale: Scale, pairs: Pairs, work: Path) -> Iterator[Job]:
    """Return the jobs of a part of `PARTS`, in order of their dependencies."""
    yield from _pretraining(scale, pairs, work)
    if part == "pretraining":
        return
    yield from _streets(scale, work)
    if part == "fresh":
        yield from _fresh(scale, work)
    if part == "roadscene":
        yield from _roadscene(scale, pairs, work)


def _pretraining(scale: Scale, pairs: Pairs, work: Path) -> Iterator[Job]:
    """The teacher, the stages, and retrieval of infrared images after each of them."""
    folder, run = work / "teacher", work / "stages"
    steps, streets = scale.teacher
    words = ("--variant", scale.variant, "--steps", steps, "--streets", streets, "--out", folder)
    yield Job(
        "teacher", ("-m", "benchmarks.downstream.teacher", *map(str, words)), folder / "start.safetensors"
    )  # fmt: skip
    for stage, epochs in enumerate(scale.epochs, 1):
        command = cli(
            "pretrain", "--variant", scale.variant, "--stages", stage, "--epochs", epochs, "--crop", scale.crop,
            "--teacher", folder / "teacher.safetensors", "--manifest", *pairs.train, "--data-root", pairs.root,
            "--val-scenes", scale.evaluated, "--workers", 1, "--device", "cpu", "--out", run,
        )  # fmt: skip
        yield Job(f"stage {stage}", command, run / f"stage{stage}" / "last.safetensors")
    models = [f"before={folder / 'start.safetensors'}", f"I={run / 'stage1' / 'best.safetensors'}"]
    models += [f"{'I' * stage}={run / f'stage{stage}' / 'last.safetensors'}" for stage in (2, 3)]
    out = work / "retrieval"
    command = cli(
        "evaluate", "retrieval", "--model", *models, "--manifest", pairs.evaluated, "--data-root", pairs.root,
        "--scenes", scale.evaluated,
        "--teacher", folder / "teacher.safetensors", "--crop", scale.crop, "--out", out,
    )  # fmt: skip
    yield Job("retrieval", command, out / "pairs.png")


def _streets(scale: Scale, work: Path) -> Iterator[Job]:
    """Boxes and masks on scenes by day, dusk and night."""
    backbones = {
        "model": work / "stages" / "stage3" / "last.safetensors",
        "baseline": work / "teacher" / "teacher.safetensors",
    }
    for seed in scale.seeds:
        for name, more in MODELS.items():
            yield _on_streets(scale, work, name, backbones[name], seed, *more)
    yield _tables("streets", scale, work, *_tested(scale))


def _fresh(scale: Scale, work: Path) -> Iterator[Job]:
    """The same model on scenes with stems and adapters as before Stage I."""
    for seed in scale.seeds:
        yield _on_streets(scale, work, "fresh", work / "teacher" / "start.safetensors", seed)
    yield _tables("streets", scale, work, *_tested(scale), model="fresh")


def _on_streets(scale: Scale, work: Path, name: str, backbone: Path, seed: int, *more: object) -> Job:
    folder = work / f"streets-{name}-{seed}"
    command = cli(
        "finetune", "--dataset", "scenes", "--task", "both", "--variant", scale.variant, "--backbone", backbone,
        "--steps", scale.fine[0], "--seed", seed, "--head", "dense,pyramid_linear", "--fuse-at", "last",
        "--checkpoint-every", EVERY, "--device", "cpu", "--out", folder, *more,
    )  # fmt: skip
    return Job(f"streets, {name} {seed}", command, folder / "model.safetensors")


def _tested(scale: Scale) -> tuple[object, ...]:
    return ("--dataset", "scenes") if scale.tested is None else ("--scenes", scale.tested)


def _roadscene(scale: Scale, pairs: Pairs, work: Path) -> Iterator[Job]:
    """RoadScene's pairs by day, from the models of the scenes; evaluated on days and nights not seen by them."""
    for seed in scale.seeds:
        for name, more in MODELS.items():
            folder = work / f"roadscene-{name}-{seed}"
            command = cli(
                "finetune", "--dataset", "roadscene_night", "--data", pairs.roadscene, "--variant", scale.variant,
                "--start", work / f"streets-{name}-{seed}" / "model.safetensors", "--steps", scale.fine[1],
                "--seed", seed, "--head", "dense", "--checkpoint-every", EVERY, "--device", "cpu", "--out", folder,
                *more,
            )  # fmt: skip
            yield Job(f"roadscene, {name} {seed}", command, folder / "model.safetensors")
    yield _tables("roadscene", scale, work, "--dataset", "roadscene_night", "--data", pairs.roadscene)


def _tables(part: str, scale: Scale, work: Path, *data: object, model: str = "model") -> Job:
    """Scores of a model over the seeds, next to the baseline's."""
    models, baselines = (
        [work / f"{part}-{name}-{seed}" / "model.safetensors" for seed in scale.seeds] for name in (model, "baseline")
    )
    title = part if model == "model" else model
    out = work / f"{title}-tables"
    command = cli("evaluate", "--model", *models, "--baseline", *baselines, *data, "--device", "cpu", "--out", out)
    return Job(f"{title}, tables", command, out / "report.html")
