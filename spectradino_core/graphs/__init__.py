"""Exported graphs made faster: attention as one operator, weights in 8 bits, half precision. Needs the `onnx` package.

`convert.convert` is the way in: it checks what it made against what it was made from before anything is written.
"""
