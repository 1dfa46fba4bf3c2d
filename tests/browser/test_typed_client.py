"""The page's types are generated from the server's description of itself."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

TYPES = Path(__file__).parents[2] / "web" / "frontend" / "src" / "api" / "schema.gen.ts"


def test_the_types_belong_to_this_server() -> None:
    document = subprocess.run(
        [sys.executable, "-m", "foldase_web.openapi"], check=True, capture_output=True, timeout=120
    ).stdout
    digest = hashlib.sha256(document).hexdigest()
    assert f"// sha256 {digest}\n" in TYPES.read_text(), "run `npm run generate` in web/frontend"
