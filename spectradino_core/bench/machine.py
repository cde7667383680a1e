"""Description of the machine for benchmark results, without its name."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from pathlib import Path

import cv2

_PACKAGES = {
    "numpy": ("numpy",),
    "onnxruntime": ("onnxruntime", "onnxruntime-gpu"),
    "openvino": ("openvino",),
    "torch": ("torch",),
}


def describe() -> dict[str, str]:
    """Return cores, processor, previous load and package versions."""
    return {
        "cores": str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()),
        "processor": _processor(),
        "fast byte and half products": ", ".join(_flags()) or "unknown",
        "load before": f"{os.getloadavg()[0]:.1f}",
        "time in which somebody waited for a core, the minute before": _pressure(),
        "python": platform.python_version(),
        "opencv": cv2.__version__,  # a distribution's package has no pip metadata
        **{name: version(*packages) for name, packages in _PACKAGES.items()},
    }


def version(*packages: str) -> str:
    """Return the version of the first installed package."""
    for package in packages:
        try:
            return importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return "not installed"


def _cpu_lines(*names: str) -> list[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return []
    return [line.partition(":")[2].strip() for line in lines if line.startswith(names)]


_GENERATIONS = (
    ("AuthenticAMD", 23, 0x00, 0x2F, "Zen"),
    ("AuthenticAMD", 23, 0x30, 0xAF, "Zen 2"),
    ("AuthenticAMD", 25, 0x10, 0x1F, "Zen 4"),
    ("AuthenticAMD", 25, 0x60, 0x7F, "Zen 4"),
    ("AuthenticAMD", 25, 0xA0, 0xAF, "Zen 4"),
    ("AuthenticAMD", 25, 0x00, 0x5F, "Zen 3"),
    ("AuthenticAMD", 26, 0x00, 0xFF, "Zen 5"),
    ("GenuineIntel", 6, 0x4E, 0x4E, "Skylake"),
    ("GenuineIntel", 6, 0x55, 0x55, "Skylake server or Cascade Lake"),
    ("GenuineIntel", 6, 0x5E, 0x5E, "Skylake"),
    ("GenuineIntel", 6, 0x6A, 0x6A, "Ice Lake server"),
    ("GenuineIntel", 6, 0x8C, 0x8C, "Tiger Lake"),
    ("GenuineIntel", 6, 0x8F, 0x8F, "Sapphire Rapids"),
    ("GenuineIntel", 6, 0x97, 0x97, "Alder Lake"),
    ("GenuineIntel", 6, 0x9A, 0x9A, "Alder Lake"),
    ("GenuineIntel", 6, 0xAA, 0xAA, "Meteor Lake"),
    ("GenuineIntel", 6, 0xAD, 0xAD, "Granite Rapids"),
    ("GenuineIntel", 6, 0xB7, 0xB7, "Raptor Lake"),
    ("GenuineIntel", 6, 0xBD, 0xBD, "Lunar Lake"),
    ("GenuineIntel", 6, 0xCF, 0xCF, "Emerald Rapids"),
)
"""Generations by vendor, family, first and last model; virtual machines hide the product's name."""


def _processor() -> str:
    names = _cpu_lines("model name", "Model")
    vendor, family, model = (_cpu_lines(name)[:1] for name in ("vendor_id", "cpu family", "model\t"))
    name = names[0] if names else platform.machine()
    if not (vendor and family and model):
        return name
    return f"{name}, {_generation(vendor[0], int(family[0]), int(model[0]))}"


def _generation(vendor: str, family: int, model: int) -> str:
    for its_vendor, its_family, first, last, title in _GENERATIONS:
        if (vendor, family) == (its_vendor, its_family) and first <= model <= last:
            return title
    return f"family {family} model {model}"


def _flags() -> list[str]:
    """CPU flags that determine the speed of int8 and bfloat16."""
    known = ("avx2", "avx512f", "avx_vnni", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8", "asimddp", "bf16")
    lines = _cpu_lines("flags", "Features")
    return [flag for flag in known if flag in (lines[0].split() if lines else [])]


def _pressure() -> str:
    """Linux pressure stall information: fraction of time in which a runnable process waited for a core."""
    try:
        fields = Path("/proc/pressure/cpu").read_text().splitlines()[0].split()
    except (OSError, IndexError):
        return "unknown"
    return next((f"{float(f.partition('=')[2]):.0f} %" for f in fields if f.startswith("avg60=")), "unknown")
