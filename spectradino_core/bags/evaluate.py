"""Evaluate bags with parallel jobs or a cluster, and write one result.

Output folder: `result.json` (the same bytes at every repetition on one machine), `timings.json`, `report.html`, with a
sweep `sweeps.csv`, and below `bags/` one folder per bag (see `node_run.py`). Finished work is not repeated as long as
bag, labels, model, parameters and version are the same.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from spectradino_core.bags import BagError
from spectradino_core.bags.evaluation_options import Options, Unit, pipeline_of, without_path, work_key
from spectradino_core.bags.ground_truth_coco import mask_files
from spectradino_core.bags.node_run import run_node
from spectradino_core.bags.reader import BagReader
from spectradino_core.bags.results import BagEvidence, json_bytes, result, sweep_table, timings
from spectradino_core.bags.storage import DATA_FILE
from spectradino_core.bags.sweep_run import NODE, run_sweep, sweep_runs
from spectradino_core.files import file_digest, make_folder, read_text, write_file
from spectradino_core.jobs import run_jobs

log = logging.getLogger(__name__)

_NUMBERED = re.compile(r"^(.*)_\d+\.(mcap|db3)(\.zstd)?$")


def find_bags(paths: Sequence[str | Path]) -> dict[str, Path]:
    """Find bags and give each a unique name for reports, in order of the names.

    A name is the bag's own, preceded by as many parent folders as make it unique; with its suffix if two bags of one
    folder differ in nothing else.

    Args:
        paths: bags, folders of bags, or text files (`.txt`) with one path per line, relative to the text file.

    Raises:
        BagError: a path is none of these, or a bag is given twice.
    """
    found = [bag for path in paths for bag in _bags_at(Path(path))]
    resolved = [path.resolve() for path in found]
    for path, real in zip(found, resolved):
        if resolved.count(real) > 1:
            raise BagError(f"{path} is given twice and would count twice: remove one")
    return dict(sorted(zip(_names(resolved), found), key=lambda row: row[0]))


def evaluate_bags(
    bags: Mapping[str, Path],
    options: Options,
    out: Path,
    jobs: int = 1,
    engine: str = "processes",
    fresh: bool = False,
    report: Callable[[str], None] | None = None,
) -> tuple[dict[str, Any], list[BagEvidence]]:
    """Score bags and write results, timings and sweep table, see the module docstring; `report.py` writes the report.

    Args:
        bags: by name, see `find_bags`.
        options: what to evaluate.
        out: output folder.
        jobs, engine: number of parallel replays, and "processes" or "ray".
        fresh: repeat finished work.
        report: called with a line as each replay ends; None: the log.

    Returns:
        Content of `result.json`, including the "failed" bags; and the files of the other bags.

    Raises:
        BundleError, EngineError, ThermalError, ParameterError, RegistrationError: invalid model or parameters.
        BagError: a sweep is requested, and a bag has no ground truth.
    """
    report = report or log.info
    info = pipeline_of(options).info  # an invalid model fails here, once
    if options.sweeps:
        _check_truth(bags, options)
    runs = [NODE, *sweep_runs(options.sweeps)]
    model = file_digest(options.model)
    todo: dict[str, tuple[Unit, str]] = {}
    errors: dict[str, str] = {}
    units: dict[str, list[Unit]] = {}
    folders = _folders(bags)
    for name, path in bags.items():
        folder = out / "bags" / folders[name]
        make_folder(folder)
        units[name] = [Unit(path, name, folder, run, options, progress=jobs == 1) for run in runs]
        try:
            content = [_bag_digest(path), _labels_digest(name, options)]
        except (OSError, ValueError) as error:
            errors[name] = without_path(str(error), path, name)
            continue
        for unit in units[name]:
            key = work_key(content, model, _relevant_options(unit))
            if fresh or not unit.is_finished(key):
                unit.unfinish()
                todo[f"{name}: {unit.run}"] = (unit, key)
    done = sum(map(len, units.values())) - len(todo)
    if done and not errors:
        report(f"{done} of {done + len(todo)} replays are finished already (--overwrite repeats them)")

    def ended(job: str, error: str | None) -> None:
        unit = todo[job][0]
        report(f"{job}: {'done' if error is None else without_path(error, unit.bag, unit.name)}")

    failed = run_jobs(do_unit, todo, jobs, engine, ended)
    for job, reason in failed.items():
        unit = todo[job][0]
        text = without_path(reason, unit.bag, unit.name)
        errors.setdefault(unit.name, text if unit.run == NODE else f"{unit.run}: {text}")
    evidence = [BagEvidence(name, units[name][0].folder) for name in bags if name not in errors]
    found = result(evidence, errors, info, options, alone=len(bags) == 1)
    files = {"result.json": json_bytes(found)}
    files["timings.json"] = json_bytes(timings(evidence, options.settings.threads, jobs))
    if found["sweeps"]:
        files["sweeps.csv"] = sweep_table(found["sweeps"]).encode()
    for file, data in files.items():
        write_file(out / file, data)
    return found, evidence


def _check_truth(bags: Mapping[str, Path], options: Options) -> None:
    """Refuse a sweep of bags without labels; unreadable bags fail later on their own."""
    for name, path in () if options.labels else bags.items():
        try:
            with BagReader(path, cameras=False) as reader:
                labels = options.labels.recorded_in(reader.topics)
        except BagError:
            continue
        if not labels:
            raise BagError(f"a sweep needs ground truth to score, and {name} has none: give --labels or --label-topic")


def do_unit(work: tuple[Unit, str]) -> None:
    """Run one unit in the current process. Raises what `run_node` raises."""
    import cv2

    unit, key = work
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)  # the machine is divided by jobs, not by threads
    try:
        (run_node if unit.run == NODE else run_sweep)(unit)
    finally:
        cv2.setNumThreads(threads)
    unit.finish(key)


def _names(paths: Sequence[Path]) -> list[str]:
    names: list[str] = []
    for last in (lambda path: DATA_FILE.sub("", path.name), lambda path: path.name):
        for depth in range(1, 1 + max((len(path.parts) for path in paths), default=1)):
            names = ["/".join((*path.parts[-depth:-1], last(path))) for path in paths]
            if len(set(names)) == len(names):
                return names
    return names


def _folders(names: Iterable[str]) -> dict[str, str]:
    """Return a folder name for each bag; equal names get numbers."""
    folders: dict[str, str] = {}
    for name in names:
        plain = folder = name.replace("/", "__")
        number = 1
        while folder in folders.values():
            number += 1
            folder = f"{plain}~{number}"
        folders[name] = folder
    return folders


def _bags_at(path: Path, listed: bool = False) -> list[Path]:
    if path.suffix == ".txt" and path.is_file():
        if listed:
            raise BagError(f"{path} is a list inside a list of bags: list its bags there directly")
        lines = [line.strip() for line in read_text(path, "list of names").splitlines()]
        wanted = [path.parent / line for line in lines if line and not line.startswith("#")]
        found = [bag for one in wanted for bag in _bags_at(one, listed=True)]
        if not found:
            raise BagError(f"{path} lists no bags: write one path per line")
        return found
    if not path.is_dir() or (path / "metadata.yaml").is_file():
        return [path]  # the reader reports problems
    files = sorted(p for p in path.iterdir() if DATA_FILE.search(p.name))
    parts = {numbered[1] if (numbered := _NUMBERED.match(p.name)) else p.name for p in files}
    below = [p for p in sorted(path.iterdir()) if p.is_dir() and _is_bag(p)]
    if not below and len(parts) <= 1:
        return [path]  # one recording, cut off before its metadata was written; or nothing, which the reader reports
    return [*files, *below]


def _is_bag(folder: Path) -> bool:
    return (folder / "metadata.yaml").is_file() or any(DATA_FILE.search(p.name) for p in folder.iterdir())


def _bag_digest(path: Path) -> list[Any]:
    files = [path] if path.is_file() else sorted(p for p in path.glob("*") if p.is_file())
    wanted = [p for p in files if DATA_FILE.search(p.name) or p.name == "metadata.yaml" or p.name.endswith("-wal")]
    return [[p.name, file_digest(p)] for p in wanted or files]


def _labels_digest(name: str, options: Options) -> list[Any]:
    file = options.labels.file_for(name)
    if file is None:
        return []
    if not file.is_file():
        raise BagError(f"{file} does not exist: --labels takes a COCO JSON file, or a folder of them")
    # Reading the masks would take long; sizes and times suffice.
    return [file_digest(file), [_state(file.parent / mask) for mask in mask_files(file)]]


def _state(path: Path) -> list[int]:
    try:
        found = path.stat()
    except (OSError, ValueError):  # reading the labels names the culprit
        return []
    return [found.st_size, found.st_mtime_ns]


def _relevant_options(unit: Unit) -> dict[str, Any]:
    """Return the options that this run depends on: a sweep added later leaves other runs finished."""
    relevant = unit.options.described()
    sweeps, seed = relevant.pop("sweeps"), relevant.pop("seed")
    relevant["run"] = unit.run
    if unit.run == NODE:
        return relevant | {"worst_frames": unit.options.worst_frames, "masks": unit.options.masks}
    if unit.run in ("rgb_alone", "ir_alone"):  # one replay serves all values of these
        kinds = ("dropout_rgb",) if unit.run == "rgb_alone" else ("offset", "shift")
        relevant["values"] = {kind: sweeps.get(kind, []) for kind in kinds}
    return relevant | {"seed": seed}
