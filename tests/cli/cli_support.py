"""What the tests of the command line share: documents, and a way to run a command."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent

GREET = """\
version: 1
name: greet
inputs:
  name: {type: text, default: world, help: whom to greet}
  times: {type: int, default: 1}
steps:
  one:
    uses: cli.greet@1
    with: {name: "${{ inputs.name }}"}
  two:
    uses: cli.greet@1
    with: {name: "${{ steps.one.text }}", times: "${{ inputs.times }}"}
outputs:
  text: ${{ steps.two.text }}
  letter: ${{ steps.two.letter }}
"""

FOLDERS = """\
version: 1
name: folders
inputs:
  sequences: {type: fasta}
steps:
  make:
    uses: cli.folder@1
    with: {sequences: "${{ inputs.sequences }}"}
outputs:
  folder: ${{ steps.make.folder }}
  records: ${{ steps.make.records }}
"""

WAIT = """\
version: 1
name: wait
inputs:
  seconds: {type: float, default: 1.0}
  gate: {type: text, default: ""}
  who: {type: text, default: first}
steps:
  first:
    uses: cli.greet@1
    with: {name: "${{ inputs.who }}"}
  wait:
    uses: cli.wait@1
    after: [first]
    with: {seconds: "${{ inputs.seconds }}", gate: "${{ inputs.gate }}"}
outputs:
  done: ${{ steps.wait.done }}
"""

FOLD = """\
version: 1
name: fold
inputs:
  weights: {type: weights, help: which model}
steps:
  fold:
    uses: cli.fold@1
    with: {weights: "${{ inputs.weights }}"}
outputs:
  place: ${{ steps.fold.place }}
  kind: ${{ steps.fold.kind }}
"""

WRONG = """\
version: 1
name: wrong
steps:
  one:
    uses: cli.greeet@1
    wiht: {name: x}
"""


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The one document on stdout."""
        return json.loads(self.out)

    @property
    def problem(self) -> Any:
        """The one document on stderr."""
        assert self.out == ""
        return json.loads(self.err)


Command = Callable[..., Done]


def environment(**more: str) -> dict[str, str]:
    """The environment of a process that knows the operators of these tests."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("FOLDASE_")}
    return {**kept, "FOLDASE_OPERATORS": "cli_operators", "PYTHONPATH": str(FOLDER), **more}
