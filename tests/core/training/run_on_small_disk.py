"""A run whose disk is enlarged once it has failed: `python -m tests.core.training.run_on_small_disk FOLDER [options]`.

FOLDER is the disk that `run_program` mounted. Prints the status of both attempts and the checkpoints after the first,
and leaves the log beside the folder.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import sys
from pathlib import Path

from tests.core.training import run_finetune
from tests.core.training.programs import mount


def attempt() -> None:
    """Train in a process of its own, which takes the words of this one."""
    process = multiprocessing.Process(target=lambda: sys.exit(run_finetune.main()))
    process.start()
    process.join()
    print("status", process.exitcode, flush=True)


def main() -> None:
    folder = Path(sys.argv[1])
    attempt()
    print(*os.listdir(folder / "checkpoints"))
    mount(folder, "1g", remount=True)
    attempt()
    shutil.copyfile(folder / "log.jsonl", f"{folder}.jsonl")


if __name__ == "__main__":
    main()
