"""Declaration of the node's parameters with rclpy.

Defaults, ranges and descriptions: `spectradino_core/streams/settings.py`. ROS is imported only where parameters are
declared, so that the launch description needs no node.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any

from spectradino_core.streams.parameter_values import check, did_you_mean, is_unchanged, shorten
from spectradino_core.streams.settings import TRANSPORTS, ParameterError, Settings, Spec, When, parameter, specs

__all__ = [
    "TRANSPORTS",
    "ParameterError",
    "Settings",
    "Spec",
    "When",
    "check",
    "declare",
    "did_you_mean",
    "idle_overrides",
    "is_unchanged",
    "parameter",
    "shorten",
    "specs",
    "unknown_overrides",
]

_NAMED_UNKNOWN = 10
"""Unknown parameters that are named, each with the nearest name, which takes a millisecond."""


def declare(node: Any) -> Settings:
    """Declares all parameters on an rclpy node and reads them, with what the command line or a YAML file set.

    Raises:
        ParameterError: a value given at start is refused.
    """
    from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
    from rclpy.exceptions import InvalidParameterValueException

    values = {}
    for spec in specs().values():
        descriptor = ParameterDescriptor(
            name=spec.name,
            description=spec.description + (f" Takes effect {spec.when.value}." if spec.when is When.CONFIGURE else ""),
            additional_constraints=f"one of: {spec.allowed}" if spec.choices else spec.allowed if spec.lengths else "",
            read_only=spec.when is When.START,
            # Types are checked by `check`: it takes 50 for 50.0, on which static typing would stop the node.
            dynamic_typing=True,
        )
        if spec.kind is float and spec.low is not None:
            descriptor.floating_point_range = [FloatingPointRange(from_value=spec.low, to_value=spec.high)]
        elif spec.kind is int and spec.low is not None:
            descriptor.integer_range = [IntegerRange(from_value=int(spec.low), to_value=int(spec.high or 0), step=1)]
        try:
            default = list(spec.default) if spec.kind is tuple else spec.default
            given = node.declare_parameter(spec.name, default, descriptor).value
        except InvalidParameterValueException as error:  # ROS checks the range before we can
            raise ParameterError(f"parameter '{spec.name}' lies in {spec.allowed}: {error}") from None
        values[spec.name] = check(spec.name, given)
    return Settings(**values)


def unknown_overrides(names: list[str]) -> list[str]:
    """A complaint for each of the names given at start that no parameter has: ROS itself passes over typing errors.

    Of a file for something else, with hundreds of them, the first are named and the others counted.
    """
    theirs = ("use_sim_time", "start_type_description_service")
    unknown = [n for n in names if n not in specs() and n not in theirs and not n.startswith("qos_overrides.")]
    found = [
        f"parameter '{shorten(name)}' is unknown and has no effect{did_you_mean(name)}"
        for name in unknown[:_NAMED_UNKNOWN]
    ]
    if len(unknown) > _NAMED_UNKNOWN:
        found.append(
            f"{len(unknown) - _NAMED_UNKNOWN} more parameters are unknown and have no effect: is the parameter file "
            "one for this node?"
        )
    return found


def idle_overrides(names: Iterable[str], declared: Iterable[str]) -> list[str]:
    """A complaint for each qos_overrides parameter given at start that no subscription or publisher asked for.

    Args:
        names: of the parameters given at start.
        declared: of those that the node has, now that it has subscribed.
    """
    known = [name for name in declared if name.startswith("qos_overrides.")]
    found = []
    for name in names:
        if name.startswith("qos_overrides.") and name not in known and not name.startswith("qos_overrides./clock."):
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"there are {', '.join(known)}"
            found.append(f"parameter '{shorten(name)}' is of no topic or policy of this node and has no effect: {hint}")
    return found
