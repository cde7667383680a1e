"""Pairs for training and evaluation: folders of real images, manifests and synthetic scenes."""

from __future__ import annotations
