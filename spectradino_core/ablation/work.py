"""Jobs of an ablation: render scenes, train a teacher, pretrain, fine-tune and score.

Each job has its own process and folder. `job.json`, with the fingerprint of the job's inputs, is written first,
`done.json` last. A job that was killed in between resumes where its training stopped.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from spectradino_core.ablation.pool import ScenePool
from spectradino_core.ablation.recipe import TEACHER, Ablation, Cell, Pretraining, fingerprint
from spectradino_core.data.make_manifest import write_scenes
from spectradino_core.data.manifest import ManifestSource
from spectradino_core.data.mixture import Mixture, RGBOnly
from spectradino_core.data.scene_sets import HELD_OUT, TRAINING_MISREGISTRATION_PX
from spectradino_core.datasets.registry import find_benchmark
from spectradino_core.evaluation.comparison import METRICS, compare
from spectradino_core.evaluation.sets import LabelledSet
from spectradino_core.export.torch_engine import TorchEngine, cuda_is_available
from spectradino_core.files import open_file, written_atomically
from spectradino_core.modality import Modality
from spectradino_core.models.checkpoints import save_state
from spectradino_core.models.perception_checkpoint import load_perception
from spectradino_core.runtime.pipeline import Pipeline
from spectradino_core.training.batches import Samples
from spectradino_core.training.finetune import TrainingData, finetune
from spectradino_core.training.modes import count_trainable, freeze_for
from spectradino_core.training.pretrain import PretrainOptions, pretrain
from spectradino_core.training.recipes import FinetuneRecipe

__all__ = ["Job", "Setup", "cell_folder", "jobs_of", "run_job"]


@dataclass(frozen=True)
class Setup:
    """Folder, data and device of an ablation, which do not affect the comparison.

    Attributes:
        folder: folder of all results.
        root: folder of the data set; None for scenes.
        pairs: manifests for pretraining; empty for scenes.
        pairs_root: folder that their paths are relative to; None: the manifest's own folder.
        teacher: DINOv2's weights; None: the ablation's substitute.
        device: "auto", "cpu" or "cuda".
        threads: threads per job.
        workers: data loading processes per job.
        validation: manifests of held-out pairs, which choose Stage I's best backbone; empty: its last one.
    """

    folder: Path
    root: Path | None = None
    pairs: tuple[Path, ...] = ()
    pairs_root: Path | None = None
    teacher: Path | None = None
    device: str = "auto"
    threads: int = 1
    workers: int = 0
    validation: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Job:
    """One job.

    Attributes:
        key: name of the job and of its folder below the ablation's.
        mark: fingerprint of everything that determines its result.
        needs: keys of the jobs that must be finished before.
        kind: "render", "teacher", "pretrain" or "cell".
        what: name of the cell, pretraining or data set.
        seed: seed of a cell.
    """

    key: str
    mark: str
    needs: tuple[str, ...]
    kind: str
    what: str = ""
    seed: int = 0


def cell_folder(key: str, seed: int) -> str:
    """Return the key of a cell's job."""
    return f"cells/{key}/seed{seed}"


def jobs_of(ablation: Ablation, setup: Setup) -> list[Job]:
    """Return all jobs in an order in which they can run.

    Fingerprints include the given data: the data set by its folder, manifests and weights by their content.

    Raises:
        ValueError: real data is required and was not given.
        OSError: a manifest or the teacher's weights can't be read.
    """
    jobs: dict[str, Job] = {}

    def add(key: str, kind: str, needs: tuple[str, ...] = (), what: str = "", seed: int = 0, *made_by: Any) -> str:
        mark = fingerprint(kind, *made_by, *(jobs[need].mark for need in needs))
        jobs[key] = Job(key, mark, needs, kind, what, seed)
        return key

    train: tuple[str, ...] = ()
    test: tuple[str, ...] = ()
    unlabelled: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    pairs: tuple[str, ...] = ()
    band = ablation.cells[0].recipe.architecture.infrared
    if ablation.scenes is not None:
        scenes = ablation.scenes
        train = (add("data/train", "render", (), "train", 0, scenes.train, scenes.size, band),)
        test = (add("data/test", "render", (), "test", 0, scenes.test, scenes.size, band),)
        unlabelled = (add("data/pretrain", "render", (), "pretrain", 0, scenes.pretrain, scenes.pretrain_size, band),)
    else:
        _check_given(ablation, setup)
        labels = (str(setup.root.resolve()),) if setup.root is not None else ()
        pairs = tuple(_digest(path) + str((setup.pairs_root or path.parent).resolve()) for path in setup.pairs)
    pairs += tuple(f"validation {_digest(path)}" for path in setup.validation)
    teacher: tuple[str, ...] = ()
    weights = (_digest(setup.teacher),) if setup.teacher is not None else ()
    if setup.teacher is None and ablation.substitute is not None:
        teacher = (add("teacher", "teacher", train, TEACHER, 0, ablation.substitute),)
    for one in ablation.pretrainings:
        before = (f"pretraining/{one.after}",) if one.after else ()
        needs = (*unlabelled, *teacher, *before)
        add(f"pretraining/{one.key}", "pretrain", needs, one.key, 0, one.stage, one.steps, *pairs, *weights)
    for seed in ablation.seeds:
        for cell in ablation.cells:
            from_teacher = cell.backbone == TEACHER
            start = teacher if from_teacher else (f"pretraining/{cell.backbone}",)
            given = (*labels, *(weights if from_teacher else ()))  # otherwise part of the pretraining's mark
            add(cell_folder(cell.key, seed), "cell", (*train, *test, *start), cell.key, seed, cell.recipe, seed, *given)
    return list(jobs.values())


def run_job(ablation: Ablation, setup: Setup, job: Job) -> dict[str, Any]:
    """Run or resume one job and return the content of its `done.json`.

    Raises:
        ValueError: the folder belongs to another recipe; or an error of the job itself.
    """
    torch.set_num_threads(setup.threads)
    folder = setup.folder / job.key
    claim(folder, job)
    started, busy = time.monotonic(), time.process_time()
    work = {"render": _render, "teacher": _train_teacher, "pretrain": _pretrain, "cell": _run_cell}[job.kind]
    found = work(ablation, setup, job, folder)
    took = {"seconds": time.monotonic() - started, "cpu_seconds": time.process_time() - busy}
    done = {"mark": job.mark, **found, **{name: round(value, 1) for name, value in took.items()}}
    _write(folder / "done.json", done)
    return done


def claim(folder: Path, job: Job) -> None:
    """Mark a folder as this job's.

    Raises:
        ValueError: it belongs to another recipe.
    """
    path = folder / "job.json"
    if path.is_file():
        if json.loads(path.read_text(encoding="utf-8")).get("mark") != job.mark:
            raise ValueError(f"{folder} was made by another recipe or on other data: give another --out, or delete it")
    else:
        _write(path, {"mark": job.mark})


def _write(path: Path, content: Mapping[str, Any]) -> None:
    with written_atomically(path) as scratch:
        scratch.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _digest(path: Path) -> str:
    """Return a hash of the content of a file, or of the files of a Hugging Face model's folder."""
    digest = hashlib.sha256()
    for part in sorted(path.iterdir()) if path.is_dir() else [path]:
        with open_file(part, "checkpoint") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()[:16]


def _check_given(ablation: Ablation, setup: Setup) -> None:
    """Raise ValueError for missing data before any job runs."""
    missing = [
        *(["--data DIR (the data set)"] if setup.root is None else []),
        *(["--manifest FILE (to pretrain on)"] if not setup.pairs else []),
        *(["--teacher FILE (DINOv2's weights)"] if setup.teacher is None else []),
    ]
    if missing:
        advice = find_benchmark(ablation.dataset).advice
        raise ValueError(f"{ablation.name} needs {', '.join(missing)}. {advice}")
    benchmark = find_benchmark(ablation.dataset)
    for split in benchmark.splits:
        benchmark.open(setup.root, split)


def _render(ablation: Ablation, setup: Setup, job: Job, folder: Path) -> dict[str, Any]:
    scenes = ablation.scenes
    assert scenes is not None
    band = Modality.parse(ablation.cells[0].recipe.architecture.infrared)
    if job.what == "pretrain":
        write_scenes(folder, scenes.pretrain, scenes.pretrain_size, bands=(band,), maps=())
        return {"scenes": scenes.pretrain}
    first, count = (0, scenes.train) if job.what == "train" else (HELD_OUT["ablation"], scenes.test)
    shift = TRAINING_MISREGISTRATION_PX if job.what == "train" else 0.0
    ScenePool.render(folder, range(first, first + count), band, scenes.size, shift)
    return {"scenes": count}


def _training_data(setup: Setup, recipe: FinetuneRecipe, rgb_only: bool = False) -> TrainingData | None:
    """Return the pool of scenes; None: the recipe opens its data set itself."""
    if recipe.dataset is not None:
        return None
    pool = ScenePool(setup.folder / "data/train", Modality.parse(recipe.architecture.infrared))
    mixture = Mixture([(1.0, pool)], recipe.augmentation, recipe.seed)
    samples: Samples = RGBOnly(mixture) if rgb_only else mixture
    return TrainingData(samples, [], {"colour of the scenes" if rgb_only else "scenes": 1.0})


def _train_teacher(ablation: Ablation, setup: Setup, job: Job, folder: Path) -> dict[str, Any]:
    """Train a ViT in DINOv2's layout on labelled RGB images, as a substitute for DINOv2."""
    recipe = ablation.substitute
    assert recipe is not None
    data = _training_data(setup, recipe, rgb_only=True)
    path = finetune(recipe, folder, setup.root, device=setup.device, workers=setup.workers, training_data=data)
    model, _ = load_perception(path)
    save_state(model.backbone.vit, folder / "vit.safetensors")
    return {}


def _teacher(ablation: Ablation, setup: Setup) -> Path:
    return setup.folder / "teacher" / "vit.safetensors" if setup.teacher is None else setup.teacher


def _backbone(ablation: Ablation, setup: Setup, key: str) -> Path:
    """Return the backbone file of a pretraining, or the teacher's; of Stage I the best, as Stage II starts from it."""
    if key == TEACHER:
        return _teacher(ablation, setup)
    stage = ablation.pretraining(key).stage.stage
    name = "best.safetensors" if stage == 1 else "last.safetensors"
    return setup.folder / "pretraining" / key / f"stage{stage}" / name


def _pretrain(ablation: Ablation, setup: Setup, job: Job, folder: Path) -> dict[str, Any]:
    one: Pretraining = ablation.pretraining(job.what)
    if one.after is not None:
        # `pretrain` expects the previous stage in the same folder, and several stages may follow one stage.
        previous = ablation.pretraining(one.after).stage.stage
        source = setup.folder / "pretraining" / one.after / f"stage{previous}"
        (folder / f"stage{previous}").mkdir(parents=True, exist_ok=True)
        for file in sorted(source.glob("*.safetensors")):
            shutil.copy2(file, folder / f"stage{previous}" / file.name)
    if ablation.scenes is not None:
        sources = [ManifestSource(setup.folder / "data/pretrain/manifest.jsonl", None)]
    else:
        sources = [ManifestSource(path, setup.pairs_root) for path in setup.pairs]
    options = PretrainOptions(
        folder, teacher=_teacher(ablation, setup), steps=one.steps, device=setup.device, workers=setup.workers, keep=1
    )
    held_out = [ManifestSource(path, setup.pairs_root) for path in setup.validation]
    pretrain([one.stage], sources, held_out, options)
    return {}


def _run_cell(ablation: Ablation, setup: Setup, job: Job, folder: Path) -> dict[str, Any]:
    cell: Cell = ablation.cell(job.what)
    recipe = replace(cell.recipe, seed=job.seed)
    data = _training_data(setup, recipe)
    path = finetune(
        recipe, folder, setup.root, device=setup.device, workers=setup.workers, training_data=data,
        backbone=_backbone(ablation, setup, cell.backbone),
    )  # fmt: skip
    trained = time.monotonic()
    device = setup.device if setup.device != "auto" else ("cuda" if cuda_is_available() else "cpu")
    engine = TorchEngine(path, device)
    test = _test_set(ablation, setup)
    comparison = compare([Pipeline(engine)], [], test, worst=0)
    freeze_for(recipe.mode, engine.model)
    rows = {
        row: {
            subset: {metric: comparison.figure(metric, row, subset).to_dict()["mean"] for metric in METRICS}
            for subset in comparison.subsets
        }
        for row in comparison.rows
        if comparison.scores[comparison.subsets[0]][row]
    }
    return {
        "set": test.name,
        "pairs": comparison.images,
        "rows": rows,
        "trained_parameters": count_trainable(engine.model)[0],
        "scoring_seconds": round(time.monotonic() - trained, 1),
    }


def _test_set(ablation: Ablation, setup: Setup) -> LabelledSet:
    if ablation.scenes is not None:
        return ScenePool(setup.folder / "data/test", Modality.parse(ablation.cells[0].recipe.architecture.infrared))
    benchmark = find_benchmark(ablation.dataset)
    return benchmark.open(setup.root, benchmark.report_split)
