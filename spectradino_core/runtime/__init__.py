"""Serving, free of torch and of ROS: the model file, the engines that run it, and frames in, percepts out.

Read `pipeline.py` first; `bundle.py` says what a model file tells of itself.
"""
