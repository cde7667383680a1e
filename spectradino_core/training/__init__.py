"""Training. Read `loop.py` first: it is the one loop; `finetune.py` says what a step on labelled pairs is."""
