"""Code in the documentation, for running it."""

from __future__ import annotations

import re
from pathlib import Path

__all__ = ["python_blocks"]


def python_blocks(page: Path) -> list[str]:
    """Return the fenced Python blocks of a Markdown file."""
    return re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S)
