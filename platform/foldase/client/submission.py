"""What a person names who says "run this": a catalog workflow, a workflow file, an experiment, a text."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from foldase_workflows.contracts.errors import DocumentError, DocumentErrors, NotFound

_SUFFIXES = (".yaml", ".yml")
_EXPERIMENT = re.compile(r"^workflow[ \t]*:", re.MULTILINE)
_WORKFLOW = re.compile(r"^steps[ \t]*:", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Submission:
    """A workflow, as text or by its name in the catalog, with what an experiment says about the run.

    ``file`` is what errors call the text; relative paths among ``inputs`` start in ``folder``.
    """

    source: str | None = None
    workflow: str | None = None
    file: str | None = None
    name: str = ""
    priority: int | None = None
    inputs: dict[str, Any] = field(default_factory=dict)
    folder: Path = Path()


def is_experiment(text: str) -> bool:
    """Whether a document is an experiment (it names a workflow) and no workflow (it has steps)."""
    return bool(_EXPERIMENT.search(text)) and not _WORKFLOW.search(text)


def resolve(target: str | Path) -> Submission:
    """What ``target`` names; a text with line breaks is a workflow itself.

    Raises:
        NotFound: ``file_missing``.
        DocumentErrors: an experiment that is wrong.
        TooLarge: a document beyond the limit.
    """
    if isinstance(target, str):
        if "\n" in target:
            return Submission(source=target)
        if not _is_path(target):
            return Submission(workflow=target)
    # The language takes a fifth of a second to import; most commands do without it.
    from foldase_workflows.spec import load_experiment, read_document

    path = Path(target).expanduser()
    text = read_document(path)
    if not is_experiment(text):
        return Submission(source=text, file=str(path))
    experiment = load_experiment(text, file=str(path))
    said = Submission(
        name=experiment.name,
        priority=experiment.priority_number,
        inputs=dict(experiment.inputs),
        folder=path.parent,
    )
    if not experiment.is_path:
        return replace(said, workflow=experiment.workflow)
    inner = path.parent / Path(experiment.workflow).expanduser()
    try:
        return replace(said, source=read_document(inner), file=str(inner))
    except NotFound as error:
        place = experiment.places.locate(("workflow",))
        fault = DocumentError(error.message, code=error.code, location=place, hint=error.hint)
        raise DocumentErrors([fault]) from None


def _is_path(target: str) -> bool:
    return target.endswith(_SUFFIXES) or "/" in target or target.startswith("~")
