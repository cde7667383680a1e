"""`spectradino ablate`: Tables 9 to 14 of the paper as one matrix of runs."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import Any

__all__ = ["add"]


def add(commands: Any) -> None:
    """Add the command to `commands`, the result of `ArgumentParser.add_subparsers`."""
    command = commands.add_parser(
        "ablate",
        help="run the ablations of the paper's Tables 9 to 14: heads, modules, losses, stages and fusions",
        description="Runs the matrix of a recipe of ablation/recipes.py and writes its tables. Finished jobs are "
        "skipped, stopped ones resumed, and failed ones named while the rest continues.",
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
        help="folder of the results; resumed if it exists, refused if another recipe or other data made it",
    )
    command.add_argument("--tables", type=int, nargs="+", metavar="N", help="from 9 to 14 (default: all in the recipe)")
    command.add_argument("--seeds", type=int, nargs="+", metavar="SEED", help="for fine-tuning (default: the recipe's)")
    data = command.add_argument_group("data of the paper's recipes")
    data.add_argument("--root", type=Path, help="folder that the data set was extracted to")
    data.add_argument("--pairs", type=Path, nargs="+", default=[], metavar="MANIFEST", help="pretraining pairs")
    data.add_argument("--pairs-root", type=Path, help="folder that the manifests' paths are relative to")
    data.add_argument("--teacher", type=Path, help="DINOv2 weights")
    machine = command.add_argument_group("machine")
    machine.add_argument("--jobs", type=int, default=1, help="number of parallel runs (default: %(default)s)")
    machine.add_argument("--threads", type=int, help="threads per run (default: processors divided by jobs)")
    machine.add_argument("--workers", type=int, default=0, help="data loading processes per run (default: %(default)s)")
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
    print(f"{options.out / 'report.html'}: the same tables with plots")
    if outcome.failed:
        told = "; ".join(f"{key}: {reason}" for key, reason in outcome.failed.items())
        raise ValueError(
            f"{len(outcome.failed)} jobs failed and {len(outcome.skipped)} that depend on them were skipped: {told}"
        )
    return 0
