"""What the tests of the node share."""

from __future__ import annotations

import pytest

from tests.blob_model import make_blob_model
from tests.ros.harness import Peer


@pytest.fixture(scope="session")
def blob_model(tmp_path_factory):
    """A model file that finds red things in colour and bright things in infrared."""
    return make_blob_model(tmp_path_factory.mktemp("models") / "blob.onnx")


@pytest.fixture(scope="module")
def peer():
    """A node of ours that sends as two cameras do."""
    peer = Peer()
    yield peer
    peer.close()
