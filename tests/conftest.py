"""Fixtures of all tests: the repository, the shared data set, and an isolated ROS environment."""

from __future__ import annotations

import atexit
import gc
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import watchdog
from tests.domains import own_domain
from tests.examples import try_fewer

REPOSITORY = Path(__file__).resolve().parent.parent

# Before anything imports rclpy, and inherited by the processes that tests start. `make test` sets the same.
os.environ.setdefault("FASTRTPS_DEFAULT_PROFILES_FILE", str(REPOSITORY / "config/fastdds_large_images.xml"))
os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
# No test writes into the user's own cache of engines.
os.environ["SPECTRADINO_CACHE"] = tempfile.mkdtemp(prefix="spectradino-cache-")
atexit.register(shutil.rmtree, os.environ["SPECTRADINO_CACHE"], ignore_errors=True)
# Without a sourced ROS distribution the environment itself is where packages are looked up.
os.environ.setdefault("AMENT_PREFIX_PATH", sys.prefix)


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("markexpr") == "not slow":  # as in `make test-fast`
        try_fewer()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Order the files for parallel workers: long ones first, so that no worker is left with one while the others idle.

    ROS tests mostly wait and the others mostly compute: files of both are spread over the run by their weight.
    """
    files: dict[Path, list[pytest.Item]] = {}
    for item in items:
        files.setdefault(item.path, []).append(item)
    weights = {path: sum(_weight(item) for item in found) for path, found in files.items()}
    place: dict[Path, float] = {}
    for waits in (True, False):
        kind = [path for path in files if (path.parent.name == "ros") is waits]
        kind.sort(key=weights.__getitem__, reverse=True)
        total, before = sum(weights[path] for path in kind), 0.0
        for path in kind:
            place[path] = (before + 0.5 * waits * weights[path]) / total
            before += weights[path]
    items[:] = [item for path in sorted(files, key=place.__getitem__) for item in files[path]]


def pytest_collection_finish() -> None:
    """Exempt modules and test items from garbage collection, which takes a tenth of the tests' time, and delay it."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 10, 20)


def _weight(item: pytest.Item) -> float:
    """Rough duration in seconds."""
    return 3.0 if item.get_closest_marker("slow") else 0.1


@pytest.fixture(scope="session")
def repository() -> Path:
    """Root of the working tree."""
    return REPOSITORY


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real image pairs: $SPECTRADINO_DATA, or `../shared/data` beside the repository."""
    folder = Path(os.environ.get("SPECTRADINO_DATA") or REPOSITORY.parent / "shared/data")
    if not folder.is_dir():
        pytest.skip(f"no data at {folder}: set SPECTRADINO_DATA to the folder that holds roadscene_rgb_lwir")
    return folder


@pytest.fixture
def ros_domain(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """ROS domain id that nobody on this machine uses now, also set in the environment."""
    pytest.importorskip("domain_coordinator", reason="no ROS in this environment")
    with own_domain() as domain:
        monkeypatch.setenv("ROS_DOMAIN_ID", str(domain))
        watchdog.start()
        yield int(domain)
