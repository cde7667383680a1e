"""Inference without torch or ROS: model file, engines, preprocessing and pipeline.

Read `pipeline.py` first; `bundle.py` defines the model file's description.
"""
