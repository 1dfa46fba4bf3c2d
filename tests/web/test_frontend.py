"""The page's own checks: types, style and unit tests of its sources."""

from __future__ import annotations

import runpy
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

WEB = Path(__file__).parents[2] / "web"
TIMEOUT = 900


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Any]]:
    """The sources with all their packages, and the Node that the page is built with."""
    folder = tmp_path_factory.mktemp("frontend") / "frontend"
    shutil.copytree(WEB / "frontend", folder, ignore=shutil.ignore_patterns("node_modules"))
    with runpy.run_path(str(WEB / "hatch_build.py"))["_node"]() as node:
        run([*node.npm, "ci", "--ignore-scripts"], folder, node)
        yield folder, node


def run(command: list[str], folder: Path, node: Any) -> str:
    done = subprocess.run(
        command,
        cwd=folder,
        env=node.environment(),
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    said = done.stdout + done.stderr
    assert done.returncode == 0, said[-4000:]
    return said


@pytest.mark.verify
@pytest.mark.timeout(2 * TIMEOUT)
@pytest.mark.parametrize("script", ["typecheck", "lint", "test"])
def test_the_page_passes_its_own_checks(project: tuple[Path, Any], script: str) -> None:
    folder, node = project
    run([*node.npm, "run", script], folder, node)
