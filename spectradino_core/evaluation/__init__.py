"""Scores and reports of models on images and recordings, for `evaluate`, `bag evaluate`, training and the demo."""

from __future__ import annotations
