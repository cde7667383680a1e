"""Training. Read `loop.py` first: it is the one loop; `finetune.py` is a run on
labelled pairs, `perception_loss.py` what its steps compute, `downstream.py` the settings of every benchmark."""
