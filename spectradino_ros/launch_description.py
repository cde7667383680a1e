"""Launch description for all bands, with the arguments of `launch_arguments.py`."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import Any

# The repository has a folder of this name too, which is what mypy finds where the package is not installed.
from launch import LaunchContext, LaunchDescription  # type: ignore[attr-defined]
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription, OpaqueFunction
from launch.substitutions import LaunchConfiguration
from launch.utilities import normalize_to_list_of_substitutions, perform_substitutions
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

from spectradino_ros.launch_arguments import (
    NODE_NAME,
    TRUTHS,
    arguments,
    dds_profile,
    parameter_file,
    parameter_values,
    refuse_unknown,
    remappings,
)


def detector_launch_description(band: str) -> LaunchDescription:
    """Return the launch description with all arguments and the node.

    `band` is the node's `infrared_band` unless the parameter file or an argument sets another.
    """
    known = [argument.name for argument in arguments()]
    include, shared = _include()

    def check_names(context: LaunchContext) -> None:
        if include is not None:
            given = [_text(context, name) for name, _ in include.launch_arguments]
            refuse_unknown((name for name in given if name not in shared), known)

    return LaunchDescription(
        [
            # Before the declarations, which check the choices of arguments.
            OpaqueFunction(function=check_names),
            *(
                DeclareLaunchArgument(
                    a.name, default_value=a.default, choices=a.choices or None, description=a.description
                )
                for a in arguments()
            ),
            OpaqueFunction(function=lambda context: _node(context, band, known)),
        ]
    )


def _include() -> tuple[IncludeLaunchDescription | None, frozenset[str]]:
    """Return the action that includes this launch file, and the arguments set before.

    Launch ignores unknown arguments silently, and all launch files of one launch share their arguments, so a set name
    may belong to the including file. Only the including action (also used by `ros2 launch`) has the names given to
    this file, and it runs the file within its own call. None if there is no such action, as with `--show-args`, or from
    a launch file that may have arguments of its own.
    """
    frame = inspect.currentframe()
    while frame is not None:
        owner, context = frame.f_locals.get("self"), frame.f_locals.get("context")
        if isinstance(owner, IncludeLaunchDescription):
            if isinstance(context, LaunchContext):
                return owner, frozenset(context.launch_configurations)
            break
        frame = frame.f_back
    return None, frozenset()


def _text(context: LaunchContext, substitutions: Any) -> str:
    return str(perform_substitutions(context, normalize_to_list_of_substitutions(substitutions)))


def _node(context: LaunchContext, band: str, names: Iterable[str]) -> list[Node]:
    given = {name: LaunchConfiguration(name).perform(context).strip() for name in names}
    # Strings with their type: launch would convert a file name such as 123 to a number.
    values = {
        name: ParameterValue(value, value_type=str) if isinstance(value, str) else value
        for name, value in parameter_values(given).items()
    }
    profile, namespace = given["dds_profile"], given["namespace"]
    if not namespace.startswith("/"):  # relative to a namespace pushed by the including file
        namespace = "/".join((str(context.launch_configurations.get("ros_namespace", "")), namespace))
    file = parameter_file(given["params_file"], namespace)
    return [
        Node(
            package="spectradino_ros",
            executable="detector_node",
            name=NODE_NAME,
            namespace=given["namespace"],
            parameters=[str(file), values],
            remappings=remappings(given),
            # The band precedes the parameter file, which may override it.
            arguments=["--ros-args", "--log-level", given["log_level"], "-p", f"infrared_band:={band}"],
            additional_env={"FASTRTPS_DEFAULT_PROFILES_FILE": str(dds_profile(profile))} if profile else {},
            respawn=TRUTHS[given["use_respawn"]],
            respawn_delay=2.0,
            output="screen",
        )
    ]
