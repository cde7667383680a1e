"""Jobs of an ablation: render scenes, train a teacher, pretrain, fine-tune and score, several in parallel.

Each job has its own process and folder. `job.json`, with the fingerprint of the job's inputs, is written first,
`done.json` last: finished jobs are not repeated, and a job that was killed in between resumes where its training
stopped. A job that fails is reported, jobs that need it are skipped, and the others continue.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from spectradino_core.ablation.pool import ScenePool
from spectradino_core.ablation.recipes import TEACHER, Ablation
from spectradino_core.data.make_manifest import write_scenes
from spectradino_core.data.manifest import ManifestSource
from spectradino_core.data.mixture import Mixture, RGBOnly
from spectradino_core.data.scene_sets import HELD_OUT, TRAINING_MISREGISTRATION_PX
from spectradino_core.datasets.registry import find_benchmark
from spectradino_core.evaluation.comparison import METRICS, compare
from spectradino_core.evaluation.sets import LabelledSet
from spectradino_core.evaluation.spread import none_for_nan
from spectradino_core.export.torch_engine import TorchEngine, cuda_is_available
from spectradino_core.files import make_folder, open_file, write_file
from spectradino_core.jobs import run_jobs
from spectradino_core.modality import Modality
from spectradino_core.models.checkpoints import save_state
from spectradino_core.models.perception_checkpoint import load_perception
from spectradino_core.runtime.pipeline import Pipeline
from spectradino_core.training.batches import Samples
from spectradino_core.training.finetune import TrainingData, finetune
from spectradino_core.training.modes import count_trainable, freeze_for
from spectradino_core.training.pretrain import PretrainOptions, pretrain
from spectradino_core.training.recipes import FinetuneRecipe


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

    @property
    def teacher_file(self) -> Path:
        return self.teacher or self.folder / "teacher" / "vit.safetensors"


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
    what: str
    seed: int = 0


@dataclass
class Outcome:
    """Finished jobs, also of earlier runs, errors of failed jobs, and skipped jobs, which needed a failed one."""

    done: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)


def fingerprint(*parts: Any) -> str:
    """Return a hash of the inputs of a result."""
    plain = [asdict(part) if hasattr(part, "__dataclass_fields__") else part for part in parts]
    text = json.dumps(plain, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


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

    def add(key: str, kind: str, what: str, made_by: tuple[Any, ...], *needs: str, seed: int = 0) -> str:
        mark = fingerprint(kind, *made_by, *(jobs[need].mark for need in needs))
        jobs[key] = Job(key, mark, needs, kind, what, seed)
        return key

    labelled: tuple[str, ...] = ()
    unlabelled: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    pairs: tuple[str, ...] = ()
    scenes, band = ablation.scenes, ablation.infrared
    if scenes is not None:
        labelled = (
            add("data/train", "render", "train", (scenes.train, scenes.size, band)),
            add("data/test", "render", "test", (scenes.test, scenes.size, band)),
        )
        unlabelled = (add("data/pretrain", "render", "pretrain", (scenes.pretrain, scenes.pretrain_size, band)),)
    else:
        labels = (str(_checked_root(ablation, setup).resolve()),)
        pairs = tuple(_digest(path) + str((setup.pairs_root or path.parent).resolve()) for path in setup.pairs)
    pairs += tuple(f"validation {_digest(path)}" for path in setup.validation)
    teacher: tuple[str, ...] = ()
    weights = (_digest(setup.teacher),) if setup.teacher is not None else ()
    if setup.teacher is None and ablation.substitute is not None:
        teacher = (add("teacher", "teacher", TEACHER, (ablation.substitute,), *labelled[:1]),)
    for one in ablation.pretrainings:
        before = (f"pretraining/{one.after}",) if one.after else ()
        made_by = (one.stage, one.steps, *pairs, *weights)
        add(f"pretraining/{one.key}", "pretrain", one.key, made_by, *unlabelled, *teacher, *before)
    for seed in ablation.seeds:
        for cell in ablation.cells:
            from_teacher = cell.backbone == TEACHER
            start = teacher if from_teacher else (f"pretraining/{cell.backbone}",)
            given = (*labels, *(weights if from_teacher else ()))  # otherwise part of the pretraining's mark
            made_by = (cell.recipe, seed, *given)
            add(cell_folder(cell.key, seed), "cell", cell.key, made_by, *labelled, *start, seed=seed)
    return list(jobs.values())


def run(ablation: Ablation, setup: Setup, jobs: int, report: Callable[[str], None] = print) -> Outcome:
    """Run the jobs that are not finished yet, `jobs` at a time; `report` gets a line of text when a job ends.

    Raises:
        ValueError: data is missing, or the folder belongs to another recipe; nothing was run.
    """
    todo = {job.key: job for job in jobs_of(ablation, setup)}
    total, outcome = len(todo), Outcome()
    for key, job in list(todo.items()):
        if finished(setup.folder, job) is not None:
            outcome.done.append(todo.pop(key).key)
        else:
            _read_marked(setup.folder / key / "job.json", job)
    if outcome.done:
        report(f"{len(outcome.done)} of {total} jobs are already done")

    def ended(key: str, error: str | None) -> None:
        if error is None:
            outcome.done.append(key)
            report(f"[{len(outcome.done)}/{total}] {key}: {_headline(setup.folder / key)}")
        else:
            outcome.failed[key] = error.splitlines()[0]
            report(f"failed: {key}: {outcome.failed[key]} (see {setup.folder / key / 'output.txt'})")

    arguments = {key: (ablation, setup, job) for key, job in todo.items()}
    run_jobs(_do, arguments, jobs, report=ended, needs={key: job.needs for key, job in todo.items()}, fresh=True)
    outcome.skipped += [key for key in todo if key not in outcome.done and key not in outcome.failed]
    return outcome


def finished(folder: Path, job: Job) -> dict[str, Any] | None:
    """Return the result of a job; None: it is not finished.

    Raises:
        ValueError: the folder belongs to another recipe.
    """
    return _read_marked(folder / job.key / "done.json", job)


def run_job(ablation: Ablation, setup: Setup, job: Job) -> dict[str, Any]:
    """Run or resume one job and return the content of its `done.json`.

    Raises:
        ValueError: the folder belongs to another recipe; or an error of the job itself.
    """
    torch.set_num_threads(setup.threads)
    folder = setup.folder / job.key
    _mark(folder, job)
    started, busy = time.monotonic(), time.process_time()
    work = {"render": _render, "teacher": _train_teacher, "pretrain": _pretrain, "cell": _run_cell}[job.kind]
    found = work(ablation, setup, job, folder)
    took = {"seconds": time.monotonic() - started, "cpu_seconds": time.process_time() - busy}
    done = {"mark": job.mark, **found, **{name: round(value, 1) for name, value in took.items()}}
    _write(folder / "done.json", done)
    return done


def _do(argument: tuple[Ablation, Setup, Job]) -> None:
    """Run one job in its own process, with its output redirected to a file."""
    ablation, setup, job = argument
    folder = setup.folder / job.key
    make_folder(folder)
    _mark(folder, job)  # before any other file, as it shows that the folder is the command's own
    with (folder / "output.txt").open("ab") as output:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
            os.dup2(output.fileno(), stream.fileno())
    try:
        run_job(ablation, setup, job)
    except Exception:
        traceback.print_exc()
        sys.stderr.flush()
        raise


def _headline(folder: Path) -> str:
    """Return a job's duration, and the scores of a cell, as text."""
    done = json.loads((folder / "done.json").read_text(encoding="utf-8"))
    figures = done["rows"]["fused"]["all"] if done.get("rows") else {}
    named = [f"{name} {100 * figures[name]:.1f}" for name in ("mAP50", "mIoU") if figures.get(name) is not None]
    return ", ".join([f"{done['seconds']:.0f} s", *named])


def _mark(folder: Path, job: Job) -> None:
    if _read_marked(folder / "job.json", job) is None:
        _write(folder / "job.json", {"mark": job.mark})


def _read_marked(path: Path, job: Job) -> dict[str, Any] | None:
    """Return the content of a job's file; None: it does not exist. Raises ValueError if another recipe wrote it."""
    if not path.is_file():
        return None
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if content.get("mark") != job.mark:
        raise ValueError(f"{path.parent} was made by another recipe or on other data: give another --out, or delete it")
    return content


def _write(path: Path, content: Mapping[str, Any]) -> None:
    write_file(path, json.dumps(content, indent=1) + "\n")


def _digest(path: Path) -> str:
    """Return a hash of the content of a file, or of the files of a Hugging Face model's folder."""
    digest = hashlib.sha256()
    for part in sorted(path.iterdir()) if path.is_dir() else [path]:
        with open_file(part, "checkpoint") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()[:16]


def _checked_root(ablation: Ablation, setup: Setup) -> Path:
    """Return the folder of the data set; raises ValueError for missing data before any job runs."""
    benchmark = find_benchmark(ablation.dataset)
    missing = [
        *(["--data DIR (the data set)"] if setup.root is None else []),
        *(["--manifest FILE (to pretrain on)"] if not setup.pairs else []),
        *(["--teacher FILE (DINOv2's weights)"] if setup.teacher is None else []),
    ]
    if missing or setup.root is None:
        raise ValueError(f"{ablation.name} needs {', '.join(missing)}. {benchmark.advice}")
    for split in benchmark.splits:
        benchmark.open(setup.root, split)
    return setup.root


def _render(ablation: Ablation, setup: Setup, job: Job, folder: Path) -> dict[str, Any]:
    scenes, band = ablation.scenes, Modality.parse(ablation.infrared)
    assert scenes is not None
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


def _stage_folder(ablation: Ablation, setup: Setup, key: str) -> Path:
    return setup.folder / "pretraining" / key / f"stage{ablation.pretraining(key).stage.stage}"


def _backbone(ablation: Ablation, setup: Setup, key: str) -> Path:
    """Return the backbone file of a pretraining, or the teacher's; of Stage I the best, as Stage II starts from it."""
    if key == TEACHER:
        return setup.teacher_file
    folder = _stage_folder(ablation, setup, key)
    return folder / ("best.safetensors" if folder.name == "stage1" else "last.safetensors")


def _pretrain(ablation: Ablation, setup: Setup, job: Job, folder: Path) -> dict[str, Any]:
    one = ablation.pretraining(job.what)
    if one.after is not None:
        # `pretrain` expects the previous stage in the same folder, and several stages may follow one stage.
        source = _stage_folder(ablation, setup, one.after)
        make_folder(folder / source.name)
        for file in sorted(source.glob("*.safetensors")):
            shutil.copy2(file, folder / source.name / file.name)
    if ablation.scenes is not None:
        sources = [ManifestSource(setup.folder / "data/pretrain/manifest.jsonl", None)]
    else:
        sources = [ManifestSource(path, setup.pairs_root) for path in setup.pairs]
    options = PretrainOptions(
        folder, teacher=setup.teacher_file, steps=one.steps, device=setup.device, workers=setup.workers, keep=1
    )
    held_out = [ManifestSource(path, setup.pairs_root) for path in setup.validation]
    pretrain([one.stage], sources, held_out, options)
    return {}


def _run_cell(ablation: Ablation, setup: Setup, job: Job, folder: Path) -> dict[str, Any]:
    cell = ablation.cell(job.what)
    recipe = replace(cell.recipe, seed=job.seed)
    path = finetune(
        recipe, folder, setup.root, device=setup.device, workers=setup.workers,
        backbone=_backbone(ablation, setup, cell.backbone), training_data=_training_data(setup, recipe),
    )  # fmt: skip
    trained = time.monotonic()
    device = setup.device if setup.device != "auto" else ("cuda" if cuda_is_available() else "cpu")
    engine = TorchEngine(path, device)
    test = _test_set(ablation, setup)
    comparison = compare([Pipeline(engine)], [], test, worst=0)
    freeze_for(recipe.mode, engine.model)
    rows = {
        row: {
            subset: {metric: none_for_nan(comparison.figure(metric, row, subset).mean) for metric in METRICS}
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
        return ScenePool(setup.folder / "data/test", Modality.parse(ablation.infrared))
    benchmark = find_benchmark(ablation.dataset)
    return benchmark.open(setup.root, benchmark.report_split)
