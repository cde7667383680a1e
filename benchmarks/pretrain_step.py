"""`python -m benchmarks.pretrain_step`: a pretraining step against a plain loop over transformers' DINOv2.

The plain loop is what one writes first: `Dinov2Model` with a forward hook at every block that adds the band's adapter,
one pass for RGB and one for infrared, torch's AdamW. Sizes, losses, precision and the frozen teacher are the same. Both
take turns step by step in one run, and medians are compared.

Then: what the teacher's cache saves, and whether the loader is waited for (batches from files by a worker against the
same batches kept in memory). Two and a half minutes; writes `results/pretrain_step.csv`.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import cycle
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.node.machine import describe
from benchmarks.node.tables import write_table
from spectradino_core.backbone.stems import make_stem
from spectradino_core.backbone.vit import ViT, vit_config
from spectradino_core.data.make_manifest import write_scenes
from spectradino_core.data.manifest import ManifestSource
from spectradino_core.data.pretraining import PretrainBatch, pretraining_batches
from spectradino_core.losses.alignment import contrastive_loss, distillation_loss, patch_loss, sample_positions
from spectradino_core.losses.neighbourhood import TeacherQueue, neighbourhood_loss
from spectradino_core.modality import INFRARED, Modality
from spectradino_core.training.optimiser import adamw_for
from spectradino_core.training.stages import StageRecipe, freeze, stage_recipe
from spectradino_core.training.student import PretrainTask, Student
from spectradino_core.training.teacher import Teacher

RESULTS = Path(__file__).resolve().parent / "results"
QUEUE = 4096

Step = Callable[[PretrainBatch], None]
Ask = Callable[[PretrainBatch], Tensor]


class HookedDinov2(nn.Module):
    """The plain student: transformers' DINOv2, adapters hung on its blocks by forward hooks."""

    def __init__(self, variant: str) -> None:
        super().__init__()
        self.net = plain_dinov2(variant)
        width, depth = self.net.config.hidden_size, self.net.config.num_hidden_layers
        self.stems = nn.ModuleDict({band.key: make_stem(band) for band in Modality})
        self.embeddings = nn.ParameterDict({band.key: nn.Parameter(torch.zeros(width)) for band in Modality})
        self.adapters = nn.ModuleDict(
            {
                band.key: nn.ModuleList(
                    nn.Sequential(nn.Linear(width, width // 4), nn.GELU(), nn.Linear(width // 4, width))
                    for _ in range(depth)
                )
                for band in Modality
            }
        )
        self._key = "rgb"
        self.net.embeddings.register_forward_hook(lambda module, args, out: out + self.embeddings[self._key])
        for index, layer in enumerate(self._layers()):
            layer.register_forward_hook(self._hook(index))

    def forward(self, band: Modality, image: Tensor) -> Tensor:
        """[B, C, H, W] to all tokens [B, T, D]."""
        self._key = band.key
        return self.net(self.stems[band.key](image)).last_hidden_state

    def freeze(self, recipe: StageRecipe) -> None:
        """What the stage trains in our student trains here."""
        self.requires_grad_(True)
        self.net.requires_grad_(False)
        self.net.layernorm.requires_grad_(True)
        self.stems["rgb"].requires_grad_(recipe.rgb_stem)
        for layer in list(self._layers())[self.net.config.num_hidden_layers - recipe.unfrozen :]:
            layer.requires_grad_(True)

    def _layers(self) -> Iterator[nn.Module]:
        encoder = getattr(self.net, "encoder", self.net)
        return iter(encoder.layer if hasattr(encoder, "layer") else encoder.layers)

    def _hook(self, index: int) -> Callable[..., object]:
        def add(module: nn.Module, args: object, out: Tensor | tuple[Tensor, ...]) -> object:
            tokens = out[0] if isinstance(out, tuple) else out
            tokens = tokens + self.adapters[self._key][index](tokens)
            return (tokens, *out[1:]) if isinstance(out, tuple) else tokens

        return add


def plain_dinov2(variant: str) -> nn.Module:
    """transformers' DINOv2 of a variant's size, random weights."""
    from transformers import Dinov2Config, Dinov2Model

    config = vit_config(variant)
    return Dinov2Model(
        Dinov2Config(
            hidden_size=config.width,
            num_hidden_layers=config.depth,
            num_attention_heads=config.heads,
            mlp_ratio=config.mlp_ratio,
            image_size=config.pos_grid * config.patch,
            patch_size=config.patch,
            attn_implementation="sdpa",
        )
    )


def plain_step(recipe: StageRecipe, amp: torch.dtype | None) -> Step:
    """One step of the plain loop."""
    student, teacher = HookedDinov2(recipe.variant), plain_dinov2(recipe.variant).eval().requires_grad_(False)
    student.freeze(recipe)
    trained = [p for p in student.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(trained, recipe.rate, weight_decay=recipe.weight_decay)
    queue = filled_queue(recipe)
    weights = recipe.weights
    generator = torch.Generator().manual_seed(0)

    def step(batch: PretrainBatch) -> None:
        positions = sample_positions((recipe.crop // 14) ** 2, weights.patch_ratio, generator) + 1
        with torch.autocast("cpu", amp, enabled=amp is not None):
            with torch.no_grad():
                wanted = teacher(batch.rgb).last_hidden_state[:, 0]
            rgb, infrared = student(Modality.RGB, batch.rgb), student(batch.band, batch.infrared)
            loss = (
                weights.distillation * distillation_loss(infrared[:, 0], wanted)
                + weights.contrastive * contrastive_loss(rgb[:, 0], infrared[:, 0], recipe.temperature)
                + weights.patch * patch_loss(rgb[:, positions], infrared[:, positions])
            )
            if queue is not None:
                kl = neighbourhood_loss(infrared[:, 0], wanted, queue.entries, recipe.top_k, recipe.queue_temperature)
                loss = loss + weights.neighbourhood * kl
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(trained, recipe.clip)
        optimiser.step()
        if queue is not None:
            queue.put(wanted)

    return step


def our_step(recipe: StageRecipe, amp: torch.dtype | None, ask: Ask | None = None) -> Step:
    """One step as `training/loop.py` makes it.

    Args:
        recipe: of the stage.
        amp: precision of autocast.
        ask: the teacher; None: a ViT of the variant's size.
    """
    teacher = Teacher(ViT(recipe.variant), "")
    backbone = teacher.student()
    freeze(recipe, backbone)
    student = Student(backbone)
    optimiser = adamw_for(student, backbone, recipe.rate, recipe.weight_decay)
    task = PretrainTask(recipe, ask or (lambda batch: teacher(batch.rgb)), filled_queue(recipe), 0, 0, 1)
    count = 0

    def step(batch: PretrainBatch) -> None:
        nonlocal count
        with torch.autocast("cpu", amp, enabled=amp is not None):
            losses = task.losses(student, batch)
        optimiser.zero_grad(set_to_none=True)
        losses["total"].backward()
        nn.utils.clip_grad_norm_(student.parameters(), recipe.clip)
        optimiser.step()
        task.after_step(count, batch, losses)
        count += 1

    return step


def filled_queue(recipe: StageRecipe) -> TeacherQueue | None:
    """A queue with entries, where the stage has one."""
    if not recipe.weights.neighbourhood:
        return None
    queue = TeacherQueue(QUEUE, vit_config(recipe.variant).width)
    queue.put(torch.randn(QUEUE, vit_config(recipe.variant).width))
    return queue


def random_batch(recipe: StageRecipe, pairs: int, step: int) -> PretrainBatch:
    """Pairs of the band that is due."""
    side = recipe.crop
    generator = torch.Generator().manual_seed(step)
    return PretrainBatch(
        INFRARED[step % len(INFRARED)],
        torch.randn(pairs, 3, side, side, generator=generator),
        torch.rand(pairs, 1, side, side, generator=generator),
        [""] * pairs,
        torch.arange(pairs),
    )


def take_turns(steps: dict[str, Step], recipe: StageRecipe, pairs: int, rounds: int) -> dict[str, float]:
    """Median seconds of a step of each, after one that does not count."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(rounds + 1):
        batch = random_batch(recipe, pairs, number)
        for name, step in steps.items():
            start = time.perf_counter()
            step(batch)
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values[1:]) for name, values in times.items()}


def loading(recipe: StageRecipe, amp: torch.dtype | None, count: int, scenes: int, workers: int) -> dict[str, float]:
    """Seconds of a step with batches that a worker reads from files, of which waiting for it; with the same batches
    kept in memory; and how long making one takes by itself."""
    with tempfile.TemporaryDirectory() as folder:
        source = ManifestSource(write_scenes(Path(folder), scenes, maps=()))

        def batches(how_many: int, by: int) -> Iterator[PretrainBatch]:
            return iter(pretraining_batches([source], recipe.batch, recipe.crop, 0, how_many, workers=by))

        step = our_step(recipe, amp)
        start = time.perf_counter()
        kept = list(batches(3, 0))
        making = (time.perf_counter() - start) / 3
        step(kept[0])
        seconds = {}
        for name, source_of in (("from files", batches(count + 1, workers)), ("in memory", cycle(kept))):
            step(next(source_of))
            start, waited = time.perf_counter(), 0.0
            for _ in range(count):
                asked = time.perf_counter()
                batch = next(source_of)
                waited += time.perf_counter() - asked
                step(batch)
            seconds[name] = (time.perf_counter() - start) / count
            if name == "from files":
                seconds["from files: of it waiting"] = waited / count
    return seconds | {"making a batch": making}


def main() -> None:
    """Measures, writes, prints."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pretrain_step", description=__doc__)
    parser.add_argument("--variant", default="s", help="of the steps (%(default)s); loading is of the tiny recipe")
    parser.add_argument("--pairs", type=int, default=4, help="in a step (%(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="timed steps of each (%(default)s)")
    parser.add_argument("--crop", type=int, help="pixels (default: the recipe's)")
    parser.add_argument("--steps", type=int, default=12, help="of loading (%(default)s)")
    parser.add_argument("--loaded", default="tiny", help="variant whose loading is measured (%(default)s)")
    parser.add_argument("--amp", default="bf16", choices=("bf16", "fp32"))
    parser.add_argument("--threads", type=int, help="of torch")
    parser.add_argument("--workers", type=int, default=1, help="that read files (%(default)s)")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    parser.add_argument("--note", default="", help="kept with the results: what else the machine did")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    amp = {"bf16": torch.bfloat16, "fp32": None}[options.amp]
    facts = describe() | {"torch": torch.__version__, "threads": str(torch.get_num_threads()), "amp": options.amp}
    rows: list[dict[str, object]] = []

    def add(case: str, seconds: dict[str, float], pairs: int, base: str) -> None:
        for name, value in seconds.items():
            row = {"case": case, "what": name, "step_s": value, "pairs_per_s": pairs / value}
            rows.append(row | {"share_of": base, "ratio": value / seconds[base]})
            print(f"{case:24} {name:34} {value:7.3f} s  {pairs / value:6.1f} pairs/s  {value / seconds[base]:.2f}")

    from dataclasses import replace

    for stage in (1, 3):
        recipe = stage_recipe(options.variant, stage)
        recipe = replace(recipe, crop=options.crop or recipe.crop)
        known = torch.randn(options.pairs, vit_config(options.variant).width)
        steps = {
            "plain loop over transformers": plain_step(recipe, amp),
            "ours": our_step(recipe, amp),
            "ours, teacher cached": our_step(recipe, amp, lambda batch, known=known: known),
        }
        case = f"{options.variant} at {recipe.crop}, stage {stage}"
        add(
            case,
            take_turns(steps, recipe, options.pairs, options.rounds),
            options.pairs,
            "plain loop over transformers",
        )
        del steps
    recipe = stage_recipe(options.loaded, 1)
    seconds = loading(recipe, amp, options.steps, 2 * recipe.batch, options.workers)
    add(f"loading, {options.loaded}, stage 1", seconds, recipe.batch, "in memory")
    write_table(options.out / "pretrain_step.csv", facts | {"note": options.note or "none"}, rows)


if __name__ == "__main__":
    main()
