"""Training: `loop.py` is the one loop (read it first), `finetune.py` a run on labelled pairs, `pretrain.py` the stages.

`downstream.py` holds the settings of every benchmark.
"""
