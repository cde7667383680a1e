"""Export from torch to ONNX, and conversions of exported graphs (needs `onnx`).

- `onnx_model.py`: exports a trained module and compares it with PyTorch; `torch_engine.py`: the reference.
- `raw_inputs.py`: normalisation in the graph; `gpu_operators.py`: replaces operators that GPUs lack.
- `convert.py`: fused attention (`attention.py`), int8 weights and half precision (`precision.py`), with a
  parity check against the source model.
"""

from __future__ import annotations
