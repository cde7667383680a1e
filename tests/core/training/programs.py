"""Modules run as programs, in processes forked from one that has imported what they need.

Starting Python with torch takes seconds of processor time, many times what a toy run takes.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import runpy
import socket
import subprocess
import sys
from multiprocessing import forkserver
from multiprocessing.connection import wait
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from matplotlib.figure import Figure

from tests.conftest import REPOSITORY
from tests.core.conftest import leave_empty

IMPORTED = [
    "spectradino_core.training.finetune", "spectradino_core.training.pretrain", "tests.core.training.patterns",
    "tests.core.training.programs", "tests.core.training.squares", "matplotlib.backends.backend_agg", "torch._dynamo",
    "torch.distributed.fsdp",
]  # fmt: skip
"""Without these a program gives the same result, only later: they need not follow moves."""
PATIENCE_S = 240
_server_pid: int | None = None


def run_program(
    module: str,
    *arguments: object,
    processes: int = 1,
    drawn: bool = False,
    disk: tuple[str | Path, str] | None = None,
) -> subprocess.CompletedProcess:
    """Run `python -m MODULE ARGUMENTS`, as that many ranks with the environment that torchrun gives.

    Like torchrun, this ends the others once one has failed; the return code is that of the first one that failed.

    Args:
        module: what `python -m` runs.
        arguments: words of its command line.
        processes: number of ranks.
        drawn: whether to draw losses.png, which takes longer than a toy run; otherwise the file is empty.
        disk: folder, and the size of a disk that is mounted there for this program alone; see the fixture `disks`.
    """
    context = multiprocessing.get_context("forkserver")
    _start_server(context)
    words = [str(word) for word in arguments]
    with TemporaryDirectory() as folder:
        outputs = Path(folder)
        port = free_port()
        ranks = []
        for rank in range(processes):
            place = {} if processes == 1 else place_of(rank, processes, port)
            files = (str(outputs / f"{rank}.out"), str(outputs / f"{rank}.err"))
            ranks.append(
                context.Process(target=_run, args=(module, words, dict(os.environ) | place, drawn, disk, *files))
            )
            ranks[-1].start()
        code = _end_of(ranks)
        text = ["".join(path.read_text() for path in sorted(outputs.glob(f"*.{kind}"))) for kind in ("out", "err")]
    return subprocess.CompletedProcess([module, *words], code, *text)


def torchrun(module: str, *arguments: object, processes: int) -> subprocess.CompletedProcess:
    """Do the same by the real launcher, each process with an interpreter of its own."""
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", str(processes), "--master-port", str(free_port())]
    command = [sys.executable, *launcher, "-m", module, *map(str, arguments)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=280)


def _start_server(context: BaseContext) -> None:
    """Start the server, unless it runs; that of another test, `run_jobs(fresh=True)`, has imported other modules."""
    global _server_pid
    server = forkserver._forkserver
    if _server_pid is None or server._forkserver_pid != _server_pid:
        server._stop()
        context.set_forkserver_preload(IMPORTED)
        server.ensure_running()
        _server_pid = server._forkserver_pid


def mount(folder: str | Path, size: str, remount: bool = False) -> None:
    """Mount a disk in memory in the namespace of a program that was started with `disk`, or change its size."""
    flags, options = 32 if remount else 0, f"size={size}".encode()  # MS_REMOUNT
    if ctypes.CDLL(None).mount(b"tmpfs", str(folder).encode(), b"tmpfs", flags, options):
        raise OSError(f"{folder} cannot be a disk of {size}")


def _leave_mounts() -> None:
    """Move this process, which must have one thread, to a user and a mount namespace, as `unshare` does."""
    ids = {"uid_map": os.geteuid(), "gid_map": os.getegid()}
    if ctypes.CDLL(None).unshare(0x10000000 | 0x00020000):  # CLONE_NEWUSER, CLONE_NEWNS
        raise OSError("this machine gives nobody a mount namespace")
    Path("/proc/self/setgroups").write_text("deny")
    for name, number in ids.items():
        Path("/proc/self", name).write_text(f"0 {number} 1")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def place_of(rank: int, processes: int, port: int) -> dict[str, str]:
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }


def _end_of(ranks: list[BaseProcess]) -> int:
    """Wait for all; returns 0, or the return code of the first process that failed."""
    running = list(ranks)
    code = 0
    try:
        while running:
            ended = wait([rank.sentinel for rank in running], PATIENCE_S)
            if not ended:
                raise TimeoutError(f"after {PATIENCE_S} s still running: {running}")
            for rank in [rank for rank in running if rank.sentinel in ended]:
                rank.join()
                running.remove(rank)
                code = code or rank.exitcode or 0
            if code:
                break
    finally:
        for rank in running:
            rank.kill()
            rank.join()
    return code


def _run(
    module: str, words: list[str], environment: dict[str, str], drawn: bool, disk: tuple | None, out: str, err: str
) -> None:
    os.chdir(REPOSITORY)
    os.environ.clear()
    os.environ.update(environment)
    for stream, path in ((sys.stdout, out), (sys.stderr, err)):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(descriptor, stream.fileno())
        os.close(descriptor)
    if disk is not None:
        _leave_mounts()
        mount(*disk)
    torch.set_num_threads(1)
    multiprocessing.set_start_method("fork", force=True)  # of data loaders: the default of an interpreter on Linux
    if not drawn:
        Figure.savefig = leave_empty
    sys.argv = [module, *words]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
