"""Plan of the experiments: every training and evaluation is a command of the real command line."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.jobs import Job, cli
from benchmarks.pretrain.data import Pairs
from spectradino_core.training.omnivorous import omnivorous_recipe

__all__ = ["FULL", "QUICK", "PARTS", "Scale", "jobs_of"]

PARTS = ("stages", "systems", "anchors", "alphas", "unseen", "options", "detectors")


@dataclass(frozen=True)
class Scale:
    """Size of the experiments.

    Attributes:
        variant, crop: of the backbone; the crop in pixels is its recipe's.
        scenes: training scenes.
        judged: unseen scenes for evaluation.
        probed: scenes that linear probes are fitted on.
        views: views of each evaluated item.
        teacher: (steps, peak learning rate) of the successive runs that make the placeholder for DINOv2.
        stages: steps of each stage; None: the epochs below.
        epochs: of each stage; as many steps as the recipe's have on the smaller sets that it was made for.
        processes: processes that share a step of the stages.
        omnivorous: steps of each Omnivorous run; None: the recipe's.
        trial: steps of each run of an option.
        seeds: of those.
        anchors: weights.
        alphas: maximum fractions of RGB.
        labelled: numbers of labelled pairs.
        fine: steps of fine-tuning a detector.
        fine_seeds: of those.
    """

    variant: str = "tiny"
    crop: int = 112
    scenes: int = 300
    judged: int = 64
    probed: int = 64
    views: int = 4
    teacher: tuple[tuple[int, float], ...] = ((400, 1e-3), (600, 2e-4), (1400, 4e-4))
    stages: int | None = None
    epochs: tuple[int, int, int] = (14, 2, 16)
    processes: int = 2
    omnivorous: int | None = 150
    trial: int = 120
    seeds: tuple[int, ...] = (0, 1)
    anchors: tuple[float, ...] = (0, 1, 10, 100)
    alphas: tuple[float, ...] = (0, 0.25, 0.5, 0.75, 1)
    labelled: tuple[int, ...] = (10, 50, 209)
    fine: int = 120
    fine_seeds: tuple[int, ...] = (0, 1, 2)


FULL = Scale()
QUICK = Scale(
    "test", 56, 12, 8, 8, 2, ((3, 1e-3), (3, 4e-4)), 3, (1, 1, 1), 1, 3, 3, (0,), (0, 10), (0, 0.5), (2,), 2, (0,)
)
"""Everything in a minute, for the tests; its figures mean nothing."""

INFRARED_WEIGHT = 1.0
GENTLE = ("--lr", "3:1.2e-4", "--rgb-distillation", 1)
"""Stage III at the fraction of Stage I's rate that the larger variants have, and with RGB kept."""
INPUT = "280x210"
"""Network input of the detectors."""
STAGES = {"before": "start", "I": "stage1/best", "II": "stage2/last", "III": "stage3/last"}
"""Stage II starts from Stage I's best, so that is what is judged of Stage I."""


def jobs_of(part: str, scale: Scale, pairs: Pairs, work: Path) -> Iterator[Job]:
    """Return the jobs of a part of `PARTS`, in order of their dependencies."""
    parts = {
        "stages": _stages,
        "systems": _systems,
        "anchors": _anchors,
        "alphas": _alphas,
        "unseen": _unseen,
        "options": _options,
        "detectors": _detectors,
    }
    return parts[part](scale, pairs, work)


def _stages(scale: Scale, pairs: Pairs, work: Path) -> Iterator[Job]:
    """The chain of Stages I, II and III, a gentler Stage III, and their evaluation."""
    yield from _teacher(scale, pairs, work)
    yield _chain(scale, pairs, work)
    yield _gentle(scale, pairs, work)
    run = work / "chain"
    models = [f"{name}={work / 'teacher' / 'start.safetensors' if file == 'start' else run / f'{file}.safetensors'}"
              for name, file in STAGES.items()]  # fmt: skip
    models.append(f"III gentle={work / 'gentle' / 'stage3' / 'last.safetensors'}")
    yield _judge("stages judged", scale, pairs, work, models, "--compare-bands")


def _systems(scale: Scale, pairs: Pairs, work: Path) -> Iterator[Job]:
    """Omnivorous on a plain DINOv2, and on top of SpectraDINO, next to the latter."""
    yield from _teacher(scale, pairs, work)
    yield _chain(scale, pairs, work)
    yield _omnivorous("omnivorous", scale, pairs, work, scale.omnivorous)
    both = ("--base", "both", "--start", work / "chain" / "stage3" / "last.safetensors")
    yield _omnivorous("both", scale, pairs, work, scale.omnivorous, *both)
    models = [
        f"SpectraDINO={work / 'chain' / 'stage3' / 'last.safetensors'}",
        f"Omnivorous={work / 'omnivorous' / 'last.safetensors'}",
        f"both={work / 'both' / 'last.safetensors'}",
    ]
    more = ("--maps", "--probe-scenes", scale.probed, "--knn-manifest", _named(pairs, "epfl"))
    yield _judge("systems judged", scale, pairs, work, models, *more)


def _anchors(scale: Scale, pairs: Pairs, work: Path) -> Iterator[Job]:
    """Ablation of the anchor weight, on the plain system."""
    yield from _teacher(scale, pairs, work)
    models = []
    for weight in scale.anchors:
        own = omnivorous_recipe(scale.variant).anchor == weight  # the run of `_systems` is of the recipe's own weight
        name = "omnivorous" if own else f"anchor {weight:g}"
        yield _omnivorous(name, scale, pairs, work, scale.omnivorous, *(() if own else ("--anchor", weight)))
        models.append(f"anchor {weight:g}={work / _folder(name) / 'last.safetensors'}")
    yield _judge("anchors judged", scale, pairs, work, models, "--maps", "--knn-manifest", _named(pairs, "epfl"))


def _alphas(scale: Scale, pairs: Pairs, work: Path) -> Iterator[Job]:
    """Ablation of the maximum fraction of RGB blended into the other modalities, on the plain system."""
    yield from _teacher(scale, pairs, work)
    models = []
    for alpha in scale.alphas:
        own = omnivorous_recipe(scale.variant).largest_alpha == alpha
        name = "omnivorous" if own else f"alpha {alpha:g}"
        yield _omnivorous(name, scale, pairs, work, scale.omnivorous, *(() if own else ("--alpha-max", alpha)))
        models.append(f"alpha {alpha:g}={work / _folder(name) / 'last.safetensors'}")
    more = ("--maps", "--probe-scenes", scale.probed, "--knn-manifest", _named(pairs, "epfl"))
    yield _judge("alphas judged", scale, pairs, work, models, *more)


def _unseen(scale: Scale, pairs: Pairs, work: Path) -> Iterator[Job]:
    """Omnivorous without long-wave infrared in training, beside the one that has seen it."""
    yield from _teacher(scale, pairs, work)
    yield _omnivorous("omnivorous", scale, pairs, work, scale.omnivorous)
    others = [path for path in pairs.train if not path.stem.startswith(("roadscene", "msrs", "m3svd"))]
    without = replace(pairs, train=others)
    yield _omnivorous("without LWIR", scale, without, work, scale.omnivorous, "--bands", "nir,swir")
    models = [f"{name}={work / _folder(name) / 'last.safetensors'}" for name in ("omnivorous", "without LWIR")]
    yield _judge("unseen judged", scale, pairs, work, models)


def _detectors(scale: Scale, pairs: Pairs, work: Path) -> Iterator[Job]:
    """Detectors on few labelled pairs: from Stage III, from the gentler one, without the stages, and on the frozen
    teacher.
    """
    yield from _teacher(scale, pairs, work)
    yield _chain(scale, pairs, work)
    yield _gentle(scale, pairs, work)
    starts: dict[str, tuple[object, ...]] = {
        "stages": (work / "chain" / "stage3" / "last.safetensors",),
        "gentle": (work / "gentle" / "stage3" / "last.safetensors",),
        "fresh": (work / "teacher" / "start.safetensors",),
        "frozen": (work / "teacher" / "teacher.safetensors", "--baseline"),
    }
    for count in scale.labelled:
        for system, backbone in starts.items():
            models = []
            for seed in scale.fine_seeds:
                folder = work / "detectors" / f"{system}-{count}-{seed}"
                command = cli(
                    "finetune", "--data", pairs.labelled[count], "--task", "detection", "--variant", scale.variant,
                    "--input-size", INPUT, "--steps", scale.fine, "--checkpoint-every", scale.fine, "--seed", seed,
                    "--device", "cpu", "--out", folder, "--backbone", *backbone,
                )  # fmt: skip
                models.append(folder / "model.safetensors")
                yield Job(f"detector, {system}, {count} pairs, seed {seed}", command, models[-1])
            out = work / "detectors" / f"{system}-{count}-judged"
            command = cli(
                "evaluate", "--model", *models, "--data", pairs.labelled[count], "--device", "cpu", "--draw", 0,
                "--out", out,
            )  # fmt: skip
            yield Job(f"detectors judged, {system}, {count} pairs", command, out / "result.json")


def _options(scale: Scale, pairs: Pairs, work: Path) -> Iterator[Job]:
    """Stage I with our options compared with Stage I without, same steps and seeds."""
    yield from _teacher(scale, pairs, work)
    options = {
        "plain": (),
        "adaptive": ("--adaptive",),
        "infrared": ("--infrared-alignment", INFRARED_WEIGHT),
    }
    models = []
    for seed in scale.seeds:
        for option, arguments in options.items():
            name = f"{option} {seed}"
            yield _pretrain(name, scale, pairs, work, "1", scale.trial, "--seed", seed, *arguments)
            models.append(f"{name}={work / _folder(name) / 'stage1' / 'last.safetensors'}")
    yield _judge("options judged", scale, pairs, work, models, "--compare-bands")


def _teacher(scale: Scale, pairs: Pairs, work: Path) -> Iterator[Job]:
    """In several runs: from the second on images are disguised; the first distinguished them by their colours."""
    common = (
        "--manifests", *pairs.train, *pairs.rgb, "--root", pairs.root, "--variant", scale.variant, "--crop", scale.crop,
        "--batch", min(64, scale.scenes),
    )  # fmt: skip
    start: tuple[object, ...] = ()
    for number, (steps, rate) in enumerate(scale.teacher, 1):
        last = number == len(scale.teacher)
        folder = work / ("teacher" if last else f"teacher-{number}")
        words = (*common, "--steps", steps, "--rate", rate, "--out", folder, *start)
        name = "teacher" if last else f"teacher, run {number}"
        yield Job(name, ("-m", "benchmarks.pretrain.teacher", *map(str, words)), folder / "start.safetensors")
        start = ("--start", folder / "teacher.safetensors")


def _chain(scale: Scale, pairs: Pairs, work: Path) -> Job:
    job = _pretrain("chain", scale, pairs, work, "1,2,3", scale.stages, "--val-scenes", scale.judged)
    if scale.processes == 1:
        return job
    together = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(scale.processes))
    return replace(job, arguments=(*together, *job.arguments))


def _gentle(scale: Scale, pairs: Pairs, work: Path) -> Job:
    start = ("--start", work / "chain" / "stage2" / "last.safetensors")
    return _pretrain("gentle", scale, pairs, work, "3", scale.stages, *start, *GENTLE)


def _pretrain(
    name: str, scale: Scale, pairs: Pairs, work: Path, stages: str, steps: int | None, *more: object
) -> Job:  # fmt: skip
    folder = work / _folder(name)
    if steps is None:
        epochs = ",".join(f"{stage}:{scale.epochs[int(stage) - 1]}" for stage in stages.split(","))
        more = ("--epochs", epochs, *more)
    command = cli("pretrain", "--stages", stages, *_common(scale, pairs, work, folder, steps), *more)
    return Job(name, command, folder / f"stage{stages[-1]}" / "last.safetensors")


def _omnivorous(name: str, scale: Scale, pairs: Pairs, work: Path, steps: int | None, *more: object) -> Job:
    folder = work / _folder(name)
    common = _common(scale, pairs, work, folder, steps, teacher="--start" not in more)
    command = cli("pretrain", "--system", "omnivorous", *common, *more)
    return Job(name, command, folder / "last.safetensors")


def _common(
    scale: Scale, pairs: Pairs, work: Path, folder: Path, steps: int | None, teacher: bool = True
) -> tuple[object, ...]:
    return (
        "--variant", scale.variant, *(("--teacher", work / "teacher" / "teacher.safetensors") if teacher else ()),
        "--manifest", *pairs.train, "--data-root", pairs.root, "--workers", 1, "--device", "cpu", "--out", folder,
        *(() if steps is None else ("--steps", steps)),
    )  # fmt: skip


def _judge(name: str, scale: Scale, pairs: Pairs, work: Path, models: list[str], *more: object) -> Job:
    out = work / _folder(name)
    command = cli(
        "evaluate", "retrieval", "--model", *models, "--manifest", *pairs.judged, "--data-root", pairs.root,
        "--scenes", scale.judged,
        "--teacher", work / "teacher" / "teacher.safetensors", "--crop", scale.crop, "--views", scale.views,
        "--out", out, *more,
    )  # fmt: skip
    return Job(name, command, out / "pairs.png")


def _named(pairs: Pairs, name: str) -> Path:
    return next(path for path in pairs.train if path.stem.startswith(name))


def _folder(name: str) -> str:
    return name.replace(" ", "-")
