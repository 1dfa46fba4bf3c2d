"""Fixtures: one platform for all tests, started as people start it, and commands run against it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

# Tests are imported without packages, so what they share is found by its folder.
sys.path.insert(0, str(Path(__file__).parent))

from cli_operators import OPERATORS
from cli_support import FOLD, FOLDERS, GREET, WAIT, WRONG, Command, Done, environment

from foldase.cli.main import main
from foldase.client import Client
from foldase_workflows.contracts import Registry


@pytest.fixture
def platform_home(shared_in_group: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The state folder of a platform that runs for all tests of the command line."""
    home: Path = shared_in_group("platform", partial(_running, tmp_path_factory))
    return home


@contextmanager
def _running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The real server and scheduler, steps in threads."""
    home = tmp_path_factory.mktemp("cli") / "home"
    weights = home.parent / "weights"
    for name in ("small", "broken"):
        (weights / name).mkdir(parents=True)
        (weights / name / "config.json").write_text('{"model_type": "toy"}')
    (weights / "small" / "model.safetensors").write_bytes(bytes(1000))
    (weights / "broken" / "model.pt").write_bytes(b"pickle")
    command = [sys.executable, "-m", "foldase.cli.main"]
    started = subprocess.run(
        [*command, "up", "-d", "--no-ray", "--no-open", "--home", str(home), "--weights", str(weights)],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
    )
    try:
        assert started.returncode == 0, started.stderr
        yield home
    finally:
        subprocess.run([*command, "down", "--home", str(home)], check=True, timeout=120)


@pytest.fixture
def platform(platform_home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The running platform is the one that commands and clients find."""
    monkeypatch.setenv("FOLDASE_HOME", str(platform_home))
    return platform_home


@pytest.fixture
def client(platform: Path) -> Iterator[Client]:
    with Client() as found:
        yield found


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    """Run ``foldase ...`` in this process."""
    registry = Registry(OPERATORS)
    # First where it was imported to: an import while it is replaced elsewhere would keep what replaced it.
    monkeypatch.setattr("foldase.cli.documents.default_registry", lambda: registry)
    monkeypatch.setattr("foldase_workflows.contracts.registry.default_registry", lambda: registry)
    monkeypatch.setattr("foldase_workflows.contracts.default_registry", lambda: registry)

    def run(*arguments: object) -> Done:
        status = main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return Done(status, out, err)

    return run


@pytest.fixture
def documents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with documents and files, which is the working directory."""
    texts = {
        "greet.yaml": GREET,
        "fold.yaml": FOLD,
        "folders.yaml": FOLDERS,
        "wait.yaml": WAIT,
        "wrong.yaml": WRONG,
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "two.fasta").write_text(">a\nACDE\n>b\nACDF\n")
    (tmp_path / "bad.fasta").write_text(">a\nACXE\n")
    (tmp_path / "empty.fasta").write_text("")
    monkeypatch.chdir(tmp_path)
    return tmp_path
