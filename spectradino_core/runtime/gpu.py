"""NVIDIA GPUs: what the driver reports, asked without any CUDA library, and the libraries that ONNX Runtime needs.

`gpu_id` counts the GPUs that this process sees, so after CUDA_VISIBLE_DEVICES.
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

__all__ = [
    "abandon",
    "context_problem",
    "driver_library",
    "driver_version",
    "explain",
    "gpu_name",
    "gpu_problem",
    "leave_process",
    "missing_library",
    "page_locked",
    "preload_libraries",
    "tensorrt_version",
]

log = logging.getLogger(__name__)

_LEAST_FREE_MB = 1024
"""Below this an engine may well fail for want of memory."""


def driver_library() -> Any:
    """The driver's library.

    Raises:
        OSError: there is none.
    """
    return ctypes.CDLL("libcuda.so.1")


def gpu_name(gpu_id: int = 0) -> str:
    """Name of a GPU as a part of a file name; "" where the driver lists no such GPU."""
    with suppress(OSError, AttributeError):
        driver = driver_library()
        name = ctypes.create_string_buffer(256)
        device = ctypes.c_int()
        if driver.cuInit(0) == 0 and driver.cuDeviceGet(ctypes.byref(device), gpu_id) == 0:
            driver.cuDeviceGetName(name, len(name), device)
            return re.sub(r"[^A-Za-z0-9]+", "_", name.value.decode("utf-8", "replace")).strip("_") or "gpu"
    return ""


def driver_version() -> str:
    """CUDA version that the driver supports, such as "12040"; "0" without a driver."""
    with suppress(OSError, AttributeError):
        version = ctypes.c_int()
        if driver_library().cuDriverGetVersion(ctypes.byref(version)) == 0:
            return str(version.value)
    return "0"


def tensorrt_version() -> tuple[int, int]:
    """Major and minor version of the TensorRT library; (0, 0) where none is found by name."""
    for library in ("libnvinfer.so.11", "libnvinfer.so.10", "libnvinfer.so.8", "libnvinfer.so"):
        with suppress(OSError, AttributeError):
            number = int(ctypes.CDLL(library).getInferLibVersion())
            # Major * 1000 + minor * 100 + patch up to 9, major * 10000 + minor * 100 + patch from 10 on.
            unit = 10000 if number >= 100000 else 1000
            return number // unit, number % unit // 100
    return 0, 0


@functools.cache
def preload_libraries() -> None:
    """Loads the CUDA and cuDNN libraries of pip packages, which no search path of the system names.

    The wheel of onnxruntime-gpu brings none: its extras [cuda,cudnn] install them as packages of their own. What is not
    there is left to the system's search path.
    """
    with suppress(ImportError, AttributeError, OSError, RuntimeError):
        import onnxruntime as ort

        with suppress(AttributeError):  # before 1.21
            ort.preload_dlls()
        # preload_dlls knows the folders of one CUDA version; those of others (nvidia/cu13/lib) are laid out anew.
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
    """Library without which a provider of ONNX Runtime can't be loaded, such as "libcudnn.so.9"; "" if none is missing.

    Args:
        provider: "cuda" or "tensorrt".
    """
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
    """What to do about an error text of CUDA, ONNX Runtime or TensorRT; "" for one that is not known."""
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
            "the GPU's memory is full: end other programs there, or convert the model to fp16",
        ),
        (
            r"(lib(?:cublas|cudnn|cudart|cufft|curand|nvrtc)\w*\.so[\w.]*)",
            "install CUDA's libraries as ONNX Runtime was built for them: pip install 'onnxruntime-gpu[cuda,cudnn]'",
        ),
        (r"libnvinfer\S*", "install TensorRT 10 or newer: pip install tensorrt, or the distribution's libnvinfer"),
    )
    return next((remedy for pattern, remedy in known if re.search(pattern, error, re.IGNORECASE)), "")


def gpu_problem(driver: Any = None, gpu_id: int = 0) -> str:
    """Why a GPU can't compute for this process, in words; empty when it can and has memory to spare.

    It is asked to write some bytes of its memory, in the context that all libraries of a process share: one that a
    failed kernel has poisoned answers with that failure until the process ends, a GPU that is gone with its own.

    Args:
        driver: the driver's library; None looks for it.
        gpu_id: which GPU.
    """
    return _problem(driver, gpu_id, _LEAST_FREE_MB)


def context_problem(driver: Any = None, gpu_id: int = 0) -> str:
    """As `gpu_problem`, but full memory is none: only what no new session in this process can mend."""
    return _problem(driver, gpu_id, 0)


_abandoned: list[Any] = []


def abandon(engine: Any) -> None:
    """Keeps an engine whose CUDA context is lost until the process ends: its destructor might abort the process."""
    _abandoned.append(engine)


def leave_process(code: int) -> None:
    """Ends the process here if the interpreter's clean-up would destroy an abandoned engine; else does nothing."""
    if not _abandoned:
        return
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def _problem(driver: Any, gpu_id: int, least_free_mb: int) -> str:
    try:
        driver = driver or driver_library()
        return _written_and_read(driver, gpu_id, least_free_mb)
    except OSError as error:
        return f"there is no NVIDIA driver: {error}"
    except AttributeError as error:
        return f"the NVIDIA driver is too old: {error}"
    except _FailedCallError as error:
        name = _error_name(driver, error.args[1])
        if name == "CUDA_ERROR_OUT_OF_MEMORY" and not least_free_mb:
            return ""
        return f"{error.args[0]} gives {name}"


class _FailedCallError(Exception):
    """A function of the driver, and the number that it gave."""


def _call(driver: Any, name: str, *arguments: Any) -> None:
    if code := getattr(driver, name)(*arguments):
        raise _FailedCallError(name, code)


@contextmanager
def _primary_context(driver: Any, gpu_id: int) -> Iterator[None]:
    """The context that all libraries of a process share is this thread's."""
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


def _written_and_read(driver: Any, gpu_id: int, least_free_mb: int) -> str:
    memory, free, total = ctypes.c_uint64(), ctypes.c_size_t(), ctypes.c_size_t()
    with _primary_context(driver, gpu_id):
        _call(driver, "cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
        if free.value < least_free_mb << 20:
            return f"only {free.value >> 20} of its {total.value >> 20} MiB are free"
        _call(driver, "cuMemAlloc_v2", ctypes.byref(memory), ctypes.c_size_t(4096))
        try:
            _call(driver, "cuMemsetD8_v2", memory, ctypes.c_ubyte(0), ctypes.c_size_t(4096))
            _call(driver, "cuCtxSynchronize")
        finally:
            driver.cuMemFree_v2(memory)
    return ""


class _PageLocked:
    """Host memory that the driver gave, and takes back when the last array on it is gone."""

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
            # A lost context, or a driver that has shut down, fails here; the memory went with it.
            with suppress(Exception), _primary_context(self._driver, self._gpu_id):
                self._driver.cuMemFreeHost(self._address)


def page_locked(shape: Sequence[int], kind: Any, gpu_id: int = 0, driver: Any = None) -> np.ndarray | None:
    """An array in page-locked memory, which a GPU reads without a copy in between; None where there is none.

    Args:
        shape: of the array.
        kind: its NumPy type.
        gpu_id: the GPU that will read it.
        driver: the driver's library; None looks for it.
    """
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
