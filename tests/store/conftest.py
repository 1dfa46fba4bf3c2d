"""A store in a fresh folder, with a clock that tests turn."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from foldase.store import NewStep, Store, Submission


class Clock:
    """Stands still until it is told to go on."""

    def __init__(self) -> None:
        self.time = 1_700_000_000.0

    def now(self) -> float:
        return self.time

    def monotonic(self) -> float:
        return self.time - 1_000_000.0

    def advance(self, seconds: float) -> None:
        self.time += seconds


def submission(name: str = "wf", **more: Any) -> Submission:
    """A submission of two steps, without a workflow language behind it."""
    digest = "sha256:" + name.encode().hex().ljust(64, "0")[:64]
    steps = (NewStep("a", "x@1"), NewStep("b", "y@1", ("a",)))
    return Submission(digest, name, {"name": name}, steps, {"n": 1}, f"name: {name}", **more)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty database, made once; migrations have their own tests."""
    made = tmp_path_factory.mktemp("template")
    Store.at(made).close()
    return made / "foldase.db"


@pytest.fixture
def home(tmp_path: Path, template: Path) -> Path:
    made = tmp_path / "home"
    made.mkdir()
    shutil.copy(template, made)
    return made


@pytest.fixture
def store(home: Path, clock: Clock) -> Iterator[Store]:
    opened = Store.at(home, clock=clock)
    yield opened
    opened.close()


@pytest.fixture
def submit(store: Store) -> Callable[..., str]:
    """Make a run and return its id."""
    return lambda *args, **more: store.requests.submit(submission(*args, **more))[0].id


@pytest.fixture
def a_submission() -> Callable[..., Submission]:
    return submission
