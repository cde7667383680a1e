"""How good an answer is: detection and segmentation scores on plain arrays, for training, replay and the demo alike."""

from __future__ import annotations
