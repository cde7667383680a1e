"""What the NVIDIA driver says of the first GPU, asked without any CUDA library: its name, and whether it computes."""

from __future__ import annotations

import ctypes
import re
from contextlib import suppress
from typing import Any

__all__ = ["driver_library", "gpu_name", "gpu_problem", "tensorrt_version"]

_LEAST_FREE_MB = 1024
"""Below this an engine may well fail for want of memory."""


def driver_library() -> Any:
    """The driver's library.

    Raises:
        OSError: there is none.
    """
    return ctypes.CDLL("libcuda.so.1")


def gpu_name() -> str:
    """Of the first GPU, as a part of a file name; "gpu" where the driver does not say."""
    with suppress(OSError, AttributeError):
        driver = driver_library()
        name = ctypes.create_string_buffer(256)
        device = ctypes.c_int()
        if driver.cuInit(0) == 0 and driver.cuDeviceGet(ctypes.byref(device), 0) == 0:
            driver.cuDeviceGetName(name, len(name), device)
            return re.sub(r"[^A-Za-z0-9]+", "_", name.value.decode("utf-8", "replace")).strip("_") or "gpu"
    return "gpu"


def tensorrt_version() -> str:
    """As the library tells it, such as 10300; "0" where it is not found by name."""
    for library in ("libnvinfer.so.10", "libnvinfer.so.8", "libnvinfer.so"):
        with suppress(OSError, AttributeError):
            return str(ctypes.CDLL(library).getInferLibVersion())
    return "0"


def gpu_problem(driver: Any = None) -> str:
    """Why the first GPU can't compute for this process, in words; empty when it can and has memory to spare.

    It is asked to write some bytes of its memory, in the context that all libraries of a process share: one that a
    failed kernel has poisoned answers with that failure until the process ends, a GPU that is gone with its own.

    Args:
        driver: the driver's library; None looks for it.
    """
    try:
        driver = driver or driver_library()
        return _written_and_read(driver)
    except OSError as error:
        return f"there is no NVIDIA driver: {error}"
    except AttributeError as error:
        return f"the NVIDIA driver is too old: {error}"
    except _FailedCallError as error:
        return f"{error.args[0]} gives {_error_name(driver, error.args[1])}"


class _FailedCallError(Exception):
    """A function of the driver, and the number that it gave."""


def _written_and_read(driver: Any) -> str:
    device, context, memory = ctypes.c_int(), ctypes.c_void_p(), ctypes.c_uint64()
    free, total = ctypes.c_size_t(), ctypes.c_size_t()

    def call(name: str, *arguments: Any) -> None:
        if code := getattr(driver, name)(*arguments):
            raise _FailedCallError(name, code)

    call("cuInit", 0)
    call("cuDeviceGet", ctypes.byref(device), 0)
    call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
    try:
        call("cuCtxPushCurrent_v2", context)
        try:
            call("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
            if free.value < _LEAST_FREE_MB << 20:
                return f"only {free.value >> 20} of its {total.value >> 20} MiB are free"
            call("cuMemAlloc_v2", ctypes.byref(memory), ctypes.c_size_t(4096))
            try:
                call("cuMemsetD8_v2", memory, ctypes.c_ubyte(0), ctypes.c_size_t(4096))
                call("cuCtxSynchronize")
            finally:
                driver.cuMemFree_v2(memory)
        finally:
            driver.cuCtxPopCurrent_v2(ctypes.byref(ctypes.c_void_p()))
    finally:
        driver.cuDevicePrimaryCtxRelease_v2(device)
    return ""


def _error_name(driver: Any, code: int) -> str:
    name = ctypes.c_char_p()
    with suppress(AttributeError):
        if driver.cuGetErrorName(code, ctypes.byref(name)) == 0 and name.value:
            return name.value.decode("ascii", "replace")
    return f"error {code}"
