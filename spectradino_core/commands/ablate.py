"""`spectradino ablate`: the paper's Tables 9 to 14 as one matrix of runs."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import Any

__all__ = ["add"]


def add(commands: Any) -> None:
    """Declares the command.

    Args:
        commands: what `ArgumentParser.add_subparsers` returned.
    """
    command = commands.add_parser(
        "ablate",
        help="the paper's Tables 9 to 14: heads, modules, losses, stages and fusions, as one matrix",
        description="Runs the matrix of a recipe of ablation/recipes.py and lays out its tables. What is done is not "
        "done again, what stopped is taken up, what fails is named and the rest goes on.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="examples:\n"
        "  spectradino ablate tiny_scenes --out runs/ablation --jobs 2\n"
        "  spectradino ablate paper_rasmd --root /data/RASMD --pairs ms2.jsonl rasmd.jsonl ir500k.jsonl "
        "--pairs-root /data --teacher dinov2_vitb14_pretrain.pth --out runs/ablation_rasmd\n",
    )
    command.add_argument("recipe", help="tiny_scenes, smoke_scenes, paper_rasmd or paper_fmb")
    command.add_argument(
        "--out",
        type=Path,
        required=True,
        help="folder of the results; one that is begun is taken up, what another recipe or other data made is refused",
    )
    command.add_argument("--tables", type=int, nargs="+", metavar="N", help="of 9 to 14 (default: all the recipe has)")
    command.add_argument("--seeds", type=int, nargs="+", metavar="SEED", help="of fine-tuning (default: the recipe's)")
    data = command.add_argument_group("data of the paper's recipes")
    data.add_argument("--root", type=Path, help="folder that the data set was extracted to")
    data.add_argument("--pairs", type=Path, nargs="+", default=[], metavar="MANIFEST", help="what to pretrain on")
    data.add_argument("--pairs-root", type=Path, help="folder that the manifests' paths are relative to")
    data.add_argument("--teacher", type=Path, help="DINOv2's weights")
    machine = command.add_argument_group("machine")
    machine.add_argument("--jobs", type=int, default=1, help="runs at a time (default: %(default)s)")
    machine.add_argument("--threads", type=int, help="of each run (default: the processors divided by the jobs)")
    machine.add_argument("--workers", type=int, default=0, help="processes that make batches, per run (%(default)s)")
    machine.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"), help="default: %(default)s")
    command.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    import os
    from dataclasses import replace

    from spectradino_core.ablation.layout import Results, write_tables
    from spectradino_core.ablation.recipes import find_ablation
    from spectradino_core.ablation.runner import run
    from spectradino_core.ablation.work import Setup

    ablation = find_ablation(options.recipe)
    if options.jobs < 1 or options.workers < 0 or (options.threads is not None and options.threads < 1):
        raise ValueError("--jobs and --threads must be at least 1, --workers at least 0")
    if options.tables:
        ablation = ablation.only(options.tables)
    if options.seeds:
        ablation = replace(ablation, seeds=tuple(options.seeds))
    threads = options.threads or max(1, len(os.sched_getaffinity(0)) // options.jobs)
    setup = Setup(
        options.out, options.root, tuple(options.pairs), options.pairs_root, options.teacher, options.device, threads,
        options.workers,
    )  # fmt: skip
    outcome = run(ablation, setup, options.jobs, lambda line: print(line, flush=True))
    results = Results.read(ablation, setup, outcome, shlex.join(["spectradino", *options.words]))
    write_tables(results, options.out)
    print((options.out / "tables.md").read_text(encoding="utf-8"))
    print(f"{options.out / 'report.html'}: the same with plots")
    if outcome.failed:
        told = "; ".join(f"{key}: {reason}" for key, reason in outcome.failed.items())
        raise ValueError(
            f"{len(outcome.failed)} jobs failed and {len(outcome.left_out)} that need them were left out: {told}"
        )
    return 0
