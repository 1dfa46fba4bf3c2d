"""How runs, steps and values look in a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from foldase.client.models import STEP_OVER, Run, RunSummary, Step
from foldase_workflows.contracts.artifacts import Artifact
from foldase_workflows.spec.quantities import format_duration, show_bytes

_STYLES = {
    "pending": ("·", "dim"),
    "ready": ("·", "cyan"),
    "running": ("▸", "bold blue"),
    "succeeded": ("✓", "green"),
    "failed": ("✗", "bold red"),
    "cancelled": ("■", "yellow"),
    "skipped": ("–", "dim"),
}
_LONGEST_VALUE = 200
_PIPE_WIDTH = 2000


def console(*, to_stderr: bool = False) -> Console:
    """A console that takes text as it is: what users named never counts as markup.

    What goes into a pipe is not wrapped: a line is a line.
    """
    made = Console(stderr=to_stderr, markup=False, highlight=False, emoji=False, soft_wrap=True)
    if not made.is_terminal:
        made.width = _PIPE_WIDTH
    return made


def state(name: str, *, cached: bool = False) -> Text:
    """A state as sign, word and colour."""
    sign, style = _STYLES.get(name, ("?", ""))
    return Text(f"{sign} {'cached' if cached and name == 'succeeded' else name}", style=style)


def plain_table(*columns: str) -> Table:
    """A table without frame; the last column takes the space that is left."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in columns:
        table.add_column(column, overflow="fold", no_wrap=column != columns[-1])
    return table


def moment(text: str | None) -> str:
    """A time of the API in this place's time, to the second."""
    return parsed(text).astimezone().strftime("%Y-%m-%d %H:%M:%S") if text else ""


def parsed(text: str) -> datetime:
    """A time of the API."""
    return datetime.fromisoformat(text)


def elapsed(start: str | None, end: str | None) -> str:
    """How long something took, or has been taking until now."""
    if not start:
        return ""
    until = parsed(end) if end else datetime.now(UTC)
    return format_duration(max(round((until - parsed(start)).total_seconds()), 0))


def value(content: Any) -> str:
    """A value of an input or output in one line."""
    if Artifact.is_json(content):
        artifact = Artifact.from_json(content)
        return f"{artifact.name} ({artifact.type}, {show_bytes(artifact.size)})"
    if isinstance(content, list):
        text = f"[{', '.join(value(item) for item in content[:20])}{', ...' if len(content) > 20 else ''}]"
    else:
        text = str(content)
    return text if len(text) <= _LONGEST_VALUE else f"{text[: _LONGEST_VALUE - 4]} ..."


def values(title: str, content: Mapping[str, Any] | None) -> Table:
    """Named values, one a line."""
    table = plain_table(title, "")
    for name, item in (content or {}).items():
        table.add_row(name, value(item))
    return table


def runs(found: Iterable[RunSummary]) -> Table:
    """A list of runs."""
    table = plain_table("run", "state", "steps", "started", "took", "name")
    for run in found:
        total = sum(run.counts.values())
        over = sum(run.counts.get(name, 0) for name in STEP_OVER)
        done = f"{over}/{total}" if total else ""
        took = elapsed(run.started_at, run.finished_at)
        table.add_row(run.id, state(run.state), done, moment(run.created_at), took, run.name)
    return table


def steps(found: Iterable[Step]) -> Table:
    """The steps of a run."""
    table = plain_table("step", "state", "attempt", "took", "message")
    for step in found:
        message = step.message or step.waiting_for or ""
        if step.error:
            message = str(step.error.get("message") or message)
        percent = f" {step.progress:.0%}" if step.state == "running" and step.progress else ""
        table.add_row(
            step.id,
            state(step.state, cached=step.cached) + Text(percent),
            str(step.attempt) if step.attempt > 1 else "",
            elapsed(step.started_at, step.finished_at),
            message,
        )
    return table


def attempts(found: Iterable[Mapping[str, Any]]) -> Table:
    """The attempts of a step: what was predicted, what it took, and what changed since the one before."""
    table = plain_table("attempt", "state", "took", "planned", "peak", "worker", "changed", "end")
    for attempt in found:
        error = attempt.get("error") or {}
        predicted = (attempt.get("plan") or {}).get("predicted_peak_bytes")
        peak = measured_peak(attempt)
        table.add_row(
            str(attempt["number"]),
            state(attempt["state"]),
            elapsed(attempt.get("started_at"), attempt.get("finished_at")),
            show_bytes(predicted) if predicted else "",
            show_bytes(peak) if peak else "",
            str(attempt.get("worker") or ""),
            ", ".join(_change(name, *pair) for name, pair in (attempt.get("changes") or {}).items()),
            str(error.get("message") or attempt.get("cause") or ""),
        )
    return table


def measured_peak(attempt: Mapping[str, Any]) -> int | None:
    """What an attempt took: in the sense of its plan where it made one, of its whole process elsewhere.

    Of a GPU, and of ranks in processes of their own, only the operator can tell.
    """
    plan, peak = attempt.get("plan") or {}, attempt.get("peak_memory_bytes")
    counted: int | None = plan.get("measured_peak_bytes")
    if counted or plan.get("device") == "gpu" or plan.get("ranks", 1) > 1:
        return counted
    held = plan.get("process_bytes") or 0
    return peak - held if peak and peak > held else peak


def _change(name: str, before: Any, after: Any) -> str:
    if name == "memory_bytes":
        return f"memory {show_bytes(before) if before else 'unset'} to {show_bytes(after)}"
    return f"{name} {before} to {after}"


def failure(error: Mapping[str, Any]) -> Iterable[str]:
    """An error of a run or step as lines: place, message, code, hint."""
    place = error.get("location") or {}
    named = ", ".join(f"{name} {content}" for name, content in place.items() if content is not None)
    step = f"step {error['step']}: " if error.get("step") else ""
    cause = f" ({error['cause']})" if error.get("cause") else ""
    yield f"{step}{error.get('message') or 'failed'} [{error.get('code') or 'error'}]{cause}"
    if named:
        yield f"  at: {named}"
    if error.get("hint"):
        yield f"  hint: {error['hint']}"


def run_details(run: Run, page: str) -> Iterable[Any]:
    """Everything about a run, as parts to print one after another."""
    head = plain_table("", "")
    head.show_header = False
    head.add_row("run", run.id)
    head.add_row("name", run.name)
    head.add_row("state", state(run.state))
    head.add_row("workflow", f"{run.workflow['name']}  {run.workflow['digest'][:19]}")
    head.add_row("created", moment(run.created_at))
    head.add_row("took", elapsed(run.started_at, run.finished_at))
    if run.resumed_from:
        head.add_row("resumed from", run.resumed_from)
    head.add_row("page", page)
    yield head
    yield ""
    yield steps(run.steps)
    if run.inputs:
        yield ""
        yield values("input", run.inputs)
    if run.outputs:
        yield ""
        yield values("output", run.outputs)
    if run.error:
        yield ""
        yield from failure(run.error)
