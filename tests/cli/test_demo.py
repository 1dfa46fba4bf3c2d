"""``foldase demo`` as ``make demo`` calls it, at a small size, through real Ray."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from cli_support import environment

from foldase.cli.supervisor import is_locked

SMALL = {"families": 6, "unseen": 3, "steps": 6, "length": 16}


@pytest.mark.ray
def test_the_demo_ends_with_one_json_line_and_stops_everything(tmp_path: Path) -> None:
    options = [part for name, value in SMALL.items() for part in ("-i", f"{name}={value}")]
    done = subprocess.run(
        [sys.executable, "-m", "foldase.cli.main", "demo", "--home", str(tmp_path / "home"), *options],
        env={**environment(DEMO_EXIT="1"), "FOLDASE_OPERATORS": ""},
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert set(result) == {"run", "state", "page", "precision_at_L", "seconds"}
    assert result["state"] == "succeeded"
    assert result["page"].endswith(f"/runs/{result['run']}")
    assert set(result["precision_at_L"]) == {"model", "mi_apc", "couplings", "prior", "shuffled"}
    assert all(0 <= precision <= 1 for precision in result["precision_at_L"].values())
    assert not is_locked(tmp_path / "home")
    assert not (tmp_path / "home" / "server.json").exists()
    left = subprocess.run(["pgrep", "-f", str(tmp_path)], capture_output=True, text=True)
    assert left.stdout == ""
