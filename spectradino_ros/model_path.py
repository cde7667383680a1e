"""Path of the model file for the parameters `model` and `infrared_band`."""

from __future__ import annotations

import os
from pathlib import Path

from spectradino_core.runtime.bundle import BundleError
from spectradino_ros.shared_files import find_shared

__all__ = ["bundled_model", "resolve_model"]

_DEFAULT_BAND = "lwir"


def bundled_model(band: str = "") -> str:
    """Return the file name of the bundled model for an infrared band, "": LWIR."""
    return f"{band or _DEFAULT_BAND}_box.onnx"


def resolve_model(model: str, band: str = "") -> Path:
    """Return the path of the model file.

    Args:
        model: path, with `~` for the home folder; "": the bundled model.
        band: infrared band of the bundled model, "": LWIR.

    Raises:
        BundleError: the bundled model is not installed; the message lists where it was looked for.
    """
    if model:
        return Path(os.path.expanduser(model))
    try:
        return find_shared(f"models/{bundled_model(band)}")
    except FileNotFoundError as error:
        raise BundleError(
            f"no bundled model for {(band or _DEFAULT_BAND).upper()}: {error}. "
            "Install the package with its models, or give a model file (parameter or launch argument 'model')"
        ) from None
