"""The runtime as a person starts it, in a state folder of its own, for tests that need real workers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from foldase.runtime.processes import ProcessId, alive, all_processes, descendants, with_environment
from foldase.store.records import Attempt, Run, StepDetail, Submission
from foldase.store.store import Store
from foldase_workflows.contracts.registry import default_registry
from foldase_workflows.spec import bind_inputs, check, load_workflow

START_SECONDS = 240.0
"""A loaded machine may need several tries of 30 s to start Ray."""

STOP_SECONDS = 60.0
FINISHED = ("succeeded", "failed", "cancelled", "skipped")


class LivePlatform:
    """One service process and the store that it works on."""

    def __init__(self, home: Path, *options: str, environment: dict[str, str] | None = None) -> None:
        self.home = home
        self.options = options
        self.environment = environment
        self.process: subprocess.Popen[bytes] | None = None
        self._store: Store | None = None
        self._clusters: set[str] = set()

    @property
    def store(self) -> Store:
        if self._store is None:
            self._store = Store.at(self.home)
        return self._store

    def start(self) -> None:
        """Start the service; returns at once."""
        self.home.mkdir(parents=True, exist_ok=True)
        with (self.home / "service.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "foldase.runtime.service", "--home", str(self.home), *self.options],
                env=self.environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def wait_ready(self, *, after: float = 0.0) -> None:
        """Wait until the scheduler reports a living cluster (since the wall time ``after``)."""

        def ready() -> bool:
            record = self.store.cluster.read()
            return record.state == "ready" and record.updated_at > after * 1000 and bool(record.nodes)

        self.wait(ready, START_SECONDS, what="the cluster to be ready")
        self._clusters.add(json.loads((self.home / "runtime.json").read_text())["cluster"])

    def stop(self) -> None:
        """Ask the service to stop and make sure that nothing is left."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(STOP_SECONDS)
        left = self.left_over()
        self.store.close()
        self._store = None
        assert status == 0, self.logs()
        assert left == [], f"still running: {left}"

    def kill(self) -> None:
        """End the service and whatever it started, without asking; for the end of a test that failed."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
        time.sleep(0.5)
        for pid in self.left_over():
            os.kill(pid, signal.SIGKILL)

    def left_over(self) -> list[int]:
        """Processes of all clusters of this platform that run now."""
        known = set()
        for cluster in self._clusters:
            known |= set(with_environment("FOLDASE_CLUSTER", cluster))
        return sorted(process.pid for process in known if alive(process))

    def submit(self, text: str, **inputs: Any) -> str:
        """A run of a workflow given as text; returns its id."""
        checked = check(load_workflow(text), default_registry())
        submission = Submission.of(checked, bind_inputs(checked, inputs), source=text)
        return self.store.requests.submit(submission)[0].id

    def finish(self, run: str, *, seconds: float = 90.0) -> Run:
        """Wait for the end of a run."""
        self.wait(lambda: self.store.queries.run_summary(run).finished, seconds, what=f"the end of {run}")
        return self.store.queries.run(run)

    def succeed(self, text: str, *, seconds: float = 90.0, **inputs: Any) -> Run:
        """Submit a run that is expected to succeed, and wait for it."""
        run = self.finish(self.submit(text, **inputs), seconds=seconds)
        assert run.summary.state == "succeeded", (run.summary.error, [step.error for step in run.steps])
        return run

    def step(self, run: str, step: str) -> StepDetail:
        """A step as the API shows it."""
        return self.store.queries.step(run, step)

    def running(self, run: str, step: str, *, attempt: int = 1, seconds: float = 60.0) -> Attempt:
        """Wait until an attempt has begun on a worker."""

        def begun() -> bool:
            detail = self.step(run, step)
            assert detail.summary.state not in FINISHED, detail
            return any(one.number >= attempt and one.pid for one in detail.attempts)

        self.wait(begun, seconds, what=f"attempt {attempt} of {step}")
        return self.step(run, step).attempts[-1]

    def log(self, run: str, step: str, **options: Any) -> list[str]:
        """The messages in the log of a step."""
        _, page = self.store.logs.read(run, step, "log", **options)
        return [str(line["message"]) for line in page.lines]

    def wait_log(self, run: str, step: str, text: str, *, seconds: float = 60.0) -> None:
        """Wait for a line in the log of a step."""
        self.wait(lambda: any(text in line for line in self.log(run, step)), seconds, what=text)

    def scheduler(self) -> int:
        """The pid of the process that holds the scheduler."""
        assert self.process is not None
        found = [one.pid for one in descendants(self.process.pid) if _title(one).startswith("ray::Scheduler")]
        assert len(found) == 1, found
        return found[0]

    def ray_process(self, name: str) -> int:
        """The pid of ``raylet`` or ``gcs_server``."""
        assert self.process is not None
        found = [one.pid for one in descendants(self.process.pid) if Path(_title(one)).name == name]
        assert len(found) == 1, found
        return found[0]

    def wait(self, condition: Any, seconds: float, *, what: str) -> None:
        """Wait until the condition holds, and fail with the logs when it never does."""
        deadline = time.monotonic() + seconds
        while not condition():
            if self.process is not None and self.process.poll() is not None:
                raise AssertionError(f"the service ended while waiting for {what}:\n{self.logs()}")
            if time.monotonic() > deadline:
                raise AssertionError(f"waited {seconds:g} s for {what}:\n{self.logs()}")
            time.sleep(0.05)

    def logs(self) -> str:
        """The last lines of the service and of Ray."""
        texts = []
        for name in ("service.log", "runtime.log"):
            path = self.home / name
            if path.exists():
                texts.append(f"--- {name}\n" + path.read_text(errors="replace")[-3000:])
        return "\n".join(texts)


def processes_called(text: str) -> list[int]:
    """Running processes whose command line holds a text."""
    return [
        status.id.pid
        for status in all_processes().values()
        if not status.gone and text in _command(status.id)
    ]


def _title(process: ProcessId) -> str:
    return _command(process).split("\0")[0]


def _command(process: ProcessId) -> str:
    try:
        return Path(f"/proc/{process.pid}/cmdline").read_text(errors="replace")
    except OSError:
        return ""
