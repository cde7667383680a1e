"""Inputs and outputs of an ONNX Runtime session in fixed memory of its device.

`InferenceSession.run` allocates and copies all of them anew at each frame. Fixed addresses are also what a CUDA graph
needs, which replays what it captured on the very memory that it was captured with. A GPU's inputs pass through
page-locked host memory, which it reads by itself: of other memory the driver makes a page-locked copy first, piece by
piece, at each frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from spectradino_core.runtime.gpu import page_locked

__all__ = ["BoundSession"]

_TYPES = {"tensor(float)": np.float32, "tensor(uint8)": np.uint8, "tensor(int32)": np.int32, "tensor(int64)": np.int64}


class BoundSession:
    """A session of static shapes with its memory. For one thread."""

    def __init__(self, session: Any, device: str = "cuda", gpu_id: int = 0) -> None:
        """
        Args:
            session: of ONNX Runtime; all of its shapes are constant.
            device: "cuda" or "cpu": where the memory is.
            gpu_id: which GPU.

        Raises:
            ValueError: a shape is not constant, or a type is not one of our graphs'.
        """
        import onnxruntime as ort

        def memory(node: Any) -> Any:
            if node.type not in _TYPES or not all(isinstance(side, int) for side in node.shape):
                raise ValueError(f"'{node.name}' is {node.type} {node.shape}: memory can't be set aside for it")
            return ort.OrtValue.ortvalue_from_shape_and_type(node.shape, _TYPES[node.type], device, gpu_id)

        def host_memory(node: Any) -> np.ndarray:
            locked = page_locked(node.shape, _TYPES[node.type], gpu_id) if device == "cuda" else None
            return np.empty(node.shape, _TYPES[node.type]) if locked is None else locked

        self._session = session
        self._binding = session.io_binding()
        self._inputs = {node.name: memory(node) for node in session.get_inputs()}
        self._staged = {node.name: host_memory(node) for node in session.get_inputs()}
        self._outputs = {node.name: memory(node) for node in session.get_outputs()}
        for name, value in self._inputs.items():
            self._binding.bind_ortvalue_input(name, value)
        for name, value in self._outputs.items():
            self._binding.bind_ortvalue_output(name, value)

    def run(self, names: Sequence[str], arrays: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        """One pass. Returns the outputs by name, in memory of their own.

        Args:
            names: of all inputs.
            arrays: as many, of the graph's types and shapes; they may be written again afterwards.

        Raises:
            ValueError: an array is of another type or shape.
        """
        for name, array in zip(names, arrays, strict=True):
            staged = self._staged[name]
            if array.shape != staged.shape or array.dtype != staged.dtype:
                raise ValueError(f"'{name}' is {staged.dtype} {staged.shape}, it was given {array.dtype} {array.shape}")
            staged[...] = array
            self._inputs[name].update_inplace(staged)  # returns once the device holds it
        self._session.run_with_iobinding(self._binding)
        # On the CPU `numpy` may give the bound memory itself, which the next pass writes over.
        return {name: np.array(value.numpy()) for name, value in self._outputs.items()}
