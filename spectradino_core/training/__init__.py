"""Training: `loop.py` is the one loop (read it first), `finetune.py` a run on labelled pairs, `pretrain.py` the stages.

`perception_loss.py` holds the fine-tuning loss, `downstream.py` the settings of every benchmark.
"""
