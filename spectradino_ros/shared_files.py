"""Location of the package's files: in a source checkout, a ROS workspace or a pip installation."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

from spectradino_core.runtime.bundle import BundleError
from spectradino_core.text import one_line

_PACKAGE = "spectradino_ros"
_DEFAULT_BAND = "lwir"
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


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
    """Return the path of the model file to serve.

    Args:
        model: a path, with `~` for the home folder; the name of a bundled model, such as "lwir_box_large"; "": the
            bundled one for `band`.
        band: "" for LWIR.

    Raises:
        BundleError: no bundled model has this name, or `model` can't be a path.
    """
    if model and (not _NAME.fullmatch(model) or Path(model).is_file()):
        try:
            return Path(os.path.expanduser(model))
        except ValueError as error:
            raise BundleError(f"{one_line(model)} can't be the path of a model file: {error}") from None
    name = model or f"{band or _DEFAULT_BAND}_box"
    try:
        return find_shared(f"models/{name}.onnx")
    except FileNotFoundError as error:
        known = f" Available: {', '.join(names)}." if (names := _bundled_models()) else ""
        raise BundleError(
            f"no bundled model {name!r}: {error}.{known} "
            "Install the package with its models, or give a model file (.onnx; parameter or launch argument 'model')"
        ) from None


def _bundled_models() -> list[str]:
    """Return the names of installed models, without companions such as lwir_box.reuse.onnx."""
    names: set[str] = set()
    for folder in candidates("models"):
        try:
            names |= {path.stem for path in folder.glob("*.onnx") if _NAME.fullmatch(path.stem)}
        except OSError:
            continue  # a folder that can't be read
    return sorted(names)
