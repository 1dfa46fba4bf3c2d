"""Which GPUs the driver shows, asked of the driver's own library: neither torch nor nvidia-smi is needed."""

from __future__ import annotations

import ctypes
import re
from dataclasses import dataclass
from pathlib import Path

DRIVER_LIBRARY = "libcuda.so.1"
DRIVER_NOTE = Path("/proc/driver/nvidia/version")
CAPABILITY_MAJOR, CAPABILITY_MINOR = 75, 76
NAME_BYTES = 128


@dataclass(frozen=True, slots=True)
class Gpu:
    """One device: its name and compute capability, (9, 0) for Hopper."""

    name: str
    capability: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Driver:
    """What the driver answers; ``problem`` says why there are no GPUs, in words, and is empty otherwise."""

    version: str
    gpus: tuple[Gpu, ...]
    problem: str = ""


def ask_driver() -> Driver:
    """Ask the CUDA driver for its version and the GPUs that CUDA_VISIBLE_DEVICES leaves."""
    try:
        library = ctypes.CDLL(DRIVER_LIBRARY)
    except OSError:
        return Driver("", (), f"no NVIDIA driver ({DRIVER_LIBRARY} cannot be loaded)")
    status = library.cuInit(0)
    if status != 0:
        return Driver(_version(library), (), f"the NVIDIA driver shows no GPU (cuInit gives error {status})")
    count = ctypes.c_int()
    library.cuDeviceGetCount(ctypes.byref(count))
    gpus = tuple(_gpu(library, ordinal) for ordinal in range(count.value))
    return Driver(_version(library), gpus, "" if gpus else "the NVIDIA driver shows no GPU")


def _gpu(library: ctypes.CDLL, ordinal: int) -> Gpu:
    device, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    name = ctypes.create_string_buffer(NAME_BYTES)
    library.cuDeviceGet(ctypes.byref(device), ordinal)
    library.cuDeviceGetName(name, NAME_BYTES, device)
    library.cuDeviceGetAttribute(ctypes.byref(major), CAPABILITY_MAJOR, device)
    library.cuDeviceGetAttribute(ctypes.byref(minor), CAPABILITY_MINOR, device)
    return Gpu(name.value.decode(errors="replace"), (major.value, minor.value))


def _version(library: ctypes.CDLL) -> str:
    number = ctypes.c_int()
    library.cuDriverGetVersion(ctypes.byref(number))
    text = f"CUDA {number.value // 1000}.{number.value % 1000 // 10}"
    try:
        found = re.search(r"\s(\d+\.\d+(?:\.\d+)*)\s", DRIVER_NOTE.read_text())
    except OSError:
        found = None
    return f"{found[1]}, {text}" if found else text
