"""Scores and engine time of a checkpoint by input size, to choose the size of an export.

    python -m benchmarks.input_sizes --model models/lwir_box.safetensors --input-size 392x308 504x392 560x434 644x504 \\
        --data path/to/data/msrs_rgb_lwir path/to/data/roadscene_rgb_lwir --device cpu openvino

Writes results/input_sizes_<model>.csv with a row for each size: mAP50 of each val split, with all streams that its
images have, on the first device; and the engine's median time on each device, measured in turns.
"""

from __future__ import annotations

import math
import tempfile
from pathlib import Path
from statistics import median

from benchmarks.experiment import parser_of, run_main, show
from spectradino_core.bench.machine import describe
from spectradino_core.bench.tables import markdown, write_table
from spectradino_core.commands.shared_options import parse_size
from spectradino_core.data.scene_sets import ScenePairs
from spectradino_core.evaluation.scorer import score_samples
from spectradino_core.evaluation.sets import FolderSet, LabelledSet
from spectradino_core.export.onnx_model import export
from spectradino_core.files import check_folder
from spectradino_core.models.perception_checkpoint import load_perception
from spectradino_core.options import COUNT
from spectradino_core.runtime.bundle import ModelInfo
from spectradino_core.runtime.engine import Engine, warm_up
from spectradino_core.runtime.engines import DEVICES, open_engine
from spectradino_core.runtime.pipeline import Pipeline


def sets_of(folders: list[Path], scenes: int | None, info: ModelInfo) -> dict[str, LabelledSet]:
    """Open the labelled sets by name.

    Raises:
        ValueError: two sets have one name, or the model detects nothing.
    """
    if not info.box_classes and (folders or scenes):
        raise ValueError(f"model {info.name} has no box classes: omit --data and --scenes to measure the time alone")
    sets: dict[str, LabelledSet] = {"scenes": ScenePairs.held_out("report", scenes, info.infrared)} if scenes else {}
    for folder in folders:
        name = folder.resolve().name
        if name in sets:
            raise ValueError(f"two sets are called {name}, the name of their columns: rename {folder}")
        sets[name] = FolderSet(folder, "val", info.infrared, info.box_classes, info.mask_classes)
    return sets


def timed(engines: dict[tuple[str, str], Engine], rounds: int) -> dict[tuple[str, str], float]:
    """Return the median milliseconds of each engine, interleaved, after a warm-up round."""
    times: dict[tuple[str, str], list[float]] = {case: [] for case in engines}
    for count in range(rounds + 1):
        for case, engine in engines.items():
            elapsed_ms = warm_up(engine)
            if count:
                times[case].append(elapsed_ms)
    return {case: median(found) for case, found in times.items()}


def main(arguments: list[str] | None = None) -> int:
    parser = parser_of("input_sizes", __doc__)
    parser.add_argument("--model", required=True, type=Path, help="checkpoint (.safetensors)")
    parser.add_argument("--input-size", required=True, nargs="+", metavar="WxH", help="sizes, multiples of the patch")
    parser.add_argument("--data", nargs="*", default=[], type=Path, help="folders with an index_val.json")
    parser.add_argument("--scenes", type=COUNT, help="also score this number of rendered scenes")
    parser.add_argument("--device", nargs="+", default=["cpu"], choices=DEVICES, help="default: cpu")
    parser.add_argument("--threads", type=COUNT, default=2, help="default: %(default)s")
    parser.add_argument("--rounds", type=COUNT, default=20, help="timed passes (default: %(default)s)")
    options = parser.parse_args(arguments)

    check_folder(options.out)
    model, info = load_perception(options.model)
    sizes = dict.fromkeys(parse_size(text, model.architecture.vit.patch) for text in options.input_size)
    sets = sets_of(options.data, options.scenes, info)
    rows: list[dict[str, object]] = []
    by_class: list[dict[str, object]] = []
    engines: dict[tuple[str, str], Engine] = {}
    with tempfile.TemporaryDirectory() as folder:
        for size in sizes:
            text = f"{size[0]}x{size[1]}"
            path = Path(folder) / f"{text}.onnx"
            export(model, info.with_(input_size=size), path, list(ScenePairs.held_out("report", 2, info.infrared)))
            engines |= {
                (text, name): open_engine(path, device=name, threads=options.threads) for name in options.device
            }
            row: dict[str, object] = {"input": text}
            classes: dict[str, object] = {}
            for name, labelled in sets.items():
                scores = score_samples(Pipeline(engines[text, options.device[0]], smoothing=None), labelled.samples())
                if math.isnan(scores["map50"]):
                    raise ValueError(f"{name} labels no boxes of {', '.join(info.box_classes)}: omit it")
                row[f"{name}_map50"] = 100 * scores["map50"]
                classes |= {f"{name}_{label}": 100 * value for label, value in scores["ap50"].items()}
            show(row | classes)
            rows.append(row)
            by_class.append(classes)
        times = timed(engines, options.rounds)
    for row in rows:
        row |= {f"{device}_ms": times[str(row["input"]), device] for device in options.device}
    path = options.out / f"input_sizes_{options.model.stem}.csv"
    facts = {"model": info.name, "threads": str(options.threads), "rounds": str(options.rounds)}
    facts |= {"scenes": str(options.scenes)} if options.scenes else {}
    facts |= {f"engine of {device}": engines[text, device].label for device in options.device}
    write_table(path, describe() | facts, [row | classes for row, classes in zip(rows, by_class, strict=True)])
    print(markdown(rows))
    print(path)
    return 0


if __name__ == "__main__":
    run_main(main)
