"""What all tests share."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from hypothesis import settings

# Operators that only tests use are found by every process that a test starts.
TESTS = Path(__file__).parent
sys.path.insert(0, str(TESTS))
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(TESTS), os.environ.get("PYTHONPATH"))))
os.environ["FOLDASE_OPERATORS"] = "operators_for_tests"

# A failure prints the blob that repeats it; a slow machine is no failure.
settings.register_profile("foldase", print_blob=True, deadline=None)
settings.load_profile("foldase")
