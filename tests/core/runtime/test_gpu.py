"""Queries to the GPU driver, on this machine and with a simulated driver."""

from __future__ import annotations

import ctypes
import gc
from types import SimpleNamespace

import numpy as np
import pytest

from spectradino_core.runtime.gpu import driver_library, gpu_name, gpu_problem, page_locked

CALLS = (
    "cuInit",
    "cuDeviceGet",
    "cuDevicePrimaryCtxRetain",
    "cuCtxPushCurrent_v2",
    "cuMemGetInfo_v2",
    "cuMemAlloc_v2",
    "cuMemsetD8_v2",
    "cuCtxSynchronize",
)
AFTER = ("cuMemFree_v2", "cuCtxPopCurrent_v2", "cuDevicePrimaryCtxRelease_v2")


class Driver(SimpleNamespace):
    """Simulated driver: returns 0 unless configured otherwise, and records calls."""

    def __init__(self, free_mb: int = 4000, **codes: int) -> None:
        self.called: list[str] = []
        super().__init__(**{name: self._answer(name, codes.get(name, 0), free_mb) for name in CALLS + AFTER})
        self.cuGetErrorName = self._name

    def _answer(self, name, code, free_mb):
        def answer(*arguments):
            self.called.append(name)
            if name == "cuMemGetInfo_v2":
                arguments[0]._obj.value, arguments[1]._obj.value = free_mb << 20, 8000 << 20
            return code

        return answer

    def _name(self, code, name):
        name._obj.value = {700: b"CUDA_ERROR_ILLEGAL_ADDRESS"}.get(code)
        return 0 if code == 700 else 1


def test_a_gpu_that_computes_has_no_problem_and_keeps_nothing():
    driver = Driver()
    assert gpu_problem(driver) == ""
    assert driver.called == [*CALLS, *AFTER]


@pytest.mark.parametrize("failing", CALLS)
def test_the_call_that_failed_is_named_and_what_was_taken_is_given_back(failing):
    driver = Driver(**{failing: 700})
    assert gpu_problem(driver) == f"{failing} returned CUDA_ERROR_ILLEGAL_ADDRESS"
    before = driver.called[: driver.called.index(failing)]
    pairs = (
        ("cuDevicePrimaryCtxRetain", "cuDevicePrimaryCtxRelease_v2"),
        ("cuCtxPushCurrent_v2", "cuCtxPopCurrent_v2"),
        ("cuMemAlloc_v2", "cuMemFree_v2"),
    )
    for taken, given_back in pairs:
        assert (taken in before) == (given_back in driver.called)


def test_full_memory_and_an_unnamed_error_are_reported():
    assert gpu_problem(Driver(free_mb=100)) == "only 100 of its 8000 MiB are free"
    assert gpu_problem(Driver(cuInit=999)) == "cuInit returned error 999"
    old = Driver()
    del old.cuCtxPushCurrent_v2
    assert "too old" in gpu_problem(old)
    assert old.called[-1] == "cuDevicePrimaryCtxRelease_v2"


class Memory(Driver):
    """Simulated host memory with a count of allocations."""

    def __init__(self, **codes: int) -> None:
        super().__init__()
        self.out: dict[int, ctypes.Array] = {}
        self._code = codes.get("cuMemHostAlloc", 0)
        self.cuMemHostAlloc, self.cuMemFreeHost = self._give, self._take

    def _give(self, address, size, flags) -> int:
        self.called.append("cuMemHostAlloc")
        if self._code:
            return self._code
        block = ctypes.create_string_buffer(size.value)
        address._obj.value = ctypes.addressof(block)
        self.out[address._obj.value] = block
        return 0

    def _take(self, address) -> int:
        self.called.append("cuMemFreeHost")
        del self.out[address.value]
        return 0


def test_page_locked_memory_goes_back_with_the_last_array_on_it():
    driver = Memory()
    array = page_locked((2, 3), np.uint16, driver=driver)
    array[...] = np.arange(6).reshape(2, 3)
    row = array[1]
    del array
    gc.collect()
    assert row.tolist() == [3, 4, 5]
    assert bytes(next(iter(driver.out.values())))[6:] == row.tobytes()
    del row
    gc.collect()
    assert driver.out == {}
    taken, given_back = ("cuDevicePrimaryCtxRetain", "cuDevicePrimaryCtxRelease_v2")
    assert driver.called.count(taken) == driver.called.count(given_back) == 2


def test_without_page_locked_memory_there_is_none():
    assert page_locked((2, 3), np.float32, driver=Memory(cuMemHostAlloc=2)) is None
    old = Driver()  # without the call
    assert page_locked((2, 3), np.float32, driver=old) is None
    assert old.called[-1] == "cuDevicePrimaryCtxRelease_v2"


def test_this_machine():
    try:
        driver_library()
    except OSError:
        assert "no NVIDIA driver" in gpu_problem()
        assert gpu_name() == ""
    else:
        assert "driver" not in gpu_problem()
        assert gpu_name()
