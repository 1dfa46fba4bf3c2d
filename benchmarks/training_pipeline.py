"""The optimizer's own speed: the mixed step on the CPU, and the pipeline through the disk."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
PROGRAMS = ("adam_cpu.py", "offload.py")


def pipeline() -> Iterator[dict[str, Any]]:
    """Number 5, by the two programs that measure it; each prints its own table and ends with 1 on a miss."""
    for program in PROGRAMS:
        done = subprocess.run([sys.executable, str(HERE / program)], check=False)
        yield {"what": f"{program}: goals missed", "figure": float(done.returncode), "at_most": 0.0}
