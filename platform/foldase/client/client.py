"""``Client``: runs, results and everything else the API offers, as Python calls."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

from foldase.client import events, transfers
from foldase.client.logs import LogReader, lines_of_run
from foldase.client.models import Event, Json, LogLine, Run, RunSummary, StepDetail, Why, artifact_from
from foldase.client.outputs import find_output, save
from foldase.client.server import find_server
from foldase.client.submission import Submission, resolve
from foldase.client.transport import Transport
from foldase.client.values import port_types, prepare
from foldase_workflows.contracts.artifacts import Artifact
from foldase_workflows.contracts.errors import Unavailable

_WEIGHTS_SECONDS = 0.5
"""Between two questions whether new weights have been read."""


class Client:
    """A connection to a foldase server, made on first use. Not to be shared between threads.

    Args:
        url: address of the server; by default ``FOLDASE_URL``, then the server of the state folder.
        token: bearer token; by default ``FOLDASE_TOKEN``, then the one in the state folder.
        home: the state folder; by default ``FOLDASE_HOME``, then ``./.foldase``.
        timeout_seconds: longest silence of the server before a request counts as failed.

    Every method raises the errors of ``foldase_workflows.contracts`` that the server answered with, and
    ``Unavailable`` when it cannot be reached. Requests that may be repeated without harm are repeated.
    """

    def __init__(
        self,
        url: str | None = None,
        token: str | None = None,
        home: Path | str | None = None,
        *,
        timeout_seconds: float = 60.0,
    ) -> None:
        self._transport = Transport(partial(find_server, url, token, home), timeout_seconds=timeout_seconds)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; the next call opens a new one."""
        self._transport.close()

    @property
    def url(self) -> str:
        """The address of the server."""
        return self._transport.url

    def page(self, run: str) -> str:
        """The address of a run's page."""
        return f"{self.url}/runs/{quote(run, safe='')}"

    def health(self) -> Json:
        """The state of the server, the database and the cluster; needs no token on the server's side."""
        return self._get("/health")

    def cluster(self) -> Json:
        """Nodes, workers and the queue."""
        return self._get("/cluster")

    def sign_in_link(self) -> str:
        """An address that signs one browser in, once, within some minutes."""
        answer = self._transport.json("POST", "/session/codes")
        return f"{self.url}{answer['path']}"

    def operators(self) -> list[Json]:
        """All operators of the server, with their ports."""
        return self._items("/operators")

    def workflows(self) -> list[Json]:
        """The catalog."""
        return self._items("/workflows")

    def workflow(self, name: str) -> Json:
        """A workflow of the catalog with its source, inputs and steps."""
        return self._get(f"/workflows/{quote(name, safe='')}")

    def weights(self) -> Json:
        """``{"items", "configured"}``: the public weights that an input of type ``weights`` may name."""
        return self._get("/weights")

    def check(self, source: str, *, file: str | None = None) -> Json:
        """``{"ok", "errors", "workflow"}`` of a document; a bad one is an answer, no exception."""
        return self._post("/check", {"source": source, "file": file}, repeatable=True)

    def plan(self, workflow: str | Path | Submission, inputs: Mapping[str, Any] | None = None) -> Json:
        """What a run would do: steps, defaults, estimates, expected cache hits. Files are uploaded."""
        return self._post("/plan", self._body(_submission(workflow), inputs or {}), repeatable=True)

    def upload(self, path: Path | str, type: str = "file", *, name: str | None = None) -> Artifact:  # noqa: A002
        """Store a file; ``type`` is one of the language, for example ``alignment``."""
        return transfers.upload(self._transport, Path(path), type, name)

    def run(
        self,
        workflow: str | Path | Submission,
        inputs: Mapping[str, Any] | None = None,
        *,
        name: str | None = None,
        priority: int | None = None,
        idempotency_key: str | None = None,
        on_wait: Callable[[str], None] = lambda _: None,
    ) -> Run:
        """Submit a run and return as soon as it is accepted: at once, unless it names weights that are new.

        Args:
            workflow: a name in the catalog, a path of a workflow or experiment, or the text of a workflow.
            inputs: values by name, over those of an experiment. Where the workflow wants a file, a path is
                uploaded; artifacts of other runs may be given too.
            name: what people call the run.
            priority: -100 to 100, greater runs first.
            idempotency_key: a submission repeated under the same key gives the same run; made up if missing.
            on_wait: told, when the run has to wait until the server knows its weights, how far that is.

        Raises:
            DocumentErrors: the document or the inputs are wrong, with every fault and its place.
        """
        submission = _submission(workflow)
        body = self._body(submission, inputs or {})
        body["name"] = name or submission.name or None
        chosen = submission.priority if priority is None else priority
        if chosen is not None:
            body["priority"] = chosen
        headers = {"Idempotency-Key": idempotency_key or uuid.uuid4().hex}
        while True:
            try:
                answer = self._transport.json("POST", "/runs", body=body, headers=headers, repeatable=True)
            except Unavailable as error:
                if error.code != "weights_not_ready":
                    raise
                on_wait(error.message)
                time.sleep(_WEIGHTS_SECONDS)
            else:
                return Run.from_json(answer)

    def runs(self, *, state: str | None = None, text: str | None = None) -> Iterator[RunSummary]:
        """All runs, newest first, fetched page by page; in one state, or with a text in name or id."""
        cursor: str | None = None
        while True:
            page = self._get("/runs", cursor=cursor, state=state, q=text, limit=100)
            for item in page["items"]:
                yield RunSummary.from_json(item)
            cursor = page.get("next")
            if not cursor:
                return

    def get_run(self, run: str) -> Run:
        """A run with its steps."""
        return Run.from_json(self._get(_run(run)))

    def step(self, run: str, step: str) -> StepDetail:
        """A step with inputs, outputs and attempts."""
        return StepDetail.from_json(self._get(_step(run, step)))

    def why(self, run: str, step: str) -> Why:
        """Why a step ran, or did not: what differs from the nearest earlier result."""
        return Why.from_json(self._get(f"{_step(run, step)}/why"))

    def metrics(self, run: str, step: str, *, attempt: int | None = None) -> list[Json]:
        """The points of the curves that a step reported so far."""
        points: list[Json] = []
        offset = 0
        while True:
            page = self._get(f"{_step(run, step)}/metrics", attempt=attempt, offset=offset)
            points += page["points"]
            if page["next"] == offset:
                return points
            offset = page["next"]

    def cancel(self, run: str) -> Run:
        """Ask for the end of a run; ``Conflict`` when it is over already."""
        return Run.from_json(self._transport.json("POST", f"{_run(run)}/cancel"))

    def resume(self, run: str) -> Run:
        """A new run that goes on where a failed or cancelled one stopped."""
        headers = {"Idempotency-Key": uuid.uuid4().hex}
        answer = self._transport.json("POST", f"{_run(run)}/resume", headers=headers, repeatable=True)
        return Run.from_json(answer)

    def watch(self, run: str, *, after: int | None = None, patience_seconds: float = 60.0) -> Iterator[Event]:
        """What happens in a run, from its beginning (or after an event's ``seq``) until it is over.

        Raises:
            Unavailable: the server was gone for longer than ``patience_seconds``; the run goes on.
        """
        path = f"{_run(run)}/events"
        for event in events.follow(self._transport, path, after=after, patience_seconds=patience_seconds):
            yield event
            if event.kind == "run.state" and RunSummary.from_json(event.raw).is_over:
                return
            if event.kind == "resync" and self.get_run(run).is_over:
                return

    def wait(self, run: str, *, timeout_seconds: float | None = None) -> Run:
        """Wait until a run is over.

        Raises:
            TimeoutError: it is not over in time; it goes on.
        """
        until = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        delay = 0.05
        while not (found := self.get_run(run)).is_over:
            if until is not None and time.monotonic() >= until:
                raise TimeoutError(f"run {run} is still {found.state} after {timeout_seconds:g} s")
            time.sleep(delay)
            delay = min(delay * 1.5, 2.0)
        return found

    def logs(
        self, run: str, step: str | None = None, *, attempt: int | None = None, follow: bool = False
    ) -> Iterator[LogLine]:
        """The lines of a step's log, of its last attempt unless told; without a step, of all of them.

        With ``follow`` also the lines to come, until the step (or the run) is over.
        """

        def reader(name: str) -> LogReader:
            return LogReader(self._transport, _step(run, name), name)

        if step is None:
            return lines_of_run(partial(self.get_run, run), reader, follow=follow)
        return reader(step).lines(attempt=attempt, follow=follow)

    def artifacts(self, run: str) -> list[Json]:
        """What a run made so far: its outputs first, then those of its steps."""
        return self._items(f"{_run(run)}/artifacts")

    def get(self, run: str, output: str, path: Path | str | None = None, *, overwrite: bool = False) -> Any:
        """One result: ``output`` of the run, or ``step.output``.

        A value is returned as it is (and written to ``path`` as JSON where one is given); an artifact is
        downloaded to ``path``, by default its own name in this folder, and the path returned.

        Raises:
            NotFound: ``unknown_output`` or ``no_output_yet``.
            Conflict: ``exists``, something lies at the path and ``overwrite`` was not given.
            Damaged: what came is not what was asked for.
        """
        value = find_output(self.get_run(run), output, partial(self.step, run))
        return save(value, output, None if path is None else Path(path), self.download, overwrite=overwrite)

    def download(self, artifact: Artifact | Json, path: Path | str, *, overwrite: bool = False) -> Path:
        """Fetch an artifact to a path: a file, or a folder for a tree; raises like :meth:`get`."""
        known = artifact if isinstance(artifact, Artifact) else artifact_from(artifact)
        return transfers.download(self._transport, known, Path(path), overwrite=overwrite)

    def is_reachable(self) -> bool:
        """Whether a server answers."""
        try:
            self.health()
        except Unavailable:
            return False
        return True

    def input_ports(self, submission: Submission) -> list[Json]:
        """The inputs of a workflow; of a wrong document none, since submitting it says what is wrong."""
        if submission.workflow is not None:
            found: list[Json] = self.workflow(submission.workflow)["inputs"]
            return found
        assert submission.source is not None
        answer = self.check(submission.source, file=submission.file)
        return answer["workflow"]["inputs"] if answer["workflow"] else []

    def _body(self, submission: Submission, inputs: Mapping[str, Any]) -> Json:
        types = port_types(self.input_ports(submission))
        values = prepare(submission.inputs, types, self.upload, folder=submission.folder)
        values |= prepare(inputs, types, self.upload)
        body: Json = {"inputs": values}
        if submission.source is not None:
            body |= {"source": submission.source, "file": submission.file}
        else:
            body["workflow"] = submission.workflow
        return body

    def _get(self, path: str, **params: Any) -> Json:
        answer: Json = self._transport.json("GET", path, params=params)
        return answer

    def _post(self, path: str, body: Json, *, repeatable: bool) -> Json:
        answer: Json = self._transport.json("POST", path, body=body, repeatable=repeatable)
        return answer

    def _items(self, path: str) -> list[Json]:
        items: list[Json] = self._get(path)["items"]
        return items


def _submission(workflow: str | Path | Submission) -> Submission:
    return workflow if isinstance(workflow, Submission) else resolve(workflow)


def _run(run: str) -> str:
    return f"/runs/{quote(run, safe='')}"


def _step(run: str, step: str) -> str:
    return f"{_run(run)}/steps/{quote(step, safe='')}"
