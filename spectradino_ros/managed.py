"""Lifecycle node whose services respond to any request, so that none ends the process.

rclpy up to 7.1 raises from `change_state` if a transition is not allowed in the current state (rclpy issue 1209), and
from the parameter services if a request contains an invalid parameter. An exception in a service callback propagates
through the executor and ends the process. `ManagedNode` checks transitions before they reach the state machine and
wraps every service of the node, including those created by rclpy, with the API that Humble and later releases share.
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

from spectradino_core.streams.parameter_values import did_you_mean, is_unchanged, shorten
from spectradino_core.text import log_line
from spectradino_ros.notices import Notices

_PERIOD_S = 10.0
"""Minimum time between two warnings about requests of one kind."""

_MAX_NAMES = 256
"""Maximum number of parameters per request, which take milliseconds each and delay frames; the node has fewer."""

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
    """Lifecycle node whose services respond to any request in any state.

    Subclasses set `_notices` and call `guard_services` at the end of their constructor.

    Attributes:
        expected_errors: exceptions whose messages name cause and remedy; they are logged without a traceback.
        exit_code: not 0 once only a new process can help; the process then ends, so that `use_respawn` restarts it.
    """

    expected_errors: tuple[type[Exception], ...] = ()
    exit_code = 0
    _notices: Notices

    @property
    def autostart(self) -> bool:
        """Whether the node configures and activates itself."""
        raise NotImplementedError

    def guard_services(self) -> None:
        """Wrap the callbacks of all services that the node has at this moment."""
        self._requests = Notices(self.get_logger(), _PERIOD_S)
        self._originals: dict[type, Callback] = {}
        wrappers: dict[type, Callable[[Callback], Callback]] = {  # by type: a service may be remapped
            ChangeState: self._allowed_only,
            SetParameters: _one_by_one,
            SetParametersAtomically: _readable_only,
        }
        for service in self.services:
            name, inner = service.srv_name.rpartition("/")[2], service.callback
            kind: Any = service.srv_type
            self._originals.setdefault(kind, inner)  # the transition graph's type has its service later
            if kind in wrappers:
                inner = wrappers[kind](inner)
            elif kind.__name__ == "GetTypeDescription":  # Humble has no such type to import
                inner = _printable_only(inner)
            service.callback = self._guarded_service(name, inner, kind)

    def _transition(
        self,
        name: str,
        action: Callable[[], None],
        entities: Callable[[LifecycleState], TransitionCallbackReturn],
        state: LifecycleState,
        after: Callable[[], None] | None = None,
    ) -> TransitionCallbackReturn:
        """Run a transition and log its exception, which rclpy would discard silently."""
        try:
            action()
            result = entities(state)
            if after is not None:
                after()
            return result
        except self.expected_errors as error:
            self.get_logger().error(log_line(f"cannot {name}: {error}"))
        except Exception as error:
            trace = traceback.format_exc()
            self.get_logger().error(log_line(f"cannot {name}: {type(error).__name__}: {error}\n{trace}"))
        return TransitionCallbackReturn.FAILURE

    def _guarded(self, what: str, action: Callable[[], None]) -> Callable[[], None]:
        """Wrap a timer callback so that its exception is logged instead of ending the process."""

        def call() -> None:
            try:
                action()
            except self.expected_errors as error:
                self._notices.error(what, f"cannot {what}: {error}")
            except Exception as error:
                if self.context.ok():  # otherwise ROS was shut down during the callback
                    trace = traceback.format_exc()
                    self._notices.error(what, f"cannot {what}: {type(error).__name__}: {error}\n{trace}")

        return call

    @property
    def state(self) -> str:
        """Label of the current lifecycle state, e.g. "inactive"."""
        response = self._originals[GetState](GetState.Request(), GetState.Response())
        return str(response.current_state.label)

    @property
    def transitions(self) -> dict[str, int]:
        """Transitions allowed in the current state: ids by label."""
        kind = GetAvailableTransitions
        response = self._originals[kind](kind.Request(), kind.Response())
        return {item.transition.label: item.transition.id for item in response.available_transitions}

    @property
    def commands_to_clean_up(self) -> str:
        """Shell commands that take the node from its current state to the unconfigured state."""
        steps = {"active": ("deactivate", "cleanup"), "inactive": ("cleanup",)}.get(self.state, ())
        return " && ".join(f"ros2 lifecycle set {self.get_fully_qualified_name()} {step}" for step in steps)

    def set_parameters_atomically(self, parameter_list: list[Parameter]) -> SetParametersResult:
        """Set parameters as rclpy does, but accept an unchanged value in any state, read-only or not."""
        for name in (p.name for p in parameter_list if not self.has_parameter(p.name)):
            reason = f"parameter '{shorten(name)}' is unknown{did_you_mean(name)}"
            return SetParametersResult(successful=False, reason=reason)
        changes = [p for p in parameter_list if not self._has_value(p)]
        if parameter_list and not changes:
            return SetParametersResult(successful=True)
        return super().set_parameters_atomically(changes)

    def _has_value(self, given: Parameter) -> bool:
        present = self.get_parameter(given.name).value
        return given.type_ is not Parameter.Type.NOT_SET and is_unchanged(given.name, present, given.value)

    def _allowed_only(self, transition: Callback) -> Callback:
        """Wrap `change_state` to respond success=False to transitions not allowed in the current state."""

        def call(request: Any, response: Any) -> Any:
            allowed, label, number = self.transitions, request.transition.label, request.transition.id
            if (label in allowed) if label else (number in allowed.values()):
                return transition(request, response)
            label = label or _LABELS.get(number, "unknown")
            state, hint = self.state, ""
            if self.autostart and label in ("configure", "activate") and state == "active":
                hint = ". It configures and activates itself: set autostart:=false to use a lifecycle manager"
            self._requests.warn(
                f"change_state {state}",
                f"refused the transition '{shorten(label)}' (id {number}): the node is {state}, which allows "
                f"{', '.join(f'{name} (id {i})' for name, i in allowed.items()) or 'none: restart it'}{hint}",
            )
            response.success = False
            return response

        return call

    def _guarded_service(self, name: str, inner: Callback, kind: Any) -> Callback:
        def call(request: Any, response: Any) -> Any:
            if (count := _names_in(request)) > _MAX_NAMES:
                reason = f"the request has {count} parameters, more than the maximum of {_MAX_NAMES}"
                self._requests.warn(f"many {name}", f"refused a request to {name}: {reason}; split it")
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
                # Only results of setting parameters report a failure; other responses stay empty.
                if kind is SetParametersAtomically:
                    return kind.Response(result=SetParametersResult(successful=False, reason=shorten(reason)))
                return kind.Response()

        return call


def _names_in(request: Any) -> int:
    """Number of parameters that a request names."""
    return sum(len(getattr(request, field, ())) for field in ("parameters", "names", "prefixes"))


def _one_by_one(set_parameters: Callback) -> Callback:
    """Wrap `set_parameters` to return one result per parameter, also for unreadable ones."""

    def call(request: Any, response: Any) -> Any:
        for parameter in request.parameters:
            try:
                one = set_parameters(SetParameters.Request(parameters=[parameter]), SetParameters.Response())
                response.results.extend(one.results)
            except Exception as error:
                response.results.append(_refusal(parameter.name, error))
        return response

    return call


def _readable_only(set_parameters_atomically: Callback) -> Callback:
    """Wrap `set_parameters_atomically` to refuse parameters that rclpy can't read."""

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
    """Wrap `get_type_description` to refuse control characters, which rcl would log unescaped."""

    def call(request: Any, response: Any) -> Any:
        asked = request.type_name + request.type_hash
        if asked == shorten(asked, len(asked)):
            return get_type_description(request, response)
        response.failure_reason = "the name or the hash of the type contains control characters"
        return response

    return call


def _refusal(name: str, error: object) -> SetParametersResult:
    return SetParametersResult(successful=False, reason=f"parameter {shorten(name)!r} cannot be set: {shorten(error)}")
