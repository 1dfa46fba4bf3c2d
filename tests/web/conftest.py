"""Fixtures: a running server and a signed-in client."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

# Tests are imported without packages, so what they share is found by its folder.
sys.path.insert(0, str(Path(__file__).parent))

from web_operators import REGISTRY
from web_support import Running, serving


@pytest.fixture(autouse=True, scope="module")
def small_registry() -> Iterator[None]:
    """The operators of these tests instead of those of the installation."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("foldase_web.context.default_registry", lambda: REGISTRY)
        yield


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One server for the tests of a module; those that need their own use ``serving``."""
    with serving(tmp_path_factory.mktemp("web") / "home", failed_sign_ins=100_000) as found:
        yield found


@pytest.fixture
def client(running: Running) -> Iterator[httpx.Client]:
    with running.client() as found:
        yield found
