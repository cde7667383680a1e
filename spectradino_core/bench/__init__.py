"""`spectradino bench`: how fast things are, against what, on this machine.

| file | what it holds |
|---|---|
| `timing.py` | cases that take turns in one process; the peak memory of one in a process of its own |
| `memory.py` | that process |
| `machine.py`, `tables.py`, `plots.py` | what was measured on what, as CSV, Markdown and pictures |
| `backbone.py` | both streams through the backbone, in PyTorch and in ONNX Runtime, against DINOv2 twice |
| `detector.py` | a whole detector by the strides of its pyramid: what `finetune --strides fast` gains |
| `model.py` | frames to percepts with a model file and its conversion to 8 bits |
| `plain.py`, `train.py` | a pretraining step against a plain loop over transformers, and its loader |
| `gpu.py` | latency, throughput and training on CUDA, as shares of the measured matmul rate |
"""
