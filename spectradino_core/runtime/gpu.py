"""NVIDIA GPUs: queries to the driver without any CUDA library, and the libraries that ONNX Runtime needs.

`gpu_id` indexes the GPUs visible to this process (after CUDA_VISIBLE_DEVICES).
"""

from __future__ import annotations

import ctypes
import functools
import logging
import math
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

log = logging.getLogger(__name__)

_MIN_FREE_MB = 1024
"""Below this an engine is likely to run out of memory."""


def driver_library() -> Any:
    """Load the driver's library; OSError if there is none."""
    return ctypes.CDLL("libcuda.so.1")


def gpu_name(gpu_id: int = 0) -> str:
    """Return the name of a GPU, fit for file names; "" if the driver has no such GPU."""
    with suppress(OSError, AttributeError):
        driver = driver_library()
        name = ctypes.create_string_buffer(256)
        device = ctypes.c_int()
        if driver.cuInit(0) == 0 and driver.cuDeviceGet(ctypes.byref(device), gpu_id) == 0:
            driver.cuDeviceGetName(name, len(name), device)
            return re.sub(r"[^A-Za-z0-9]+", "_", name.value.decode("utf-8", "replace")).strip("_") or "gpu"
    return ""


def driver_version() -> str:
    """Return the CUDA version that the driver supports, such as "12040"; "0" without a driver."""
    with suppress(OSError, AttributeError):
        version = ctypes.c_int()
        if driver_library().cuDriverGetVersion(ctypes.byref(version)) == 0:
            return str(version.value)
    return "0"


def tensorrt_version() -> tuple[int, int]:
    """Return major and minor version of the TensorRT library; (0, 0) if none is found."""
    for library in ("libnvinfer.so.11", "libnvinfer.so.10", "libnvinfer.so.8", "libnvinfer.so"):
        with suppress(OSError, AttributeError):
            number = int(ctypes.CDLL(library).getInferLibVersion())
            # Major * 1000 + minor * 100 + patch up to 9, major * 10000 + minor * 100 + patch from 10 on.
            unit = 10000 if number >= 100000 else 1000
            return number // unit, number % unit // 100
    return 0, 0


@functools.cache
def preload_libraries() -> None:
    """Load the CUDA and cuDNN libraries of pip packages, which are not on the system's search path.

    The onnxruntime-gpu wheel contains none: its extras [cuda,cudnn] install them as separate packages. Missing ones are
    left to the system's search path.
    """
    with suppress(ImportError, AttributeError, OSError, RuntimeError):
        import onnxruntime as ort

        with suppress(AttributeError):  # before 1.21
            ort.preload_dlls()
        # preload_dlls knows the folder layout of one CUDA version; others differ (nvidia/cu13/lib).
        for folder in _pip_library_folders(Path(ort.__file__).parents[1]):
            for pattern in ("libcudart.so.*", "libnvJitLink.so.*", "libcublasLt.so.*", "libcublas.so.*", "lib*.so.*"):
                for library in sorted(folder.glob(pattern)):
                    with suppress(OSError):
                        ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)


def _pip_library_folders(site_packages: Path) -> list[Path]:
    wanted = r"(cu\d+|cublas|cuda_runtime|cuda_nvrtc|cudnn|cufft|curand|nvjitlink)"
    return [
        folder
        for folder in sorted((site_packages / "nvidia").glob("*/lib"))
        if re.fullmatch(wanted, folder.parent.name) and folder.is_dir()
    ]


def missing_library(provider: str = "cuda") -> str:
    """Return the missing library ("libcudnn.so.9") of a provider, "cuda" or "tensorrt"; "" if none is missing."""
    try:
        import onnxruntime as ort
    except ImportError:
        return ""
    folder = Path(ort.__file__).parent / "capi"
    with suppress(OSError):
        ctypes.CDLL(str(folder / "libonnxruntime_providers_shared.so"), mode=ctypes.RTLD_GLOBAL)
    try:
        ctypes.CDLL(str(folder / f"libonnxruntime_providers_{provider}.so"), mode=os.RTLD_LAZY)
    except OSError as error:
        found = re.match(r"(lib[\w.+-]+): cannot open shared object file", str(error))
        return found.group(1) if found and "onnxruntime" not in found.group(1) else ""
    return ""


def explain(error: str) -> str:
    """Return the remedy for an error text of CUDA, ONNX Runtime or TensorRT; "" if unknown."""
    known = (
        (
            r"no ?kernel ?image",
            "this ONNX Runtime was built without kernels for this GPU: RTX 50xx and newer need onnxruntime-gpu 1.24 or "
            "newer for CUDA 12.8 or 13; older GPUs an older release",
        ),
        (
            r"driver version is insufficient|CUDA_ERROR_SYSTEM_DRIVER_MISMATCH|forward compatibility",
            "the NVIDIA driver is older than the CUDA version that ONNX Runtime was built for: update the driver",
        ),
        (r"invalid device ordinal", "no such GPU: check 'gpu_id' and CUDA_VISIBLE_DEVICES"),
        (
            r"out of memory|CUDA_ERROR_OUT_OF_MEMORY|failed to allocate",
            "the GPU's memory is full: stop other programs on it, or convert the model to fp16",
        ),
        (
            r"(lib(?:cublas|cudnn|cudart|cufft|curand|nvrtc)\w*\.so[\w.]*)",
            "install the CUDA libraries that ONNX Runtime was built for: pip install 'onnxruntime-gpu[cuda,cudnn]'",
        ),
        (r"libnvinfer\S*", "install TensorRT 10 or newer: pip install tensorrt, or the distribution's libnvinfer"),
    )
    return next((remedy for pattern, remedy in known if re.search(pattern, error, re.IGNORECASE)), "")


def gpu_problem(driver: Any = None, gpu_id: int = 0, min_free_mb: int = _MIN_FREE_MB) -> str:
    """Why a GPU cannot compute for this process; empty if it can and has `min_free_mb` of free memory (0: any).

    Tested by writing to its memory in the primary context, which all libraries of a process share: a context poisoned
    by a failed kernel returns that error until the process ends.
    """
    try:
        driver = driver or driver_library()
        return _memory_problem(driver, gpu_id, min_free_mb)
    except OSError as error:
        return f"there is no NVIDIA driver: {error}"
    except AttributeError as error:
        return f"the NVIDIA driver is too old: {error}"
    except _FailedCallError as error:
        name = _error_name(driver, error.args[1])
        if name == "CUDA_ERROR_OUT_OF_MEMORY" and not min_free_mb:
            return ""
        return f"{error.args[0]} returned {name}"


def context_problem(driver: Any = None, gpu_id: int = 0) -> str:
    """Like `gpu_problem`, but ignore full memory: only problems that no new session in this process can fix."""
    return gpu_problem(driver, gpu_id, min_free_mb=0)


_abandoned: list[Any] = []


def abandon(engine: Any) -> None:
    """Keep an engine with a lost CUDA context until the process ends: its destructor might abort the process."""
    _abandoned.append(engine)


def leave_process(code: int) -> None:
    """Exit the process immediately if the interpreter's clean-up would destroy an abandoned engine."""
    if not _abandoned:
        return
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


class _FailedCallError(Exception):
    """A failed driver call: function name and error code."""


def _call(driver: Any, name: str, *arguments: Any) -> None:
    if code := getattr(driver, name)(*arguments):
        raise _FailedCallError(name, code)


@contextmanager
def _primary_context(driver: Any, gpu_id: int) -> Iterator[None]:
    """Make the primary context, which all libraries of a process share, current in this thread."""
    device, context = ctypes.c_int(), ctypes.c_void_p()
    _call(driver, "cuInit", 0)
    _call(driver, "cuDeviceGet", ctypes.byref(device), gpu_id)
    _call(driver, "cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
    try:
        _call(driver, "cuCtxPushCurrent_v2", context)
        try:
            yield
        finally:
            driver.cuCtxPopCurrent_v2(ctypes.byref(ctypes.c_void_p()))
    finally:
        driver.cuDevicePrimaryCtxRelease_v2(device)


def _memory_problem(driver: Any, gpu_id: int, min_free_mb: int) -> str:
    memory, free, total = ctypes.c_uint64(), ctypes.c_size_t(), ctypes.c_size_t()
    with _primary_context(driver, gpu_id):
        _call(driver, "cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
        if free.value < min_free_mb << 20:
            return f"only {free.value >> 20} of its {total.value >> 20} MiB are free"
        _call(driver, "cuMemAlloc_v2", ctypes.byref(memory), ctypes.c_size_t(4096))
        try:
            _call(driver, "cuMemsetD8_v2", memory, ctypes.c_ubyte(0), ctypes.c_size_t(4096))
            _call(driver, "cuCtxSynchronize")
        finally:
            driver.cuMemFree_v2(memory)
    return ""


class _PageLocked:
    """Host memory allocated by the driver, freed with the last array that uses it."""

    def __init__(self, driver: Any, gpu_id: int, shape: Sequence[int], kind: np.dtype) -> None:
        self._driver, self._gpu_id, self._address = driver, gpu_id, ctypes.c_void_p()
        size = max(1, math.prod(shape)) * kind.itemsize
        with _primary_context(driver, gpu_id):
            _call(driver, "cuMemHostAlloc", ctypes.byref(self._address), ctypes.c_size_t(size), ctypes.c_uint(0))
        self.__array_interface__ = {
            "version": 3, "shape": tuple(shape), "typestr": kind.str, "data": (self._address.value, False),
        }  # fmt: skip

    def __del__(self) -> None:
        if self._address.value:
            # A lost context or a driver that has shut down fails here; the memory is already freed.
            with suppress(Exception), _primary_context(self._driver, self._gpu_id):
                self._driver.cuMemFreeHost(self._address)


def page_locked(shape: Sequence[int], kind: Any, gpu_id: int = 0, driver: Any = None) -> np.ndarray | None:
    """Allocate an array in page-locked memory, which a GPU reads without an extra copy; None if not available."""
    try:
        return np.asarray(_PageLocked(driver or driver_library(), gpu_id, shape, np.dtype(kind)))
    except (OSError, AttributeError, _FailedCallError) as error:
        log.debug("no page-locked memory: %s", error)
        return None


def _error_name(driver: Any, code: int) -> str:
    name = ctypes.c_char_p()
    with suppress(AttributeError):
        if driver.cuGetErrorName(code, ctypes.byref(name)) == 0 and name.value:
            return name.value.decode("ascii", "replace")
    return f"error {code}"
