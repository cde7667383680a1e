"""Fixtures shared by tests of training."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _undrawn_curves(request: pytest.FixtureRequest) -> None:
    """Draw no losses.png, unless the test names `drawn` or a fixture of the module trains."""
    if "drawn" not in request.fixturenames:
        request.getfixturevalue("undrawn_curves")


@pytest.fixture
def drawn() -> None:
    """Draw losses.png."""
