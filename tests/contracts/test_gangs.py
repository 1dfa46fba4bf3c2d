"""Rank functions: found by name, and called in this process where there is one rank."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import pytest

from foldase_workflows.contracts import Cancelled, RankContext, UserError
from foldase_workflows.contracts.gangs import OnlyRank, check_cancelled, rank_function, run_alone
from foldase_workflows.contracts.operator import Resources


class Step:
    """As much of a step as a rank needs; keeps what it is told."""

    cpus, memory_bytes, cancelled = 2.0, 5, False
    scratch, checkpoints = Path("/scratch"), Path("/checkpoints")

    def __init__(self) -> None:
        self.told: list[Any] = []

    def progress(self, fraction: float, message: str = "") -> None:
        self.told.append((fraction, message))

    def metrics(self, values: Any, *, at: float | None = None) -> None:
        self.told.append((values, at))

    def log(self, message: str, *, level: str = "info") -> None:
        self.told.append((level, message))


def report(context: RankContext, *, loss: float) -> dict[str, Any]:
    context.progress(0.5, "half")
    context.metrics({"loss": loss}, at=3)
    context.log("seen", level="debug")
    return {"place": (context.rank, context.size), "has": (context.cpus, context.memory_bytes)}


def test_the_only_rank_speaks_for_the_step(monkeypatch: pytest.MonkeyPatch) -> None:
    step = Step()
    module = types.ModuleType("rank_functions_of_a_test")
    module.report = report  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    found = run_alone("rank_functions_of_a_test:report", {"loss": 0.25}, step)
    assert found == {"place": (0, 1), "has": (2.0, 5)}
    assert step.told == [(0.5, "half"), ({"loss": 0.25}, 3), ("debug", "seen")]


def test_the_only_rank_sees_that_the_step_is_asked_to_stop() -> None:
    step = Step()
    rank = OnlyRank(step)
    check_cancelled(rank)
    step.cancelled = True
    assert rank.cancelled
    with pytest.raises(Cancelled):
        check_cancelled(rank)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("json", "names no function"),
        ("json:", "names no function"),
        (":loads", "names no function"),
        ("json:a.b", "names no function"),
        ("no_such_module:f", "no module no_such_module"),
        ("json.no_such_part:f", "no module json.no_such_part"),
        ("json:no_such_function", "has no function no_such_function"),
        ("json:__name__", "has no function __name__"),
    ],
)
def test_a_name_without_a_function_is_refused(name: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as refused:
        rank_function(name)
    assert refused.value.code == "bad_rank_function"


def test_a_module_that_lacks_something_else_says_what(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "needs_more.py").write_text("import a_package_that_is_not_there\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ModuleNotFoundError, match="a_package_that_is_not_there"):
        rank_function("needs_more:f")


def test_resources_of_a_gang_are_for_each_rank() -> None:
    gang = Resources(cpu=0.5, memory_bytes=512, gpu=1.0, ranks=4)
    assert gang.total == Resources(cpu=2.0, memory_bytes=2048, gpu=4.0)
    assert Resources.from_json(gang.to_json()) == gang
    one = Resources(cpu=2.0)
    assert one.total is one
    assert "ranks" not in one.to_json()
