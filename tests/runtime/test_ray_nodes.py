"""A node of the cluster is lost while a gang runs on it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

pytestmark = [pytest.mark.verify, pytest.mark.ray]

PROGRAM = Path(__file__).parents[1] / "gang_on_two_nodes.py"
SECONDS = 400


def test_when_a_node_is_lost_the_gang_goes_on_with_the_ranks_of_the_others(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="g", dir="/tmp", ignore_cleanup_errors=True) as short:
        environment = {**os.environ, "RAY_TMPDIR": short, "RAY_memory_monitor_refresh_ms": "0"}
        environment.pop("RAY_ADDRESS", None)
        command = [sys.executable, str(PROGRAM), str(tmp_path)]
        subprocess.run(command, env=environment, timeout=SECONDS, check=True, capture_output=True)
    found = json.loads((tmp_path / "result.json").read_text())
    sizes = found["result"]["sizes"]
    assert found["result"]["counted"] == len(sizes) == 12
    assert sizes[:3] == [4, 4, 4]
    assert sizes[-1] == 2
    assert "there is room for 2 of 4 ranks, which go on without the others" in found["log"]
