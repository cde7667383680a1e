"""Average the weights of checkpoints of one architecture, such as a model and what was fine-tuned from it.

    python -m benchmarks.average_weights start.safetensors runs/box_third/model.safetensors --out mean.safetensors

The mean of a start model and its fine-tuned successor often generalises better than either (Wortsman et al., Robust
fine-tuning of zero-shot models, CVPR 2022). Metadata are those of the last file; its provenance lists all of them.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from spectradino_core.models.perception_checkpoint import load_perception, save_perception


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", type=Path, help="checkpoints (.safetensors) of one architecture")
    parser.add_argument("--out", required=True, type=Path, help="checkpoint to write")
    arguments = parser.parse_args(argv)
    if arguments.out.exists():
        parser.error(f"--out {arguments.out} exists: give a new file, or remove it")
    if len(arguments.models) < 2:
        parser.error(f"{arguments.models[0]} alone has no mean: give two checkpoints or more")
    loaded = [load_perception(path) for path in arguments.models]
    model, info = loaded[-1]
    for path, (other, described) in zip(arguments.models, loaded, strict=True):
        classes = (described.box_classes, described.mask_classes)
        if other.architecture != model.architecture or classes != (info.box_classes, info.mask_classes):
            parser.error(f"{path} has another architecture or other classes than {arguments.models[-1]}")
    states = [other.state_dict() for other, _ in loaded]
    model.load_state_dict({
        name: torch.stack([state[name].double() for state in states]).mean(0).to(value.dtype)
        for name, value in states[-1].items()
    })  # fmt: skip
    averaged = {"averaged": [described.provenance for _, described in loaded]}
    save_perception(arguments.out, model, info.with_(provenance=info.provenance | averaged))
    print(f"{arguments.out}: mean of {len(loaded)} models")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
