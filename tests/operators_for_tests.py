"""Operators that only tests use; found through FOLDASE_OPERATORS."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from foldase_workflows.contracts.context import StepContext
from foldase_workflows.contracts.errors import BadInput, Cancelled, Location
from foldase_workflows.contracts.operator import Operator, Resources
from foldase_workflows.contracts.ports import File, Json, Ports, Table, Tree, Weights


class Number(Ports):
    value: int = 0


class Add(Operator[Number, Number]):
    name: ClassVar[str] = "test.add"
    version: ClassVar[int] = 1
    help: ClassVar[str] = "adds one"
    Inputs = Number
    Outputs = Number

    def run(self, inputs: Number, context: StepContext) -> Number:
        return Number(value=inputs.value + 1)


class WorkInputs(Ports):
    seconds: float = Field(0.1, ge=0, description="how long")
    heed: bool = True
    label: str = ""
    children: bool = False


class WorkOutputs(Ports):
    pid: int


class Work(Operator[WorkInputs, WorkOutputs]):
    """Takes its time; heeds its cancel flag or not; may leave children behind."""

    name: ClassVar[str] = "test.work"
    version: ClassVar[int] = 1
    help: ClassVar[str] = "takes time"
    Inputs = WorkInputs
    Outputs = WorkOutputs

    def run(self, inputs: WorkInputs, context: StepContext) -> WorkOutputs:
        if inputs.children:
            subprocess.Popen(["sleep", "600"])
            subprocess.Popen(["sh", "-c", "setsid sleep 601 & exit"]).wait()
            context.log(f"children of {os.getpid()} run")
        context.log(f"works in {os.getpid()}")
        end = time.monotonic() + inputs.seconds
        while time.monotonic() < end:
            context.progress(1 - (end - time.monotonic()) / max(inputs.seconds, 1e-9), "working")
            if inputs.heed:
                context.check_cancelled()
            time.sleep(0.02)
        return WorkOutputs(pid=os.getpid())


class Grind(Operator[WorkInputs, WorkOutputs]):
    """Computes in C code and never looks up."""

    name: ClassVar[str] = "test.grind"
    version: ClassVar[int] = 1
    help: ClassVar[str] = "computes without looking up"
    Inputs = WorkInputs
    Outputs = WorkOutputs

    def run(self, inputs: WorkInputs, context: StepContext) -> WorkOutputs:
        import torch

        if inputs.children:
            subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
            subprocess.Popen(["sh", "-c", "setsid sleep 602 & exit"]).wait()
        context.log(f"grinds in {os.getpid()}")
        matrix = torch.eye(512)
        end = time.monotonic() + inputs.seconds
        while time.monotonic() < end:
            for _ in range(200):
                matrix = matrix @ matrix
        return WorkOutputs(pid=os.getpid())


class CountInputs(Ports):
    to: int = 10
    seconds: float = 0.2
    die_at: int = -1
    label: str = ""


class CountOutputs(Ports):
    counted: int
    began_at: int
    attempts: list[int]


class Count(Operator[CountInputs, CountOutputs]):
    """Counts with a checkpoint at each number, and kills its process once at ``die_at``."""

    name: ClassVar[str] = "test.count"
    version: ClassVar[int] = 1
    help: ClassVar[str] = "counts from its checkpoint on"
    Inputs = CountInputs
    Outputs = CountOutputs

    def run(self, inputs: CountInputs, context: StepContext) -> CountOutputs:
        checkpoint = context.checkpoints / "state.json"
        state: dict[str, Any] = {"number": 0, "attempts": []}
        if checkpoint.exists():
            state = json.loads(checkpoint.read_text())
        began_at = state["number"]
        state["attempts"].append(context.attempt)
        while state["number"] < inputs.to:
            context.check_cancelled()
            state["number"] += 1
            temporary = checkpoint.with_suffix(".new")
            temporary.write_text(json.dumps(state))
            temporary.replace(checkpoint)
            context.metrics({"number": state["number"]}, at=state["number"])
            context.progress(state["number"] / inputs.to)
            if state["number"] == inputs.die_at and began_at == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(inputs.seconds)
        return CountOutputs(counted=state["number"], began_at=began_at, attempts=state["attempts"])


class WriteInputs(Ports):
    text: str = "hello"
    files: int = 2


class WriteOutputs(Ports):
    file: File
    tree: Tree
    table: Table
    again: File
    summary: Json


class Write(Operator[WriteInputs, WriteOutputs]):
    name: ClassVar[str] = "test.write"
    version: ClassVar[int] = 1
    help: ClassVar[str] = "writes files"
    Inputs = WriteInputs
    Outputs = WriteOutputs

    def run(self, inputs: WriteInputs, context: StepContext) -> WriteOutputs:
        file = context.new_file("greeting.txt")
        file.write_text(inputs.text)
        table = context.new_file("table.json")
        table.write_text(json.dumps({"files": inputs.files}))
        tree = context.new_tree("pages")
        for number in range(inputs.files):
            (tree / str(number)).mkdir()
            (tree / str(number) / "page.txt").write_text(f"{inputs.text} {number}")
        return WriteOutputs(file=file, tree=tree, table=table, again=file, summary={"files": inputs.files})


class ReadInputs(Ports):
    file: File
    tree: Tree | None = None


class ReadOutputs(Ports):
    text: str
    pages: list[str] = []
    name: str


class Read(Operator[ReadInputs, ReadOutputs]):
    name: ClassVar[str] = "test.read"
    version: ClassVar[int] = 1
    help: ClassVar[str] = "reads files"
    Inputs = ReadInputs
    Outputs = ReadOutputs

    def run(self, inputs: ReadInputs, context: StepContext) -> ReadOutputs:
        pages = sorted(inputs.tree.rglob("*.txt")) if inputs.tree else []
        return ReadOutputs(
            text=inputs.file.read_text(),
            pages=[page.read_text() for page in pages],
            name=context.artifact("file").name,
        )


class FailInputs(Ports):
    how: str
    size: int = 0


class FailOutputs(Ports):
    value: str = ""
    file: File | None = None


class Fail(Operator[FailInputs, FailOutputs]):
    """Fails in the way that it is told."""

    name: ClassVar[str] = "test.fail"
    version: ClassVar[int] = 1
    help: ClassVar[str] = "fails"
    Inputs = FailInputs
    Outputs = FailOutputs

    def run(self, inputs: FailInputs, context: StepContext) -> FailOutputs:
        how = inputs.how
        if how == "value":
            return FailOutputs(value="x" * inputs.size)
        if how == "no file":
            return FailOutputs(file=context.new_file("never written"))
        if how == "wrong type":
            return {"value": 1}  # type: ignore[return-value]
        if how == "exit":
            sys.exit(3)
        if how == "crash":
            os.abort()
        make_error = _ERRORS[how]
        raise make_error()


class StyledError(ValueError):
    """Looks like an error of the models' floor."""

    def __init__(self) -> None:
        super().__init__("width 7 is odd")
        self.code, self.message, self.location, self.hint = "odd_width", "width 7 is odd", "width", "use 8"


class OutOfMemoryError(RuntimeError):
    """Called like torch's."""


_ERRORS: dict[str, Any] = {
    "bad input": lambda: BadInput("row 7 is empty", code="empty_row", location=Location(record="seq7")),
    "styled": StyledError,
    "value error": lambda: ValueError("first line\nsecond line"),
    "memory": MemoryError,
    "torch memory": lambda: RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
    "cuda memory": lambda: OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB"),
    "disk": lambda: OSError(28, "No space left on device"),
    "missing file": lambda: FileNotFoundError(2, "No such file", "/nowhere/x"),
    "cancelled": lambda: Cancelled("just so"),
}


class PrintOutputs(Ports):
    done: bool = True


class Print(Operator[Number, PrintOutputs]):
    name: ClassVar[str] = "test.print"
    version: ClassVar[int] = 1
    help: ClassVar[str] = "prints in every way"
    resources: ClassVar[Resources] = Resources(cpu=1)
    Inputs = Number
    Outputs = PrintOutputs

    def run(self, inputs: Number, context: StepContext) -> PrintOutputs:
        print("from python")
        print("a warning", file=sys.stderr)
        os.write(1, b"from c code\n")
        subprocess.run(["sh", "-c", "echo from a child; printf 'bar 1\\rbar 2'"], check=True)
        context.log("from the log", level="debug")
        return PrintOutputs()


class EnvironmentOutputs(Ports):
    names: list[str]
    threads: str
    devices: str
    folder: str


class Environment(Operator[Number, EnvironmentOutputs]):
    """Tells what a step finds in its environment."""

    name: ClassVar[str] = "test.environment"
    version: ClassVar[int] = 1
    help: ClassVar[str] = "looks around"
    Inputs = Number
    Outputs = EnvironmentOutputs

    def run(self, inputs: Number, context: StepContext) -> EnvironmentOutputs:
        return EnvironmentOutputs(
            names=sorted(os.environ),
            threads=os.environ.get("OMP_NUM_THREADS", ""),
            devices=os.environ.get("CUDA_VISIBLE_DEVICES", ""),
            folder=str(Path.cwd()),
        )


class ThriftyInputs(Ports):
    bytes_wanted: int = Field(0, ge=0)
    seconds: float = Field(0.0, ge=0)
    frugality: int = Field(0, ge=0, le=3)
    weights: Weights | None = None


class ThriftyOutputs(Ports):
    frugality: int
    correction: float
    weights: str


class Thrifty(Operator[ThriftyInputs, ThriftyOutputs]):
    """Predicts half of what it takes, and takes half as much with each step of its frugality.

    Without any it holds for some seconds what it has taken, so that a guard can see it.
    """

    name: ClassVar[str] = "test.thrifty"
    version: ClassVar[int] = 1
    help: ClassVar[str] = "takes memory, and less when it is frugal"
    frugality: ClassVar[str | None] = "frugality"
    Inputs = ThriftyInputs
    Outputs = ThriftyOutputs

    def run(self, inputs: ThriftyInputs, context: StepContext) -> ThriftyOutputs:
        size = inputs.bytes_wanted >> inputs.frugality
        correction = context.correction
        context.plan({"predicted_peak_bytes": int(size / 2 * correction), "correction": correction})
        held = bytearray(size)
        # Written to: memory that is only asked for is not taken.
        for place in range(0, size, 4096):
            held[place] = 1
        end = time.monotonic() + (0.0 if inputs.frugality else inputs.seconds)
        while time.monotonic() < end:
            context.check_cancelled()
            time.sleep(0.02)
        return ThriftyOutputs(
            frugality=inputs.frugality, correction=correction, weights=str(inputs.weights or "")
        )


class GangInputs(Ports):
    function: str
    arguments: Json = Field(default_factory=dict)


class GangOutputs(Ports):
    result: Json


class Gang(Operator[GangInputs, GangOutputs]):
    """Runs one of ``rank_functions`` on its ranks."""

    name: ClassVar[str] = "test.gang"
    version: ClassVar[int] = 1
    help: ClassVar[str] = "runs a function on several ranks"
    gang: ClassVar[bool] = True
    Inputs = GangInputs
    Outputs = GangOutputs

    def run(self, inputs: GangInputs, context: StepContext) -> GangOutputs:
        context.log(f"leads from {os.getpid()}, checkpoints in {context.checkpoints}")
        result = context.gang(f"rank_functions:{inputs.function}", inputs.arguments)
        return GangOutputs(result=result or {})


OPERATORS = (
    Gang(),
    Thrifty(),
    Add(),
    Work(),
    Grind(),
    Count(),
    Write(),
    Read(),
    Fail(),
    Print(),
    Environment(),
)
