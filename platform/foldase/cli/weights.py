"""``foldase weights``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from foldase.cli import render
from foldase.cli.outcome import Exit, print_json
from foldase.client import Client
from foldase_workflows.spec.quantities import show_bytes


def weights(home: Path | None, *, as_json: bool) -> Exit:
    """What an input of type ``weights`` may name."""
    with Client(home=home) as client:
        found = client.weights()
    if as_json:
        print_json(found)
    elif found["items"]:
        table = render.plain_table("name", "kind", "size", "state", "")
        for item in found["items"]:
            table.add_row(
                item["name"],
                item["kind"] or "",
                show_bytes(item["size"]) if item["size"] else "",
                item["state"] + (f" {item['progress']:.0%}" if item["state"] == "reading" else ""),
                _more(item),
            )
        render.console().print(table)
    elif found["configured"]:
        print("there are no weights in the administrator's folder", file=sys.stderr)
    else:
        print("the platform was started without --weights DIR", file=sys.stderr)
    return Exit.OK


def _more(item: dict[str, Any]) -> str:
    error = item["error"]
    if error is None:
        return item["digest"] or ""
    return f"{error['message']}; {error['hint']}" if error.get("hint") else str(error["message"])
