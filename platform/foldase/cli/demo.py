"""``foldase demo``: the catalog's main workflow, from nothing to a result, through the same HTTP API."""

from __future__ import annotations

import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from foldase.cli.outcome import Exit
from foldase.cli.progress import watch
from foldase.cli.supervisor import Supervisor, is_locked, service_commands
from foldase.cli.typed import assignments, typed_inputs
from foldase.cli.up import announce, check_port, keep_running, start, stopping
from foldase.client import Client, Run
from foldase.client.server import home_folder
from foldase.client.submission import resolve
from foldase.client.values import port_types
from foldase_workflows.contracts.errors import FoldaseError

WORKFLOW = "contacts"
EXIT_VARIABLE = "DEMO_EXIT"

_METHODS = ("model", "mi_apc", "couplings", "prior", "shuffled")
_SCORES = "scores"


def demo(home: Path | None, port: int | None, inputs: list[str]) -> Exit:
    """Run the demonstration; the last line on stdout is its result as one JSON object.

    A platform that runs already for the state folder is used, and left running.
    """
    folder = home_folder(home).resolve()
    leave = os.environ.get(EXIT_VARIABLE, "") not in ("", "0")
    if is_locked(folder):
        return _experiment(folder, inputs)
    check_port(port)
    supervisor = Supervisor(folder, service_commands(folder, port), say=_say)
    status: list[Exit] = []
    with stopping(supervisor):
        announce(start(supervisor), folder, as_json=False, background=False)
        with _in_background(lambda: keep_running(supervisor)):
            stays = "" if leave else "the page stays until Ctrl-C; this is the result:"
            status.append(_experiment(folder, inputs, before_result=stays))
            while not leave:
                time.sleep(3600)
    return status[0] if status else Exit.INTERRUPTED


def _experiment(home: Path, inputs: list[str], *, before_result: str = "") -> Exit:
    began = time.monotonic()
    with Client(home=home) as client:
        submission = resolve(WORKFLOW)
        types = port_types(client.input_ports(submission))
        submitted = client.run(submission, typed_inputs(assignments(inputs), types), name="demo")
        _say(f"run {submitted.id}: {client.page(submitted.id)}")
        finished = watch(client, submitted)
        if finished.error:
            _say(f"the run failed: {finished.error.get('message')}")
        result = {
            "run": finished.id,
            "state": finished.state,
            "page": client.page(finished.id),
            "precision_at_L": _precision(client, finished),
            "seconds": round(time.monotonic() - began, 1),
        }
    if before_result:
        _say(before_result)
    print(json.dumps(result), flush=True)
    return Exit.OK if finished.state == "succeeded" else Exit.FAILED


def _precision(client: Client, run: Run) -> dict[str, Any] | None:
    """Precision among the L strongest predictions, by method; None for a run that did not get there."""
    if run.state != "succeeded":
        return None
    with tempfile.TemporaryDirectory() as folder:
        path = client.get(run.id, _SCORES, Path(folder) / "scores.json")
        table = json.loads(path.read_text(encoding="utf-8"))
    found = table["precision"]["L"]
    return {method: found.get(method) for method in _METHODS}


@contextmanager
def _in_background(work: Callable[[], None]) -> Iterator[None]:
    """Keep the services running while the main thread waits for the run."""

    def guarded() -> None:
        try:
            work()
        except FoldaseError as error:
            _say(str(error))

    threading.Thread(target=guarded, name="supervisor", daemon=True).start()
    yield


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
