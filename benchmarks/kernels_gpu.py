"""The stages of benchmarks/gpu.sh: build, check, bench. What each does is said there.

    python benchmarks/kernels_gpu.py bench [--out FOLDER] [--seconds 450] [--systems A,B] [--rehearse]

Each system is timed in a process of its own, so that one that dies takes nothing with it. ``--rehearse`` goes
through the steps on the CPU with tiny shapes; its figures mean nothing and its table says so.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import platform
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import kernels_gpu_check as checks
import kernels_gpu_rows as rows
import kernels_gpu_signs as signs
import kernels_gpu_triangles as triangles
import torch
from kernels_gpu_items import MODES, Item, Items, floor_of_attention, table
from kernels_gpu_peers import REHEARSED, SYSTEMS, Inputs, Prepared, make_inputs
from kernels_gpu_shapes import REHEARSAL, SHAPES, Shape

from foldase_kernels import evoformer_attention
from foldase_kernels.operations import OPERATIONS, sources

MORE_IS_LEFT, FAILED, NO_GPU = 75, 1, 2
WARM_UPS, MOST_REPEATS, SECONDS_AN_ITEM = 3, 20, 4.0
COMPARED_ROWS = 2
CHECKED = ("cuda", "triton")
ATTENTION = next(operation for operation in OPERATIONS if operation.folder == "attention")
GRACE_SECONDS = 30.0
HERE = Path(__file__).resolve()
KERNELS = HERE.parent.parent / "kernels"


class Plan:
    """What was asked for, and when to stop."""

    def __init__(self, given: argparse.Namespace) -> None:
        self.rehearse: bool = given.rehearse
        self.device = torch.device("cpu" if given.rehearse else "cuda")
        self.dtype = torch.float32 if given.rehearse else torch.bfloat16
        self.shapes = REHEARSAL if given.rehearse else SHAPES
        self.known = REHEARSED if given.rehearse else SYSTEMS
        asked = [name for name in given.systems.split(",") if name]
        row_systems = rows.REHEARSED if given.rehearse else rows.SYSTEMS
        sign_systems = signs.REHEARSED if given.rehearse else signs.SYSTEMS
        of_others_alone = {*row_systems, *sign_systems} - set(self.known)
        self.systems = [name for name in asked or self.known if name not in of_others_alone]
        self.row_systems = [name for name in row_systems if not asked or name in asked]
        self.sign_systems = [name for name in sign_systems if not asked or name in asked]
        self.tables = Path(given.out)
        self.out = self.tables / kernels_digest()  # figures of other sources are never mixed in
        self.seconds: float = given.seconds
        self.until = time.monotonic() + given.seconds

    def over(self) -> bool:
        """Whether the stage's time is used up."""
        return time.monotonic() > self.until


def kernels_digest() -> str:
    """Identity of the kernels' code and of the machine."""
    total = hashlib.sha256(machine().encode())
    for path in sorted(KERNELS.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            total.update(str(path.relative_to(KERNELS)).encode() + b"\0" + path.read_bytes())
    return total.hexdigest()[:12]


def machine() -> str:
    """The GPU, or the processor in a rehearsal."""
    if not torch.cuda.is_available():
        return f"a rehearsal on {platform.machine()}, figures mean nothing; torch {torch.__version__}"
    return f"{torch.cuda.get_device_name()}, torch {torch.__version__}, CUDA {torch.version.cuda}"


def build(plan: Plan) -> int:
    """Compile for this GPU."""
    target = ["--arch", "host"] if plan.rehearse else []
    return subprocess.call([sys.executable, "-m", "foldase_kernels", "build", *target])


def check(plan: Plan) -> int:
    """Compare every backend with float64; what passed or failed is kept in a file a case."""
    folder = plan.out / "check"
    folder.mkdir(parents=True, exist_ok=True)
    cases = checks.FEW_CASES if plan.rehearse else checks.CASES
    repeated = checks.FEW_CASES[1] if plan.rehearse else checks.Case(129, 129, 32, torch.bfloat16, False)
    failed = checked = 0
    for backend in ("cpu",) if plan.rehearse else CHECKED:
        refusal = _refusal(backend, plan.device)
        if refusal:
            print(f"{backend}: not checked: {refusal}")
            failed += backend == "cuda" and bool(sources(ATTENTION))  # it could have been built
            continue
        checked += 1
        steps: list[tuple[str, Callable[[], list[str]]]] = [
            (case.name, lambda case=case, backend=backend: checks.complaints(case, backend, plan.device))
            for case in cases
        ]
        steps.append(("repeats", lambda backend=backend: checks.changes(repeated, backend, plan.device)))
        steps.append(("odd calls", lambda backend=backend: checks.odd_complaints(backend, plan.device)))
        if backend != "cuda":
            steps += _row_steps(plan, backend) + _sign_steps(plan, backend)
        else:
            steps.append(("graph", lambda: checks.graph_complaints(repeated, "cuda", plan.device)))
            steps.append(("sanitizer", lambda: _sanitize(plan)))
        for name, step in steps:
            if plan.over():
                return _more_is_left()
            failed += _check_once(folder / f"{backend}-{name}.json", step)
        print(f"{backend}: {len(steps)} checks, {failed} complaints so far")
    if not checked:
        print("no backend could be checked")
    return FAILED if failed or not checked else 0


def _row_steps(plan: Plan, backend: str) -> list[tuple[str, Callable[[], list[str]]]]:
    """Checks of the operations on pairs, and repeats of the few."""
    few = rows.FEW_CASES + triangles.FEW_CASES
    every = few if plan.rehearse else rows.CASES + triangles.CASES
    found: list[tuple[str, Callable[[], list[str]]]] = [
        (case.name, lambda case=case: rows.complaints(case, backend, plan.device)) for case in every
    ]
    repeats = 3 if plan.rehearse else checks.REPEATS
    for case in few:
        step = lambda case=case: rows.changes(case, backend, plan.device, repeats)  # noqa: E731
        found.append((f"repeats-{case.name}", step))
    return found


def _sign_steps(plan: Plan, backend: str) -> list[tuple[str, Callable[[], list[str]]]]:
    """Checks of packing and unpacking, and repeats of the few; a processor does it in torch."""
    backend = "torch" if plan.rehearse else backend
    found: list[tuple[str, Callable[[], list[str]]]] = [
        (case.name, lambda case=case: signs.complaints(case, backend, plan.device))
        for case in (signs.FEW_CASES if plan.rehearse else signs.CASES)
    ]
    repeats = 3 if plan.rehearse else checks.REPEATS
    for case in signs.FEW_CASES:
        step = lambda case=case: signs.changes(case, backend, plan.device, repeats)  # noqa: E731
        found.append((f"repeats-{case.name}", step))
    return found


def _refusal(backend: str, device: torch.device) -> str:
    """Why a backend takes no call on this device, or an empty text."""
    q = torch.ones(1, 16, 1, 32, device=device)
    try:
        evoformer_attention(q, q, q, backend=backend)
    except (ValueError, ImportError) as error:
        return str(error)
    return ""


def _check_once(kept: Path, step: Callable[[], list[str]]) -> int:
    """Run a step unless its answer is kept already; returns the number of complaints."""
    if kept.exists():
        return len(json.loads(kept.read_text()))
    try:
        found = step()
    except (RuntimeError, ValueError) as error:
        found = [f"{kept.stem}: {error}"]
    for complaint in found:
        print(f"WRONG {complaint}")
    unfinished = kept.with_suffix(".new")
    unfinished.write_text(json.dumps(found))
    unfinished.replace(kept)
    return len(found)


def _sanitize(plan: Plan) -> list[str]:
    """A few cases of the cuda backend under compute-sanitizer, where there is one."""
    tool = shutil.which("compute-sanitizer")
    if tool is None:
        print("compute-sanitizer is not on PATH: not run")
        return []
    wrong = []
    for kind in ("memcheck", "racecheck"):
        line = [tool, "--tool", kind, "--error-exitcode", "9", sys.executable, str(HERE), "sanitized"]
        done = subprocess.run(line, check=False, capture_output=True, text=True, timeout=plan.seconds)
        if done.returncode:
            wrong.append(f"{kind} ends with {done.returncode}: {done.stdout[-1500:]}{done.stderr[-500:]}")
    return wrong


def sanitized(plan: Plan) -> int:
    """The calls to run under compute-sanitizer."""
    for case in checks.FEW_CASES:
        checks.Problem(case, plan.device).solve("cuda")
    return 0


def bench(plan: Plan) -> int:
    """Time every system in a process of its own until nothing is left, and write the table."""
    items = Items(plan.out / "bench")
    for system in plan.systems:
        while _missing(plan, items, system):
            left = plan.until - time.monotonic()
            if left <= 0:
                _write_table(plan, items)
                return _more_is_left()
            status = _run_system(plan, system, left)
            if status == MORE_IS_LEFT:
                _write_table(plan, items)
                return _more_is_left()
            begun = items.begun(system)
            if status and begun is None:
                print(f"{system}: its process ended with {status} before it began")
                return FAILED
            if begun is not None:
                items.put(replace(begun, problem=f"its process ended with {status}"))
    _write_table(plan, items)
    status = bench_rows(plan) if plan.row_systems else 0
    return status or (bench_signs(plan) if plan.sign_systems else 0)


def bench_rows(plan: Plan) -> int:
    """Time transition and outer product mean where there are no figures yet, and write their table."""
    items = Items(plan.out / "rows")
    rehearsal = rows.REHEARSAL + triangles.REHEARSAL
    shapes = rehearsal if plan.rehearse else rows.SHAPES + triangles.SHAPES
    _note_dead(items, plan.row_systems)
    for shape, system, mode in itertools.product(shapes, plan.row_systems, MODES):
        item = Item(system, shape.name, mode)
        if items.has(item):
            continue
        if plan.over():
            return _more_is_left()
        items.begin(item)
        measured = _tried(item, lambda shape=shape, item=item: _measure_rows(plan, shape, item))
        items.put(measured)
        print(f"{system}, {shape.name}, {mode}: {measured.problem or f'{measured.ms:.3f} ms'}")
    text = table(items.all(), shapes, machine(), rows.Rows.floor_ms)
    (plan.tables / "rows.md").write_text(text)
    found = {"machine": machine(), "items": [vars(item) for item in items.all()]}
    (plan.tables / "rows.json").write_text(json.dumps(found, indent=1))
    return 0


def _note_dead(items: Items, systems: list[str]) -> None:
    """Keep what earlier processes died of as a result, so that it is not tried again."""
    for system in systems:
        begun = items.begun(system)
        if begun is not None:
            items.put(replace(begun, problem="its process ended"))


def bench_signs(plan: Plan) -> int:
    """Time packing and unpacking where there are no figures yet, and write their table."""
    items = Items(plan.out / "signs")
    shapes = signs.REHEARSAL if plan.rehearse else signs.SHAPES
    _note_dead(items, plan.sign_systems)
    for shape, system, mode in itertools.product(shapes, plan.sign_systems, signs.MODES):
        item = Item(system, shape.name, mode)
        if items.has(item):
            continue
        if plan.over():
            return _more_is_left()
        items.begin(item)
        measured = _tried(item, lambda shape=shape, item=item: signs.measure(shape, item, plan.device))
        items.put(measured)
        print(f"{system}, {shape.name}, {mode}: {measured.problem or f'{measured.ms:.3f} ms'}")
    (plan.tables / "signs.md").write_text(signs.table(items.all(), shapes, machine()))
    found = {"machine": machine(), "items": [vars(item) for item in items.all()]}
    (plan.tables / "signs.json").write_text(json.dumps(found, indent=1))
    return 0


def _measure_rows(plan: Plan, shape: rows.Rows, item: Item) -> Item:
    """Median time and peak memory above the inputs."""
    backend = item.system.split()[-1] if item.system.startswith("foldase") else "plain"
    leaves = [tensor.requires_grad_() for tensor in shape.tensors(plan.device, plan.dtype)]
    mask = shape.shown(plan.device)
    pairs = (shape.length, shape.length, shape.channels)
    dout = torch.ones(pairs, device=plan.device, dtype=plan.dtype)
    prepared = Prepared(leaves, lambda: shape.run(backend, leaves, mask), dout, lambda out: out)
    return _timed(plan, prepared, item)


def _tried(item: Item, work: Callable[[], Item]) -> Item:
    """What ``work`` gives, or an item that says why there is nothing."""
    try:
        return work()
    except torch.OutOfMemoryError:
        return replace(item, problem="out of memory")
    except Exception as error:  # noqa: BLE001 - whatever a peer raises is its result
        return replace(item, problem=f"{type(error).__name__}: {str(error).splitlines()[0][:200]}")


def _run_system(plan: Plan, system: str, seconds: float) -> int | str:
    """Time a system in a process; returns its exit status, or words where it had to be ended."""
    line = [sys.executable, str(HERE), "bench-one", "--out", str(plan.tables), "--systems", system]
    line += ["--seconds", str(seconds), *(["--rehearse"] if plan.rehearse else [])]
    try:
        return subprocess.call(line, timeout=seconds + GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        return "no answer in time"


def _missing(plan: Plan, items: Items, system: str) -> list[tuple[Shape, Item]]:
    every = [(shape, Item(system, shape.name, mode)) for shape in plan.shapes for mode in MODES]
    return [(shape, item) for shape, item in every if not items.has(item)]


def _write_table(plan: Plan, items: Items) -> None:
    text = table(items.all(), plan.shapes, machine(), floor_of_attention)
    (plan.tables / "kernels.md").write_text(text)
    (plan.tables / "kernels.json").write_text(
        json.dumps({"machine": machine(), "items": [vars(item) for item in items.all()]}, indent=1)
    )
    print(f"{len(items.all())} items in {plan.tables / 'kernels.md'}")


def _more_is_left() -> int:
    print("the time of this stage is over; call it again to go on")
    return MORE_IS_LEFT


def bench_one(plan: Plan) -> int:
    """Time one system at every shape that has no figures yet."""
    items = Items(plan.out / "bench")
    [system] = plan.systems
    for shape, item in _missing(plan, items, system):
        if plan.over():
            return MORE_IS_LEFT
        items.begin(item)
        measured = _tried(item, lambda shape=shape, item=item: measure(plan, shape, item))
        items.put(measured)
        told = measured.problem or f"{measured.ms:.3f} ms"
        print(f"{system}, {shape.name}, {item.mode}: {told}")
    return 0


def measure(plan: Plan, shape: Shape, item: Item) -> Item:
    """Median time, peak memory above the inputs, and distance from the reference on a few rows."""
    inputs = make_inputs(shape, plan.device, plan.dtype)
    prepared = plan.known[item.system](inputs)
    backward = item.mode == "backward"
    return _timed(plan, prepared, replace(item, difference=_difference(prepared, inputs, backward)))


def _timed(plan: Plan, prepared: Prepared, item: Item) -> Item:
    """The item with its times and its peak memory."""
    backward = item.mode == "backward"
    peak = _peak(plan.device, prepared, backward)
    times: list[float] = []
    began = time.monotonic()
    for repeat in range(WARM_UPS + MOST_REPEATS):
        taken = _time_once(plan.device, prepared, backward)
        if repeat >= WARM_UPS:
            times.append(taken)
        if times and time.monotonic() - began > SECONDS_AN_ITEM:
            break
    return replace(item, ms=statistics.median(times), all_ms=tuple(times), peak_bytes=peak)


def _time_once(device: torch.device, prepared: Prepared, backward: bool) -> float:
    """Milliseconds of one forward, or of one backward alone."""
    if backward:
        out = prepared.run()
        return _clock(device, lambda: torch.autograd.grad(out, prepared.leaves, prepared.dout))
    with torch.no_grad():
        return _clock(device, prepared.run)


def _clock(device: torch.device, run: Callable[[], object]) -> float:
    if device.type != "cuda":
        began = time.perf_counter()
        run()
        return 1e3 * (time.perf_counter() - began)
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize()
    start.record()
    run()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end)


def _peak(device: torch.device, prepared: Prepared, backward: bool) -> int | None:
    """Bytes allocated at most beyond the inputs; of forward and backward together for the latter."""
    if device.type != "cuda":
        return None
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    if backward:
        torch.autograd.grad(prepared.run(), prepared.leaves, prepared.dout)
    else:
        with torch.no_grad():
            prepared.run()
    return torch.cuda.max_memory_allocated() - before


def _difference(prepared: Prepared, inputs: Inputs, backward: bool) -> float:
    """Of the result, or of the gradient of q, from the float32 reference on the first rows."""
    few = slice(0, COMPARED_ROWS)
    q, k, v, dout = (
        tensor[few].float().requires_grad_() for tensor in (inputs.q, inputs.k, inputs.v, inputs.dout)
    )
    mask = inputs.mask[few, None, None, :]
    truth = evoformer_attention(q, k, v, (inputs.bias.float(),), mask=mask, backend="reference")
    found = prepared.run()
    if backward:
        truth = torch.autograd.grad(truth, q, dout)[0]
        found = torch.autograd.grad(found, prepared.leaves, prepared.dout)[0]
    ours = prepared.to_ours(found.detach())[few].float()
    return float((ours - truth.detach()).abs().max() / truth.detach().abs().max())


STAGES = {"build": build, "check": check, "bench": bench, "bench-one": bench_one, "sanitized": sanitized}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("stage", choices=STAGES)
    parser.add_argument("--out", default="gpu-results")
    parser.add_argument("--seconds", type=float, default=450.0)
    parser.add_argument("--systems", default="")
    parser.add_argument("--rehearse", action="store_true")
    given = parser.parse_args(arguments)
    if not given.rehearse and not torch.cuda.is_available():
        print(f"no GPU that torch {torch.__version__} can use; `python -m foldase_kernels doctor` says more")
        return NO_GPU
    return STAGES[given.stage](Plan(given))


if __name__ == "__main__":
    sys.exit(main())
