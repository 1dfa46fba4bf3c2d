"""Prints the OpenAPI document: ``python -m foldase_web.openapi > openapi.json``. Nothing is started."""

from __future__ import annotations

import json
import sys

from foldase_web.app import create_app
from foldase_web.settings import Settings


def main() -> None:
    """Print the document."""
    json.dump(create_app(Settings()).openapi(), sys.stdout, indent=1, sort_keys=True)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
