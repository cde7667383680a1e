"""Detections and masks from an RGB and a near-infrared camera.

    ros2 launch spectradino_ros nir_detector.launch.py rgb_topic:=/camera/image_raw ir_topic:=/nir/image_raw

All arguments: `ros2 launch spectradino_ros nir_detector.launch.py --show-args`.
"""

from __future__ import annotations

from launch import LaunchDescription

from spectradino_ros.launch_description import detector_launch_description


def generate_launch_description() -> LaunchDescription:
    return detector_launch_description("nir")
