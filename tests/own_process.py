"""Programs in a process of their own, for what is decided when a library is imported."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

SECONDS = 500
KERNELS = Path(__file__).parent / "kernels"
SHARED_MEMORY = 99 * 1024
"""Bytes that a block may have on every GPU since sm_80; sm_86 and sm_89 have the least."""


def in_a_process_of_its_own(arguments: Sequence[str], **environment: str) -> subprocess.CompletedProcess[str]:
    """Triton decides when it is imported whether it interprets; nothing else in this process is touched."""
    return subprocess.run(
        [sys.executable, *arguments],
        env={
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join([str(KERNELS), *sys.path]),
            **environment,
        },
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )


def interpret(marked: str, *operations: str) -> None:
    """Run the checks of operations under Triton's interpreter, in one process."""
    pytest.importorskip("triton")
    checks = [str(KERNELS / f"interpreted_{operation}.py") for operation in operations]
    done = in_a_process_of_its_own(
        ["-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", marked, *checks], TRITON_INTERPRET="1"
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "skipped" not in done.stdout.splitlines()[-1]


def compile_kernels(script: str, *arguments: str, cache: Path) -> list[list[str]]:
    """What a script tells of each kernel it compiles: name, bytes spilled, bytes of shared memory, more."""
    pytest.importorskip("triton")
    done = in_a_process_of_its_own(
        [str(KERNELS / script), *arguments], TRITON_INTERPRET="0", TRITON_CACHE_DIR=str(cache)
    )
    assert done.returncode == 0, done.stderr
    kernels = [line.split() for line in done.stdout.splitlines()]
    assert [kernel for kernel in kernels if int(kernel[2]) > SHARED_MEMORY] == []
    return kernels
