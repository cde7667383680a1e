"""`spectradino bench`: speed and memory compared with baselines on this machine.

| file | contents |
|---|---|
| `timing.py` | interleaved timing in one process; peak memory in a separate process |
| `machine.py`, `tables.py` | machine description; results as CSV, Markdown and plots |
| `backbone.py` | both streams in PyTorch and ONNX Runtime, compared with two passes of DINOv2 |
| `detector.py` | a whole detector by pyramid strides: the gain of `finetune --strides fast` |
| `model.py` | frames to detections with a model file and its int8 conversion |
| `plain.py`, `train.py` | a pretraining step compared with a plain loop over transformers, and its data loader |
| `gpu.py` | latency, throughput and training on CUDA, as fractions of the measured matmul rate |
"""
