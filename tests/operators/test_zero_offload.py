"""catalog/zero-offload.yaml: trains under its cap, tells what lies where, and outlives a killed rank."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from live_platform import LivePlatform
from thread_platform import ThreadPlatform

from foldase.store.store import Store
from foldase_models.language.decoder import load_decoder
from foldase_workflows.spec import catalog_entry

SMALL = {"families": 2, "length": 16, "steps": 6, "width": 16, "layers": 2}
KILLED = {"families": 4, "length": 16, "steps": 60, "width": 32, "layers": 2}
CLOSE = 1e-3
"""Validation losses of one training with and without a crash: sums of another order."""
PATIENCE = 600.0
MIB = 2**20


@pytest.fixture
def platform(tmp_path: Path) -> Iterator[ThreadPlatform]:
    made = ThreadPlatform(tmp_path / "home")
    yield made
    made.close()


def points(store: Store, run: str, name: str = "loss") -> dict[float, dict[str, float]]:
    """What the training step has told so far, by step."""
    _, page = store.logs.read(run, "train", "metrics")
    told: dict[float, dict[str, float]] = {}
    for line in page.lines:
        if name in line["values"]:
            told[line["at"]] = line["values"]
    return told


def test_the_document_trains_in_one_process(platform, tmp_path):
    """With one rank the gang needs no processes of its own; they are for the long tests."""
    source = catalog_entry("zero-offload").source
    assert "ranks: 4" in source
    run = platform.run(source.replace("ranks: 4", "ranks: 1"), **SMALL)
    assert run.summary.state == "succeeded", run.summary.error
    told = points(platform.store, run.summary.id)
    last = told[6.0]
    assert last["loss"] < told[1.0]["loss"]
    assert last["tokens"] == 8 * 64
    parameters = 27 * 16 + 2 * (4 * 16 * 16 + 3 * 16 * 48 + 2 * 16) + 16
    assert last["disk_bytes"] >= 12 * parameters, "weights and two moments"
    assert 0 < last["device_bytes"] + last["pinned_bytes"] + last["host_bytes"] < 40 * MIB
    assert {"disk_seconds", "exposed_seconds", "communicated_bytes"} <= set(last)
    model = load_decoder(platform.fetch(run.outputs["model"], tmp_path / "model"))
    assert model.config.hidden_size == 16


def test_without_offload_it_is_refused_before_it_begins(platform):
    run = platform.run(plain(), families=2, length=16, steps=6)
    assert run.summary.state == "failed"
    error = next(step.error for step in run.steps if step.error)
    assert error["code"] == "does_not_fit"
    assert "set offload_parameters to nvme" in error["hint"]


def plain() -> str:
    """The document in one process with nothing offloaded."""
    source = catalog_entry("zero-offload").source
    for before, after in (("ranks: 4", "ranks: 1"), ("stage: 3", "stage: 0"), (": nvme", ": none")):
        source = source.replace(before, after)
    return source


def ranks_of(home: Path) -> dict[int, int]:
    """Processes by rank: each works in a scratch folder of its own."""
    found: dict[int, int] = {}
    for link in Path("/proc").glob("[0-9]*/cwd"):
        try:
            folder = link.readlink()
        except OSError:
            continue
        if folder.is_relative_to(home / "scratch") and "ranks" in folder.parts:
            _, rank = folder.parts[folder.parts.index("ranks") + 1 :][:2]
            found[int(rank)] = int(link.parent.name)
    return found


def wait(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def kill_one_of_four(store: Store, home: Path, run: str) -> None:
    """Kill rank 2 in the middle."""
    wait(lambda: store.queries.run_summary(run).finished or max(points(store, run), default=0) >= 20)
    ranks = ranks_of(home)
    assert sorted(ranks) == [0, 1, 2, 3]
    os.kill(ranks[2], signal.SIGKILL)


def went_on(store: Store, run: str, outputs: Any) -> None:
    _, page = store.logs.read(run, "train", "log")
    lines = [str(line["message"]) for line in page.lines]
    assert any("rank 2 is lost" in line and "starts again" in line for line in lines), lines
    assert max(points(store, run)) == KILLED["steps"]
    assert len(store.queries.step(run, "train").attempts) == 1
    assert outputs["scores"]["validation_perplexity"] < 27


@pytest.mark.verify
@pytest.mark.timeout(1800)  # eight starts of torch on two cores
def test_a_killed_rank_of_four_costs_nothing_but_time(platform, tmp_path, monkeypatch):
    monkeypatch.setattr("thread_platform.PATIENCE", PATIENCE)
    run = platform.submit("zero-offload", **KILLED)
    kill_one_of_four(platform.store, tmp_path / "home", run)
    ended = platform.ended(run)
    assert ended.summary.state == "succeeded", ended.summary.error
    went_on(platform.store, run, ended.outputs)
    source = (
        catalog_entry("zero-offload").source.replace("ranks: 4", "ranks: 1").replace("stage: 3", "stage: 0")
    )
    for place in ("offload_parameters: nvme", "offload_optimizer: nvme"):
        source = source.replace(place, place.replace("nvme", "none"))
    plain = platform.run(source, **KILLED)
    assert plain.summary.state == "succeeded", plain.summary.error
    losses = [one.outputs["scores"]["validation_loss"] for one in (ended, plain)]
    assert losses[0] == pytest.approx(losses[1], abs=CLOSE)


@pytest.mark.verify
@pytest.mark.timeout(1800)
def test_so_it_is_with_actors_of_ray(tmp_path):
    platform = LivePlatform(tmp_path / "home", "--cpus", "2")
    platform.start()
    try:
        platform.wait_ready()
        run = platform.submit(catalog_entry("zero-offload").source, **KILLED)
        kill_one_of_four(platform.store, tmp_path / "home", run)
        ended = platform.finish(run, seconds=PATIENCE)
        assert ended.summary.state == "succeeded", (ended.summary.error, platform.log(run, "train"))
        went_on(platform.store, run, ended.outputs)
        platform.stop()
    except BaseException:
        platform.kill()
        raise
