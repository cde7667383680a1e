"""The process survives exceptions of callbacks of services and of the executor, and guards remapped services too."""

from __future__ import annotations

import signal
import subprocess
import sys

from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rcl_interfaces.msg import Parameter
from rcl_interfaces.srv import GetParameters, SetParametersAtomically

from tests.ros.harness import PATIENCE_S, ROOT

FRAGILE = """
import sys
from rcl_interfaces.srv import GetParameters, SetParametersAtomically
from spectradino_ros.managed import ManagedNode
from spectradino_ros.process import run

class Fragile(ManagedNode):
    autostart = False

    def __init__(self):
        super().__init__("fragile")
        self.create_service(GetParameters, "~/broken", self.fail)
        self.create_service(SetParametersAtomically, "~/broken_too", self.fail)
        self.guard_services()
        self.create_timer(0.05, lambda: self.fail(None, None))

    def fail(self, request, response):
        raise ValueError("raised on purpose\\x1b[31m")

    def release(self):
        pass

sys.exit(run(Fragile, ["--ros-args", "-r", "~/change_state:=/fragile/remapped"]))
"""


def test_a_callback_that_raises_is_reported_and_costs_nothing_else(peer):
    process = subprocess.Popen(
        [sys.executable, "-c", FRAGILE], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        for _ in range(2):
            request = GetParameters.Request(names=["a"])
            assert peer.call(GetParameters, "/fragile/broken", request).values == []
            request = SetParametersAtomically.Request(parameters=[Parameter(name="a")])
            result = peer.call(SetParametersAtomically, "/fragile/broken_too", request).result
            assert not result.successful
            assert "ValueError: raised on purpose" in result.reason
        request = ChangeState.Request(transition=Transition(id=77))
        assert not peer.call(ChangeState, "/fragile/remapped", request).success
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        log, _ = process.communicate(timeout=PATIENCE_S)
    finally:
        process.kill()
    assert process.returncode == 0, log
    for line in (
        "a request to broken failed: ValueError: raised on purpose",
        "a request to broken_too failed: ValueError",
        "refused the transition 'unknown' (id 77): the node is unconfigured",
        "cannot handle a message or request: ValueError: raised on purpose",
    ):
        assert log.count(line) == 1, log
