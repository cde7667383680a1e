"""Plan of the experiments: every training and evaluation is a command of the real command line."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.experiment import Job, cli
from benchmarks.pretrain.data import Pairs
from spectradino_core.training.omnivorous import omnivorous_recipe

PARTS = ("stages", "systems", "anchors", "alphas", "unseen", "options", "detectors")


@dataclass(frozen=True)
class Scale:
    """Size of the experiments.

    Attributes:
        variant, crop: of the backbone; the crop in pixels is its recipe's.
        scenes: training scenes.
        evaluated: unseen scenes for evaluation.
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
    evaluated: int = 64
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
STAGES = {
    "before": "teacher/start",
    "I": "chain/stage1/best",
    "II": "chain/stage2/last",
    "III": "chain/stage3/last",
    "III gentle": "gentle/stage3/last",
}
"""Stage II starts from Stage I's best checkpoint, so that one is evaluated."""


def jobs_of(part: str, scale: Scale, pairs: Pairs, work: Path) -> Iterator[Job]:
    """Return the jobs of a part of `PARTS`, in order of their dependencies."""
    return getattr(_Plan(scale, pairs, work), part)()


@dataclass(frozen=True)
class _Plan:
    """A method for each of `PARTS`; names with an underscore are shared by several."""

    scale: Scale
    pairs: Pairs
    work: Path

    def stages(self) -> Iterator[Job]:
        """The chain of Stages I, II and III, a gentler Stage III, and their evaluation."""
        yield from self._teacher()
        yield self._chain()
        yield self._gentle()
        models = {name: self.work / f"{file}.safetensors" for name, file in STAGES.items()}
        yield self._evaluate("stages evaluated", models, "--compare-bands")

    def systems(self) -> Iterator[Job]:
        """Omnivorous on a plain DINOv2, and on top of SpectraDINO, next to the latter."""
        yield from self._teacher()
        yield self._chain()
        spectradino = self.work / "chain" / "stage3" / "last.safetensors"
        omnivorous = self._omnivorous("omnivorous")
        both = self._omnivorous("both", "--base", "both", "--start", spectradino)
        yield from (omnivorous, both)
        models = {"SpectraDINO": spectradino, "Omnivorous": omnivorous.makes, "both": both.makes}
        yield self._evaluate("systems evaluated", models, *self._probes())

    def anchors(self) -> Iterator[Job]:
        """Ablation of the anchor weight, on the plain system."""
        own = omnivorous_recipe(self.scale.variant).anchor
        options = ("--maps", "--knn-manifest", self._named("epfl"))
        yield from self._varied("anchor", "--anchor", self.scale.anchors, own, *options)

    def alphas(self) -> Iterator[Job]:
        """Ablation of the maximum fraction of RGB blended into the other modalities, on the plain system."""
        own = omnivorous_recipe(self.scale.variant).alpha_max
        yield from self._varied("alpha", "--alpha-max", self.scale.alphas, own, *self._probes())

    def _varied(self, name: str, option: str, values: Sequence[float], own: float, *options: object) -> Iterator[Job]:
        """Omnivorous with one option varied; the run of `systems` has the recipe's own value."""
        yield from self._teacher()
        models = {}
        for value in values:
            title = f"{name} {value:g}"
            changed = () if value == own else (option, value)
            job = self._omnivorous(title if changed else "omnivorous", *changed)
            models[title] = job.makes
            yield job
        yield self._evaluate(f"{name}s evaluated", models, *options)

    def unseen(self) -> Iterator[Job]:
        """Omnivorous without long-wave infrared in training, beside the one that has seen it."""
        yield from self._teacher()
        others = [path for path in self.pairs.train if not path.stem.startswith(("roadscene", "msrs", "m3svd"))]
        every = self._omnivorous("omnivorous")
        without = replace(self, pairs=replace(self.pairs, train=others))
        fewer = without._omnivorous("without LWIR", "--bands", "nir,swir")
        yield from (every, fewer)
        yield self._evaluate("unseen evaluated", {job.name: job.makes for job in (every, fewer)})

    def detectors(self) -> Iterator[Job]:
        """Detectors on few labelled pairs: from Stage III, from the gentler one, without the stages, and on the frozen
        teacher.
        """
        yield from self._teacher()
        yield self._chain()
        yield self._gentle()
        starts: dict[str, tuple[object, ...]] = {
            "stages": (self.work / "chain" / "stage3" / "last.safetensors",),
            "gentle": (self.work / "gentle" / "stage3" / "last.safetensors",),
            "fresh": (self.work / "teacher" / "start.safetensors",),
            "frozen": (self.work / "teacher" / "teacher.safetensors", "--baseline"),
        }
        scale = self.scale
        for count in scale.labelled:
            data = self.pairs.labelled[count]
            for system, backbone in starts.items():
                models = []
                for seed in scale.fine_seeds:
                    folder = self.work / "detectors" / f"{system}-{count}-{seed}"
                    command = cli(
                        "finetune", "--data", data, "--task", "detection", "--variant", scale.variant,
                        "--input-size", INPUT, "--steps", scale.fine, "--checkpoint-every", scale.fine,
                        "--seed", seed, "--device", "cpu", "--out", folder, "--backbone", *backbone,
                    )  # fmt: skip
                    models.append(folder / "model.safetensors")
                    yield Job(f"detector, {system}, {count} pairs, seed {seed}", command, models[-1])
                out = self.work / "detectors" / f"{system}-{count}-evaluated"
                evaluated = ("--model", *models, "--data", data, "--device", "cpu", "--draw", 0, "--out", out)
                command = cli("evaluate", *evaluated)
                yield Job(f"detectors evaluated, {system}, {count} pairs", command, out / "result.json")

    def options(self) -> Iterator[Job]:
        """Stage I with our options compared with Stage I without, same steps and seeds."""
        yield from self._teacher()
        options = {
            "plain": (),
            "adaptive": ("--adaptive",),
            "infrared": ("--infrared-alignment", INFRARED_WEIGHT),
        }
        models = {}
        for seed in self.scale.seeds:
            for option, arguments in options.items():
                job = self._pretrain(f"{option} {seed}", "1", self.scale.trial, "--seed", seed, *arguments)
                models[job.name] = job.makes
                yield job
        yield self._evaluate("options evaluated", models, "--compare-bands")

    def _teacher(self) -> Iterator[Job]:
        """In several runs: from the second on images are disguised; the first distinguished them by their colours."""
        common = (
            "--manifests", *self.pairs.train, *self.pairs.rgb, "--root", self.pairs.root,
            "--variant", self.scale.variant, "--crop", self.scale.crop, "--batch", min(64, self.scale.scenes),
        )  # fmt: skip
        start: tuple[object, ...] = ()
        for number, (steps, lr) in enumerate(self.scale.teacher, 1):
            last = number == len(self.scale.teacher)
            folder = self.work / ("teacher" if last else f"teacher-{number}")
            words = (*common, "--steps", steps, "--lr", lr, "--out", folder, *start)
            name = "teacher" if last else f"teacher, run {number}"
            yield Job(name, ("-m", "benchmarks.pretrain.teacher", *map(str, words)), folder / "start.safetensors")
            start = ("--start", folder / "teacher.safetensors")

    def _chain(self) -> Job:
        job = self._pretrain("chain", "1,2,3", self.scale.stages, "--val-scenes", self.scale.evaluated)
        if self.scale.processes == 1:
            return job
        together = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(self.scale.processes))
        return replace(job, arguments=(*together, *job.arguments))

    def _gentle(self) -> Job:
        start = ("--start", self.work / "chain" / "stage2" / "last.safetensors")
        return self._pretrain("gentle", "3", self.scale.stages, *start, *GENTLE)

    def _pretrain(self, name: str, stages: str, steps: int | None, *more: object) -> Job:
        folder = self.work / _folder(name)
        if steps is None:
            epochs = ",".join(f"{stage}:{self.scale.epochs[int(stage) - 1]}" for stage in stages.split(","))
            more = ("--epochs", epochs, *more)
        command = cli("pretrain", "--stages", stages, *self._common(folder, steps), *more)
        return Job(name, command, folder / f"stage{stages[-1]}" / "last.safetensors")

    def _omnivorous(self, name: str, *more: object) -> Job:
        folder = self.work / _folder(name)
        common = self._common(folder, self.scale.omnivorous, teacher="--start" not in more)
        command = cli("pretrain", "--system", "omnivorous", *common, *more)
        return Job(name, command, folder / "last.safetensors")

    def _common(self, folder: Path, steps: int | None, teacher: bool = True) -> tuple[object, ...]:
        return (
            "--variant", self.scale.variant,
            *(("--teacher", self.work / "teacher" / "teacher.safetensors") if teacher else ()),
            "--manifest", *self.pairs.train, "--data-root", self.pairs.root, "--workers", 1, "--device", "cpu",
            "--out", folder, *(() if steps is None else ("--steps", steps)),
        )  # fmt: skip

    def _probes(self) -> tuple[object, ...]:
        return "--maps", "--probe-scenes", self.scale.probed, "--knn-manifest", self._named("epfl")

    def _evaluate(self, name: str, models: Mapping[str, Path], *more: object) -> Job:
        out = self.work / _folder(name)
        named = [f"{title}={path}" for title, path in models.items()]
        command = cli(
            "evaluate", "retrieval", "--model", *named, "--manifest", *self.pairs.evaluated,
            "--data-root", self.pairs.root, "--scenes", self.scale.evaluated,
            "--teacher", self.work / "teacher" / "teacher.safetensors", "--crop", self.scale.crop,
            "--views", self.scale.views, "--out", out, *more,
        )  # fmt: skip
        return Job(name, command, out / "pairs.png")

    def _named(self, name: str) -> Path:
        return next(path for path in self.pairs.train if path.stem.startswith(name))


def _folder(name: str) -> str:
    return name.replace(" ", "-")
