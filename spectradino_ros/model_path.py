"""Which model file is meant by the parameter `model`."""

from __future__ import annotations

from pathlib import Path

from spectradino_core.runtime.bundle import BundleError
from spectradino_ros.shared_files import find_shared

__all__ = ["BOX_MODEL", "resolve_model"]

BOX_MODEL = "lwir_box.onnx"
"""The model in the box, in the package's folder `models`."""


def resolve_model(model: str) -> Path:
    """The model file for a path (`~` is the home folder), or for "": the model in the box.

    Raises:
        BundleError: "" was given and the model in the box is in none of its places, all of which are named.
    """
    if model:
        return Path(model).expanduser()
    try:
        return find_shared(f"models/{BOX_MODEL}")
    except FileNotFoundError as error:
        raise BundleError(
            f"no model in the box: {error}. "
            "Install the package with its models, or set the parameter 'model' to a model file"
        ) from None
