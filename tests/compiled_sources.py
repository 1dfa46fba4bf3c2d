"""Small sources for tests of building and loading: one kernel, compiled by nvcc and by g++."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from foldase_kernels.loader import ABI

FOLDER = "attention"
"""The operation that the sources stand in for; the commands know only operations that there are."""

ABI_HEADER = f"#pragma once\n#define TEST_ABI {ABI}\n"

ABI_SOURCE = '#include "common/abi.h"\nextern "C" int foldase_kernels_abi() { return TEST_ABI; }\n'

SCALE_SOURCE = """
#ifdef FOLDASE_HOST_BUILD
extern "C" void test_scale(float* x, float factor, long long n) {
  for (long long i = 0; i < n; ++i) x[i] *= factor;
}
#else
#include <cuda_bf16.h>
__global__ void scale_kernel(float* x, __nv_bfloat16 factor, long long n) {
  __shared__ float staged[256];
  const long long i = blockIdx.x * 256ll + threadIdx.x;
  if (i < n) {
    staged[threadIdx.x] = x[i];
    x[i] = staged[threadIdx.x] * __bfloat162float(factor);
  }
}
extern "C" int test_devices(int* count) { return (int)cudaGetDeviceCount(count); }
extern "C" int test_scale(float* x, float factor, long long n, void* stream) {
  scale_kernel<<<(unsigned)((n + 255) / 256), 256, 0, (cudaStream_t)stream>>>(x, __float2bfloat16(factor), n);
  return (int)cudaGetLastError();
}
#endif
"""

CHILD = (
    "import signal, sys\n"
    "signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in the background of a shell\n"
    "from foldase_kernels import __main__, operations\n"
    "operations.__file__ = sys.argv[1]\n"
    "__main__.run_as_program(sys.argv[2:])\n"
)


def write_sources(package: Path) -> Path:
    """Write a folder ``csrc`` as it lies inside an installed package; returns it."""
    csrc = package / "csrc"
    (csrc / FOLDER).mkdir(parents=True)
    (csrc / "common").mkdir()
    (csrc / "common" / "abi.h").write_text(ABI_HEADER)
    (csrc / FOLDER / "abi.cu").write_text(ABI_SOURCE)
    (csrc / FOLDER / "scale.cu").write_text(SCALE_SOURCE)
    return csrc


def command_line(csrc: Path, arguments: Iterable[str]) -> list[str]:
    """``python -m foldase_kernels`` as a process of its own, with the sources of ``csrc``."""
    return [sys.executable, "-c", CHILD, str(csrc.parent / "operations.py"), *arguments]


def run_command(csrc: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run it to its end."""
    return subprocess.run(
        command_line(csrc, arguments),
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
        timeout=120,
    )


def write_compiler(path: Path, body: str) -> Path:
    """A C++ compiler that tells its version and otherwise does what ``body``, a shell script, says."""
    path.write_text(f'#!/bin/sh\n[ "$1" = --version ] && echo "test compiler 1.0" && exit 0\n{body}\n')
    path.chmod(0o755)
    return path


def scaled_on_the_host(library: ctypes.CDLL) -> list[float]:
    """Call the host build of the test's kernel: 1, 2 and 3 by 2.5."""
    values = (ctypes.c_float * 3)(1.0, 2.0, 3.0)
    library.test_scale(values, ctypes.c_float(2.5), ctypes.c_longlong(3))
    return list(values)
