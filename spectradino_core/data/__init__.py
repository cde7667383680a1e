"""Where pairs come from: folders of real images and the synthetic street."""

from __future__ import annotations
