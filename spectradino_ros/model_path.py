"""Which model file is meant by the parameters `model` and `infrared_band`."""

from __future__ import annotations

import os
from pathlib import Path

from spectradino_core.runtime.bundle import BundleError
from spectradino_ros.shared_files import find_shared

__all__ = ["box_model", "resolve_model"]

_DEFAULT_BAND = "lwir"


def box_model(band: str = "") -> str:
    """Name of the model in the box for an infrared band ("": long-wave), in the package's folder `models`."""
    return f"{band or _DEFAULT_BAND}_box.onnx"


def resolve_model(model: str, band: str = "") -> Path:
    """The model file for a path (`~` is the home folder), or for "": the model in the box for the band.

    Raises:
        BundleError: "" was given and the model in the box is in none of its places, all of which are named.
    """
    if model:
        return Path(os.path.expanduser(model))
    try:
        return find_shared(f"models/{box_model(band)}")
    except FileNotFoundError as error:
        raise BundleError(
            f"no model in the box for {(band or _DEFAULT_BAND).upper()}: {error}. "
            "Install the package with its models, or give a model file (parameter or launch argument 'model')"
        ) from None
