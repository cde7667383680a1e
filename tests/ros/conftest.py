"""Fixtures of the node's tests."""

from __future__ import annotations

import pytest

from tests.blob_model import make_blob_model
from tests.ros.harness import Peer


@pytest.fixture(scope="session")
def blob_model(tmp_path_factory):
    """Model file that detects red objects in RGB and bright objects in infrared."""
    return make_blob_model(tmp_path_factory.mktemp("models") / "blob.onnx")


@pytest.fixture(scope="module")
def peer():
    """Node that sends like two cameras."""
    peer = Peer()
    yield peer
    peer.close()
