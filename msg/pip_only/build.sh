#!/usr/bin/env bash
# Build one interface package and install it into a virtual environment with ROS 2 Jazzy from wheels.
# Usage: msg/pip_only/build.sh VENV SOURCE BUILD    e.g. .venv msg .venv/.build/spectradino_msgs
# A ROS workspace builds with colcon instead; see docs/node.md.
set -euo pipefail

if [ $# -ne 3 ]; then
  echo "usage: $0 VENV SOURCE BUILD" >&2
  exit 2
fi
venv=$(cd "$1" && pwd)
source=$(cd "$2" && pwd)
build=$3
mkdir -p "$build"
log=$build/build.log
python=$venv/bin/python

# The wheels' exported CMake targets refer to the Python of the build machine; replace it by this one. Idempotent.
python_include=$("$python" -c 'import sysconfig; print(sysconfig.get_path("platinclude"))')
numpy_include=$("$python" -c 'import numpy; print(numpy.get_include())')
if [ ! -f "$python_include/Python.h" ]; then
  echo "Python.h is not in $python_include: install the headers of this Python (Debian: python3-dev)" >&2
  exit 1
fi
builder='/opt/python/cp3[0-9]+-cp3[0-9]+'
sed -i -E \
  "s#$builder/include/python3\.[0-9]+;$builder/lib/python3\.[0-9]+/site-packages/numpy/_core/include#$python_include;$numpy_include#" \
  "$venv"/share/*/cmake/export_*__rosidl_generator_pyExport.cmake

export PATH=$venv/bin:$PATH AMENT_PREFIX_PATH=$venv CMAKE_PREFIX_PATH=$venv
if ! {
  cmake -S "$source" -B "$build" -DCMAKE_INSTALL_PREFIX="$venv" -DPython3_EXECUTABLE="$python" \
    -DBUILD_TESTING=OFF -DCMAKE_BUILD_TYPE=Release &&
    cmake --build "$build" -j"$(nproc)" &&
    cmake --install "$build"
} >"$log" 2>&1; then
  tail -n 30 "$log" >&2
  echo "building $source failed; the whole output is in $log" >&2
  exit 1
fi
