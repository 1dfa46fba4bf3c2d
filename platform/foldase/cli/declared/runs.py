"""Commands about runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from foldase.cli.declared.options import AsJson, Detach, Home, Inputs, RunId, Target

STATES = ("pending", "running", "succeeded", "failed", "cancelled")

Step = Annotated[str, typer.Argument(metavar="STEP", help="name of a step, or name[key]", show_default=False)]
MaybeStep = Annotated[str | None, typer.Argument(metavar="[STEP]", help="only this step", show_default=False)]


def run(
    target: Target,
    inputs: Inputs = None,
    detach: Detach = False,
    name: Annotated[str | None, typer.Option(help="what to call the run")] = None,
    priority: Annotated[int | None, typer.Option(min=-100, max=100, help="greater runs first")] = None,
    home: Home = None,
    as_json: AsJson = False,
) -> int:
    """Run a workflow or an experiment."""
    from foldase.cli import runs

    return runs.run(home, target, inputs or [], detach=detach, name=name, priority=priority, as_json=as_json)


def list_runs(
    state: Annotated[str | None, typer.Option(help=f"only those that are {', '.join(STATES)}")] = None,
    text: Annotated[str | None, typer.Option("--search", "-q", help="part of a name or an id")] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="at most so many")] = 20,
    home: Home = None,
    as_json: AsJson = False,
) -> int:
    """List runs, newest first."""
    from foldase.cli import runs

    if state is not None and state not in STATES:
        raise typer.BadParameter(f"{state!r} is none of {', '.join(STATES)}", param_hint="--state")
    return runs.list_runs(home, state=state, text=text, limit=limit, as_json=as_json)


def show(run_id: RunId, step: MaybeStep = None, home: Home = None, as_json: AsJson = False) -> int:
    """Show a run, or one of its steps."""
    from foldase.cli import runs

    return runs.show(home, run_id, step, as_json=as_json)


def logs(
    run_id: RunId,
    step: MaybeStep = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="go on until it is over")] = False,
    attempt: Annotated[int | None, typer.Option(min=1, help="default: the last one")] = None,
    home: Home = None,
    as_json: AsJson = False,
) -> int:
    """Print the log of a step, or of all steps."""
    from foldase.cli import runs

    return runs.logs(home, run_id, step, attempt=attempt, follow=follow, as_json=as_json)


def get(
    run_id: RunId,
    output: Annotated[
        str | None, typer.Argument(metavar="[OUTPUT]", help="OUTPUT of the run, or STEP.OUTPUT; default: all")
    ] = None,
    path: Annotated[Path | None, typer.Option("--output", "-o", help="where to put it")] = None,
    force: Annotated[bool, typer.Option("--force", help="overwrite what is there")] = False,
    home: Home = None,
    as_json: AsJson = False,
) -> int:
    """Download results."""
    from foldase.cli import runs

    return runs.get(home, run_id, output, path, force=force, as_json=as_json)


def cancel(run_id: RunId, home: Home = None, as_json: AsJson = False) -> int:
    """End a run."""
    from foldase.cli import runs

    return runs.cancel(home, run_id, as_json=as_json)


def resume(run_id: RunId, detach: Detach = False, home: Home = None, as_json: AsJson = False) -> int:
    """Go on where a failed or cancelled run stopped, as a new run."""
    from foldase.cli import runs

    return runs.resume(home, run_id, detach=detach, as_json=as_json)


def why(run_id: RunId, step: Step, home: Home = None, as_json: AsJson = False) -> int:
    """Say why a step ran, or why it did not."""
    from foldase.cli import runs

    return runs.why(home, run_id, step, as_json=as_json)


def declare(app: typer.Typer) -> None:
    """Add these commands."""
    app.command()(run)
    app.command("runs")(list_runs)
    for command in (show, logs, get, cancel, resume, why):
        app.command()(command)
