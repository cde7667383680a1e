"""Fusion of two token streams, feature pyramid, detection heads and segmentation heads.

To add a head or fusion: one file here, one line in `registry.py`, one test. `perception.py` assembles the model.
"""
