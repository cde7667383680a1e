"""The paper's ablations (Tables 9 to 14) as one matrix of runs."""

from __future__ import annotations
