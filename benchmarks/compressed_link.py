"""Training over a slow link: two network namespaces of this machine, joined by a shaped pair of interfaces.

One rank in each trains the same language model with each of three optimizers. Nothing leaves the namespaces,
and nothing of them has a name outside: they are gone when the last process in them is, and all of those end
after this one even where it is killed, ranks when they are done with what they do.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from figures import first_line
from rank_processes import Gang

from foldase_models.language.decoder.config import DecoderConfig
from foldase_models.recipes.language import LanguageRecipe, train_language
from foldase_models.recipes.running import Watcher
from foldase_models.training import (
    CheckpointConfig,
    LimitsConfig,
    OptimizerConfig,
    Ranks,
    ScheduleConfig,
    StepReport,
    TrainingConfig,
)
from foldase_models.training.config import CompressionConfig, OptimizerKind

MEGABITS = 100
ADDRESSES = ("10.203.0.1", "10.203.0.2")
INTERFACE = "slow"
"""Each end's name, in its own namespace."""
SHAPE = f"tbf rate {MEGABITS}mbit burst 32kb latency 50ms"
"""A token bucket; the burst is 2.6 ms of the rate, the queue 50 ms."""
TOOLS = ("unshare", "nsenter", "ip", "tc")
LEAST_MEGABITS = 90
"""Of what a plain connection carries: 95 without the headers of Ethernet, IP and TCP."""
PROBE_BYTES = 24 << 20
STEPS, FROZEN = 120, 24
LEAST_WAITING = 0.7
LEAST_TIMES = 2.0
MOST_ON_THE_WIRE = 1.1
"""Times the bytes that are counted: headers, acknowledgements, what is sent again."""
RUN_SECONDS, DEADLINE_SECONDS = 300.0, 60.0
MODEL = DecoderConfig(hidden_size=192, intermediate_size=512, num_hidden_layers=4, max_position_embeddings=64)
"""1.8 million parameters."""
BLOCK, BLOCKS = 64, 4
SEQUENCES, LENGTH = 64, 200
KINDS: tuple[OptimizerKind, ...] = ("adamw", "one_bit_adam", "zero_one_adam")
_NEW_NETWORK = 0x40000000
"""CLONE_NEWNET of linux/sched.h."""


class LinkRefused(Exception):
    """This machine does not let us have the link; the message says why."""


def link(steps: int = STEPS, frozen: int = FROZEN) -> Iterator[dict[str, Any]]:
    """So many steps with each optimizer; those that compress freeze the second moment after ``frozen``."""
    environment = {"MASTER_ADDR": ADDRESSES[0], "GLOO_SOCKET_IFNAME": INTERFACE}
    with ExitStack() as stack:
        try:
            holders = stack.enter_context(slow_link())
        except LinkRefused as refused:
            yield {"what": f"no link to train over: {refused}", "figure": None, "at_least": LEAST_MEGABITS}
            return
        gang = stack.enter_context(
            Gang(2, deadline=DEADLINE_SECONDS, environment=environment, enter=partial(enter, holders))
        )
        yield {
            "what": "a plain connection over the link",
            "figure": max(gang.run(throughput, PROBE_BYTES)),
            "unit": "Mbit/s",
            "at_most": MEGABITS,
            "at_least": LEAST_MEGABITS,
        }
        plain: dict[str, Any] = {}
        for kind in KINDS:
            found = gang.run(train, config_of(kind, steps, frozen), timeout=RUN_SECONDS)[0]
            if kind == "adamw":
                plain = found
                yield from _waiting(found)
            else:
                yield from beside(kind, found, plain, frozen)


@contextmanager
def slow_link() -> Iterator[tuple[int, int]]:
    """Two network namespaces with a link between them, until the end of the context.

    Yields:
        process ids, one in each namespace, by whose ``/proc/ID/ns/net`` it can be entered.

    Raises:
        LinkRefused: a tool or a right is missing.
    """
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        raise LinkRefused(f"it needs {', '.join(missing)} (util-linux, iproute2)")
    if os.geteuid() != 0:
        raise LinkRefused("it needs root")
    with ExitStack() as stack:
        first, second = (stack.enter_context(_namespace()) for _ in ADDRESSES)
        peer = f"peer name {INTERFACE} netns {second}"
        _inside(first, f"ip link add name {INTERFACE} type veth {peer}")
        for holder, address in zip((first, second), ADDRESSES, strict=True):
            _inside(holder, f"ip address add {address}/24 dev {INTERFACE}")
            _inside(holder, f"tc qdisc add dev {INTERFACE} root {SHAPE}")
            _inside(holder, f"ip link set dev {INTERFACE} up")
        yield first, second


@contextmanager
def _namespace() -> Iterator[int]:
    """A process in a new network namespace; it ends with its input, which ends with this process."""
    holder = subprocess.Popen(
        ["unshare", "--net", "sh", "-c", "ip link set dev lo up && echo here && exec cat"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert holder.stdout is not None
        if holder.stdout.readline() != "here\n":
            raise LinkRefused(first_line(holder.communicate()[1]))
        yield holder.pid
    finally:
        holder.kill()
        holder.communicate()


def _inside(holder: int, command: str) -> None:
    entering = ["nsenter", f"--net={_network_of(holder)}"]
    done = subprocess.run([*entering, *command.split()], capture_output=True, text=True, check=False)
    if done.returncode:
        raise LinkRefused(f"{command}: {first_line(done.stderr)}")


def enter(holders: tuple[int, int], rank: int) -> None:
    """Move this process, which has one thread, into its rank's namespace."""
    libc = ctypes.CDLL(None, use_errno=True)
    with _network_of(holders[rank]).open() as network:
        if libc.setns(network.fileno(), _NEW_NETWORK):
            raise OSError(ctypes.get_errno(), f"rank {rank} cannot enter its namespace")


def _network_of(process: int) -> Path:
    return Path(f"/proc/{process}/ns/net")


def throughput(ranks: Ranks, size: int) -> float:
    """Mbit/s of so many bytes from rank 0 to rank 1; 0 on the one that sends."""
    assert ranks.store is not None
    if ranks.rank == 0:
        with socket.create_server((ADDRESSES[0], 0)) as server:
            server.settimeout(DEADLINE_SECONDS)
            ranks.store.set("probe", str(server.getsockname()[1]))
            connection, _ = server.accept()
        with connection:
            connection.sendall(bytes(size))
        return 0.0
    address = (ADDRESSES[0], int(ranks.store.get("probe")))
    with socket.create_connection(address, timeout=DEADLINE_SECONDS) as connection:
        arrived, began = len(connection.recv(1 << 16)), time.monotonic()
        first = arrived
        while arrived < size:
            arrived += len(connection.recv(1 << 20))
        return 8e-6 * (arrived - first) / (time.monotonic() - began)


def config_of(kind: OptimizerKind, steps: int, frozen: int) -> TrainingConfig:
    """What the three have in common, and where two of them freeze the second moment."""
    compression = CompressionConfig(freeze_step=None if kind == "adamw" else frozen)
    return TrainingConfig(
        steps=steps,
        micro_batches=2,
        average_decay=0.0,
        optimizer=OptimizerConfig(kind=kind, compression=compression),
        schedule=ScheduleConfig(warmup_steps=steps // 20),
        # Buckets that are small beside the model, so that whole gradients travel beside the backward pass.
        limits=LimitsConfig(bucket_bytes=1 << 20, collective_seconds=DEADLINE_SECONDS),
        checkpoint=CheckpointConfig(seconds=1e9),
    )


def train(ranks: Ranks, config: TrainingConfig) -> dict[str, Any]:
    """Train the decoder on random tokens.

    Returns:
        of rank 0, ``seconds`` and those spent ``waiting`` for the other one by step; bytes ``counted`` and
        ``on_the_wire`` after the first step, before which all weights are sent once. Nothing on rank 1.
    """
    tokens = np.random.default_rng(0).integers(1, MODEL.vocab_size, (SEQUENCES, LENGTH))
    recipe = LanguageRecipe(training=config, block=BLOCK, blocks_per_step=BLOCKS, validation=0)
    reports: list[StepReport] = []
    sent: list[int] = []

    def watch(report: StepReport) -> None:
        reports.append(report)
        sent.append(_sent())

    train_language(list(tokens), MODEL, recipe, ranks=ranks, watcher=Watcher(step=watch))
    if not reports:
        return {}
    return {
        "seconds": [report.seconds for report in reports],
        "waiting": [report.times.get("exposed_communication_seconds", 0.0) for report in reports],
        "counted": reports[-1].sent - reports[0].sent,
        "on_the_wire": sent[-1] - sent[0],
    }


def _sent() -> int:
    """Bytes that left by the link since it was made: the ninth number of its line."""
    for line in Path("/proc/self/net/dev").read_text().splitlines():
        name, _, numbers = line.partition(":")
        if name.strip() == INTERFACE:
            return int(numbers.split()[8])
    raise LookupError(f"there is no {INTERFACE}")


def _waiting(found: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield {
        "what": "adamw: of a step, waiting for the link",
        "figure": sum(found["waiting"]) / sum(found["seconds"]),
        "at_least": LEAST_WAITING,
    }
    yield {
        "what": "adamw: bytes on the wire, of those that are counted",
        "figure": found["on_the_wire"] / found["counted"],
        "at_least": 1.0,
        "at_most": MOST_ON_THE_WIRE,
    }


def beside(kind: str, found: dict[str, Any], plain: dict[str, Any], frozen: int) -> Iterator[dict[str, Any]]:
    """What :func:`train` found with an optimizer that compresses, beside AdamW."""
    times = sum(plain["seconds"]) / sum(found["seconds"])
    what = f"{kind}: steps a second over {len(found['seconds'])} steps, of adamw's"
    goal = {"at_least": LEAST_TIMES} if kind == "zero_one_adam" else {}
    yield {"what": what, "figure": times, **goal}
    times = sum(plain["seconds"][frozen:]) / sum(found["seconds"][frozen:])
    yield {"what": f"{kind}: steps a second from step {frozen} on, of adamw's", "figure": times}
    share = found["on_the_wire"] / plain["on_the_wire"]
    yield {"what": f"{kind}: bytes on the wire, of adamw's", "figure": share}
