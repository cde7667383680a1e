"""Warnings of `spectradino_core` are logged by the node, under its name, and reach /rosout."""

from __future__ import annotations

import logging

import pytest
from rcl_interfaces.msg import Log
from rclpy.qos import DurabilityPolicy, QoSProfile

from spectradino_ros.notices import CoreWarnings
from tests.blob_model import make_blob_model
from tests.ros.harness import running, wait_until


class Logger:
    """A ROS logger's methods in use."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str]] = []

    def warning(self, line: str) -> None:
        self.lines.append(("warning", line))

    def error(self, line: str) -> None:
        self.lines.append(("error", line))


@pytest.fixture
def logger():
    logger = Logger()
    handler = CoreWarnings(logger)
    yield logger
    handler.close()


def test_warnings_and_errors_are_passed_on_with_their_arguments(logger):
    log = logging.getLogger("spectradino_core.runtime.parity")
    log.info("not passed on")
    log.warning("%s is not used: %s", "CUDA", "it differs")
    log.error("lost")
    assert logger.lines == [("warning", "CUDA is not used: it differs"), ("error", "lost")]


def test_control_characters_are_escaped(logger):
    logging.getLogger("spectradino_core.runtime.parity").warning("\x1b[31m%s", "red")
    ((_, line),) = logger.lines
    assert "\x1b" not in line


def test_nothing_is_passed_on_after_close():
    logger = Logger()
    CoreWarnings(logger).close()
    logging.getLogger("spectradino_core").warning("late")
    assert logger.lines == []


# slow: a process; the tests above cover the handler.
@pytest.mark.slow
def test_warning_on_opening_a_model_reaches_rosout(tmp_path, peer):
    converted = {"provenance": {"converted": {"precision": "int8"}}}
    model = make_blob_model(tmp_path / "old.onnx", **converted)
    latched = QoSProfile(depth=100, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    received: list[Log] = peer.collect(Log, "/rosout", latched)
    with running(model=model, device="cpu") as node:
        node.wait_for_line(r"\[WARN\].*\[detector_node\]: old\.onnx has 8-bit weights.*convert it again")

        def line() -> Log | None:
            return next((one for one in received if "8-bit weights" in one.msg), None)

        assert wait_until(line, "the warning in /rosout").name == "detector_node"
        assert node.count("8-bit weights") == 1
