"""Each library's way to write a file of 1 MiB, atomically: `python -m tests.core.training.run_savers FOLDER`.

Prints the error of each, then the content of the previous file and the names in the folder.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from spectradino_core.files import written_atomically

SAVERS: dict[str, Callable[[Path], object]] = {
    "safetensors": lambda scratch: save_file({"a": torch.zeros(1 << 18)}, scratch),
    "torch": lambda scratch: torch.save({"a": torch.zeros(1 << 18)}, scratch),
    "numpy": lambda scratch: np.save(scratch.open("wb"), np.zeros(1 << 18)),
    "text": lambda scratch: scratch.write_text("x" * (1 << 20)),
}


def main() -> None:
    path = Path(sys.argv[1]) / "result.bin"
    for save in SAVERS.values():
        path.write_text("before")
        try:
            with written_atomically(path, 1 << 20) as scratch:
                save(scratch)
        except OSError as error:
            print(error.errno, error.strerror)
        print(path.read_text(), *(file.name for file in path.parent.iterdir()))


if __name__ == "__main__":
    main()
