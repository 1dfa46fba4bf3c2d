"""Bugs to plant in a copy of the CUDA sources, and what executing the copy must say of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from attention_on_host import Case

ORDERS = (0, 1, 2, 3)


@dataclass(frozen=True)
class Bug:
    """Attributes: a name, the file and the one text in it that changes, and when it is noticed.

    ``found_by`` is in what some order of threads says, ``|`` between alternatives, so that the checks
    themselves cannot rot unseen; ``case`` makes the call that shows it.
    """

    name: str
    file: str
    was: str
    becomes: str
    found_by: str
    block_limit: int = 0
    case: Callable[[], Case] | None = None

    def plant(self, folder: Path) -> None:
        """Change a copy of the sources."""
        path = folder / "attention" / self.file
        text = path.read_text()
        assert text.count(self.was) == 1, "the source has changed: write this bug anew"
        path.write_text(text.replace(self.was, self.becomes))

    def is_found(self, complaint: str) -> bool:
        """Whether a complaint is the one that this bug must give."""
        return any(part in complaint for part in self.found_by.split("|"))


def complaints(check: Callable[[int], object]) -> Iterator[str]:
    """What a check, given the order of threads, says in each order; empty where it notices nothing."""
    for order in ORDERS:
        try:
            check(order)
        except (RuntimeError, AssertionError) as error:
            yield str(error) or "an assertion without a text"
        else:
            yield ""


def assert_found(bug: Bug, said: Iterator[str]) -> None:
    """Fail unless some order finds the bug; the orders after it are not tried."""
    heard = []
    for complaint in said:
        if bug.is_found(complaint):
            return
        heard.append(complaint)
    pytest.fail(f"{bug.name}: {heard}")


def parameters(bugs: tuple[Bug, ...], quick: set[str]) -> list[object]:
    """Test parameters: bugs named in ``quick`` run with every change, ``make verify`` runs all."""
    assert quick <= {bug.name for bug in bugs}
    return [
        pytest.param(bug, id=bug.name, marks=() if bug.name in quick else pytest.mark.verify) for bug in bugs
    ]
