"""`python -m benchmarks.pretrain_step`: a pretraining step against a plain loop over transformers' DINOv2.

The plain loop is what one writes first: `Dinov2Model` with a forward hook at every block that adds the band's adapter,
one pass for RGB and one for infrared, torch's AdamW. Sizes, losses, precision and the frozen teacher are the same. Both
take turns step by step in one run, and medians are compared.

Then: what the teacher's cache saves, and whether the loader is waited for (batches from files by a worker against the
same batches kept in memory). Two and a half minutes; writes `results/pretrain_step.csv`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from benchmarks.node.machine import describe
from spectradino_core.backbone.vit import vit_config
from spectradino_core.bench.tables import write_table
from spectradino_core.bench.train import PLAIN, loading, our_step, plain_step, take_turns
from spectradino_core.training.stages import stage_recipe

RESULTS = Path(__file__).resolve().parent / "results"


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
            rate = "" if "waiting" in name else pairs / value
            row = {"case": case, "what": name, "step_s": value, "pairs_per_s": rate}
            rows.append(row | {"share_of": base, "ratio": value / seconds[base]})
            print(f"{case:24} {name:34} {value:7.3f} s  {value / seconds[base]:.2f}")

    from dataclasses import replace

    for stage in (1, 3):
        recipe = stage_recipe(options.variant, stage)
        recipe = replace(recipe, crop=options.crop or recipe.crop)
        known = torch.randn(options.pairs, vit_config(options.variant).width)
        steps = {
            PLAIN: plain_step(recipe, amp),
            "ours": our_step(recipe, amp),
            "ours, teacher cached": our_step(recipe, amp, lambda batch, known=known: known),
        }
        case = f"{options.variant} at {recipe.crop}, stage {stage}"
        add(
            case,
            take_turns(steps, recipe, options.pairs, options.rounds),
            options.pairs,
            PLAIN,
        )
        del steps
    recipe = stage_recipe(options.loaded, 1)
    seconds = loading(recipe, amp, options.steps, 2 * recipe.batch, options.workers)
    add(f"loading, {options.loaded}, stage 1", seconds, recipe.batch, "in memory")
    write_table(options.out / "pretrain_step.csv", facts | {"note": options.note or "none"}, rows, ".3f")


if __name__ == "__main__":
    main()
