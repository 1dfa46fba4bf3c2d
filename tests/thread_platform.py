"""A platform in this process, whose workers are threads, for tests that run whole workflows."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

from foldase.runtime.in_process import InProcessExecutor
from foldase.runtime.loop import SchedulerLoop
from foldase.runtime.view import View
from foldase.store.records import Run, Submission
from foldase.store.store import Store
from foldase_workflows.contracts import Artifact, Hardware, default_registry
from foldase_workflows.spec import bind_inputs, catalog_entry, check, load_workflow

HARDWARE = Hardware(cpus=2, memory_bytes=8 << 30)
PATIENCE = 120.0


class ThreadPlatform:
    """A store with a scheduler loop in a thread."""

    def __init__(self, home: Path) -> None:
        registry = default_registry()
        self.store = Store.at(home)
        executor = InProcessExecutor(home, registry=registry, hardware=HARDWARE)
        view = View(hardware=HARDWARE)
        self.loop = SchedulerLoop(self.store, registry, executor, lambda: view, view_seconds=0.1)
        self._thread = threading.Thread(target=self.loop.run)
        self._thread.start()

    def close(self) -> None:
        """Let running steps end, and stop."""
        self.loop.stop()
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()
        self.store.close()

    def run(self, workflow: str, **inputs: Any) -> Run:
        """Run a ready workflow by its name, or one by its text, to its end."""
        return self.ended(self.submit(workflow, **inputs))

    def submit(self, workflow: str, **inputs: Any) -> str:
        """Begin to run one; its id."""
        known = "\n" not in workflow
        source = catalog_entry(workflow).source if known else workflow
        checked = check(load_workflow(source), default_registry())
        submission = Submission.of(checked, bind_inputs(checked, inputs), source=source)
        return self.store.requests.submit(submission)[0].id

    def resume(self, run: Run) -> Run:
        """Go on where a failed run stopped."""
        return self.ended(self.store.requests.resume(run.summary.id)[0].summary.id)

    def ended(self, run: str) -> Run:
        """Wait for the end of a run."""
        deadline = time.monotonic() + PATIENCE
        while not self.store.queries.run_summary(run).finished:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        return self.store.queries.run(run)

    def fetch(self, value: Any, into: Path) -> Path:
        """Write an artifact to a path of one's own."""
        return self.store.blobs.materialise(Artifact.from_json(value), into)
