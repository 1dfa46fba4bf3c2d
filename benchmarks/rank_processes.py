"""Ranks as processes of this machine: the ones that tests use."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from training_ranks import Gang, Outcome  # found by the line above

__all__ = ["Gang", "Outcome"]
