"""What tests of the page share: a browser, a platform to look at, and the ways of a person in the page.

``chromium`` and ``Visitor`` need nothing but an address and a one-time code, so they serve for any running
platform, also one with real workers.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Locator,
    Page,
    expect,
    sync_playwright,
)
from web_support import Running, serving

import foldase_web
from foldase.runtime.in_process import InProcessExecutor
from foldase.runtime.loop import SchedulerLoop
from foldase.runtime.view import View
from foldase.store import Store
from foldase_workflows.contracts.registry import Registry

NAMES = ("chromium", "chromium-browser", "google-chrome")
ARGUMENTS = (
    "--no-sandbox",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
WEBGL, NO_WEBGL = "--use-angle=swiftshader", "--disable-3d-apis"
"""WebGL on a CPU is slow: only a test that looks at structures has it, drawn without noise on the console."""

RULES = ("wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice")
PATIENCE_MS = 30_000


def find_chromium() -> str | None:
    """The browser to test with: FOLDASE_CHROMIUM, or the first that is installed."""
    named = os.environ.get("FOLDASE_CHROMIUM")
    if named:
        return named
    return next((path for name in NAMES if (path := shutil.which(name))), None)


@contextlib.contextmanager
def chromium(*, webgl: bool = False) -> Iterator[Browser]:
    """A headless browser; the test is skipped where there is none, or where the page is not built."""
    path = find_chromium()
    if path is None:
        pytest.skip(f"no Chromium: install one of {', '.join(NAMES)}, or set FOLDASE_CHROMIUM to its path")
    if not (Path(foldase_web.__file__).parent / "static" / "index.html").is_file():
        pytest.skip("the page is not built: run `python web/hatch_build.py`")
    expect.set_options(timeout=PATIENCE_MS)
    with sync_playwright() as playwright:
        arguments = [*ARGUMENTS, WEBGL if webgl else NO_WEBGL]
        browser = playwright.chromium.launch(executable_path=path, args=arguments)
        try:
            yield browser
        finally:
            browser.close()


class Visitor:
    """One person in one browser window: opens pages, and remembers what went wrong in them."""

    def __init__(self, browser: Browser, url: str, **options: Any) -> None:
        self.url = url
        self.faults: list[str] = []
        self.context: BrowserContext = browser.new_context(
            **{"viewport": {"width": 1280, "height": 900}, "reduced_motion": "reduce", **options}
        )
        self.context.set_default_timeout(PATIENCE_MS)
        self.page: Page = self.context.new_page()
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on("console", self._listen)

    def _listen(self, message: ConsoleMessage) -> None:
        """Broken rules of the Content-Security-Policy are only told to the console."""
        if message.type == "error" and "Content Security Policy" in message.text:
            self.faults.append(message.text)

    def sign_in(self, code: str) -> None:
        """By the one-time link that `foldase up` prints."""
        self.page.goto(f"{self.url}/#code={code}")
        expect(self.page.get_by_role("heading", name="Runs", level=1)).to_be_visible()

    def open(self, path: str) -> Page:
        """A page of the app, once it has what it shows."""
        self.page.goto(self.url + path)
        expect(self.page.locator("[data-page-state=ready]")).to_be_visible()
        return self.page

    def see(self, selector: str) -> Locator:
        """A part of the page, once it is visible."""
        found = self.page.locator(selector)
        expect(found.first).to_be_visible()
        return found

    def violations(self) -> list[str]:
        """What axe finds wrong with the page as it is now."""
        found = Axe().run(self.page, options={"runOnly": list(RULES)}).response["violations"]
        return [f"{one['id']}: {one['help']} at {[node['target'] for node in one['nodes']]}" for one in found]

    def close(self) -> None:
        """Leave, and fail the test for what went wrong unseen."""
        self.context.close()
        assert self.faults == []


@contextlib.contextmanager
def scheduling(home: Path, registry: Registry) -> Iterator[None]:
    """A scheduler whose workers are threads of this process."""
    store = Store.at(home)
    executor = InProcessExecutor(home, registry=registry)

    def look() -> View:
        hardware = executor.largest_node()
        node = {
            "id": "node-1",
            "name": "workstation",
            "alive": True,
            "cpus": hardware.cpus,
            "cpus_used": 1.0,
            "memory_bytes": hardware.memory_bytes,
            "memory_used": hardware.memory_bytes // 4,
            "gpus": [],
            "labels": {},
        }
        return View(nodes=(node,), hardware=hardware)

    loop = SchedulerLoop(store, registry, executor, look, view_seconds=0.2)
    thread = threading.Thread(target=loop.run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        loop.stop()
        thread.join(20)
        store.close()


@contextlib.contextmanager
def quick_platform(home: Path, registry: Registry, **settings: Any) -> Iterator[Running]:
    """The real server, store and scheduler, with the operators of a registry."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("foldase_web.context.default_registry", lambda: registry)
        with serving(home, **settings) as running, scheduling(home, registry):
            yield running
