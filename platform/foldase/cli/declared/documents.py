"""Commands about documents."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from foldase.cli.declared.options import AsJson, Home, Inputs, Target


class Kind(StrEnum):
    """What ``foldase schema`` can print."""

    WORKFLOW = "workflow"
    EXPERIMENT = "experiment"
    OPERATORS = "operators"


def lint(
    paths: Annotated[list[Path], typer.Argument(metavar="FILE...", help="workflows or experiments")],
    as_json: AsJson = False,
) -> int:
    """Find everything that is wrong with documents; needs no server."""
    from foldase.cli import documents

    return documents.lint(paths, as_json=as_json)


def plan(target: Target, inputs: Inputs = None, home: Home = None, as_json: AsJson = False) -> int:
    """Show what a run would do, take and find in the cache, without running it."""
    from foldase.cli import documents

    return documents.plan(home, target, inputs or [], as_json=as_json)


def schema(
    kind: Annotated[Kind, typer.Argument(help="what to describe")] = Kind.WORKFLOW, as_json: AsJson = False
) -> int:
    """Print the JSON Schema of documents for an editor, or the operators there are."""
    from foldase.cli import documents

    return documents.schema(kind.value, as_json=as_json)


def weights(home: Home = None, as_json: AsJson = False) -> int:
    """List the public weights that workflows may name."""
    from foldase.cli.weights import weights as run

    return run(home, as_json=as_json)


def declare(app: typer.Typer) -> None:
    """Add these commands."""
    for command in (lint, plan, schema, weights):
        app.command()(command)
