"""Declaration of the node's parameters with rclpy, as described in `spectradino_core/streams/settings.py`."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.exceptions import InvalidParameterValueException

from spectradino_core.streams.parameter_values import check, did_you_mean, shorten
from spectradino_core.streams.settings import ParameterError, Settings, When, specs

_NAMED_UNKNOWN = 10
"""Unknown parameters to name, because finding the nearest name takes a millisecond each."""


def declare(node: Any) -> Settings:
    """Declare all parameters of an rclpy node and read their values, as set on the command line or in a YAML file.

    Raises:
        ParameterError: a value given at start is invalid.
    """
    values = {}
    for spec in specs().values():
        descriptor = ParameterDescriptor(
            name=spec.name,
            description=spec.description + (f" Takes effect {spec.when.value}." if spec.when is When.CONFIGURE else ""),
            additional_constraints=f"one of: {spec.allowed}" if spec.choices else spec.allowed if spec.lengths else "",
            read_only=spec.when is When.START,
            # `check` checks types: it accepts 50 for 50.0, which static typing would refuse.
            dynamic_typing=True,
        )
        if spec.kind is float and spec.low is not None:
            descriptor.floating_point_range = [FloatingPointRange(from_value=spec.low, to_value=spec.high)]
        elif spec.kind is int and spec.low is not None:
            descriptor.integer_range = [IntegerRange(from_value=int(spec.low), to_value=int(spec.high or 0), step=1)]
        try:
            default = list(spec.default) if spec.kind is tuple else spec.default
            value = node.declare_parameter(spec.name, default, descriptor).value
        except InvalidParameterValueException as error:  # ROS checks the range first
            raise ParameterError(f"parameter '{spec.name}' must be in {spec.allowed}: {error}") from None
        values[spec.name] = check(spec.name, value)
    return Settings(**values)


def unknown_overrides(names: list[str]) -> list[str]:
    """Return a warning for each unknown one of the parameters given at start, which ROS ignores silently.

    After the first ten the others are counted.
    """
    theirs = ("use_sim_time", "start_type_description_service")
    unknown = [n for n in names if n not in specs() and n not in theirs and not n.startswith("qos_overrides.")]
    found = [
        f"parameter '{shorten(name)}' is unknown and has no effect{did_you_mean(name)}"
        for name in unknown[:_NAMED_UNKNOWN]
    ]
    if len(unknown) > _NAMED_UNKNOWN:
        found.append(
            f"{len(unknown) - _NAMED_UNKNOWN} more parameters are unknown and have no effect: check that the "
            "parameter file is one for this node"
        )
    return found


def idle_overrides(names: Iterable[str], declared: Iterable[str]) -> list[str]:
    """Return a warning for each qos_overrides parameter given at start that is not used.

    `declared` are the names of the parameters that the node has after it subscribed.
    """
    known = [name for name in declared if name.startswith("qos_overrides.")]
    found = []
    for name in names:
        if name.startswith("qos_overrides.") and name not in known and not name.startswith("qos_overrides./clock."):
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"known are {', '.join(known)}"
            found.append(
                f"parameter '{shorten(name)}' names no topic or QoS policy of this node and has no effect: {hint}"
            )
    return found
