"""Optimise exported graphs: fused attention, int8 weights, half precision (needs `onnx`).

Entry point: `convert.convert`, which checks parity with the source model before writing.
"""
