"""A lifecycle node that survives its services: every request gets an answer, and none ends the process.

rclpy up to 7.1 raises out of `change_state` when a transition is not allowed in the present state (rclpy issue 1209),
and out of the parameter services when a request holds what no parameter can be. An exception in a service callback
leaves the executor and ends the process. `ManagedNode` checks transitions before they reach the state machine and wraps
every service of the node, those that rclpy creates included, using only what Humble and later releases have in common.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import Any

from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetAvailableTransitions, GetState
from rcl_interfaces.msg import SetParametersResult
from rcl_interfaces.srv import SetParameters, SetParametersAtomically
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter

from spectradino_core.text import log_line
from spectradino_ros.notices import Notices
from spectradino_ros.parameters import did_you_mean, is_unchanged, shorten

__all__ = ["ManagedNode"]

_PERIOD_S = 10.0
"""Minimum time between two warnings about requests of one kind."""

_MOST_NAMES = 256
"""Parameters of one request, several times as many as the node has: each takes milliseconds, while frames wait."""

_LABELS = {
    Transition.TRANSITION_CONFIGURE: "configure",
    Transition.TRANSITION_CLEANUP: "cleanup",
    Transition.TRANSITION_ACTIVATE: "activate",
    Transition.TRANSITION_DEACTIVATE: "deactivate",
    Transition.TRANSITION_UNCONFIGURED_SHUTDOWN: "shutdown",
    Transition.TRANSITION_INACTIVE_SHUTDOWN: "shutdown",
    Transition.TRANSITION_ACTIVE_SHUTDOWN: "shutdown",
}

Callback = Callable[[Any, Any], Any]


class ManagedNode(LifecycleNode):
    """A lifecycle node whose services answer any request in any state.

    Subclasses set `_notices` and call `guard_services` at the end of their constructor.

    Attributes:
        explained: exceptions whose texts say what is wrong and what to do, so that no traceback is needed.
        exit_code: other than 0 once only a new process can help: the process then ends, so that `use_respawn` acts.
    """

    explained: tuple[type[Exception], ...] = ()
    exit_code = 0
    _notices: Notices

    @property
    def autostart(self) -> bool:
        """Whether the node configures and activates itself."""
        raise NotImplementedError

    def guard_services(self) -> None:
        """Wrap the callbacks of all services that the node has now."""
        self._requests = Notices(self.get_logger(), _PERIOD_S)
        self._lifecycle: dict[str, Callback] = {}
        for service in self.services:
            name, inner = service.srv_name.rpartition("/")[2], service.callback
            if service.srv_type in (GetState, GetAvailableTransitions):
                self._lifecycle[name] = inner
            if service.srv_type is ChangeState:
                inner = self._allowed_only(inner)
            elif service.srv_type is SetParameters:
                inner = _one_by_one(inner)
            elif service.srv_type is SetParametersAtomically:
                inner = _readable_only(inner)
            elif name == "get_type_description":
                inner = _printable_only(inner)
            service.callback = self._guarded_service(name, inner, service.srv_type)

    def _transition(
        self,
        name: str,
        do: Callable[[], None],
        entities: Callable[[LifecycleState], TransitionCallbackReturn],
        state: LifecycleState,
        after: Callable[[], None] | None = None,
    ) -> TransitionCallbackReturn:
        """Runs a transition; rclpy would swallow an exception without a word."""
        try:
            do()
            result = entities(state)
            if after is not None:
                after()
            return result
        except self.explained as error:
            self.get_logger().error(log_line(f"cannot {name}: {error}"))
        except Exception as error:
            trace = traceback.format_exc()
            self.get_logger().error(log_line(f"cannot {name}: {type(error).__name__}: {error}\n{trace}"))
        return TransitionCallbackReturn.FAILURE

    def _guarded(self, what: str, do: Callable[[], None]) -> Callable[[], None]:
        """A timer's callback that outlives what it raises: rclpy would end the process."""

        def call() -> None:
            try:
                do()
            except self.explained as error:
                self._notices.error(what, f"cannot {what}: {error}")
            except Exception as error:
                if self.context.ok():  # else it is only that ROS was shut down under our feet
                    trace = traceback.format_exc()
                    self._notices.error(what, f"cannot {what}: {type(error).__name__}: {error}\n{trace}")

        return call

    @property
    def state(self) -> str:
        """Label of the present lifecycle state, e.g. "inactive"."""
        answer = self._lifecycle["get_state"](GetState.Request(), GetState.Response())
        return str(answer.current_state.label)

    @property
    def transitions(self) -> dict[str, int]:
        """Transitions that are allowed in the present state: ids by label."""
        kind = GetAvailableTransitions
        answer = self._lifecycle["get_available_transitions"](kind.Request(), kind.Response())
        return {item.transition.label: item.transition.id for item in answer.available_transitions}

    @property
    def commands_to_clean_up(self) -> str:
        """The commands of `ros2 lifecycle` that take the node from the present state to the unconfigured one."""
        steps = {"active": ("deactivate", "cleanup"), "inactive": ("cleanup",)}.get(self.state, ())
        return " && ".join(f"ros2 lifecycle set {self.get_fully_qualified_name()} {step}" for step in steps)

    def set_parameters_atomically(self, parameter_list: list[Parameter]) -> SetParametersResult:
        """As rclpy's, but a parameter that is given its present value is accepted in any state, read-only or not."""
        for name in (p.name for p in parameter_list if not self.has_parameter(p.name)):
            reason = f"parameter '{shorten(name)}' is unknown{did_you_mean(name)}"
            return SetParametersResult(successful=False, reason=reason)
        changes = [p for p in parameter_list if not self._has_value(p)]
        if parameter_list and not changes:
            return SetParametersResult(successful=True)
        return super().set_parameters_atomically(changes)

    def _has_value(self, given: Parameter) -> bool:
        return given.type_ is not Parameter.Type.NOT_SET and is_unchanged(
            given.name, self.get_parameter(given.name).value, given.value
        )

    def _allowed_only(self, change: Callback) -> Callback:
        """`change_state` for transitions that the present state allows; others are answered with success=False."""

        def call(request: Any, response: Any) -> Any:
            allowed, label, number = self.transitions, request.transition.label, request.transition.id
            if (label in allowed) if label else (number in allowed.values()):
                return change(request, response)
            label = label or _LABELS.get(number, "unknown")
            state, hint = self.state, ""
            if self.autostart and label in ("configure", "activate") and state == "active":
                hint = ". It configures and activates itself: launch it with autostart:=false where a manager does that"
            self._requests.warn(
                f"change_state {state}",
                f"refused the transition '{shorten(label)}' (id {number}): the node is {state}, which allows "
                f"{', '.join(f'{name} (id {i})' for name, i in allowed.items()) or 'none, start it again'}{hint}",
            )
            response.success = False
            return response

        return call

    def _guarded_service(self, name: str, inner: Callback, kind: Any) -> Callback:
        def call(request: Any, response: Any) -> Any:
            if (count := _names_in(request)) > _MOST_NAMES:
                reason = f"the request holds {count} parameters, more than the {_MOST_NAMES} that are served at once"
                self._requests.warn(f"many {name}", f"refused a request to {name}: {reason}; split it up")
                refusal = SetParametersResult(successful=False, reason=reason)
                if kind is SetParameters:
                    return kind.Response(results=[refusal] * count)
                return kind.Response(result=refusal) if kind is SetParametersAtomically else kind.Response()
            try:
                return inner(request, response)
            except Exception as error:
                reason = f"{type(error).__name__}: {error}"
                trace = "\n".join(map(shorten, traceback.format_exc().splitlines()))
                self._requests.error(name, f"a request to {name} failed: {shorten(reason)}\n{trace}")
                # Nothing was found or done. Results of setting parameters have to say so, others are empty.
                if kind is SetParametersAtomically:
                    return kind.Response(result=SetParametersResult(successful=False, reason=shorten(reason)))
                return kind.Response()

        return call


def _names_in(request: Any) -> int:
    """How many parameters a request names."""
    return sum(len(getattr(request, field, ())) for field in ("parameters", "names", "prefixes"))


def _one_by_one(set_parameters: Callback) -> Callback:
    """`set_parameters` with one result per parameter, also where some of them cannot even be read."""

    def call(request: Any, response: Any) -> Any:
        for parameter in request.parameters:
            try:
                answer = set_parameters(SetParameters.Request(parameters=[parameter]), SetParameters.Response())
                response.results.extend(answer.results)
            except Exception as error:
                response.results.append(_refusal(parameter.name, error))
        return response

    return call


def _readable_only(set_parameters_atomically: Callback) -> Callback:
    """`set_parameters_atomically` that refuses what rclpy cannot even read as a parameter."""

    def call(request: Any, response: Any) -> Any:
        for parameter in request.parameters:
            try:
                Parameter.from_parameter_msg(parameter)
            except Exception as error:
                response.result = _refusal(parameter.name, error)
                return response
        return set_parameters_atomically(request, response)

    return call


def _printable_only(get_type_description: Callback) -> Callback:
    """`get_type_description` without requests that rcl would write into the log as they are."""

    def call(request: Any, response: Any) -> Any:
        asked = request.type_name + request.type_hash
        if asked == shorten(asked, len(asked)):
            return get_type_description(request, response)
        response.failure_reason = "the name or the hash of the type holds control characters"
        return response

    return call


def _refusal(name: str, error: object) -> SetParametersResult:
    return SetParametersResult(successful=False, reason=f"parameter {shorten(name)!r} cannot be set: {shorten(error)}")
