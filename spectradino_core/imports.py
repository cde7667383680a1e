"""Messages about installed packages that can't be imported, usually because they were built for another NumPy."""

from __future__ import annotations

import traceback
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from spectradino_core.text import one_line

_DISTRIBUTIONS = {"cv2": "opencv-python-headless"}


def import_problem(error: ImportError) -> str:
    """Describe an installed package that raises an ImportError, with the remedy, in one line."""
    files = [Path(frame.filename) for frame in traceback.extract_tb(error.__traceback__)]
    package = next((name for file in reversed(files) if (name := _package(file))), error.name or "a Python package")
    distribution = _DISTRIBUTIONS.get(package, package)
    reason = one_line(" ".join(str(error).split())) or "its compiled part does not load"
    return (
        f"{package} {_version(distribution)} is installed but can't be imported ({reason}), often because it was built "
        f"for another NumPy than {_version('numpy')}: pip install --upgrade {distribution}"
    )


def _package(file: Path) -> str:
    """Return the installed package that a file belongs to; "" for a file of none."""
    for place in ("site-packages", "dist-packages"):
        if place in file.parts:
            return Path(file.parts[file.parts.index(place) + 1]).stem
    return ""


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "(unknown release)"
