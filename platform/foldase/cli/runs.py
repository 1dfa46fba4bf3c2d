"""Commands about runs; each returns the exit status."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from foldase.cli import render
from foldase.cli.outcome import Exit, print_json
from foldase.cli.progress import watch
from foldase.cli.typed import assignments, typed_inputs
from foldase.client import Client, Run, Step
from foldase.client.models import Json
from foldase.client.outputs import unique_names
from foldase.client.submission import resolve
from foldase.client.values import port_types
from foldase_workflows.contracts.artifacts import Artifact
from foldase_workflows.contracts.errors import Conflict, FoldaseError, NotFound

_LEVELS = {"debug": "dim", "warning": "yellow", "error": "bold red"}


def run(
    home: Path | None,
    target: str,
    inputs: list[str],
    *,
    detach: bool,
    name: str | None,
    priority: int | None,
    as_json: bool,
) -> Exit:
    """Submit a run and, unless detached, show it until it is over."""
    given = assignments(inputs)
    with Client(home=home) as client:
        submission = resolve(target)
        types = port_types(client.input_ports(submission))
        submitted = client.run(
            submission,
            typed_inputs(given, types),
            name=name,
            priority=priority,
            on_wait=_silent if as_json else _note,
        )
        if detach:
            return _submitted(client, submitted, as_json=as_json)
        if not as_json:
            _note(f"run {submitted.id}: {client.page(submitted.id)}")
        try:
            finished = watch(client, submitted, quiet=as_json)
        except KeyboardInterrupt:
            _note(f"\nrun {submitted.id} goes on; `foldase cancel {submitted.id}` ends it")
            return Exit.INTERRUPTED
        return _finished(client, finished, as_json=as_json)


def _submitted(client: Client, submitted: Run, *, as_json: bool) -> Exit:
    if as_json:
        print_json(submitted.raw)
    else:
        print(submitted.id)
        _note(client.page(submitted.id))
    return Exit.OK


def _finished(client: Client, finished: Run, *, as_json: bool) -> Exit:
    if as_json:
        print_json(finished.raw)
    else:
        out = render.console()
        out.print(f"run {finished.id} {finished.state}: {client.page(finished.id)}")
        if finished.outputs:
            out.print(render.values("output", finished.outputs))
        if finished.error:
            out.print("\n".join(render.failure(finished.error)))
    return Exit.OK if finished.state == "succeeded" else Exit.FAILED


def list_runs(home: Path | None, *, state: str | None, text: str | None, limit: int, as_json: bool) -> Exit:
    """Newest runs first."""
    with Client(home=home) as client:
        found = list(itertools.islice(client.runs(state=state, text=text), limit))
    if as_json:
        print_json({"items": [item.raw for item in found]})
    elif found:
        render.console().print(render.runs(found))
    else:
        _note("there are no runs" + (" like that" if state or text else " yet; `foldase run` makes one"))
    return Exit.OK


def show(home: Path | None, run_id: str, step: str | None, *, as_json: bool) -> Exit:
    """One run, or one of its steps."""
    with Client(home=home) as client:
        if step is not None:
            detail = client.step(run_id, step)
            if as_json:
                print_json(detail.raw)
                return Exit.OK
            _print_step(detail.raw, detail)
            return Exit.OK
        found = client.get_run(run_id)
        if as_json:
            print_json(found.raw)
            return Exit.OK
        out = render.console()
        for part in render.run_details(found, client.page(run_id)):
            out.print(part)
    return Exit.OK


def _print_step(raw: Json, step: Step) -> None:
    out = render.console()
    out.print(render.steps([step]))
    out.print(f"\nuses {step.uses}")
    for title, field in (("input", "inputs"), ("output", "outputs")):
        if raw.get(field):
            out.print("")
            out.print(render.values(title, raw[field]))
    if raw.get("attempts"):
        out.print("")
        out.print(render.attempts(raw["attempts"]))
    if step.error:
        out.print("")
        out.print("\n".join(render.failure(step.error)))


def logs(
    home: Path | None, run_id: str, step: str | None, *, attempt: int | None, follow: bool, as_json: bool
) -> Exit:
    """The log of a step, or of all steps that have run."""
    with Client(home=home) as client:
        try:
            lines = client.logs(run_id, step, attempt=attempt, follow=follow)
            if as_json:
                print_json({"lines": [line.raw for line in lines]})
                return Exit.OK
            out = render.console()
            for line in lines:
                prefix = "" if step is not None else f"{line.step} | "
                out.print(prefix + line.message, style=_LEVELS.get(line.level))
        except KeyboardInterrupt:
            return Exit.INTERRUPTED
    return Exit.OK


def cancel(home: Path | None, run_id: str, *, as_json: bool) -> Exit:
    """Ask for the end of a run."""
    with Client(home=home) as client:
        found = client.cancel(run_id)
    if as_json:
        print_json(found.raw)
    else:
        print(f"run {found.id} is being cancelled" if not found.is_over else f"run {found.id} {found.state}")
    return Exit.OK


def resume(home: Path | None, run_id: str, *, detach: bool, as_json: bool) -> Exit:
    """A new run that goes on where a failed or cancelled one stopped."""
    with Client(home=home) as client:
        new = client.resume(run_id)
        if detach:
            return _submitted(client, new, as_json=as_json)
        if not as_json:
            _note(f"run {new.id} goes on from {run_id}: {client.page(new.id)}")
        try:
            finished = watch(client, new, quiet=as_json)
        except KeyboardInterrupt:
            _note(f"\nrun {new.id} goes on; `foldase cancel {new.id}` ends it")
            return Exit.INTERRUPTED
        return _finished(client, finished, as_json=as_json)


def why(home: Path | None, run_id: str, step: str, *, as_json: bool) -> Exit:
    """Why a step ran, or did not."""
    with Client(home=home) as client:
        found = client.why(run_id, step)
    if as_json:
        print_json(found.raw)
        return Exit.OK
    out = render.console()
    out.print(f"{found.step} {'ran' if found.ran else 'did not run'}: {found.reason}")
    if found.differs:
        table = render.plain_table("component", "before", "now")
        for difference in found.differs:
            before, now = (render.value(difference.get(side)) for side in ("before", "now"))
            table.add_row(str(difference["component"]), before, now)
        out.print(table)
    return Exit.OK


def get(
    home: Path | None, run_id: str, output: str | None, path: Path | None, *, force: bool, as_json: bool
) -> Exit:
    """Download one result, or all outputs of a run into a folder."""
    with Client(home=home) as client:
        if output is not None:
            found = client.get(run_id, output, path, overwrite=force)
            written = [str(found)] if isinstance(found, Path) else []
            if as_json:
                print_json({"files": written} if written else {"value": found})
            else:
                print(found if not isinstance(found, dict | list) else render.value(found))
            return Exit.OK
        written = [str(place) for place in _all_outputs(client, run_id, path, force=force)]
    if as_json:
        print_json({"files": written})
    else:
        print("\n".join(written))
    return Exit.OK


def _all_outputs(client: Client, run_id: str, path: Path | None, *, force: bool) -> Iterator[Path]:
    found = client.get_run(run_id)
    outputs: dict[str, Any] = found.outputs or {}
    if not outputs:
        raise NotFound(
            f"run {run_id} has no outputs{'' if found.is_over else ' yet'}: it is {found.state}",
            code="no_output_yet" if not found.is_over else "unknown_output",
            hint="`foldase show` lists what its steps made; get one with STEP.OUTPUT",
        )
    folder = path or Path(run_id)
    if folder.exists() and not folder.is_dir():
        raise Conflict(f"{folder} is no folder", code="exists", hint="name a folder with -o")
    names = unique_names(_file_name(name, value) for name, value in outputs.items())
    for (name, _), own in zip(outputs.items(), names, strict=True):
        written = client.get(run_id, name, folder / own, overwrite=force)
        assert isinstance(written, Path)
        yield written


def _file_name(output: str, value: Any) -> str:
    if Artifact.is_json(value):
        suffixes = "".join(Path(Artifact.from_json(value).name).suffixes[-1:])
        return output + suffixes
    return output if _has_artifacts(value) else f"{output}.json"


def _has_artifacts(value: Any) -> bool:
    return isinstance(value, list) and any(Artifact.is_json(item) for item in value)


def _note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _silent(_: str) -> None:
    """Nothing is said beside a document of JSON."""


def reachable(home: Path | None) -> Client | None:
    """A client of the running server, None where there is none."""
    client = Client(home=home, timeout_seconds=10.0)
    try:
        client.health()
    except FoldaseError:
        client.close()
        return None
    return client
