"""Ranks as processes of this machine: the ones that tests use."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

import pytest
from training_ranks import Gang, Outcome  # found by the line above

RanksFailed = pytest.fail.Exception
"""What a gang raises for a rank that died or took too long; it is no ``Exception``."""

__all__ = ["Gang", "Outcome", "RanksFailed"]
