"""Operators of a small laboratory, made up for these tests: they have every kind of port."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import pytest
from pydantic import Field

from foldase_workflows.contracts import (
    Artifact,
    BadInput,
    Estimate,
    Hardware,
    Location,
    Operator,
    Ports,
    Registry,
    Resources,
)
from foldase_workflows.contracts.ports import Alignment, Families, Fasta, Json, Model, Msa, Report

GIB = 2**30


class Simulate(Operator[Any, Any]):
    name = "families.simulate"
    version = 1
    help = "Families with known contacts"

    class Inputs(Ports):
        seed: int = Field(ge=0, description="Start of the random numbers")
        length: int = Field(default=64, ge=8, le=512)
        noise: float = Field(default=0.1, gt=0, lt=1)
        letters: Literal["protein", "dna"] = "protein"
        sizes: list[int] = Field(default_factory=lambda: [100, 200], min_length=1)
        label: str = Field(default="", max_length=20)

    class Outputs(Ports):
        families: Families
        entropy: float

    def run(self, inputs: Any, context: Any) -> Any:
        raise NotImplementedError

    def estimate(self, known: Mapping[str, Any], hardware: Hardware) -> Estimate:
        return Estimate((1.0 * known["length"], 2.0 * known["length"]), GIB, basis="length")


class Train(Operator[Any, Any]):
    name = "model.train"
    version = 2
    help = "A model from families"
    resources = Resources(cpu=2.0, memory_bytes=2 * GIB)
    gang = True

    class Inputs(Ports):
        families: Families
        steps: int = 1000
        rate: float = 1e-3
        chunk: int = 64
        use_gaps: bool = False

    class Outputs(Ports):
        model: Model
        losses: Json
        loss: float

    def run(self, inputs: Any, context: Any) -> Any:
        raise NotImplementedError

    def estimate(self, known: Mapping[str, Any], hardware: Hardware) -> Estimate | None:
        if known["steps"] < 1:
            raise BadInput(
                "steps must be at least 1",
                code="bad_config",
                location=Location(path="with.steps"),
                hint="leave it out",
            )
        if hardware.ranks > 2:
            raise BadInput("two ranks at most", code="bad_config", location=Location(path="resources.ranks"))
        if "families" not in known:
            return None
        return Estimate((10.0, 30.0), (known["families"].size or 1) * 4, gpu_memory_bytes=GIB)


class Read(Operator[Any, Any]):
    name = "alignment.read"
    version = 1
    help = "A person's alignment as arrays"

    class Inputs(Ports):
        alignment: Alignment
        query: Fasta | None = None
        options: Json = Field(default_factory=dict)

    class Outputs(Ports):
        msa: Msa
        rows: int
        names: list[str]

    def run(self, inputs: Any, context: Any) -> Any:
        raise NotImplementedError


class Summarise(Operator[Any, Any]):
    name = "summarise"
    version = 1
    help = "One page about many models"
    deterministic = False

    class Inputs(Ports):
        models: list[Model]
        losses: list[float] = Field(default_factory=list)
        title: str = "Summary"

    class Outputs(Ports):
        report: Report
        best: Model
        best_loss: float

    def run(self, inputs: Any, context: Any) -> Any:
        raise NotImplementedError


@pytest.fixture(scope="session")
def registry() -> Registry:
    return Registry([Simulate(), Train(), Read(), Summarise()])


@pytest.fixture(scope="session")
def artifact():
    """Makes the reference to a stored file."""

    def make(kind: str = "alignment", name: str = "6KWC_1.a3m", size: int = 1000, digit: str = "a") -> Any:
        return Artifact("sha256:" + digit * 64, kind, size, name).to_json()

    return make


SWEEP = """\
version: 1
name: train-and-compare
title: Train a few models and compare them
inputs:
  seeds: {type: list[int], default: [1, 2, 3], help: One model for each}
  noise: {type: float, default: 0.1, min: 0, max: 1}
defaults:
  timeout: 2h
  retry: {max: 2, backoff: 5s..2m, on: [oom, timeout]}
steps:
  simulate:
    uses: families.simulate@1
    with: {seed: 7, noise: ${{ inputs.noise }}}
  train:
    uses: model.train@2
    each: {seed: ${{ inputs.seeds }}, rate: [0.001, 0.01]}
    with:
      families: ${{ steps.simulate.families }}
      rate: ${{ each.rate }}
      steps: ${{ each.seed > 2 ? 500 : 1000 }}
    resources: {cpu: 1, memory: 4GiB}
    retry: {on_oom: {memory: x2, with.chunk: /2}}
    allow_failures: 50%
  compare:
    if: ${{ len(steps.train.each.model) > 1 }}
    uses: summarise@1
    with:
      models: ${{ steps.train.each.model }}
      losses: ${{ steps.train.each.loss }}
      title: "${{ len(inputs.seeds) }} seeds, noise ${{ inputs.noise }}"
outputs:
  best: ${{ steps.compare.best }}
  entropy: ${{ round(steps.simulate.entropy, 2) }}
"""


@pytest.fixture(scope="session")
def sweep() -> str:
    return SWEEP
