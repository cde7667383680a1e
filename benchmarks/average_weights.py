"""Average the weights of checkpoints of one architecture, such as a model and what was fine-tuned from it.

    python -m benchmarks.average_weights start.safetensors runs/box_third/model.safetensors --out mean.safetensors

The mean of a start model and its fine-tuned successor often generalises better than either (Wortsman et al., Robust
fine-tuning of zero-shot models, CVPR 2022). Metadata are those of the last file; its provenance lists all of them.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch

from benchmarks.experiment import run_main
from spectradino_core.models.perception import Perception
from spectradino_core.models.perception_checkpoint import load_perception, save_perception
from spectradino_core.options import claim_file
from spectradino_core.runtime.bundle import ModelInfo


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", type=Path, help="checkpoints (.safetensors) of one architecture")
    parser.add_argument("--out", required=True, type=Path, help="checkpoint to write")
    parser.add_argument("--overwrite", action="store_true", help="replace what --out already holds")
    arguments = parser.parse_args(argv)
    claim_file(arguments.out, (".safetensors",), arguments.overwrite)
    if len(arguments.models) < 2:
        parser.error(f"{arguments.models[0]} alone has no mean: give two checkpoints or more")
    loaded = [load_perception(path) for path in arguments.models]
    model, info = loaded[-1]
    settings = _settings(model, info)
    for path, (other, described) in zip(arguments.models, loaded, strict=True):
        for name, value in _settings(other, described).items():
            if value != settings[name]:
                raise ValueError(
                    f"{path} and {arguments.models[-1]} differ in {name}: {value} and {settings[name]}. Give models of "
                    "one architecture and the same classes"
                )
    states = [other.state_dict() for other, _ in loaded]
    model.load_state_dict({
        name: torch.stack([state[name].double() for state in states]).mean(0).to(value.dtype)
        for name, value in states[-1].items()
    })  # fmt: skip
    averaged = {"averaged": [described.provenance for _, described in loaded]}
    save_perception(arguments.out, model, info.with_(provenance=info.provenance | averaged))
    print(f"{arguments.out}: mean of {len(loaded)} models")
    return 0


def _settings(model: Perception, info: ModelInfo) -> dict[str, Any]:
    """Return what models must have in common, by name."""
    return {**model.architecture.to_dict(), "box_classes": info.box_classes, "mask_classes": info.mask_classes}


if __name__ == "__main__":
    run_main(main)
