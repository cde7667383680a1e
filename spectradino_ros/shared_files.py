"""Where the files that come with the package lie: in a source checkout, a ROS workspace or a pip installation."""

from __future__ import annotations

import sys
from pathlib import Path

__all__ = ["candidates", "find_shared"]

_PACKAGE = "spectradino_ros"


def candidates(relative: str) -> list[Path]:
    """All places where a file of the package, such as "config/detector.yaml", may lie, in the order of trial."""
    # Beside the code first: in a source checkout an older installation elsewhere must not win over it.
    folders = [Path(__file__).resolve().parents[1]]
    try:
        from ament_index_python.packages import get_package_share_directory

        folders.append(Path(get_package_share_directory(_PACKAGE)))
    except (ImportError, LookupError, OSError):
        pass  # no ROS environment is sourced here, or none with this package in it
    folders.append(Path(sys.prefix) / "share" / _PACKAGE)
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
