"""Lifecycle manager that calls a node's services like Nav2 or `ros2 lifecycle`."""

from __future__ import annotations

from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rcl_interfaces.msg import Parameter, ParameterValue
from rcl_interfaces.srv import SetParameters

from tests.ros.harness import NodeProcess, Peer


class Manager:
    """Calls the services of the node `name`, a fully qualified name."""

    def __init__(self, peer: Peer, process: NodeProcess, name: str) -> None:
        self.peer, self.process, self.name = peer, process, name

    def state(self) -> str:
        return self.peer.call(GetState, f"{self.name}/get_state", GetState.Request()).current_state.label

    def change(self, transition: int) -> bool:
        request = ChangeState.Request(transition=Transition(id=transition))
        return self.peer.call(ChangeState, f"{self.name}/change_state", request).success

    def set(self, name: str, value) -> tuple[bool, str]:
        types = {
            bool: (1, "bool_value"),
            int: (2, "integer_value"),
            float: (3, "double_value"),
            str: (4, "string_value"),
            list: (8, "double_array_value"),
        }
        kind, field = types[type(value)]
        parameter = Parameter(name=name, value=ParameterValue(type=kind, **{field: value}))
        result = self.peer.call(
            SetParameters, f"{self.name}/set_parameters", SetParameters.Request(parameters=[parameter])
        )
        return result.results[0].successful, result.results[0].reason
