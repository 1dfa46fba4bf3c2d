"""Operators for the tests of the command line and the client; named in FOLDASE_OPERATORS."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field

from foldase_workflows.contracts import BadInput, Location, Operator, StepContext
from foldase_workflows.contracts.artifacts import Artifact
from foldase_workflows.contracts.operator import Estimate, Hardware
from foldase_workflows.contracts.ports import Fasta, File, Ports, Tree, Weights


class GreetInputs(Ports):
    name: str
    times: int = Field(default=1, ge=1, le=5)


class GreetOutputs(Ports):
    text: str
    letter: File


class Greet(Operator[GreetInputs, GreetOutputs]):
    name, version, help = "cli.greet", 1, "greets, and says so in the log"
    Inputs, Outputs = GreetInputs, GreetOutputs

    def estimate(self, known: Mapping[str, Any], hardware: Hardware) -> Estimate | None:
        if known.get("name") == "nobody":
            place = Location(path="with.name")
            raise BadInput("nobody cannot be greeted", code="no_name", location=place, hint="name somebody")
        return None

    def run(self, inputs: GreetInputs, context: StepContext) -> GreetOutputs:
        text = " ".join([f"hello {inputs.name}"] * inputs.times)
        for number in range(inputs.times):
            context.log(f"greeting {number}")
            context.metrics({"loss": 1.0 / (number + 1)}, at=float(number))
        path = context.new_file("letter.txt")
        path.write_text(text + "\n")
        return GreetOutputs(text=text, letter=path)


class FolderInputs(Ports):
    sequences: Fasta


class FolderOutputs(Ports):
    folder: Tree
    records: int


class Folder(Operator[FolderInputs, FolderOutputs]):
    name, version, help = "cli.folder", 1, "makes a tree of files"
    Inputs, Outputs = FolderInputs, FolderOutputs

    def run(self, inputs: FolderInputs, context: StepContext) -> FolderOutputs:
        tree = context.new_tree("folder")
        text = inputs.sequences.read_text()
        if "X" in text:
            place = Location(file="in.fasta", line=2, record="x")
            raise BadInput("an X", code="fasta_letters", location=place, hint="take it out")
        (tree / "deep" / "er").mkdir(parents=True)
        (tree / "deep" / "er" / "é.txt").write_text(text)
        (tree / "empty").write_bytes(b"")
        (tree / "top.bin").write_bytes(bytes(range(256)) * 100)
        return FolderOutputs(folder=tree, records=text.count(">"))


class WaitInputs(Ports):
    seconds: float
    gate: str = ""


class WaitOutputs(Ports):
    done: bool


class Wait(Operator[WaitInputs, WaitOutputs]):
    name, version, help = "cli.wait", 1, "takes its time; fails until the file called gate exists"
    Inputs, Outputs = WaitInputs, WaitOutputs
    deterministic = False

    def run(self, inputs: WaitInputs, context: StepContext) -> WaitOutputs:
        began = time.monotonic()
        while (passed := time.monotonic() - began) < inputs.seconds:
            context.check_cancelled()
            context.progress(passed / inputs.seconds, "waiting")
            context.log(f"waited {passed:.1f}")
            time.sleep(0.1)
        if inputs.gate and not Path(inputs.gate).exists():
            raise BadInput("the gate is closed", code="gate_closed", hint="make the file")
        return WaitOutputs(done=True)


class FoldInputs(Ports):
    weights: Weights
    sequences: Fasta | None = None
    frugality: int = Field(default=0, ge=0, le=2)


class FoldOutputs(Ports):
    place: str
    kind: str


class Fold(Operator[FoldInputs, FoldOutputs]):
    name, version, help = "cli.fold", 1, "runs out of memory unless it is frugal"
    frugality = "frugality"
    Inputs, Outputs = FoldInputs, FoldOutputs

    def estimate(self, known: Mapping[str, Any], hardware: Hardware) -> Estimate | None:
        weights = known.get("weights")
        return Estimate((1, 2), 2 * weights.size) if isinstance(weights, Artifact) else None

    def run(self, inputs: FoldInputs, context: StepContext) -> FoldOutputs:
        context.plan(
            {
                "predicted_peak_bytes": (300 << 20) >> inputs.frugality,
                "correction": context.correction,
                "options": {"rows": 8 >> inputs.frugality, "inplace": True},
            }
        )
        if inputs.frugality == 0:
            raise MemoryError
        context.plan({"measured_peak_bytes": 160 << 20})
        config = json.loads((inputs.weights / "config.json").read_text())
        return FoldOutputs(place=str(inputs.weights), kind=config["model_type"])


OPERATORS = (Greet(), Folder(), Wait(), Fold())
