"""Lifecycle managers with their real calls: launch's LifecycleNode, Nav2's manager, several at once, odd requests.

Real processes and services over DDS. The sequences are those of launch_ros (`LifecycleNode`, `OnStateTransition`) and
of Nav2's `LifecycleManager` with `bond_timeout: 0.0`.
"""

from __future__ import annotations

import contextlib
import itertools
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from lifecycle_msgs.msg import State, Transition, TransitionEvent
from lifecycle_msgs.srv import ChangeState, GetAvailableStates, GetAvailableTransitions, GetState

from tests.ros.harness import NodeProcess, Peer, wait_until

# slow: a node for each; test_lifecycle covers the transitions, test_hostile_requests odd requests.
pytestmark = pytest.mark.slow

NUMBERS = itertools.count()
LABELS = ("configure", "cleanup", "activate", "deactivate", "shutdown")
REFUSED = r"\[WARN\].*refused the transition"
PERIOD_S = 10.0
"""Refusals in one state are logged at most this often."""


@pytest.fixture
def name() -> str:
    """Name of the test's own node: services of the previous test's node may still be listed, and nobody responds."""
    return f"/managed_{next(NUMBERS)}/detector_node"


@pytest.fixture
def start(blob_model, name):
    """Start nodes; at the end each must still run and exit cleanly."""
    nodes: list[NodeProcess] = []

    def start(autostart: bool = False) -> NodeProcess:
        namespace = name.rpartition("/")[0]
        node = NodeProcess("-r", f"__ns:={namespace}", model=blob_model, device="cpu", threads=1, autostart=autostart)
        nodes.append(node)
        return node

    yield start
    for node in nodes:
        assert node.running, node.log
        assert node.stop() == 0, node.log
        assert "Traceback" not in node.log


class Client:
    """Clients of one manager, kept like those of a real manager."""

    def __init__(self, peer: Peer, name: str) -> None:
        self._change = peer.node.create_client(ChangeState, f"{name}/change_state")
        self._state = peer.node.create_client(GetState, f"{name}/get_state")
        wait_until(lambda: self._change.service_is_ready() and self._state.service_is_ready(), "the node's services")
        wait_until(self._heard, "the node's first response")

    def _heard(self) -> bool:
        """Ask for the state: a response is lost while the node has found our request but not our reader."""
        future = self._state.call_async(GetState.Request())
        with contextlib.suppress(AssertionError):
            return wait_until(future.done, "the state", 1.0)
        return False

    def send(self, number: int = 0, label: str = ""):
        """Send a request without waiting; returns its future."""
        return self._change.call_async(ChangeState.Request(transition=Transition(id=number, label=label)))

    def answers(self, requests: list[tuple[int, str]]) -> list[bool]:
        """Return the responses to several transitions sent without waiting."""
        futures = [self.send(*request) for request in requests]
        wait_until(lambda: all(f.done() for f in futures), f"an answer to each of {len(futures)} transitions")
        return [f.result().success for f in futures]

    def change(self, number: int = 0, label: str = "") -> bool:
        future = self.send(number, label)
        wait_until(future.done, f"an answer to transition {number} {label!r}")
        return future.result().success

    def state(self) -> int:
        future = self._state.call_async(GetState.Request())
        wait_until(future.done, "the state")
        return future.result().current_state.id


def check_throttled(node: NodeProcess, since: float, states: int = 1) -> None:
    """Check that each state's refusals since then, by `time.monotonic`, were throttled; on a busy machine they take
    more than a period.
    """
    assert 1 <= node.count(REFUSED) <= states * (1 + (time.monotonic() - since) // PERIOD_S), node.log


def bring_up_as_nav2(client: Client) -> bool:
    """`LifecycleManager::startup` for one node."""
    goals = {
        Transition.TRANSITION_CONFIGURE: State.PRIMARY_STATE_INACTIVE,
        Transition.TRANSITION_ACTIVATE: State.PRIMARY_STATE_ACTIVE,
    }
    return all(client.change(step) and client.state() == goal for step, goal in goals.items())


@pytest.mark.parametrize("autostart", [False, True])
def test_the_launch_pattern_brings_it_up(start, peer, name, autostart):
    """LifecycleNode; EmitEvent(ChangeState CONFIGURE); OnStateTransition(goal inactive) -> ChangeState ACTIVATE."""
    events = peer.collect(TransitionEvent, f"{name}/transition_event")
    node = start(autostart)
    client = Client(peer, name)
    future = client.send(Transition.TRANSITION_CONFIGURE)
    wait_until(future.done, "an answer to configure")
    assert future.result().success is not autostart
    if autostart:
        node.wait_for_line(
            REFUSED + r" 'configure' \(id 1\): the node is active, which allows deactivate \(id 4\), shutdown \(id 7\)"
            ".*set autostart:=false"
        )
    if not autostart or any(event.goal_state.label == "inactive" for event in list(events)):
        wait_until(lambda: any(event.goal_state.label == "inactive" for event in list(events)), "the event")
        client.change(Transition.TRANSITION_ACTIVATE)
    assert client.state() == State.PRIMARY_STATE_ACTIVE


def test_nav2s_manager_starts_pauses_resets_and_shuts_down(start, peer, name):
    start()
    client = Client(peer, name)
    assert bring_up_as_nav2(client)
    for step, goal in [
        (Transition.TRANSITION_DEACTIVATE, State.PRIMARY_STATE_INACTIVE),  # pause
        (Transition.TRANSITION_ACTIVATE, State.PRIMARY_STATE_ACTIVE),  # resume
        (Transition.TRANSITION_DEACTIVATE, State.PRIMARY_STATE_INACTIVE),  # reset
        (Transition.TRANSITION_CLEANUP, State.PRIMARY_STATE_UNCONFIGURED),
    ]:
        assert client.change(step)
        assert client.state() == goal
    assert bring_up_as_nav2(client)
    for step in (  # shutdown
        Transition.TRANSITION_DEACTIVATE,
        Transition.TRANSITION_CLEANUP,
        Transition.TRANSITION_UNCONFIGURED_SHUTDOWN,
    ):
        assert client.change(step)
    assert client.state() == State.PRIMARY_STATE_FINALIZED


def test_nav2s_manager_with_autostart_is_refused_and_does_no_harm(start, peer, name):
    node = start(autostart=True)
    client = Client(peer, name)
    assert not bring_up_as_nav2(client)
    node.wait_for_line("set autostart:=false to use a lifecycle manager")
    assert client.state() == State.PRIMARY_STATE_ACTIVE


def test_two_managers_at_once(start, peer, name):
    node = start()
    clients = [Client(peer, name), Client(peer, name)]
    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(bring_up_as_nav2, clients))
    assert sum(results) <= 1, "each transition succeeds for one of them"
    node.wait_for_line(REFUSED)
    # Whoever of the two goes on finds a consistent state: the node is one or two allowed transitions from active.
    state = clients[0].state()
    assert state in (State.PRIMARY_STATE_INACTIVE, State.PRIMARY_STATE_ACTIVE)
    if state == State.PRIMARY_STATE_INACTIVE:
        assert clients[0].change(Transition.TRANSITION_ACTIVATE)
    assert all(client.state() == State.PRIMARY_STATE_ACTIVE for client in clients)


def test_ten_transitions_without_waiting(start, peer, name):
    node = start()
    client = Client(peer, name)
    steps = [1, 3, 3, 1, 4, 2, 2, 1, 3, 10]
    since = time.monotonic()
    answers = client.answers([(step, "") for step in steps])
    assert answers == [True, True, False, False, True, True, False, True, True, False]
    assert client.state() == State.PRIMARY_STATE_ACTIVE
    check_throttled(node, since, states=3)


def test_more_requests_than_the_middleware_keeps(start, peer, name):
    """ROS services keep the newest ten requests: older ones may get no response, from any node."""
    start()
    client = Client(peer, name)
    futures = [client.send(step) for step in [1, 3, 3, 1, 4, 2, 2, 4, 1, 3, 10, 1] * 5]
    wait_until(lambda: sum(f.done() for f in futures) >= 10, "answers")
    last = client.send(77)
    wait_until(last.done, "an answer to the last")
    way = {1: (1, 3), 2: (3,), 3: ()}[client.state()]
    assert all(client.change(step) for step in way)


@pytest.mark.parametrize("state", ["unconfigured", "inactive", "active", "finalized"])
def test_no_id_or_label_ends_it_in_any_state(start, peer, name, state):
    node = start()
    client = Client(peer, name)
    ways = {"inactive": [1], "active": [1, 3], "finalized": [5]}
    for step in ways.get(state, []):
        assert client.change(step)
    allowed = {"unconfigured": {1, 5}, "inactive": {2, 3, 6}, "active": {4, 7}, "finalized": set()}[state]
    before, since = client.state(), time.monotonic()
    wild = ("ACTIVATE", "no such transition", "transition_success", "\x1b[31mred\x07", "x" * 100_000, "nul\0in it")
    requests = [(number, "") for number in range(256) if number not in allowed]
    requests += [(min(allowed, default=1), label) for label in wild]
    for start_ in range(0, len(requests), 8):  # the middleware keeps ten
        assert not any(client.answers(requests[start_ : start_ + 8]))
    assert client.state() == before
    check_throttled(node, since)
    assert "\x1b[31mred" not in node.log


def test_a_label_is_as_good_as_an_id(start, peer, name):
    start()
    client = Client(peer, name)
    for label, goal in zip(LABELS[:1] + ("activate", "deactivate", "cleanup", "shutdown"), (2, 3, 2, 1, 4)):
        assert client.change(label=label)
        assert client.state() == goal


def test_the_other_lifecycle_services_respond_in_every_state(start, peer, name):
    start()
    client = Client(peer, name)
    for step in (1, 3, 7, 0):
        states = peer.call(GetAvailableStates, f"{name}/get_available_states", GetAvailableStates.Request())
        assert len(states.available_states) >= 11
        kind = GetAvailableTransitions
        now = peer.call(kind, f"{name}/get_available_transitions", kind.Request()).available_transitions
        graph = peer.call(kind, f"{name}/get_transition_graph", kind.Request()).available_transitions
        assert len(graph) > len(now) == {1: 2, 2: 3, 3: 2, 4: 0}[client.state()]
        client.change(step)


def test_requests_during_its_end_do_no_harm(peer, name, blob_model):
    """Their responses may be lost; the node still exits cleanly."""
    node = NodeProcess("-r", f"__ns:={name.rpartition('/')[0]}", model=blob_model, device="cpu", threads=1)
    node.wait_for_line("active: pairs from")
    client = Client(peer, name)
    for round_ in range(40):
        client.send((1, 3, 4, 2, 77)[round_ % 5])
        if round_ == 20:
            node.send(signal.SIGTERM)
    assert node.wait() == 0, node.log
    assert "Traceback" not in node.log
