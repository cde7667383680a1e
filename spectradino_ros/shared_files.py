"""Location of the package's files: in a source checkout, a ROS workspace or a pip installation."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from spectradino_core.runtime.bundle import BundleError
from spectradino_core.text import printable

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
    """Return the path of the model file to serve.

    Args:
        model: path, with `~` for the home folder; a name without folder and suffix, such as "lwir_box_large": a bundled
            model; "": the bundled one for `band`.
        band: "" for LWIR.

    Raises:
        BundleError: no bundled model has the name; the message lists the others, and where it was looked for.
    """
    if model and (Path(model).name != model or Path(model).suffix):
        return Path(os.path.expanduser(model))
    name = model or f"{band or _DEFAULT_BAND}_box"
    found = _bundled_models()
    if name in found:
        return found[name]
    paths = ", ".join(map(str, candidates(f"models/{printable(name, 60)}.onnx")))
    others = f" (there are {', '.join(sorted(found))})" if found else ""
    raise BundleError(
        f"no bundled model at any of {paths}{others}. "
        "Install the package with its models, or give a model file (.onnx; parameter or launch argument 'model')"
    )


def _bundled_models() -> dict[str, Path]:
    """Return the model files by name, without companions such as lwir_box.reuse.onnx."""
    files = [path for folder in reversed(candidates("models")) for path in folder.glob("*.onnx")]
    return {path.stem: path for path in files if "." not in path.stem}
