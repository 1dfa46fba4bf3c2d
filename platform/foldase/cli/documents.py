"""Commands about documents: they work without a server."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from foldase.cli import outcome, render
from foldase.cli.outcome import Exit, print_json
from foldase.cli.runs import reachable
from foldase.cli.typed import assignments, typed_inputs
from foldase.client.problems import fault_from_json
from foldase.client.submission import Submission, is_experiment, resolve
from foldase.client.transfers import digest_of
from foldase.client.values import port_types, prepare
from foldase_workflows.contracts import default_registry
from foldase_workflows.contracts.artifacts import Artifact
from foldase_workflows.contracts.errors import BadInput, DocumentError, DocumentErrors, FoldaseError
from foldase_workflows.contracts.types import PortType
from foldase_workflows.spec import (
    CheckedWorkflow,
    ExperimentDocument,
    bind_inputs,
    catalog_entry,
    check,
    experiment_json_schema,
    load_experiment,
    load_workflow,
    read_document,
    workflow_json_schema,
)
from foldase_workflows.spec import plan as plan_run
from foldase_workflows.spec.inputs import describe_inputs
from foldase_workflows.spec.quantities import format_duration, show_bytes


def lint(paths: list[Path], *, as_json: bool) -> Exit:
    """Everything that is wrong with documents."""
    found = [(path, _faults_of(path)) for path in paths]
    wrong = [error for _, error in found if error is not None]
    if as_json:
        files = [{"file": str(path), "ok": error is None, "errors": _as_list(error)} for path, error in found]
        print_json({"ok": not wrong, "files": files})
    else:
        for path, error in found:
            if error is None:
                print(f"{path}: ok")
            else:
                print("\n".join(outcome.described(error)), file=sys.stderr)
    return Exit.WRONG if wrong else Exit.OK


def _faults_of(path: Path) -> FoldaseError | None:
    try:
        text = read_document(path)
        if is_experiment(text):
            _check_experiment(path, text)
        else:
            check(load_workflow(text, file=str(path)), default_registry())
    except FoldaseError as error:
        return error
    return None


def _check_experiment(path: Path, text: str) -> None:
    """The experiment, its workflow, and the inputs it gives; what it leaves out may be given later."""
    experiment = load_experiment(text, file=str(path))
    submission = resolve(path)
    checked = _checked(submission)
    faults: list[FoldaseError] = []
    try:
        values = prepare(submission.inputs, _types(checked), _known_file, folder=submission.folder)
        bind_inputs(checked, values)
    except DocumentErrors as error:
        faults += [fault for fault in error.errors if fault.code != "missing_input"]
    except FoldaseError as error:
        faults.append(error)
    if faults:
        raise DocumentErrors([_placed(fault, experiment) for fault in faults])


def _placed(fault: FoldaseError, experiment: ExperimentDocument) -> DocumentError:
    """The fault of an input at its line in the experiment."""
    place = fault.location
    name = (place.path or "").removeprefix("inputs.").split(".")[0].split("[")[0] if place else ""
    if name in experiment.inputs:
        place = experiment.places.locate(("inputs", name))
    return DocumentError(fault.message, code=fault.code, location=place, hint=fault.hint)


def _as_list(error: FoldaseError | None) -> list[dict[str, object]]:
    if error is None:
        return []
    faults = error.errors if isinstance(error, DocumentErrors) else (error,)
    return [fault.to_json() for fault in faults]


def plan(home: Path | None, target: str, inputs: list[str], *, as_json: bool) -> Exit:
    """What a run would do. A running server knows the cluster and its cache; without one they are unknown.

    A step whose operator would refuse its inputs counts as a fault of the document.
    """
    submission = resolve(target)
    checked = _checked(submission)
    types = _types(checked)
    values = prepare(submission.inputs, types, _known_file, folder=submission.folder)
    values |= prepare(typed_inputs(assignments(inputs), types), types, _known_file)
    bound = bind_inputs(checked, values)
    answer, note, weights = _plan_of_server(home, replace(submission, inputs={}), values)
    if answer is None:
        named = {name: bound.get(name) for name, kind in types.items() if kind.name == "weights"}
        bound |= {name: weights[value].to_json() for name, value in named.items() if value in weights}
        answer = plan_run(checked, bound, default_registry()).to_json()
    refusals = [fault_from_json(step["refusal"]) for step in answer["steps"] if step.get("refusal")]
    if as_json:
        print_json({**answer, "note": note})
    else:
        _print_plan(answer, note)
        for refusal in refusals:
            print("\n".join(outcome.described(refusal)), file=sys.stderr)
    return Exit.WRONG if refusals else Exit.OK


def _plan_of_server(
    home: Path | None, submission: Submission, values: dict[str, Any]
) -> tuple[dict[str, Any] | None, str, dict[str, Artifact]]:
    """The plan, or else a note why there is none and the weights that the server has."""
    client = reachable(home)
    if client is None:
        return None, "no server runs: what the cache holds is unknown, and the node is this machine", {}
    with client:
        try:
            return client.plan(submission, values), "", {}
        except DocumentErrors as error:
            if any(fault.code != "unknown_artifact" for fault in error.errors):
                raise
        weights = {
            item["name"]: Artifact(item["digest"], "weights", item["size"], item["name"])
            for item in client.weights()["items"]
            if item["state"] == "ready"
        }
    return None, "the server has not seen these files: what the cache holds for them is unknown", weights


def _types(checked: CheckedWorkflow) -> dict[str, PortType]:
    return port_types(describe_inputs(checked.document))


def _checked(submission: Submission) -> CheckedWorkflow:
    if submission.workflow is not None:
        document = catalog_entry(submission.workflow).load()
    else:
        assert submission.source is not None
        document = load_workflow(submission.source, file=submission.file or "<text>")
    return check(document, default_registry())


def _known_file(path: Path, kind: str) -> Artifact:
    """The artifact that a file would become, without storing it."""
    digest, size = digest_of(path)
    if size == 0:
        raise BadInput(f"{path} is empty", code="empty_file")
    return Artifact(f"sha256:{digest}", kind, size, path.name, PortType(kind).media_type)


_CACHED = {True: "yes", False: "no", None: "unknown"}


def _print_plan(answer: dict[str, Any], note: str) -> None:
    out = render.console()
    table = render.plain_table("step", "uses", "after", "cached", "cpu", "memory", "time", "with")
    for step in answer["steps"]:
        estimate = step.get("estimate") or {}
        resources = step.get("resources") or {}
        memory = resources.get("memory_bytes") or estimate.get("memory_bytes") or 0
        name = step["name"]
        if step.get("each"):
            name += f" x{step['items']}" if step.get("items") is not None else " x?"
        table.add_row(
            name,
            step["uses"],
            ", ".join(step.get("after") or ()),
            "skipped" if step.get("runs") is False else _CACHED[step.get("cached")],
            _cores(resources),
            show_bytes(memory) if memory else "",
            _range(estimate.get("seconds")),
            "  ".join(f"{key}={render.value(value)}" for key, value in step["with"].items()),
        )
    out.print(table)
    for step in answer["steps"]:
        for line in _training_lines((step.get("estimate") or {}).get("plan") or {}):
            out.print(f"{step['name']}: {line}")
    memory = answer["memory_bytes"]
    peak = f"peak memory {show_bytes(memory)}" if memory else "no memory known"
    total = f"{_range(answer['seconds']) or 'no time known'}, {peak}"
    if answer["cached"] == len(answer["steps"]):
        total = "nothing to compute"
    parts = [total, f"{answer['cached']} of {_counted(len(answer['steps']))} in the cache"]
    if answer.get("unknown"):
        parts.append(f"{_counted(answer['unknown'])} without an estimate")
    if answer.get("refused"):
        parts.append(f"{_counted(answer['refused'])} would be refused")
    out.print(f"\nall: {'; '.join(parts)}")
    for warning in answer.get("warnings") or ():
        out.print(f"warning: {warning}")
    if note:
        out.print(note)


def _counted(steps: int) -> str:
    return f"{steps} step" if steps == 1 else f"{steps} steps"


def _cores(resources: dict[str, Any]) -> str:
    """Of one process; of a gang with the number of its ranks before it: ``4 x 0.5``."""
    each = f"{resources.get('cpu', 0):g}" + (f" + {resources['gpu']:g} GPU" if resources.get("gpu") else "")
    return f"{resources['ranks']:g} x {each}" if resources.get("ranks", 1) > 1 else each


def _training_lines(plan: dict[str, Any]) -> Iterator[str]:
    """What a rank of a training will hold by tier, where a step's time goes, and why it does not fit."""
    if not plan.get("step_seconds"):
        return
    ranks = plan.get("ranks", 1)
    held = ", ".join(f"{tier} {show_bytes(size)}" for tier, size in plan["peak_bytes"].items() if size)
    yield f"{ranks} rank{'s' if ranks > 1 else ''}, at the peak{' of each' if ranks > 1 else ''}: {held}"
    kinds = plan.get("step_seconds_of", {})
    parts = ", ".join(f"{kind} {_short_range(span)}" for kind, span in kinds.items())
    yield f"a step in {_short_range(plan['step_seconds'])} ({parts})"
    exchanges = plan.get("exchanges")
    sent = show_bytes(sum(plan.get("sent_bytes", {}).values()))
    if exchanges:
        steps = sum(kind["steps"] for kind in exchanges["steps_of"].values())
        said = f"ranks exchange in {exchanges['rounds']:,} of {steps:,} steps, {sent} a step on average"
        yield f"with {plan['options']['optimizer']} {said}"
    elif ranks > 1:
        yield f"ranks exchange in every step, {sent} a step"
    if plan.get("refusal"):
        yield f"does not fit: {plan['refusal']}"


def _short_range(seconds: list[float]) -> str:
    """Of steps, which may take less than a second."""
    if seconds[1] >= 2:
        return _range(seconds)
    return f"{1000 * seconds[0]:.0f} to {1000 * seconds[1]:.0f} ms"


def _range(seconds: list[float] | None) -> str:
    if not seconds or not seconds[1]:
        return ""
    low, high = (format_duration(max(round(value), 1)) for value in seconds)
    return low if low == high else f"{low} to {high}"


def schema(kind: str, *, as_json: bool) -> Exit:
    """JSON Schema of a kind of document, or the operators."""
    if kind == "workflow":
        print_json(workflow_json_schema(default_registry()))
    elif kind == "experiment":
        print_json(experiment_json_schema())
    else:
        signatures = [operator.signature.to_json() for operator in default_registry()]
        if as_json:
            print_json({"items": signatures})
        else:
            _print_operators(signatures)
    return Exit.OK


def _print_operators(signatures: list[dict[str, Any]]) -> None:
    out = render.console()
    for signature in signatures:
        out.print(f"{signature['reference']}: {signature['help']}", style="bold")
        table = render.plain_table("", "", "type", "default", "")
        table.show_header = False
        for direction in ("inputs", "outputs"):
            for port in signature[direction]:
                required = direction == "outputs" or port["required"]
                default = "" if required else f"= {render.value(port['default'])}"
                word = "in" if direction == "inputs" else "out"
                table.add_row(f"  {word}", port["name"], port["type"], default, port.get("help") or "")
        out.print(table)
