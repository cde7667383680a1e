"""Fixtures shared by tests of the core."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of this test run, the same one in all workers of pytest-xdist; write files there atomically."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "shared"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def traced_once(shared_folder: Path) -> Iterator[None]:
    """Reuse the traced graph where weights, architecture and size are equal; tracing is most of an export's time.

    Everything after it, from the form of the inputs to the parity check, still runs at each export.
    """
    from spectradino_core.export import onnx_model
    from spectradino_core.files import written_atomically

    trace = onnx_model._trace

    def reuse(graph, info, path) -> None:
        facts = (str(graph), graph.streams, info.input_size, info.features, graph.outputs)
        digest = hashlib.sha256(repr(facts).encode())
        digest.update(repr(graph.model.architecture.to_dict()).encode())
        for name, tensor in graph.state_dict().items():
            digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
            digest.update(tensor.detach().contiguous().numpy().tobytes())
        kept = shared_folder / f"{digest.hexdigest()}.onnx"
        if not kept.exists():
            with written_atomically(kept) as scratch:
                trace(graph, info, scratch)
        shutil.copyfile(kept, path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnx_model, "_trace", reuse)
        yield


@pytest.fixture(scope="session")
def disks() -> None:
    """Skip where programs cannot mount disks of their own, as `run_program(disk=...)` does."""
    command = ["unshare", "--user", "--map-root-user", "--mount", "mount", "-t", "tmpfs", "tmpfs", "/dev/shm"]
    if not shutil.which("unshare") or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("this machine lets nobody mount a disk of its own")


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave figures out of report pages: drawing them is most of a small evaluation's time."""
    from spectradino_core.evaluation.page import Page

    monkeypatch.setattr(Page, "figure", lambda page, figure, caption: page.text(caption))


@pytest.fixture
def undrawn_curves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave losses.png and other figures empty: drawing one takes longer than the steps of a toy run."""
    from matplotlib.figure import Figure

    monkeypatch.setattr(Figure, "savefig", leave_empty)


def leave_empty(figure: object, path: Path, **options: object) -> None:
    """Write an empty file in place of a figure."""
    path.write_bytes(b"")
