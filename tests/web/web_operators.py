"""Operators for the tests of the web."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from pydantic import Field

from foldase_workflows.contracts.context import StepContext
from foldase_workflows.contracts.errors import BadInput, Location
from foldase_workflows.contracts.operator import Estimate, Operator, Resources
from foldase_workflows.contracts.ports import Fasta, File, Ports, Weights
from foldase_workflows.contracts.registry import Registry


class AddInputs(Ports):
    a: int = Field(description="the first number")
    b: int = Field(default=1, ge=0, le=100, description="the second number")


class AddOutputs(Ports):
    sum: int


class Add(Operator[AddInputs, AddOutputs]):
    name, version, help = "web.add", 1, "adds two numbers"
    Inputs, Outputs = AddInputs, AddOutputs

    def run(self, inputs: AddInputs, context: StepContext) -> AddOutputs:
        context.log(f"adding \x1b[31m{inputs.a}\x1b[0m")
        context.metrics({"loss": 0.5}, at=1.0)
        context.progress(1.0, "added")
        return AddOutputs(sum=inputs.a + inputs.b)

    def estimate(self, known: Mapping[str, Any], hardware: object) -> Estimate:
        if known.get("a") == 666:
            place = Location(path="with.a")
            raise BadInput("666 is not added", code="bad_config", location=place, hint="take another")
        return Estimate(seconds=(1.0, 2.0), memory_bytes=1 << 20, basis="counted")


class Together(Add):
    name, version, help = "web.together", 1, "adds on several ranks"
    gang = True


class CountInputs(Ports):
    sequences: Fasta


class CountOutputs(Ports):
    records: int
    text: File


class Count(Operator[CountInputs, CountOutputs]):
    name, version, help = "web.count", 1, "counts the records of a FASTA file"
    Inputs, Outputs = CountInputs, CountOutputs

    def run(self, inputs: CountInputs, context: StepContext) -> CountOutputs:
        count = inputs.sequences.read_text().count(">")
        if count == 0:
            raise BadInput("no records", code="fasta_no_header")
        path = context.new_file("count.txt")
        path.write_text(f"{count}\n")
        return CountOutputs(records=count, text=path)


class GreedyInputs(Ports):
    pass


class GreedyOutputs(Ports):
    done: bool


class Greedy(Operator[GreedyInputs, GreedyOutputs]):
    name, version, help = "web.greedy", 1, "asks for a thousand cores"
    Inputs, Outputs = GreedyInputs, GreedyOutputs
    resources = Resources(cpu=1000)

    def run(self, inputs: GreedyInputs, context: StepContext) -> GreedyOutputs:
        return GreedyOutputs(done=True)


class WaitInputs(Ports):
    label: str = ""


class WaitOutputs(Ports):
    done: bool


class Wait(Operator[WaitInputs, WaitOutputs]):
    name, version, help = "web.wait", 1, "waits until it is cancelled"
    Inputs, Outputs = WaitInputs, WaitOutputs
    deterministic = False

    def run(self, inputs: WaitInputs, context: StepContext) -> WaitOutputs:
        context.log("waiting")
        while True:
            context.check_cancelled()
            time.sleep(0.01)


class WeighInputs(Ports):
    weights: Weights


class Weigh(Operator[WeighInputs, WaitOutputs]):
    name, version, help = "web.weigh", 1, "takes public weights"
    Inputs, Outputs = WeighInputs, WaitOutputs

    def run(self, inputs: WeighInputs, context: StepContext) -> WaitOutputs:
        return WaitOutputs(done=True)


REGISTRY = Registry([Add(), Together(), Count(), Greedy(), Wait(), Weigh()])

WAIT = """\
version: 1
name: wait
steps:
  wait: {uses: web.wait@1}
"""

ADD = """\
version: 1
name: sums
title: Sums
inputs:
  start: {type: int, default: 2, min: 0, max: 1000, help: where to start}
steps:
  one:
    uses: web.add@1
    with: {a: "${{ inputs.start }}"}
  two:
    uses: web.add@1
    with: {a: "${{ steps.one.sum }}", b: 5}
outputs:
  total: ${{ steps.two.sum }}
"""

COUNT = """\
version: 1
name: count
inputs:
  sequences: {type: fasta}
steps:
  count:
    uses: web.count@1
    with: {sequences: "${{ inputs.sequences }}"}
outputs:
  records: ${{ steps.count.records }}
  text: ${{ steps.count.text }}
"""

GREEDY = """\
version: 1
name: greedy
steps:
  eat: {uses: web.greedy@1}
"""
