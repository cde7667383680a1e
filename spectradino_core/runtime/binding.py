"""ONNX Runtime session with inputs and outputs bound to fixed device memory.

`InferenceSession.run` allocates and copies all of them at each frame. A CUDA graph also needs fixed addresses, since it
replays on the memory that it was captured with. A GPU's inputs pass through page-locked host memory, which the GPU
reads directly; the driver would copy other memory to page-locked memory first, at each frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from spectradino_core.runtime.gpu import page_locked

__all__ = ["BoundSession"]

_TYPES = {"tensor(float)": np.float32, "tensor(uint8)": np.uint8, "tensor(int32)": np.int32, "tensor(int64)": np.int64}


class BoundSession:
    """A session with static shapes and its memory. Not thread-safe."""

    def __init__(self, session: Any, device: str = "cuda", gpu_id: int = 0) -> None:
        """
        Args:
            session: of ONNX Runtime, with constant shapes.
            device: "cuda" or "cpu", where the memory is.
            gpu_id: which GPU.

        Raises:
            ValueError: a shape is not constant, or a type is not supported.
        """
        import onnxruntime as ort

        def memory(node: Any) -> Any:
            if node.type not in _TYPES or not all(isinstance(side, int) for side in node.shape):
                raise ValueError(f"'{node.name}' is {node.type} {node.shape}: no fixed memory can be allocated for it")
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
        """Run one pass; return copies of the outputs by name.

        Args:
            names: names of all inputs.
            arrays: the inputs, of the graph's types and shapes; they may be overwritten afterwards.

        Raises:
            ValueError: an array is of another type or shape.
        """
        for name, array in zip(names, arrays, strict=True):
            staged = self._staged[name]
            if array.shape != staged.shape or array.dtype != staged.dtype:
                raise ValueError(f"'{name}' must be {staged.dtype} {staged.shape}, got {array.dtype} {array.shape}")
            staged[...] = array
            self._inputs[name].update_inplace(staged)  # returns once the copy is complete
        self._session.run_with_iobinding(self._binding)
        # On the CPU `numpy` may return the bound memory itself, which the next pass overwrites.
        return {name: np.array(value.numpy()) for name, value in self._outputs.items()}
