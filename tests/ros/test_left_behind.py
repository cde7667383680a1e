"""Isolation from other test runs, including killed ones, and from robots on this machine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.domains import occupied, own_domain
from tests.ros.harness import DOMAIN, PATIENCE_S, ROOT, wait_until

pytestmark = pytest.mark.skipif(not Path("/proc/net/udp").exists(), reason="ports and processes are listed by Linux")

KILLED_RUN = """
import time
from tests.ros.harness import DOMAIN, NodeProcess
node = NodeProcess("-r", "__ns:=/left_behind", autostart=False)
print(DOMAIN, node._process.pid, flush=True)
time.sleep(600)
"""

FAMILY = """
import subprocess, sys, time
from tests import watchdog
watchdog.start()
child = '''
import signal, subprocess, sys, time
if sys.argv[1] == "stay":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
grandchild = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
print(grandchild.pid, flush=True)
time.sleep(600)
'''
process = subprocess.Popen([sys.executable, "-c", child, sys.argv[1]], stdout=subprocess.PIPE, text=True)
print(process.pid, process.stdout.readline(), flush=True)
time.sleep(600 if sys.argv[1] == "stay" else 0)
"""


def start(code: str, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
        stdout=subprocess.PIPE,
        text=True,
    )


def numbers(process: subprocess.Popen[str]) -> list[int]:
    assert process.stdout is not None
    return [int(word) for word in process.stdout.readline().split()]


def gone(pid: int) -> Callable[[], bool]:
    """Return whether a process has ended, including one not yet waited for."""

    def ended() -> bool:
        try:
            return "\nState:\tZ" in Path(f"/proc/{pid}/status").read_text()
        except OSError:
            return True

    return ended


@pytest.mark.parametrize("way", [pytest.param("killed", marks=pytest.mark.slow), "ended"])
def test_a_run_that_ends_takes_all_of_its_processes_along(way):
    run = start(FAMILY, "stay" if way == "killed" else "go")
    child, grandchild = (numbers(run) + numbers(run))[:2]
    if way == "killed":
        run.kill()
    run.wait(PATIENCE_S)
    wait_until(gone(child), "the child's end, which does not listen to SIGTERM if the run was killed")
    wait_until(gone(grandchild), "the grandchild's end, which is in a session of its own")
    run.communicate()


@pytest.mark.slow
def test_a_node_of_a_run_that_is_killed_ends_and_till_then_its_domain_is_passed_over():
    run = start(KILLED_RUN)
    domain, node = numbers(run)
    try:
        assert domain != DOMAIN
        wait_until(lambda: domain in occupied(), "the node in its domain")
        os.kill(node, signal.SIGSTOP)  # which keeps it there for as long as we look
    finally:
        run.kill()
    run.communicate()
    with ExitStack() as held:
        mine = [held.enter_context(own_domain()) for _ in range(5)]
        assert domain not in mine
    wait_until(gone(node), "the node's end")


def test_a_domain_that_the_user_names_is_taken_where_it_is_free(monkeypatch):
    taken = occupied()
    monkeypatch.setattr("tests.domains.occupied", lambda: taken)  # a node of another test may end meanwhile
    with own_domain() as free:
        pass
    last = max(set(range(1, 101)) - taken)
    monkeypatch.setenv("ROS_DOMAIN_ID", str(last))
    with own_domain() as first, own_domain() as second:
        assert first == last
        assert second == free
    for unusable in ("0", "232", "-1", "x", ""):
        monkeypatch.setenv("ROS_DOMAIN_ID", unusable)
        with own_domain() as domain:
            assert domain == free


def test_a_domain_with_someone_in_it_is_not_taken_even_if_the_user_names_it(peer, monkeypatch):
    assert DOMAIN in occupied()
    monkeypatch.setenv("ROS_DOMAIN_ID", str(DOMAIN))
    with own_domain() as domain:
        assert domain != DOMAIN


def test_all_domains_in_use_is_an_error(monkeypatch):
    monkeypatch.setattr("tests.domains.occupied", lambda: set(range(1, 101)))
    with pytest.raises(RuntimeError, match="1 to 100 are all in use"), own_domain():
        pass
