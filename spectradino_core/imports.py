"""Messages about installed packages that can't be imported: of another release, or built for another NumPy."""

from __future__ import annotations

import traceback
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from pathlib import Path

from spectradino_core.text import one_line


def import_problem(error: ImportError) -> str:
    """Describe an installed package that raises an ImportError, with the remedy, in one line."""
    reason = one_line(" ".join(str(error).split())) or "its compiled part does not load"
    files = [Path(frame.filename) for frame in traceback.extract_tb(error.__traceback__)]
    named = (error.name or "").partition(".")[0]
    if not named or "cannot import name" not in reason:
        named = next((name for file in reversed(files) if (name := _package(file))), named) or "a Python package"
    distribution = next(iter(packages_distributions().get(named, ())), named)
    numpy = f", built for another NumPy than {_version('numpy')}" if "numpy" in reason or not str(error) else ""
    return (
        f"{named} {_version(distribution)} is installed but can't be imported{numpy} ({reason}): upgrade it, as with "
        f"pip install --upgrade {distribution}"
    )


def _package(file: Path) -> str:
    """Return the installed package that a file belongs to; "" for a file of none, or of this project."""
    for place in ("site-packages", "dist-packages"):
        if place in file.parts:
            name = Path(file.parts[file.parts.index(place) + 1]).stem
            return "" if name.startswith("spectradino") else name
    return ""


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "(unknown release)"
