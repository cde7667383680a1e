"""Location of the package's files: in a source checkout, a ROS workspace or a pip installation."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from spectradino_core.runtime.bundle import BundleError

_PACKAGE = "spectradino_ros"
_DEFAULT_BAND = "lwir"


def candidates(relative: str) -> list[Path]:
    """Return the possible paths of a file such as "config/detector.yaml", in search order."""
    # The source checkout takes precedence over an older installation.
    folders = [Path(__file__).resolve().parents[1]]
    try:
        from ament_index_python.packages import get_package_share_directory

        folders.append(Path(get_package_share_directory(_PACKAGE)))
    except (ImportError, LookupError, OSError):
        pass  # no sourced ROS environment with this package
    folders.append(Path(sys.prefix) / "share" / _PACKAGE)
    return list(dict.fromkeys(folder / relative for folder in folders))


def find_shared(relative: str) -> Path:
    """Return the first of the `candidates` that exists.

    Raises:
        FileNotFoundError: none exists; the message lists all.
    """
    paths = candidates(relative)
    for path in paths:
        if path.is_file():
            return path
    raise FileNotFoundError(f"{relative} of {_PACKAGE} does not exist at any of {', '.join(map(str, paths))}")


def resolve_model(model: str, band: str = "") -> Path:
    """Return the path of the model file `model`, with `~` for the home folder; "": the bundled one for `band`, "" LWIR.

    Raises:
        BundleError: the bundled model is not installed; the message lists where it was looked for.
    """
    if model:
        return Path(os.path.expanduser(model))
    band = band or _DEFAULT_BAND
    try:
        return find_shared(f"models/{band}_box.onnx")
    except FileNotFoundError as error:
        raise BundleError(
            f"no bundled model for {band.upper()}: {error}. "
            "Install the package with its models, or give a model file (parameter or launch argument 'model')"
        ) from None
