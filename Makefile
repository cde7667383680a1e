# SpectraDINO on a machine without a ROS distribution: everything comes from pinned wheels into .venv.
# A ROS workspace builds with colcon and needs none of this; see docs/node.md.

PYTHON ?= python3.11
VENV ?= .venv
# The interpreter of ROS 2 Humble and JetPack 6, for `make test-py310`.
PYTHON310 ?= python3.10
VENV310 ?= .venv310
# The oldest torch and onnxscript of setup.py, over the packages of VENV, for `make test-oldest-torch`.
VENVTORCH ?= .venvtorch
DATA ?=
FUZZ_MESSAGES ?= 10000
FUZZ_ARGS ?=
BENCH_ARGS ?= all
# More arguments for every `pip install`, e.g. PIP_ARGS="--index-url ..." for a mirror or for CPU builds of torch.
PIP_ARGS ?=
# More arguments for pytest, e.g. PYTEST_ARGS="-k pairing -x".
PYTEST_ARGS ?=

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
# Stages share one environment and one network: in order, also under `make -j`.
.NOTPARALLEL:

PREFIX := $(abspath $(VENV))
PY := $(PREFIX)/bin/python
PIP := PYTHONWARNINGS=ignore $(PY) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt $(PIP_ARGS)

# Without cached bytecode every process that tests start compiles this code anew, and every worker of pytest all tests.
unexport PYTHONDONTWRITEBYTECODE
# A sourced ROS distribution would put its packages before those of the environment.
unexport PYTHONPATH CMAKE_PREFIX_PATH COLCON_PREFIX_PATH _ROS_WHEELS_BOOTSTRAP_COMPLETE
ifdef ROS_DISTRO
unexport LD_LIBRARY_PATH ROS_DISTRO
endif
export AMENT_PREFIX_PATH := $(PREFIX)
# Fast DDS loses most large images by default; the file says why. Nothing here is meant for other machines.
export FASTRTPS_DEFAULT_PROFILES_FILE := $(CURDIR)/config/fastdds_large_images.xml
export ROS_AUTOMATIC_DISCOVERY_RANGE := LOCALHOST

# What was done leaves a stamp in the environment, so that deleting the environment forgets all of it.
CREATED := $(VENV)/.stamp-created
RUNTIME := $(VENV)/.stamp-runtime
MSGS := $(VENV)/.stamp-msgs
DEV := $(VENV)/.stamp-dev
PREFIX310 := $(abspath $(VENV310))
PY310 := $(VENV310)/.stamp-robot
# The rooms that run on a robot without ROS; nothing there needs torch.
ROBOT_TESTS := tests/core/test_thermal.py tests/core/test_thermal_override.py tests/core/test_invalid_counts.py \
  tests/core/runtime tests/core/streams tests/core/calibration/test_registration.py \
  tests/core/calibration/test_camera_geometry.py tests/core/calibration/test_static_transforms.py
# What depends on torch's version: export, sharding, the way of batches to a device.
TORCH_TESTS := tests/core/export/test_export.py tests/core/data/test_transfer.py tests/core/training/test_distributed.py \
  tests/core/training/test_loop.py
# A file's tests share models, recordings and nodes, so one worker runs them all; each worker has a ROS domain of its own.
# By default xdist starts files with few tests last, and those take longest: here the order is that of tests/conftest.py,
# long ones first, with the ROS tests spread between the others.
BY_FILE := --dist loadfile --no-loadscope-reorder
PACKAGING := setup.py setup.cfg pyproject.toml package.xml constraints.txt
VISION_MSGS_SOURCES := $(wildcard msg/pip_only/vision_msgs/* msg/pip_only/vision_msgs/msg/*) msg/pip_only/build.sh
TF2_MSGS_SOURCES := $(wildcard msg/pip_only/tf2_msgs/* msg/pip_only/tf2_msgs/msg/*) msg/pip_only/build.sh
SPECTRADINO_MSGS_SOURCES := $(wildcard msg/*.msg) msg/CMakeLists.txt msg/package.xml msg/pip_only/build.sh

.PHONY: help demo test test-experiments test-fast test-py310 test-oldest-torch fuzz bench-node lint format types setup runtime msgs constraints reference clean distclean

help: ## list the targets
	@awk 'BEGIN {FS = ":.*## "} /^[a-z0-9-]+:.*## / {printf "  make %-17s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: runtime ## run the node on synthetic scenes, or DATA=folder of pairs; look into demo_out/
	@$(PY) -m spectradino_ros.demo --out demo_out $(if $(DATA),--data "$(DATA)")

# Three files on two cores: ROS tests mostly wait.
test: setup ## run every test but whole experiments, three files side by side
	@OMP_NUM_THREADS=1 $(PY) -m pytest --durations=10 $(if $(PYTEST_ARGS),$(PYTEST_ARGS),-m "not experiment" -n 3 $(BY_FILE))

test-experiments: setup ## run whole experiments of benchmarks/ at toy scale, which takes minutes
	@$(PY) -m pytest -m experiment $(PYTEST_ARGS)

test-fast: setup ## run the tests that take seconds, side by side
	@OMP_NUM_THREADS=1 $(PY) -m pytest -q -m "not slow" -n 3 $(BY_FILE) $(PYTEST_ARGS)

test-py310: $(PY310) ## test what runs on a robot, with Python 3.10 and its oldest packages
	@$(PREFIX310)/bin/python -m pytest -q -p no:cacheprovider $(ROBOT_TESTS) $(PYTEST_ARGS)

test-oldest-torch: $(VENVTORCH)/.stamp-torch ## test training and export with the oldest torch that setup.py admits
	@$(VENVTORCH)/bin/python -m pytest -q -p no:cacheprovider $(TORCH_TESTS) $(PYTEST_ARGS)

fuzz: setup ## send FUZZ_MESSAGES odd messages to a real node, damaged files to all readers (FUZZ_ARGS="--seed 1")
	@$(PY) -m tests.fuzz --messages $(FUZZ_MESSAGES) $(FUZZ_ARGS)

bench-node: setup ## measure the node's overhead and its endurance (BENCH_ARGS="soak --minutes 1"); see benchmarks/
	@$(PY) -m benchmarks.node $(BENCH_ARGS)

lint: setup ## check style and formatting (ruff)
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .

format: setup ## put the code into format, and fix what can be fixed safely
	@$(PY) -m ruff check --fix .
	@$(PY) -m ruff format .

types: setup ## check types (mypy)
	@$(PY) -m mypy

setup: runtime $(DEV) ## make .venv with all that serving, training and the tests need

runtime: $(RUNTIME) msgs ## make .venv with only what serving needs

msgs: $(MSGS)-vision $(MSGS)-tf2 $(MSGS)-spectradino ## build the messages into .venv

constraints: setup ## write constraints.txt from the versions that .venv holds
	@$(PY) .ci/pin.py > constraints.txt.new
	@mv constraints.txt.new constraints.txt
	@touch $(RUNTIME) $(MSGS)-vision $(MSGS)-tf2 $(MSGS)-spectradino $(DEV)

reference: setup ## write the tables of docs/node.md and config/detector.yaml from the code
	@$(PY) .ci/reference.py

clean: ## remove what was built, cached and drawn; keep .venv
	@rm -rf build install log dist demo_out .pytest_cache .mypy_cache .ruff_cache .hypothesis ./*.egg-info constraints.txt.new
	@find spectradino_core spectradino_ros tests launch benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean ## remove .venv, .venv310 and .venvtorch too
	@rm -rf "$(VENV)" "$(VENV310)" "$(VENVTORCH)"

$(CREATED):
	@command -v "$(PYTHON)" > /dev/null || { \
	  echo "$(PYTHON) is not installed. On Debian or Ubuntu: apt install $(PYTHON) $(PYTHON)-venv $(PYTHON)-dev;" \
	    "or name another one: make PYTHON=python3.12" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' || { \
	  echo "$(PYTHON) is $$("$(PYTHON)" --version 2>&1); the ROS 2 wheels are made for Python 3.11 and 3.12." \
	    "Name one of these: make PYTHON=python3.11" >&2; exit 1; }
	@"$(PYTHON)" -c 'import ensurepip, venv' 2> /dev/null || { \
	  echo "$(PYTHON) cannot make virtual environments. On Debian or Ubuntu: apt install $(PYTHON)-venv" >&2; exit 1; }
	@echo "[1/4] $(VENV), with $$("$(PYTHON)" --version)"
	@test -x $(PY) || "$(PYTHON)" -m venv "$(VENV)"
	@touch $@

# The editable install knows the code only. What ROS looks up by path is linked, as `colcon build --symlink-install` does.
$(RUNTIME): $(PACKAGING) | $(CREATED)
	@echo "[2/4] packages for serving: ROS 2, ONNX Runtime, OpenCV"
	@$(PIP) setuptools
	@$(PIP) --no-build-isolation --editable ".[runtime,jazzy,demo]"
	@mkdir -p $(VENV)/share/spectradino_ros $(VENV)/share/ament_index/resource_index/packages $(VENV)/lib/spectradino_ros
	@ln -sfn $(CURDIR)/{launch,config,models,package.xml} $(VENV)/share/spectradino_ros/
	@ln -sfn $(CURDIR)/resource/spectradino_ros $(VENV)/share/ament_index/resource_index/packages/
	@ln -sfn ../../bin/{detector_node,spectradino} $(VENV)/lib/spectradino_ros/
	@touch $@

define have_tools
	@for tool in cmake gcc g++; do command -v $$tool > /dev/null || { \
	  echo "$$tool is not installed. On Debian or Ubuntu: apt install cmake build-essential" >&2; exit 1; }; done
endef

$(MSGS)-vision: $(VISION_MSGS_SOURCES) constraints.txt | $(RUNTIME)
	$(have_tools)
	@echo "[3/4] messages: vision_msgs"
	@if $(PY) -m pip show --quiet ros-jazzy-vision-msgs 2> /dev/null; then echo "      comes from a wheel"; \
	  else msg/pip_only/build.sh $(VENV) msg/pip_only/vision_msgs $(VENV)/.build/vision_msgs; fi
	@touch $@

$(MSGS)-tf2: $(TF2_MSGS_SOURCES) constraints.txt | $(RUNTIME)
	$(have_tools)
	@echo "[3/4] messages: tf2_msgs"
	@if $(PY) -m pip show --quiet ros-jazzy-tf2-msgs 2> /dev/null; then echo "      comes from a wheel"; \
	  else msg/pip_only/build.sh $(VENV) msg/pip_only/tf2_msgs $(VENV)/.build/tf2_msgs; fi
	@touch $@

$(MSGS)-spectradino: $(SPECTRADINO_MSGS_SOURCES) constraints.txt | $(RUNTIME)
	$(have_tools)
	@echo "[3/4] messages: spectradino_msgs"
	@msg/pip_only/build.sh $(VENV) msg $(VENV)/.build/spectradino_msgs
	@touch $@

$(DEV): $(PACKAGING) | $(RUNTIME)
	@echo "[4/4] packages for training and tests: PyTorch, OpenVINO, pytest, ruff, mypy"
	@$(PIP) --no-build-isolation --editable ".[runtime,openvino,jazzy,demo,bag,train,tsne,dev]"
	@touch $@

$(VENVTORCH)/.stamp-torch: setup.py .ci/oldest_torch | setup
	@echo "[1/1] $(VENVTORCH), with the oldest torch and onnxscript of setup.py"
	@.ci/oldest_torch "$(VENV)" "$(VENVTORCH)" $(PIP_ARGS)
	@touch $@

# Not an install of the package: the tests run on the source, and pip may not bring a newer NumPy or OpenCV.
$(PY310): constraints-py310.txt
	@"$(PYTHON310)" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 10))' 2> /dev/null || { \
	  echo "$(PYTHON310) is not a Python 3.10 that runs here. Ubuntu 22.04 has it: apt install python3.10 python3.10-venv;" \
	    "elsewhere pyenv or uv installs one. Name it: make test-py310 PYTHON310=path/to/python3.10" >&2; exit 1; }
	@echo "[1/1] $(VENV310), with $$("$(PYTHON310)" --version) and the packages of constraints-py310.txt"
	@rm -rf "$(VENV310)"
	@"$(PYTHON310)" -m venv "$(VENV310)"
	@PYTHONWARNINGS=ignore $(PREFIX310)/bin/python -m pip install --quiet --disable-pip-version-check \
	  --constraint constraints-py310.txt $(PIP_ARGS) numpy onnx onnxruntime opencv-python-headless pyyaml rosbags simplejpeg \
	  hypothesis "pytest>=8" "pytest-timeout>=2.3"
	@PYTHONWARNINGS=ignore $(PREFIX310)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps $(PIP_ARGS) numpy==1.21.5
	@touch $@
