"""Where the files that come with the package lie: in a ROS workspace, in a pip installation, in a source checkout."""

from __future__ import annotations

import sys
from pathlib import Path

__all__ = ["candidates", "find_shared"]

_PACKAGE = "spectradino_ros"


def candidates(relative: str) -> list[Path]:
    """All places where a file of the package, such as "config/lwir_detector.yaml", may lie, in the order of trial."""
    folders = []
    try:
        from ament_index_python.packages import get_package_share_directory

        folders.append(Path(get_package_share_directory(_PACKAGE)))
    except (ImportError, LookupError, OSError):
        pass  # no ROS environment is sourced here, or none with this package in it
    folders += [Path(sys.prefix) / "share" / _PACKAGE, Path(__file__).resolve().parents[1]]
    return list(dict.fromkeys(folder / relative for folder in folders))


def find_shared(relative: str) -> Path:
    """The first of the `candidates` that exists.

    Raises:
        FileNotFoundError: none does; all are named.
    """
    places = candidates(relative)
    for place in places:
        if place.is_file():
            return place
    raise FileNotFoundError(f"{relative} of {_PACKAGE} is in none of its places: {', '.join(map(str, places))}")
