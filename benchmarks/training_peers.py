"""Our stages beside DDP, FSDP2 and DeepSpeed: losses, bytes held and sent, and steps in rounds with DDP's."""

from __future__ import annotations

import importlib.util
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import training_deepspeed
import training_systems as systems
from figures import first_line
from rank_processes import Gang
from training_cases import farthest, middle
from training_systems import CONFIG, ROUNDS, SIZE

from foldase_models.training import OffloadConfig

RANKS = 2
LOSS_TOLERANCE = 1e-5
REFERENCE, PLAIN = "stage 0", "ddp"
RUN_SECONDS, LAUNCH_SECONDS = 120.0, 180.0
ROOT = Path(__file__).resolve().parents[1]
NOT_INSTALLED = "not installed: see benchmarks/training_deepspeed.py, then --deepspeed PYTHON"

Outcome = dict[str, Any] | str
"""Figures of a system, or why there are none, in a line."""


def peers(deepspeed: str | None = None) -> Iterator[dict[str, Any]]:
    """All systems train the same tower on the same batches, on two ranks with a thread each.

    Args:
        deepspeed: a Python that has it; this one where it is left out.
    """
    runs = _runs()
    seconds: dict[str, list[float]] = {}
    with Gang(RANKS, deadline=60.0) as gang:
        wanted: list[float] = []
        for name, run in runs.items():
            found = run(gang, True)
            if name == REFERENCE:
                wanted = _insisted(name, found)["losses"]
            if isinstance(found, dict):
                seconds[name] = []
            yield from _counts(name, found, wanted)
        for name in systems.turns(list(seconds), ROUNDS):
            seconds[name].append(middle(_insisted(name, runs[name](gang, False))["seconds"]))
    for name in seconds:
        if name != PLAIN:
            yield _ratio(name, seconds)
    yield from _deepspeed(deepspeed, wanted)


def _runs() -> dict[str, Callable[[Gang, bool], Outcome]]:
    everything = OffloadConfig(optimizer="cpu", parameters="cpu")
    ours = {f"stage {stage}": replace(CONFIG, stage=stage) for stage in (0, 1, 2, 3)}
    ours["stage 3, all on the cpu"] = replace(CONFIG, stage=3, offload=everything)
    return {
        **{name: partial(_run, systems.ours, config) for name, config in ours.items()},
        **{name: partial(_run, systems.torchs_own, CONFIG, name) for name in systems.TORCHS_OWN},
    }


def _run(function: Callable[..., Any], *given: Any) -> Outcome:
    *options, gang, counted = given
    outcomes = gang.outcomes(function, SIZE, *options, counted, timeout=RUN_SECONDS)
    for outcome in outcomes:
        if outcome.error is not None:
            return first_line(repr(outcome.error))
        if not outcome.good:
            return "took too long" if outcome.late else f"ended with exit code {outcome.exit_code}"
    return _largest([outcome.value for outcome in outcomes])


def _largest(found: list[dict[str, Any]]) -> dict[str, Any]:
    """Losses and seconds of rank 0, with the bytes of the rank that has most."""
    most = {key: max(one[key] for one in found) for key in ("held", "sent") if key in found[0]}
    return found[0] | most


def _insisted(name: str, found: Outcome) -> dict[str, Any]:
    if isinstance(found, str):
        raise RuntimeError(f"{name}: {found}")
    return found


def _counts(name: str, found: Outcome, wanted: list[float]) -> Iterator[dict[str, Any]]:
    if isinstance(found, str):
        yield {"what": f"{name}: {found}", "figure": None}
        return
    off = farthest(found["losses"], wanted)
    yield {"what": f"{name}: losses, off {REFERENCE}'s", "figure": off, "at_most": LOSS_TOLERANCE}
    for key in ("held", "sent"):
        yield {"what": f"{name}: bytes {key} a parameter", "figure": found[key] / SIZE.parameters}


def _ratio(name: str, seconds: dict[str, list[float]]) -> dict[str, Any]:
    ratios = [own / plain for own, plain in zip(seconds[name], seconds[PLAIN], strict=True)]
    return {"what": f"{name}: a step, of {PLAIN}'s", "figure": statistics.median(ratios)}


def _deepspeed(python: str | None, wanted: list[float]) -> Iterator[dict[str, Any]]:
    if python is None and importlib.util.find_spec("deepspeed") is None:
        yield {"what": f"deepspeed: {NOT_INSTALLED}", "figure": None}
        return
    for name in training_deepspeed.STAGES:
        found = _launched(python or sys.executable, name)
        yield from _counts(name, found, wanted)
        if isinstance(found, dict):
            yield _ratio(name, found["seconds"])


def _launched(python: str, name: str) -> Outcome:
    """What two processes of that Python find; both are gone when it returns."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": str(RANKS),
        "GLOO_SOCKET_IFNAME": "lo",
        "OMP_NUM_THREADS": "1",
        "DS_ACCELERATOR": "cpu",
        "PYTHONPATH": os.pathsep.join(str(ROOT / root) for root in ("science_models", "kernels")),
    }
    with tempfile.TemporaryDirectory() as folder:
        written, said = Path(folder, "found.json"), Path(folder, "errors")
        command = [python, str(ROOT / "benchmarks" / "training_deepspeed.py"), name, str(written)]
        with said.open("w", encoding="utf-8") as errors:
            started = [
                subprocess.Popen(
                    command,
                    env=environment | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
                    stdout=subprocess.DEVNULL,
                    stderr=errors,
                )
                for rank in range(RANKS)
            ]
            try:
                codes = [process.wait(LAUNCH_SECONDS) for process in started]
            except subprocess.TimeoutExpired:
                return f"took longer than {LAUNCH_SECONDS:g} s"
            finally:
                for process in started:
                    process.kill()
                    process.wait()
        if any(codes) or not written.exists():
            return _raised(said.read_text(encoding="utf-8")) or f"ended with exit codes {codes}"
        found: dict[str, Any] = json.loads(written.read_text(encoding="utf-8"))
    return found


def _raised(trace: str) -> str:
    """The first exception of a printed traceback: the line after the indented ones."""
    inside = False
    for line in trace.splitlines():
        if line.startswith("Traceback"):
            inside = True
        elif inside and not line.startswith(" "):
            return first_line(line)
    return ""
