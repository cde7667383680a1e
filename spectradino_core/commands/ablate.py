"""`spectradino ablate`: Tables 9 to 14 of the paper as one matrix of runs."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from typing import Any

from spectradino_core.options import TRAINING_DEVICES, add_former, add_option, refuse

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
        "  spectradino ablate --recipe tiny_scenes --out runs/ablation --jobs 2\n"
        "  spectradino ablate --recipe paper_rasmd --data /data/RASMD --manifest MS2.jsonl RASMD.jsonl IR500K.jsonl "
        "--data-root /data --val-manifest RASMD_val.jsonl --teacher dinov2_vitb14_pretrain.pth "
        "--out runs/ablation_rasmd\n",
    )
    recipe = add_option(command, "--recipe", listed=_recipes, required=True)
    add_option(
        command, "--out", " folder; resumed if it exists, refused if another recipe or other data made it",
        required=True, metavar="DIR",
    )  # fmt: skip
    command.add_argument("--tables", type=int, nargs="+", metavar="N", help="from 9 to 14 (default: all in the recipe)")
    seed = add_option(command, "--seed", " or seeds of fine-tuning (default: the recipe's)", nargs="+")
    data = command.add_argument_group("data of the paper's recipes")
    folder = add_option(data, "--data", ": where the published data set was extracted to")
    manifest = add_option(data, "--manifest", ", for pretraining", nargs="+")
    base = add_option(data, "--data-root", ", to which the manifests' paths are relative (default: the manifest's own)")
    add_option(data, "--val-manifest", ", which choose Stage I's best backbone (default: its last one)", nargs="+")
    add_option(data, "--teacher")
    machine = command.add_argument_group("machine")
    add_option(machine, "--jobs", " (default: %(default)s)", default=1)
    add_option(machine, "--threads", " per job (default: processors divided by jobs)")
    add_option(machine, "--workers", " per job (default: %(default)s)", default=0)
    add_option(machine, "--device", " (default: %(default)s)", default="auto", choices=TRAINING_DEVICES)
    add_former(command, recipe, "recipe")
    add_former(command, seed, "--seeds")
    add_former(data, folder, "--root")
    add_former(data, manifest, "--pairs")
    add_former(data, base, "--pairs-root")
    command.set_defaults(run=_run)


def _recipes() -> Sequence[str]:
    from spectradino_core.ablation.recipes import ABLATIONS

    return tuple(ABLATIONS)


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
    if ablation.scenes is not None:
        refuse(
            options,
            "data manifest data-root val-manifest",
            f"has no effect on recipe {ablation.name}, which renders its data",
        )
    elif options.manifest is None:
        refuse(options, "data-root", "has no effect without --manifest")
    if options.tables:
        ablation = ablation.only(options.tables)
    if options.seed:
        ablation = replace(ablation, seeds=tuple(options.seed))
    threads = options.threads or max(1, len(os.sched_getaffinity(0)) // options.jobs)
    setup = Setup(
        options.out, options.data, tuple(options.manifest or ()), options.data_root,
        options.teacher, options.device, threads, options.workers, tuple(options.val_manifest or ()),
    )  # fmt: skip
    outcome = run(ablation, setup, options.jobs, lambda line: print(line, flush=True))
    results = Results.read(ablation, setup, outcome, shlex.join(["spectradino", *options.words]))
    write_tables(results, options.out)
    print((options.out / "tables.md").read_text(encoding="utf-8"))
    print(f"{options.out / 'report.html'}: the same tables with plots")
    if outcome.failed:
        reasons = "; ".join(f"{key}: {reason}" for key, reason in outcome.failed.items())
        raise ValueError(
            f"{len(outcome.failed)} jobs failed and {len(outcome.skipped)} that depend on them were skipped: {reasons}"
        )
    return 0
