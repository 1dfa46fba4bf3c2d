"""``foldase doctor``: what this installation has and what is missing."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from foldase.cli import render
from foldase.cli.outcome import Exit, print_json
from foldase.client import Client
from foldase.client.server import home_folder
from foldase_workflows.contracts import default_registry
from foldase_workflows.contracts.errors import FoldaseError
from foldase_workflows.spec import catalog
from foldase_workflows.spec.quantities import show_bytes

_PACKAGES = ("foldase", "ray", "torch", "zarr", "biopython", "sqlalchemy", "fastapi")
_FREE_BYTES = 2 << 30


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at; ``ok`` is False where something should be done."""

    what: str
    found: str
    ok: bool
    hint: str = ""


def doctor(home: Path | None, *, as_json: bool) -> Exit:
    """Look at everything and say what was found; status 1 when something should be done."""
    findings = [*_installed(), *_operators(), *_folder(home_folder(home)), _server(home)]
    ok = all(finding.ok for finding in findings)
    if as_json:
        print_json({"ok": ok, "findings": [asdict(finding) for finding in findings]})
    else:
        table = render.plain_table("", "", "")
        table.show_header = False
        for finding in findings:
            mark = "ok" if finding.ok else "!!"
            table.add_row(mark, finding.what, finding.found + (f"; {finding.hint}" if finding.hint else ""))
        render.console().print(table)
    return Exit.OK if ok else Exit.FAILED


def _installed() -> Iterator[Finding]:
    yield Finding("python", platform.python_version(), sys.version_info >= (3, 11), "3.11 or newer is needed")
    for package in _PACKAGES:
        try:
            yield Finding(package, version(package), ok=True)
        except PackageNotFoundError:
            yield Finding(package, "not installed", ok=False, hint="pip install foldase")
    page = find_spec("foldase_web")
    folder = Path(page.origin).parent if page is not None and page.origin is not None else Path()
    built = (folder / "static" / "index.html").exists()
    hint = "" if built else "python web/hatch_build.py builds it"
    yield Finding("page", "built" if built else "not built", built, hint)


def _operators() -> Iterator[Finding]:
    try:
        registry = default_registry()
        names = [operator.reference for operator in registry]
    except ImportError as error:
        yield Finding("operators", str(error), ok=False, hint="see FOLDASE_OPERATORS")
        return
    yield Finding("operators", ", ".join(names) or "none", ok=bool(names))
    try:
        ready = [entry.name for entry in catalog()]
    except FoldaseError as error:
        yield Finding("catalog", str(error), ok=False)
        return
    yield Finding("catalog", ", ".join(ready) or "empty", ok=bool(ready))


def _folder(home: Path) -> Iterator[Finding]:
    existing = home if home.exists() else next(parent for parent in home.resolve().parents if parent.exists())
    writable = os.access(existing, os.W_OK)
    yield Finding("state folder", str(home.resolve()), writable, "" if writable else "it cannot be written")
    free = shutil.disk_usage(existing).free
    enough = free > _FREE_BYTES
    yield Finding("free space", show_bytes(free), enough, "" if enough else "at least 2 GiB are wise")


def _server(home: Path | None) -> Finding:
    with Client(home=home, timeout_seconds=5.0) as client:
        try:
            health = client.health()
        except FoldaseError as error:
            return Finding("server", error.message, ok=True, hint=error.hint or "")
        cluster = health["cluster"]
        found = f"{client.url}, {health['status']}, cluster {cluster['state']}"
        return Finding("server", found, health["status"] == "ok")
