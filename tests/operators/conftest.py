"""What operators see of a platform, without one."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from foldase_workflows.contracts import Artifact, Cancelled, Operator, Ports, StepContext


class FakeContext(StepContext):
    """Keeps what an operator reports; asks it to stop after it asked ``cancel_after`` times."""

    run = "r000000000000"
    step = "step"
    attempt = 1
    cpus = 1.0
    memory_bytes = 0

    def __init__(self, folder: Path, names: Mapping[str, str], cancel_after: int | None = None) -> None:
        self.folder = folder
        self.names = names
        self.scratch = folder / "scratch"
        self.checkpoints = folder / "checkpoints"
        self.outputs = folder / "outputs"
        for made in (self.scratch, self.checkpoints, self.outputs):
            made.mkdir(parents=True, exist_ok=True)
        self.fractions: list[float] = []
        self.points: list[tuple[float | None, dict[str, float]]] = []
        self.lines: list[tuple[str, str]] = []
        self.planned: dict[str, Any] = {}
        self.checks_left = cancel_after

    def progress(self, fraction: float, message: str = "") -> None:
        assert 0 <= fraction <= 1
        self.fractions.append(fraction)

    def metrics(self, values: Mapping[str, float], *, at: float | None = None) -> None:
        assert all(isinstance(value, int | float) for value in values.values())
        self.points.append((at, dict(values)))

    def log(self, message: str, *, level: str = "info") -> None:
        self.lines.append((level, message))

    def plan(self, values: Mapping[str, Any]) -> None:
        self.planned |= json.loads(json.dumps(dict(values)))

    @property
    def cancelled(self) -> bool:
        if self.checks_left is None:
            return False
        self.checks_left -= 1
        return self.checks_left <= 0

    def check_cancelled(self) -> None:
        if self.cancelled:
            raise Cancelled("the step was cancelled")

    def new_file(self, name: str) -> Path:
        path = self.outputs / name
        assert not path.exists()
        return path

    def new_tree(self, name: str) -> Path:
        path = self.outputs / name
        path.mkdir()
        return path

    def artifact(self, port: str) -> Artifact:
        return Artifact(f"sha256:{0:064x}", "file", 1, self.names[port])

    def written(self) -> list[Path]:
        """Files among the outputs."""
        return [path for path in self.outputs.rglob("*") if path.is_file()]


@pytest.fixture(scope="module")
def make_context(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., FakeContext]:
    """A context with its own folder; keyword arguments: ``names`` of artifacts by port, ``cancel_after``."""

    def make(names: Mapping[str, str] | None = None, cancel_after: int | None = None) -> FakeContext:
        return FakeContext(tmp_path_factory.mktemp("step"), names or {}, cancel_after)

    return make


@pytest.fixture(scope="module")
def run(make_context: Callable[..., FakeContext]) -> Callable[..., Any]:
    """Run an operator with inputs by keyword; paths are named as their files."""

    def run_operator(operator: Operator[Any, Any], *, cancel_after: int | None = None, **given: Any) -> Ports:
        names = {port: value.name for port, value in given.items() if isinstance(value, Path)}
        context = make_context(names, cancel_after)
        inputs = operator.Inputs.model_validate(given)
        outputs = operator.run(inputs, context)
        assert isinstance(outputs, operator.Outputs)
        assert context.fractions == sorted(context.fractions)
        assert context.fractions[-1] == 1.0
        return outputs

    return run_operator


@pytest.fixture
def real_data() -> Path:
    """The folder with real files, or a skip."""
    folder = Path(os.environ.get("FOLDASE_TEST_DATA") or Path(__file__).parents[3] / "shared" / "data")
    if not (folder / "6KWC_1.a3m").exists():
        pytest.skip(f"no real files in {folder}; set FOLDASE_TEST_DATA")
    return folder
