"""What turns tokens into objects and a mask: fusion of two streams, a pyramid, a detection head, a segmentation head.

A new head or fusion is one file here, a line in `registry.py`, and one test; `perception.py` puts them together.
"""
