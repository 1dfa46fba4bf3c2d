"""Steps per second of the scheduler, by the path of the product, beside raw Ray tasks and Parsl's threads.

    python benchmarks/scheduler.py [--fan 1000] [--chain 200] [--repeats 3] [--json FILE]

A step does nothing. "fresh" runs every step in a worker actor: two commits a step on SQLite with
``synchronous=FULL`` (grouped by the scheduler), events, cache rows. "cached" is the same run once more. Raw
Ray tasks and Parsl's threads keep nothing and cannot resume. All are measured one after the other on the
same machine; what counts are the ratios, not the times.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

BENCHMARKS = Path(__file__).resolve().parent
START_SECONDS = 120.0
RUN_SECONDS = 300.0


@dataclass(frozen=True)
class Figure:
    """One system at one shape of work. ``cpu_ms`` is of the whole process tree, per step."""

    system: str
    shape: str
    steps: int
    seconds: float
    cpu_ms: float
    all_seconds: tuple[float, ...]

    @property
    def rate(self) -> float:
        """Steps per second."""
        return self.steps / self.seconds


def measure(
    system: str, shape: str, steps: int, repeats: int, run: Callable[[int], None], cpu: Callable[[], float]
) -> Figure:
    """Run the work ``repeats`` times; the median counts."""
    times, used = [], []
    for repeat in range(repeats):
        cpu_before, began = cpu(), time.perf_counter()
        run(repeat)
        times.append(time.perf_counter() - began)
        used.append(cpu() - cpu_before)
    return Figure(
        system, shape, steps, statistics.median(times), 1000 * statistics.median(used) / steps, tuple(times)
    )


def tree_cpu(root: int) -> float:
    """Processor seconds of a process and all that descend from it now."""
    from foldase.runtime.processes import descendants, status_of

    pids = [root, *(process.pid for process in descendants(root))]
    return sum(status.cpu_seconds for status in map(status_of, pids) if status is not None)


def fan_document(steps: int, salt: str) -> tuple[str, dict[str, Any]]:
    """A scatter over ``steps`` numbers; the salt makes every pass fresh."""
    text = (
        f"version: 1\nname: fan-{salt}\n"
        "inputs:\n  numbers: {type: 'list[int]'}\n"
        "steps:\n  nothing:\n    uses: benchmark.nothing@1\n"
        "    each: {number: '${{ inputs.numbers }}'}\n"
        "    with: {value: '${{ each.number }}'}\n"
    )
    base = abs(hash(salt)) % 10**9 * 1000
    return text, {"numbers": list(range(base, base + steps))}


def chain_document(steps: int, salt: str) -> tuple[str, dict[str, Any]]:
    """Each step takes the number of the one before."""
    lines = ["version: 1", f"name: chain-{salt}", "inputs:", "  first: {type: int}", "steps:"]
    for number in range(steps):
        given = f"steps.s{number - 1}.value" if number else "inputs.first"
        lines += [
            f"  s{number}:",
            "    uses: benchmark.nothing@1",
            f"    with: {{value: '${{{{ {given} }}}}'}}",
        ]
    return "\n".join(lines) + "\n", {"first": abs(hash(salt)) % 10**12}


class Product:
    """The runtime as a person starts it, in a state folder of its own."""

    def __init__(self, parent: Path) -> None:
        from foldase.store.store import Store

        self.home = parent / "state"
        self.process = subprocess.Popen(
            [sys.executable, "-m", "foldase.runtime.service", "--home", str(self.home)],
            stderr=(parent / "service.log").open("wb"),
        )
        deadline = time.monotonic() + START_SECONDS
        while not (self.home / "foldase.db").exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        self.store = Store.at(self.home)
        while self.store.cluster.read().state != "ready":
            if time.monotonic() > deadline:
                raise SystemExit("the cluster did not start: " + (parent / "service.log").read_text())
            time.sleep(0.1)

    def run(self, document: tuple[str, dict[str, Any]]) -> None:
        """Submit a run and wait for its end, as the API does; documents are checked and plans made."""
        from foldase.store.records import Submission
        from foldase_workflows.contracts.registry import default_registry
        from foldase_workflows.spec import bind_inputs, check, load_workflow

        text, inputs = document
        checked = check(load_workflow(text), default_registry())
        submission = Submission.of(checked, bind_inputs(checked, inputs), source=text)
        run, _ = self.store.requests.submit(submission)
        deadline = time.monotonic() + RUN_SECONDS
        while not (summary := self.store.queries.run_summary(run.id)).finished:
            if time.monotonic() > deadline:
                raise SystemExit(f"run {run.id} did not end: {summary}")
            time.sleep(0.01)
        if summary.state != "succeeded":
            raise SystemExit(f"run {run.id} ended {summary.state}: {summary.error}")

    def cpu(self) -> float:
        """Processor seconds of the whole service."""
        return tree_cpu(self.process.pid)

    def stop(self) -> None:
        """End everything."""
        self.store.close()
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)


def of_product(options: argparse.Namespace) -> list[Figure]:
    """The product's four figures."""
    parent = Path(tempfile.mkdtemp(prefix="fs-bench-", dir=options.folder))
    product = Product(parent)
    figures = []
    try:
        product.run(fan_document(50, "warm-up"))
        product.run(chain_document(5, "warm-up"))
        for shape, steps, make in (
            ("fan-out", options.fan, fan_document),
            ("chain", options.chain, chain_document),
        ):
            documents = [make(steps, f"{shape}{number}") for number in range(options.repeats)]

            def run(number: int, documents: list[Any] = documents) -> None:
                product.run(documents[number])

            figures += [
                measure(f"foldase, {kind}", shape, steps, options.repeats, run, product.cpu)
                for kind in ("fresh", "cached")
            ]
    finally:
        product.stop()
        shutil.rmtree(parent, ignore_errors=True)
    return figures


def of_ray(options: argparse.Namespace) -> list[Figure]:
    """Raw tasks of a private Ray cluster on the same machine."""
    temporary = Path(tempfile.mkdtemp(prefix="fs-ray-", dir="/tmp"))
    token = temporary / "token"
    token.write_text("0" * 64)
    os.environ |= {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    import ray

    ray.init(
        address="local",
        num_cpus=len(os.sched_getaffinity(0)),
        object_store_memory=256 << 20,
        log_to_driver=False,
        configure_logging=False,
        _temp_dir=str(temporary / "r"),
    )

    @ray.remote(max_retries=0)
    def nothing(number: int) -> int:
        return number

    def fan(_: int) -> None:
        ray.get([nothing.remote(number) for number in range(options.fan)])

    def chain(_: int) -> None:
        value: Any = 0
        for _number in range(options.chain):
            value = nothing.remote(value)
        ray.get(value)

    def cpu() -> float:
        return tree_cpu(os.getpid())

    try:
        fan(0)
        return [
            measure("Ray tasks", "fan-out", options.fan, options.repeats, fan, cpu),
            measure("Ray tasks", "chain", options.chain, options.repeats, chain, cpu),
        ]
    finally:
        ray.shutdown()
        shutil.rmtree(temporary, ignore_errors=True)


def of_parsl(options: argparse.Namespace) -> list[Figure]:
    """Parsl's threads: the same process, nothing kept."""
    import parsl
    from parsl.config import Config
    from parsl.executors import ThreadPoolExecutor

    folder = tempfile.mkdtemp(prefix="fs-parsl-", dir=options.folder)
    threads = len(os.sched_getaffinity(0))
    parsl.load(
        Config(
            executors=[ThreadPoolExecutor(max_threads=threads)],
            run_dir=folder,
            initialize_logging=False,
            usage_tracking=0,
        )
    )

    @parsl.python_app
    def nothing(number: int) -> int:
        return number

    def fan(_: int) -> None:
        for future in [nothing(number) for number in range(options.fan)]:
            future.result()

    def chain(_: int) -> None:
        value: Any = 0
        for _number in range(options.chain):
            value = nothing(value)
        value.result()

    def cpu() -> float:
        return tree_cpu(os.getpid())

    try:
        fan(0)
        return [
            measure("Parsl threads", "fan-out", options.fan, options.repeats, fan, cpu),
            measure("Parsl threads", "chain", options.chain, options.repeats, chain, cpu),
        ]
    finally:
        parsl.dfk().cleanup()
        parsl.clear()
        shutil.rmtree(folder, ignore_errors=True)


SYSTEMS = {"ray": of_ray, "product": of_product, "parsl": of_parsl}


def in_a_process(system: str, options: argparse.Namespace) -> list[Figure]:
    """Each system gets a process of its own, so that none inherits another's threads."""
    command = [sys.executable, __file__, "--only", system, "--folder", options.folder]
    for name in ("fan", "chain", "repeats"):
        command += [f"--{name}", str(getattr(options, name))]
    answer = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    return [
        Figure(**{**found, "all_seconds": tuple(found["all_seconds"])})
        for found in json.loads(answer.strip().splitlines()[-1])
    ]


def ratios(figures: list[Figure]) -> dict[str, float]:
    """What the product is held against."""
    rate = {(figure.system, figure.shape): figure.rate for figure in figures}
    found = {}
    for shape in ("fan-out", "chain"):
        for other in ("Ray tasks", "Parsl threads"):
            if (other, shape) in rate and ("foldase, fresh", shape) in rate:
                found[f"{shape}: fresh / {other}"] = rate["foldase, fresh", shape] / rate[other, shape]
    return found


def show(figures: list[Figure]) -> None:
    """The table."""
    print(f"{'system':<18}{'shape':<10}{'steps':>7}{'steps/s':>10}{'ms/step':>10}{'CPU ms/step':>13}")
    for one in figures:
        print(
            f"{one.system:<18}{one.shape:<10}{one.steps:>7}{one.rate:>10.0f}"
            f"{1000 * one.seconds / one.steps:>10.3f}{one.cpu_ms:>13.3f}"
        )
    for name, ratio in ratios(figures).items():
        print(f"{name}: {ratio:.2f}")


def main() -> None:
    """Measure, print, and write the JSON where it is asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--fan", type=int, default=1000)
    parser.add_argument("--chain", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path)
    parser.add_argument(
        "--folder", default=str(Path.cwd()), help="parent of the state folder: on a real disk"
    )
    parser.add_argument("--only", choices=SYSTEMS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    os.environ["FOLDASE_OPERATORS"] = "scheduler_operators"
    os.environ["PYTHONPATH"] = str(BENCHMARKS)
    sys.path.insert(0, str(BENCHMARKS))
    if options.only:
        print(json.dumps([asdict(figure) for figure in SYSTEMS[options.only](options)]))
        return
    figures = [figure for system in SYSTEMS for figure in in_a_process(system, options)]
    show(figures)
    if options.json:
        listed = [{**asdict(figure), "rate": figure.rate} for figure in figures]
        options.json.write_text(json.dumps({"figures": listed, "ratios": ratios(figures)}, indent=1))


if __name__ == "__main__":
    main()
