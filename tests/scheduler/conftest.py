"""A laboratory without workers: a virtual clock, operators with ports only, an executor under control."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any

import pytest
from pydantic import AfterValidator, Field

from foldase.scheduler import Failed, Progressed, Report, Scheduler, Started, Succeeded, Task, TaskId
from foldase.store import Store, Submission
from foldase_workflows.contracts import (
    BadInput,
    Cause,
    Estimate,
    Hardware,
    Location,
    Operator,
    Ports,
    Registry,
    Resources,
    StepContext,
)
from foldase_workflows.contracts.ports import File, Tree
from foldase_workflows.spec import bind_inputs, check, load_workflow

GIB = 2**30


class AddInputs(Ports):
    a: int = 0
    b: int = 0
    chunk: int = 64
    order: list[int] | None = None


class AddOutputs(Ports):
    sum: int


class Add(Operator[AddInputs, AddOutputs]):
    name = "test.add"
    version = 1
    help = "adds"
    Inputs = AddInputs
    Outputs = AddOutputs

    def run(self, inputs: AddInputs, context: StepContext) -> AddOutputs:
        return AddOutputs(sum=inputs.a + inputs.b)


class AddBetter(Add):
    version = 2


class Dice(Add):
    name = "test.dice"
    deterministic = False


class Together(Add):
    name = "test.together"
    gang = True


class Large(Add):
    name = "test.large"

    def estimate(self, known: Any, hardware: Hardware) -> Estimate:
        if known.get("a", 0) < 0:
            place = Location(path="with.a")
            raise BadInput("a must not be negative", code="bad_config", location=place, hint="leave it out")
        return Estimate(seconds=(1.0, 2.0), memory_bytes=known.get("a", 0) * GIB, basis="a GiB each")


class ThriftyInputs(AddInputs):
    frugality: int = Field(0, ge=0, le=2)


class Thrifty(Operator[ThriftyInputs, AddOutputs]):
    """Could do with less memory."""

    name = "test.thrifty"
    version = 1
    help = "adds, frugally"
    frugality = "frugality"
    Inputs = ThriftyInputs
    Outputs = AddOutputs

    def run(self, inputs: ThriftyInputs, context: StepContext) -> AddOutputs:
        return AddOutputs(sum=inputs.a + inputs.b)


class JudgedInputs(AddInputs):
    allowed: float = 0.0


class Judged(Operator[JudgedInputs, AddOutputs]):
    """Adds; what is allowed decides only whether that is enough."""

    name = "test.judged"
    version = 1
    help = "adds, and is judged"
    tolerances = frozenset({"allowed"})
    Inputs = JudgedInputs
    Outputs = AddOutputs

    def run(self, inputs: JudgedInputs, context: StepContext) -> AddOutputs:
        return AddOutputs(sum=inputs.a + inputs.b)


def picky(value: int) -> int:
    if value == 13:
        raise RuntimeError("a bug in the operator")
    return value


class BrokenInputs(AddInputs):
    c: Annotated[int, AfterValidator(picky)] = 0


class Broken(Operator[BrokenInputs, AddOutputs]):
    name = "test.broken"
    version = 1
    help = "an operator with bugs outside of run"
    Inputs = BrokenInputs
    Outputs = AddOutputs

    def estimate(self, known: Any, hardware: Hardware) -> Estimate:
        if known["a"] == 13:
            raise RuntimeError("a bug in the estimate")
        return Estimate(seconds=(1.0, 2.0), memory_bytes=GIB)

    def run(self, inputs: BrokenInputs, context: StepContext) -> AddOutputs:
        raise NotImplementedError


class WriteInputs(Ports):
    text: str = ""


class WriteOutputs(Ports):
    file: File


class Write(Operator[WriteInputs, WriteOutputs]):
    name = "test.write"
    version = 1
    help = "writes a file"
    Inputs = WriteInputs
    Outputs = WriteOutputs

    def run(self, inputs: WriteInputs, context: StepContext) -> WriteOutputs:
        raise NotImplementedError


class GrowOutputs(Ports):
    tree: Tree


class Grow(Operator[WriteInputs, GrowOutputs]):
    name = "test.grow"
    version = 1
    help = "writes a tree"
    Inputs = WriteInputs
    Outputs = GrowOutputs

    def run(self, inputs: WriteInputs, context: StepContext) -> GrowOutputs:
        raise NotImplementedError


class CountInputs(Ports):
    file: File


class Count(Operator[CountInputs, AddOutputs]):
    name = "test.count"
    version = 1
    help = "counts bytes"
    Inputs = CountInputs
    Outputs = AddOutputs

    def run(self, inputs: CountInputs, context: StepContext) -> AddOutputs:
        raise NotImplementedError


OPERATORS = (
    Add(),
    AddBetter(),
    Dice(),
    Large(),
    Together(),
    Thrifty(),
    Judged(),
    Broken(),
    Write(),
    Grow(),
    Count(),
)


class VirtualClock:
    """Stands still until it is told to go on; wall time may be made to jump."""

    def __init__(self) -> None:
        self.time = 1_000_000.0
        self.jump = 1_700_000_000.0

    def now(self) -> float:
        return self.jump + self.time

    def monotonic(self) -> float:
        return self.time

    def advance(self, seconds: float) -> None:
        self.time += seconds


class FakeExecutor:
    """Holds tasks until the test says what becomes of them.

    ``automatic`` computes every task at once. What the workers of a real cluster would hold is ``held``.
    """

    def __init__(self, store: Store, *, automatic: bool = True) -> None:
        self.store = store
        self.automatic = automatic
        self.capacity = Resources(cpu=4.0, memory_bytes=16 * GIB, gpu=0.0)
        self.largest: Hardware | None = Hardware(cpus=4.0, memory_bytes=16 * GIB)
        self.depth = 1
        self.held: dict[TaskId, Task] = {}
        self.submitted: list[Task] = []
        self.cancelled: list[tuple[TaskId, float]] = []
        self.reports: list[Report] = []
        self.polls = 0
        self.log_bytes = 0
        self.compute: Callable[[Task], dict[str, Any]] = lambda task: compute(task, store)
        self.on_claim: Callable[[Task], None] = lambda task: None
        self.on_poll: Callable[[list[Report]], None] = lambda reports: None

    def total(self) -> Resources:
        return self.capacity

    def largest_node(self) -> Hardware | None:
        return self.largest

    def queue_depth(self, operator: str) -> int:
        return self.depth

    def submit(self, tasks: Sequence[Task]) -> None:
        for task in tasks:
            self.on_claim(task)
            self.submitted.append(task)
            self.held[id_of(task)] = task
            if self.automatic:
                self.start(task)
                self.succeed(task)

    def cancel(self, tasks: Iterable[TaskId], *, grace_seconds: float) -> None:
        for task_id in tasks:
            self.cancelled.append((task_id, grace_seconds))
            if self.automatic and task_id in self.held:
                self.fail(self.held[task_id], Cause.CANCELLED)

    def poll(self, timeout_seconds: float) -> list[Report]:
        self.polls += 1
        reports, self.reports = self.reports, []
        self.on_poll(reports)
        return reports

    def running(self) -> frozenset[TaskId]:
        return frozenset(self.held)

    # What the test makes happen:

    def start(self, task: Task) -> None:
        self.reports.append(Started(task.run, task.step, task.fence, "worker-1", "node-1", 4711))

    def progress(self, task: Task, fraction: float, **more: Any) -> None:
        self.reports.append(Progressed(task.run, task.step, task.fence, fraction, **more))

    def succeed(self, task: Task, outputs: dict[str, Any] | None = None, **more: Any) -> None:
        self.held.pop(id_of(task), None)
        made = outputs if outputs is not None else self.compute(task)
        more = {"log_offset": self.log_bytes, **more}
        self.reports.append(Succeeded(task.run, task.step, task.fence, made, **more))

    def fail(self, task: Task, cause: Cause, **more: Any) -> None:
        self.held.pop(id_of(task), None)
        error = {"code": str(cause), "message": f"it was {cause}"}
        self.reports.append(Failed(task.run, task.step, task.fence, cause, error, **more))

    def vanish(self, task: Task) -> None:
        """The worker is gone without a word."""
        self.held.pop(id_of(task), None)

    def task(self, step: str) -> Task:
        """The newest task of a step that is still held."""
        return next(
            task for task in reversed(self.submitted) if task.step == step and id_of(task) in self.held
        )


def id_of(task: Task) -> TaskId:
    return TaskId(task.run, task.step, task.fence)


def compute(task: Task, store: Store) -> dict[str, Any]:
    """What the operators of this file would give."""
    if task.operator.startswith("test.write"):
        return {"file": put_text(store, task.inputs["text"] or "empty").to_json()}
    if task.operator.startswith("test.grow"):
        return {"tree": put_tree(store).to_json()}
    if task.operator.startswith("test.count"):
        return {"sum": task.inputs["file"]["$artifact"]["size"]}
    return {"sum": task.inputs["a"] + task.inputs["b"]}


def put_text(store: Store, text: str) -> Any:
    return store.blobs.put_stream([text.encode()], type="file", name="text.txt")


def put_tree(store: Store) -> Any:
    with tempfile.TemporaryDirectory(dir=store.blobs.root.parent) as folder:
        for name in ("zarr.json", "c0", "c1"):
            Path(folder, name).write_text(f"content of {name}")
        return store.blobs.put_tree(Path(folder), "tree", "tree", move=True)


class Lab:
    """A store, a scheduler over it, and the executor it drives."""

    def __init__(self, home: Path, template: Path) -> None:
        home.mkdir(exist_ok=True)
        if not (home / "foldase.db").exists():
            shutil.copy(template, home / "foldase.db")
        self.home = home
        self.clock = VirtualClock()
        self.registry = Registry(OPERATORS)
        self.store = Store.at(home, clock=self.clock)
        self.executor = FakeExecutor(self.store)
        self.scheduler = Scheduler(self.store, self.registry, self.executor)

    def submit(
        self,
        text: str,
        inputs: dict[str, Any] | None = None,
        *,
        idempotency_key: str | None = None,
        **more: Any,
    ) -> str:
        checked = check(load_workflow(text), self.registry)
        submission = Submission.of(checked, bind_inputs(checked, inputs or {}), source=text, **more)
        return self.store.requests.submit(submission, idempotency_key=idempotency_key)[0].id

    def settle(self, limit: int = 200) -> None:
        """Tick until nothing happens any more."""
        for _ in range(limit):
            if not self.scheduler.tick():
                return
        raise AssertionError(f"still busy after {limit} ticks")

    def run(self, text: str, inputs: dict[str, Any] | None = None, **more: Any) -> Any:
        """Submit a run, let it go as far as it goes and return it."""
        run = self.submit(text, inputs, **more)
        self.settle()
        return self.store.queries.run(run)

    @staticmethod
    def executor_id(task: Task) -> TaskId:
        return id_of(task)

    def get(self, run: str) -> Any:
        return self.store.queries.run(run)

    def states(self, run: str) -> dict[str, str]:
        return {step.id: step.state for step in self.store.queries.run(run).steps}

    def step(self, run: str, step: str) -> Any:
        return self.store.queries.step(run, step)

    def restart(self, *, workers_live: bool = False) -> None:
        """The process of the scheduler dies, and another one starts."""
        old = self.executor
        self.store.leases.release(self.scheduler._lease) if self.scheduler._lease else None
        self.executor = FakeExecutor(self.store, automatic=old.automatic)
        self.executor.capacity, self.executor.largest = old.capacity, old.largest
        if workers_live:
            self.executor.held = old.held
            self.executor.submitted = list(old.held.values())
        self.scheduler = Scheduler(self.store, self.registry, self.executor)


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty database, made once: migrations are not what is tested here."""
    home = tmp_path_factory.mktemp("template")
    Store.at(home).close()
    return home / "foldase.db"


@pytest.fixture
def memory_folder(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory where there is one, for tests that write much and survive no power loss anyway."""
    if not os.access("/dev/shm", os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(prefix="foldase-", dir="/dev/shm") as folder:
        yield Path(folder)


@pytest.fixture
def lab(tmp_path: Path, template: Path) -> Iterator[Lab]:
    made = Lab(tmp_path, template)
    yield made
    made.store.close()


@pytest.fixture(scope="session")
def parts() -> SimpleNamespace:
    """The classes of this file, for tests that build on them."""
    return SimpleNamespace(
        Lab=Lab, FakeExecutor=FakeExecutor, VirtualClock=VirtualClock, id_of=id_of, compute=compute
    )
