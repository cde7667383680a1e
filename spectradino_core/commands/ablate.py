"""`spectradino ablate`: Tables 9 to 14 of the paper as one matrix of runs."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from typing import Any

from spectradino_core.commands.shared_options import option
from spectradino_core.options import COUNT, TRAINING_DEVICES, claim_folder, refuse
from spectradino_core.text import counted

_WRITTEN = "tables.md tables.csv report.html table09.png table10.png data pretraining cells teacher"


def add(commands: Any) -> None:
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
    option(command, "--recipe", former="recipe", listed=_recipes, required=True)
    out = " folder; resumed if it exists, refused if another recipe or other data made it"
    option(command, "--out", out, required=True, metavar="DIR")
    option(
        command,
        "--tables",
        "from 9 to 14 (default: all in the recipe)",
        type=COUNT,
        nargs="+",
        metavar="N",
    )
    option(command, "--seed", " or seeds of fine-tuning (default: the recipe's)", former="--seeds", nargs="+")
    data = command.add_argument_group("data of the paper's recipes")
    option(data, "--data", ": where the published data set was extracted to", former="--root")
    option(data, "--manifest", ", for pretraining", former="--pairs", nargs="+")
    base = ", to which the manifests' paths are relative (default: the manifest's own)"
    option(data, "--data-root", base, former="--pairs-root")
    option(data, "--val-manifest", ", which choose Stage I's best backbone (default: its last one)", nargs="+")
    option(data, "--teacher")
    machine = command.add_argument_group("machine")
    option(machine, "--jobs", " (default: %(default)s)", default=1)
    option(machine, "--threads", " per job (default: processors divided by jobs)")
    option(machine, "--workers", " per job (default: %(default)s)", default=0)
    option(machine, "--device", " (default: %(default)s)", default="auto", choices=TRAINING_DEVICES)
    command.set_defaults(run=_run)


def _recipes() -> Sequence[str]:
    from spectradino_core.ablation.recipes import ABLATIONS

    return tuple(ABLATIONS)


def _run(options: argparse.Namespace) -> int:
    import os
    from dataclasses import replace

    from spectradino_core.ablation.layout import Results, write_tables
    from spectradino_core.ablation.recipes import find_ablation
    from spectradino_core.ablation.work import Setup, run

    ablation = find_ablation(options.recipe)
    if ablation.scenes is not None:
        reason = f"has no effect on recipe {ablation.name}, which renders its data"
        refuse(options, "data manifest data-root val-manifest", reason)
    elif options.manifest is None:
        refuse(options, "data-root", "has no effect without --manifest")
    claim_folder(options.out, _WRITTEN, "*/*/job.json", b'"mark"')
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
            f"{counted(len(outcome.failed), 'job')} failed, {len(outcome.skipped)} that depend on failed ones skipped: "
            f"{reasons}"
        )
    return 0
