"""The one launch description behind the launch files of all bands.

An argument that is left empty does not touch its parameter: the parameter file decides. One that is given wins over the
file. Descriptions and choices come from `parameters`, so that they are written once.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

# The repository has a folder of this name too, which is what mypy finds where the package is not installed.
from launch import LaunchContext, LaunchDescription  # type: ignore[attr-defined]
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from spectradino_ros.parameters import TRANSPORTS, ParameterError, Spec, check, parameter
from spectradino_ros.shared_files import find_shared

__all__ = ["NODE_NAME", "detector_launch_description"]

NODE_NAME = "detector_node"

_PARAMETERS = (
    "model",
    "device",
    "rgb_transport",
    "ir_transport",
    "score_threshold",
    "sync_slop_ms",
    "ir_time_offset_ms",
    "ir_normalization",
    "calibration_file",
    "fallback_mode",
    "publish_overlay",
    "deadline_ms",
)
"""Parameters that have a launch argument of their own; all others are set in the parameter file."""

_BOOLEANS = ("true", "false")

_LARGE_IMAGES = "large_images"


def detector_launch_description(band: str) -> LaunchDescription:
    """The arguments and the node.

    Args:
        band: of the infrared camera, "lwir", "swir" or "nir". The default parameter file is the band's in the package's
            folder `config`; in a file of the user's own the parameter `infrared_band` may be left out.
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
            default_value=str(find_shared(f"config/{band}_detector.yaml")),
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
        *(
            DeclareLaunchArgument(
                f"{key}_info_topic",
                default_value="",
                description=f"Topic of the {camera} camera's CameraInfo. Empty: camera_info beside {key}_topic.",
            )
            for key, camera in (("rgb", "colour"), ("ir", "infrared"))
        ),
        DeclareLaunchArgument(
            "image_transport",
            default_value="",
            choices=("", *TRANSPORTS),
            description="How the images of both cameras come: raw, or from <topic>/compressed or <topic>/zstd. "
            "rgb_transport and ir_transport set one camera's. Empty: as in params_file.",
        ),
        DeclareLaunchArgument(
            "dds_profile",
            default_value="",
            description=f"Fast DDS profile of the node, for what it publishes: {_LARGE_IMAGES}, which is shipped, or "
            "an XML file. Against lost camera images it is the drivers that need it, in "
            "FASTRTPS_DEFAULT_PROFILES_FILE. Empty: as in the environment.",
        ),
        *(_declare(parameter(name)) for name in _PARAMETERS),
    ]
    return LaunchDescription([*arguments, OpaqueFunction(function=lambda context: _node(context, band))])


def _declare(spec: Spec) -> DeclareLaunchArgument:
    allowed = _BOOLEANS if spec.kind is bool else spec.choices
    return DeclareLaunchArgument(
        spec.name,
        default_value="",
        choices=("", *allowed) if allowed else None,
        description=f"{spec.description} Empty: as in params_file.",
    )


def _node(context: LaunchContext, band: str) -> list[Node]:
    def given(name: str) -> str:
        return LaunchConfiguration(name).perform(context).strip()

    values: dict[str, Any] = {name: given(name) == "true" for name in ("use_sim_time", "autostart")}
    if given("image_transport"):
        values |= {"rgb_transport": given("image_transport"), "ir_transport": given("image_transport")}
    for name in _PARAMETERS:
        if given(name):
            values[name] = _parse(parameter(name), given(name))
    profile = given("dds_profile")
    remappings = []
    for key in ("rgb", "ir"):
        images = given(f"{key}_topic")
        info = given(f"{key}_info_topic") or "".join((*images.rpartition("/")[:2], "camera_info"))
        remappings += [(f"{key}/image_raw", images), (f"{key}/camera_info", info)]
    return [
        Node(
            package="spectradino_ros",
            executable="detector_node",
            name=NODE_NAME,
            namespace=given("namespace"),
            parameters=[given("params_file"), values],
            remappings=remappings,
            # The band comes before the parameter file, which may say otherwise.
            arguments=["--ros-args", "--log-level", given("log_level"), "-p", f"infrared_band:={band}"],
            additional_env={"FASTRTPS_DEFAULT_PROFILES_FILE": str(_profile(profile))} if profile else {},
            respawn=given("use_respawn") == "true",
            respawn_delay=2.0,
            output="screen",
        )
    ]


def _profile(given: str) -> Path:
    """The file meant by the launch argument `dds_profile`.

    Raises:
        ParameterError: there is no such file, which Fast DDS would pass over without a word.
    """
    path = find_shared("config/fastdds_large_images.xml") if given == _LARGE_IMAGES else Path(given).expanduser()
    if not path.is_file():
        raise ParameterError(
            f"launch argument 'dds_profile' is {_LARGE_IMAGES} or an XML file, and there is none at {path}"
        )
    return path.resolve()


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
