"""Engines: what runs the network. Arrays in, dense predictions out; nothing here knows of images or of ROS.

An engine is opened from a file by `open_engine`: an ONNX model file runs in ONNX Runtime (CPU, CUDA or TensorRT, chosen
by `device` and said aloud), a training checkpoint runs in torch, which is imported only then.

Letters: H x W the network's input, A anchors (cells of all levels), C box classes.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any, Protocol

import numpy as np

from spectradino_core.runtime.bundle import METADATA_KEY, BundleError, ModelInfo

__all__ = [
    "DEVICES",
    "Engine",
    "EngineError",
    "OnnxEngine",
    "RawPredictions",
    "open_engine",
    "raw_predictions",
    "warm_up",
]

log = logging.getLogger(__name__)

DEVICES = ("auto", "cpu", "cuda", "tensorrt")

_PROVIDERS = {
    "cpu": ("CPUExecutionProvider",),
    "cuda": ("CUDAExecutionProvider", "CPUExecutionProvider"),
    "tensorrt": ("TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"),
}

RawPredictions = tuple[np.ndarray, np.ndarray, "np.ndarray | None"]
"""boxes float32 [A, 4] in network pixels, scores float32 [A, C] in 0..1, mask uint8 [H, W] or None.

A model without a detection head has A = C = 0."""


class EngineError(RuntimeError):
    """The engine can't be built or has failed; the message names device, file and remedy."""


class Engine(Protocol):
    """What the pipeline asks of an engine."""

    info: ModelInfo

    @property
    def label(self) -> str:
        """Runtime and device in words, for logs and diagnostics."""
        ...

    def run(self, rgb: np.ndarray, infrared: np.ndarray, present: np.ndarray) -> RawPredictions:
        """One forward pass.

        Args:
            rgb: float32 [1, 3, H, W], normalised; zeros where the stream is absent.
            infrared: float32 [1, 1, H, W] in [0, 1]; zeros where the stream is absent.
            present: float32 [2], 1 where the stream (rgb, infrared) is there, else 0.
        """
        ...


def open_engine(path: str | Path, device: str = "auto", threads: int = 0) -> Engine:
    """Opens a model file (`.onnx`) or a checkpoint (`.safetensors`).

    Args:
        path: the file.
        device: one of `DEVICES`; "auto" takes the best that is there.
        threads: CPU threads of the engine; 0 leaves it to the runtime.

    Raises:
        BundleError: the file is missing, damaged or not a SpectraDINO model.
        EngineError: the device asked for is not to be had.
    """
    path = Path(path)
    if device not in DEVICES:
        raise EngineError(f"unknown device {device!r}: choose one of {', '.join(DEVICES)}")
    if not path.is_file():
        raise BundleError(f"model file {path} does not exist: check the parameter 'model'")
    if path.suffix == ".safetensors":
        from spectradino_core.torch_engine import TorchEngine

        return TorchEngine(path, device=device, threads=threads)
    return OnnxEngine(path, device=device, threads=threads)


def warm_up(engine: Engine) -> float:
    """One pass over empty input, which also shows that the engine works. Returns its milliseconds.

    Raises:
        EngineError: it does not.
    """
    width, height = engine.info.input_size
    blank = np.zeros((1, 3, height, width), np.float32)
    start = perf_counter()
    engine.run(blank, blank[:, :1].copy(), np.ones(2, np.float32))
    return (perf_counter() - start) * 1e3


class OnnxEngine:
    """An exported model in ONNX Runtime."""

    def __init__(self, path: str | Path, device: str = "auto", threads: int = 0) -> None:
        try:
            import onnxruntime as ort
        except ImportError as error:
            raise EngineError(
                f"ONNX Runtime is not installed ({error}): pip install onnxruntime, or onnxruntime-gpu for CUDA and "
                "TensorRT"
            ) from None
        path = Path(path)
        providers = _choose_providers(device, ort.get_available_providers())
        options = ort.SessionOptions()
        options.log_severity_level = 3  # ONNX Runtime's warnings on stderr are not for users; errors raise
        if threads:
            options.intra_op_num_threads = threads
        # The worker has nothing else to do while it waits for a frame: threads that spin would burn a core for nothing.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            session = ort.InferenceSession(str(path), sess_options=options, providers=list(providers))
        except Exception as error:  # ONNX Runtime raises types of its own that share no base class
            raise BundleError(
                f"{path} is not a readable ONNX model (truncated or damaged?): {_first_line(error)}"
            ) from None
        metadata = session.get_modelmeta().custom_metadata_map
        if METADATA_KEY not in metadata:
            raise BundleError(f"{path} is an ONNX model but not a SpectraDINO one: make it with 'spectradino export'")
        self.info = ModelInfo.from_json(metadata[METADATA_KEY], path)
        self._check_signature(session, path)
        used = session.get_providers()
        if device not in ("auto", "cpu") and used[0] != providers[0]:
            raise EngineError(
                f"device '{device}' was asked for but ONNX Runtime fell back to {used[0]}: check the GPU driver and "
                "that onnxruntime-gpu fits the installed CUDA; or set device to 'cpu'"
            )
        self._session = session
        self._outputs = [output.name for output in session.get_outputs()]
        self.label = f"ONNX Runtime {ort.__version__} on {used[0].removesuffix('ExecutionProvider')}"
        log.info("%s: %s, input %dx%d", path.name, self.label, *self.info.input_size)

    def _check_signature(self, session: Any, path: Path) -> None:
        width, height = self.info.input_size
        wanted = {"rgb": [1, 3, height, width], "ir": [1, 1, height, width], "present": [2]}
        found = {node.name: node.shape for node in session.get_inputs()}
        if found != wanted:
            raise BundleError(f"{path}: its graph takes {found}, its description says {wanted}; export the model again")

    def run(self, rgb: np.ndarray, infrared: np.ndarray, present: np.ndarray) -> RawPredictions:
        try:
            results = dict(
                zip(
                    self._outputs,
                    self._session.run(None, {"rgb": rgb, "ir": infrared, "present": present}),
                    strict=True,
                )
            )
        except Exception as error:
            raise EngineError(f"{self.label} failed on a frame: {_first_line(error)}") from error
        return raw_predictions(results)


def raw_predictions(outputs: Mapping[str, np.ndarray]) -> RawPredictions:
    """A graph's outputs by name as an engine gives them; boxes that the model has no head for are none."""
    if "boxes" not in outputs:
        return np.zeros((0, 4), np.float32), np.zeros((0, 0), np.float32), outputs["mask"]
    return outputs["boxes"], outputs["scores"], outputs.get("mask")


def _choose_providers(device: str, available: Sequence[str]) -> tuple[str, ...]:
    if device == "auto":
        device = "cuda" if "CUDAExecutionProvider" in available else "cpu"
    chosen = _PROVIDERS[device]
    if chosen[0] not in available:
        raise EngineError(
            f"device '{device}' needs ONNX Runtime's {chosen[0]}, this installation offers {', '.join(available)}: "
            "install onnxruntime-gpu in place of onnxruntime, or set device to 'cpu'"
        )
    return tuple(name for name in chosen if name in available)


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
