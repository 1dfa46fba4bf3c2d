"""What all tests share: operators for tests, printed random seeds, and one running platform."""

from __future__ import annotations

import gc
import os
import random
import sys
import tempfile
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from live_platform import LivePlatform

TESTS = Path(__file__).parent
TEST_LEASE_SECONDS = 8
TEST_WORKER_MEMORY = "1GiB"
"""More than any step of the tests needs, but for those that shall run out of memory."""

# Every process that a test starts finds the operators that only tests use.
sys.path.insert(0, str(TESTS))
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(TESTS), os.environ.get("PYTHONPATH"))))
os.environ["FOLDASE_OPERATORS"] = ",".join(
    filter(None, ("operators_for_tests", os.environ.get("FOLDASE_OPERATORS")))
)

if "PYTEST_XDIST_WORKER" in os.environ:
    # Several processes share the cores: threads that spin while they wait for each other only get in the way.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

settings.register_profile("foldase", print_blob=True, deadline=None)
settings.load_profile("foldase")


def pytest_configure(config: pytest.Config) -> None:
    """Choose the random seed of all property tests here, so that it can be printed and given again."""
    if config.getoption("--hypothesis-seed") is None:
        config.option.hypothesis_seed = random.SystemRandom().randrange(2**32)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Spare the garbage collector a million objects that collecting makes, and that stay to the end.

    It would look through them again and again, and in every test that frees memory before it measures some.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.collect()
        gc.freeze()
        gc.enable()


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Say which tests must share a process when several run side by side.

    One Ray cluster and one browser serve the whole session, and a file's fixtures are made once. A file that
    names its group itself shares it with other files, such as those that import the same slow library.
    """
    for item in items:
        if item.get_closest_marker("xdist_group"):
            continue
        room = item.path.relative_to(TESTS).parts[0]
        if item.get_closest_marker("ray"):
            group = "ray"
        else:
            group = room if room in _ROOMS_WITH_ONE_PLATFORM else str(item.path)
        item.add_marker(pytest.mark.xdist_group(group))
    items.sort(key=lambda item: not item.get_closest_marker("ray"))  # long, and mostly waiting


def pytest_report_header(config: pytest.Config) -> str:
    """Say how to repeat the random choices of this session."""
    return f"random choices: --hypothesis-seed={config.option.hypothesis_seed}"


_ROOMS_WITH_ONE_PLATFORM = ("browser", "cli")

_NOT_PROVIDED_BY_CI = ("FOLDASE_TEST_DATA", "needs root", "needs nvcc")
"""Reasons that stay skips in CI: files the project does not carry, rights or a CUDA compiler it may lack."""
_skips: list[str] = []


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Note skips for which the continuous integration has no excuse, since it installs what they need."""
    if report.skipped and isinstance(report.longrepr, tuple):
        reason = str(report.longrepr[2])
        if not any(excuse in reason for excuse in _NOT_PROVIDED_BY_CI):
            _skips.append(f"{report.nodeid}: {reason}")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say which skips made the session fail."""
    if os.environ.get("FOLDASE_FORBID_SKIPS") and _skips:
        terminalreporter.section("skipped, although what they need is provided for")
        for line in _skips:
            terminalreporter.write_line(line)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail a session that skipped what it must not."""
    gc.unfreeze()  # at its end the interpreter clears everything
    if os.environ.get("FOLDASE_FORBID_SKIPS") and _skips and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


_shared = ExitStack()
_started: dict[str, Any] = {}


def _group(item: pytest.Item) -> object:
    marker = item.get_closest_marker("xdist_group")
    return marker.args[0] if marker else None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> Generator[None]:
    """End what a group of tests shares after its last test: even idle it takes its share of the cores."""
    try:
        return (yield)
    finally:
        if nextitem is None or _group(nextitem) != _group(item):
            _started.clear()
            _shared.close()


@pytest.fixture(scope="session")
def shared_in_group() -> Callable[[str, Callable[[], AbstractContextManager[Any]]], Any]:
    """Enters a context the first time that its name is asked for; it is left after the group's last test."""

    def share(name: str, make: Callable[[], AbstractContextManager[Any]]) -> Any:
        if name not in _started:
            _started[name] = _shared.enter_context(make())
        return _started[name]

    return share


@pytest.fixture
def live_platform(
    shared_in_group: Callable[[str, Callable[[], AbstractContextManager[LivePlatform]]], LivePlatform],
) -> LivePlatform:
    """The runtime on a local Ray cluster, started once for all tests of Ray; nothing of it is left behind."""
    return shared_in_group("live platform", _running_on_ray)


@contextmanager
def _running_on_ray() -> Iterator[LivePlatform]:
    """Its state folder is deep on purpose: Ray's sockets must not lie in it."""
    from live_platform import LivePlatform

    with tempfile.TemporaryDirectory(prefix="foldase-tests-") as parent:
        home = Path(parent, "a state folder", *(f"deep-{number:02d}" for number in range(12)))
        platform = LivePlatform(
            home, "--lease-seconds", str(TEST_LEASE_SECONDS), "--worker-memory", TEST_WORKER_MEMORY
        )
        platform.start()
        try:
            platform.wait_ready()
            yield platform
            platform.stop()
        finally:
            platform.kill()
