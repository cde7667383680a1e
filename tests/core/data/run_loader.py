"""Loader in its own process, for tests that would otherwise hang: `python -m tests.core.data.run_loader CASE`.

Prints the sum of each batch, one per line; then "end", or the class and text of the error.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import Dataset

from spectradino_core.data.loading import Loader


@dataclass
class Batch:
    """Like real batches: tensors in a dict and in a list, with names."""

    images: dict[str, Tensor]
    boxes: list[Tensor | None]
    names: list[str]


class Data(Dataset):
    """Batches of about 4 MB; in some cases the third does not come."""

    def __init__(self, case: str) -> None:
        self.case = case

    def __len__(self) -> int:
        return 5

    def __getitem__(self, index: int) -> Batch:
        if index == 2 and self.case == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if index == 2 and self.case == "silent":
            time.sleep(600)
        if index == 2 and self.case == "faulty":
            raise ValueError("the third is damaged")
        image = torch.full((1 << 20,), float(index))
        return Batch({"rgb": image, "ir": image[:100].clone()}, [None, torch.tensor([index])], [f"item {index}"])


def no_room(_: Tensor) -> Tensor:
    raise RuntimeError("unable to allocate shared memory(shm) for file </torch_1_2_3>: No space left on device (28)")


def main() -> None:
    case = sys.argv[1]
    logging.basicConfig(level=logging.WARNING, format="LOG %(message)s", stream=sys.stdout)
    if case == "no room":
        Tensor.share_memory_ = no_room  # workers are forked from here
    loader: Loader[Batch] = Loader(Data(case), workers=2, timeout_s=3 if case == "silent" else 300)
    try:
        for batch in loader:
            total = sum(float(image.double().mean()) for image in batch.images.values())
            print(f"{batch.names[0]}: {total:g} {batch.boxes[1].item()} {batch.boxes[0]}", flush=True)
    except Exception as error:
        print(f"{type(error).__name__}: {error}")
    else:
        print("end")


if __name__ == "__main__":
    main()
