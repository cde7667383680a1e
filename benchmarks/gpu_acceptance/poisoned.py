"""A process that poisons its own CUDA context while an engine serves: what recovery must outlive.

    python -m benchmarks.gpu_acceptance.poisoned MODEL cpu|none

with "cpu" the CPU may take over, with "none" it may not and the exit code must ask for a restart.
"""

from __future__ import annotations

import ctypes
import sys

from benchmarks.gpu_acceptance.serving import POISON
from spectradino_core.runtime.engine import EngineError
from spectradino_core.runtime.engines import open_engine
from spectradino_core.runtime.gpu import context_problem, driver_library, leave_process
from spectradino_core.runtime.network_inputs import blank_input
from spectradino_core.runtime.recovery import RecoveringEngine, RecoveryPolicy


def poison() -> None:
    """Run a kernel that traps, in the context that all libraries of this process share."""
    driver, device, context = driver_library(), ctypes.c_int(), ctypes.c_void_p()
    module, function = ctypes.c_void_p(), ctypes.c_void_p()
    driver.cuInit(0)
    driver.cuDeviceGet(ctypes.byref(device), 0)
    driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), device)
    driver.cuCtxPushCurrent_v2(context)
    if code := driver.cuModuleLoadData(ctypes.byref(module), POISON.encode()):
        raise RuntimeError(f"the driver does not take the failing kernel: error {code}")
    driver.cuModuleGetFunction(ctypes.byref(function), module, b"poison")
    driver.cuLaunchKernel(function, 1, 1, 1, 1, 1, 1, 0, None, None, None)
    driver.cuCtxSynchronize()


def main(model: str, policy: str) -> int:
    """Serve, poison the context, continue to serve; returns the exit code."""
    engine = RecoveringEngine(
        lambda device: open_engine(model, device),
        "cuda",
        lambda: RecoveryPolicy(2, policy == "cpu"),
        lambda line: print(line, file=sys.stderr),
        first_pause_s=0.1,
        context_problem=context_problem,
    )
    blank = blank_input(engine.info)
    engine.run(*blank)
    poison()
    for _ in range(4):
        try:
            engine.run(*blank)
        except EngineError as error:
            print(error, file=sys.stderr)
    print(f"{engine.condition.value}, {engine.label}, restart asked for: {engine.needs_restart}", flush=True)
    return 1 if engine.needs_restart else 0


if __name__ == "__main__":
    code = main(*sys.argv[1:])
    leave_process(code)
    sys.exit(code)
