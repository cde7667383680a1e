"""The one launch description behind the launch files of all bands.

An argument that is left empty does not touch its parameter: the parameter file decides. One that is given wins over the
file. Descriptions and choices come from `parameters`, so that they are written once.
"""

from __future__ import annotations

from typing import Any

# The repository has a folder of this name too, which is what mypy finds where the package is not installed.
from launch import LaunchContext, LaunchDescription  # type: ignore[attr-defined]
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from spectradino_ros.parameters import ParameterError, Spec, check, parameter
from spectradino_ros.shared_files import find_shared

__all__ = ["NODE_NAME", "detector_launch_description"]

NODE_NAME = "detector_node"

_PARAMETERS = (
    "model",
    "device",
    "score_threshold",
    "sync_slop_ms",
    "ir_time_offset_ms",
    "fallback_mode",
    "publish_overlay",
    "deadline_ms",
)
"""Parameters that have a launch argument of their own; all others are set in the parameter file."""

_BOOLEANS = ("true", "false")


def detector_launch_description(params_file: str) -> LaunchDescription:
    """The arguments and the node.

    Args:
        params_file: name of the default parameter file in the package's folder `config`.
    """
    arguments = [
        DeclareLaunchArgument("namespace", default_value="", description="Namespace of the node and of its topics."),
        DeclareLaunchArgument(
            "use_sim_time",
            default_value="false",
            choices=_BOOLEANS,
            description="Take the time from /clock, as a simulator or a bag player with --clock publishes it.",
        ),
        DeclareLaunchArgument(
            "params_file",
            default_value=str(find_shared(f"config/{params_file}")),
            description="YAML file with the node's parameters.",
        ),
        DeclareLaunchArgument(
            "autostart", default_value="true", choices=_BOOLEANS, description=parameter("autostart").description
        ),
        DeclareLaunchArgument(
            "use_respawn",
            default_value="false",
            choices=_BOOLEANS,
            description="Start the node again 2 s after it has ended by itself. With autostart it comes up again.",
        ),
        DeclareLaunchArgument(
            "log_level",
            default_value="info",
            choices=("debug", "info", "warn", "error", "fatal"),
            description="Least severity of the log lines, of the node and of ROS below it.",
        ),
        DeclareLaunchArgument("rgb_topic", default_value="rgb/image_raw", description="Topic of the colour camera."),
        DeclareLaunchArgument("ir_topic", default_value="ir/image_raw", description="Topic of the infrared camera."),
        *(_declare(parameter(name)) for name in _PARAMETERS),
    ]
    return LaunchDescription([*arguments, OpaqueFunction(function=_node)])


def _declare(spec: Spec) -> DeclareLaunchArgument:
    allowed = _BOOLEANS if spec.kind is bool else spec.choices
    return DeclareLaunchArgument(
        spec.name,
        default_value="",
        choices=("", *allowed) if allowed else None,
        description=f"{spec.description} Empty: as in params_file.",
    )


def _node(context: LaunchContext) -> list[Node]:
    def given(name: str) -> str:
        return LaunchConfiguration(name).perform(context).strip()

    values: dict[str, Any] = {name: given(name) == "true" for name in ("use_sim_time", "autostart")}
    for name in _PARAMETERS:
        if given(name):
            values[name] = _parse(parameter(name), given(name))
    return [
        Node(
            package="spectradino_ros",
            executable="detector_node",
            name=NODE_NAME,
            namespace=given("namespace"),
            parameters=[given("params_file"), values],
            remappings=[("rgb/image_raw", given("rgb_topic")), ("ir/image_raw", given("ir_topic"))],
            arguments=["--ros-args", "--log-level", given("log_level")],
            respawn=given("use_respawn") == "true",
            respawn_delay=2.0,
            output="screen",
        )
    ]


def _parse(spec: Spec, text: str) -> Any:
    """The text of a launch argument as its parameter's value.

    Raises:
        ParameterError: it is none.
    """
    try:
        value = {"true": True, "false": False}[text] if spec.kind is bool else spec.kind(text)
        return check(spec.name, value)
    except (KeyError, ValueError) as error:
        if isinstance(error, ParameterError):
            raise
        raise ParameterError(f"launch argument '{spec.name}' can't be read: {text!r}") from None
