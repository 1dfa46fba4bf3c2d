"""Results by name: outputs of a run, outputs of a step, and where they go on disk."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from foldase.client.models import Run, StepDetail, artifact_from
from foldase_workflows.contracts.artifacts import Artifact, artifacts_in
from foldase_workflows.contracts.errors import Conflict, NotFound


class Download(Protocol):
    """Fetches an artifact to a path."""

    def __call__(self, artifact: Artifact, path: Path, *, overwrite: bool) -> Path:
        """The path, once everything is there."""


def find_output(run: Run, name: str, step: Callable[[str], StepDetail]) -> Any:
    """The value of an output of the run, or of ``step.output``.

    Raises:
        NotFound: ``unknown_output``, or ``no_output_yet`` while the run goes on.
    """
    outputs = run.outputs or {}
    if name in outputs:
        return outputs[name]
    step_name, dot, output = name.rpartition(".")
    if dot:
        found = step(step_name).outputs or {}
        if output in found:
            return found[output]
        raise _missing(run, name, [f"{step_name}.{known}" for known in found])
    raise _missing(run, name, [*outputs, *(f"{step.id}.OUTPUT" for step in run.steps if step.is_over)])


def _missing(run: Run, name: str, known: list[str]) -> NotFound:
    listed = f"known: {', '.join(known[:12])}" if known else "there is none"
    if not run.is_over:
        return NotFound(
            f"run {run.id} has no output {name!r} yet: it is {run.state}", code="no_output_yet", hint=listed
        )
    return NotFound(f"run {run.id} has no output {name!r}", code="unknown_output", hint=listed)


def save(value: Any, name: str, path: Path | None, download: Download, *, overwrite: bool) -> Any:
    """Put a result on disk: an artifact as file or folder, several in one folder, a value as JSON.

    Returns:
        The path; the value itself where no path was given for a value.
    """
    if Artifact.is_json(value):
        artifact = artifact_from(value)
        return download(artifact, target_for(artifact, path), overwrite=overwrite)
    artifacts = list(artifacts_in(value))
    if artifacts:
        folder = path or Path(name)
        names = unique_names(artifact.name for artifact in artifacts)
        for artifact, own in zip(artifacts, names, strict=True):
            download(artifact, folder / own, overwrite=overwrite)
        return folder
    if path is None:
        return value
    if path.exists() and not overwrite:
        raise Conflict(f"{path} exists already", code="exists", hint="overwrite it with --force")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return path


def target_for(artifact: Artifact, path: Path | None) -> Path:
    """Where an artifact goes: to ``path``, or under its own name, into ``path`` where that is a folder."""
    own = plain_name(artifact.name)
    if path is None:
        return Path(own)
    is_folder = path.is_dir() and not _is_tree(artifact)
    return path / own if is_folder else path


def _is_tree(artifact: Artifact) -> bool:
    return artifact.media_type.startswith("application/vnd.foldase.tree")


def plain_name(name: str) -> str:
    """A name that stays in its folder and is not hidden, whoever chose it."""
    cleaned = "".join("_" if letter in "/\\\0" or ord(letter) < 32 else letter for letter in name)
    return cleaned.lstrip(".").strip() or "output"


def unique_names(names: Any) -> list[str]:
    """Plain names, each once: the second ``a.cif`` becomes ``a-2.cif``."""
    used: set[str] = set()
    chosen = []
    for name in map(plain_name, names):
        candidate, count = name, 1
        while candidate in used:
            count += 1
            stem, dot, suffix = name.partition(".")
            candidate = f"{stem}-{count}{dot}{suffix}"
        used.add(candidate)
        chosen.append(candidate)
    return chosen
