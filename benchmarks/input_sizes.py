"""Scores and engine time of a checkpoint by input size, to choose the size of an export.

    python -m benchmarks.input_sizes --model models/lwir_box.safetensors --input-size 392x308 504x392 560x434 644x504 \\
        --data path/to/data/msrs_rgb_lwir path/to/data/roadscene_rgb_lwir --device cpu openvino

Writes results/input_sizes_<model>.csv: a row for each size, with the fused mAP50 of each val split, and the engine time
on each device, measured in turns.
"""

from __future__ import annotations

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
from spectradino_core.models.perception_checkpoint import load_perception
from spectradino_core.options import COUNT
from spectradino_core.runtime.engine import Engine, warm_up
from spectradino_core.runtime.engines import DEVICES, open_engine
from spectradino_core.runtime.pipeline import Pipeline


def timed(engines: dict[tuple[str, str], Engine], rounds: int) -> dict[tuple[str, str], float]:
    """Return the median milliseconds of each engine; all run in turns, and first once to allocate memory."""
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

    model, info = load_perception(options.model)
    sizes = {text: parse_size(text, model.architecture.vit.patch) for text in options.input_size}
    sets: dict[str, LabelledSet] = {
        f.name: FolderSet(f, "val", info.infrared, info.box_classes, info.mask_classes) for f in options.data
    }
    if options.scenes:
        sets["scenes"] = ScenePairs.held_out("report", options.scenes, info.infrared)
    rows: list[dict[str, object]] = []
    engines: dict[tuple[str, str], Engine] = {}
    with tempfile.TemporaryDirectory() as folder:
        for text, size in sizes.items():
            path = Path(folder) / f"{text}.onnx"
            export(model, info.with_(input_size=size), path, list(ScenePairs.held_out("report", 2, info.infrared)))
            engines |= {
                (text, name): open_engine(path, device=name, threads=options.threads) for name in options.device
            }
            row: dict[str, object] = {"input": text}
            for name, labelled in sets.items():
                scores = score_samples(Pipeline(engines[text, options.device[0]], smoothing=None), labelled.samples())
                row[name] = 100 * scores["map50"]
                row |= {f"{name} {label}": 100 * value for label, value in scores["ap50"].items()}
            show(row)
            rows.append(row)
        times = timed(engines, options.rounds)
    for row in rows:
        row |= {f"{device} ms": times[str(row["input"]), device] for device in options.device}
    path = options.out / f"input_sizes_{options.model.stem}.csv"
    facts = {"threads": str(options.threads), "rounds": str(options.rounds), "scenes": str(options.scenes)}
    write_table(path, describe() | facts, rows)
    print(
        markdown(
            [{key: value for key, value in row.items() if key.count(" ") == 0 or key.endswith("ms")} for row in rows]
        )
    )
    print(path)
    return 0


if __name__ == "__main__":
    run_main(main)
