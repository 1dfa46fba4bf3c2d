"""Fixtures: a browser, a platform with quick operators, a signed-in visitor."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

# Tests are imported without packages, so what they share is found by its folder.
HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "web")]

from browser_support import Visitor, chromium, quick_platform  # noqa: E402
from playwright.sync_api import Browser  # noqa: E402
from quick_operators import gate, quick_registry  # noqa: E402
from web_support import Running  # noqa: E402


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Closed after each module: its event loop must not be in the way of other tests."""
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def platform(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One platform for the tests of a module; needs a browser, so that it is not started for a skip."""
    with quick_platform(tmp_path_factory.mktemp("page") / "home", quick_registry()) as running:
        yield running


@pytest.fixture(autouse=True)
def open_gate() -> Iterator[None]:
    """Training runs through unless a test closes the gate."""
    gate.set()
    yield
    gate.set()


@pytest.fixture
def visitor(browser: Browser, platform: Running) -> Iterator[Visitor]:
    found = Visitor(browser, platform.url)
    found.sign_in(platform.services.accounts.new_code())
    yield found
    found.close()
