"""``python -m foldase_kernels build``: which libraries to make, and what to tell about it."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from foldase_kernels.compiling import locks
from foldase_kernels.compiling.architectures import HOST, for_capability, parse
from foldase_kernels.compiling.build import Built, build, compilers_for
from foldase_kernels.compiling.cache import Cache
from foldase_kernels.compiling.gpus import ask_driver
from foldase_kernels.compiling.processes import Processes
from foldase_kernels.compiling.recipes import Recipe, recipe
from foldase_kernels.errors import KernelError
from foldase_kernels.operations import OPERATIONS, Operation, sources


@dataclass(frozen=True, slots=True)
class Wishes:
    """What was asked for: operations (all when empty), architectures (of this machine when empty)."""

    operations: Sequence[str] = ()
    archs: Sequence[str] = ()
    jobs: int = 1
    wait_seconds: float = locks.WAIT_SECONDS
    force: bool = False


def run(wishes: Wishes) -> int:
    """Build, telling of each library; 0 when all lie in the cache, else 1."""
    began = time.perf_counter()
    try:
        recipes = chosen_recipes(wishes)
    except KernelError as error:
        _say_error("", error)
        return 1
    if not recipes:
        _say("no operation of this version has compiled sources; the other backends need no build")
        return 0
    failed = _build_all(recipes, wishes)
    taken = time.perf_counter() - began
    _say(f"{len(recipes) - failed} of {len(recipes)} libraries in {Cache().folder}, {taken:.2f} s")
    return 1 if failed else 0


def chosen_recipes(wishes: Wishes) -> list[Recipe]:
    """One recipe an operation and architecture; none where no operation has compiled sources.

    Raises:
        KernelError: an unknown operation or architecture, or none given and no GPU to build for.
    """
    known = {operation.folder: operation for operation in OPERATIONS}
    for name in wishes.operations:
        if name not in known:
            raise KernelError("unknown_operation", f"{name!r} is none of {', '.join(known)}", "see `list`")
    for arch in wishes.archs:
        if arch != HOST:
            parse(arch)
    if wishes.operations:
        asked = [known[name] for name in wishes.operations]
        return [recipe(each.folder, arch) for each in asked for arch in wishes.archs or _archs_of(each)]
    return _recipes_of_all([each for each in OPERATIONS if sources(each)], wishes.archs)


def _recipes_of_all(operations: Sequence[Operation], archs: Sequence[str]) -> list[Recipe]:
    """Of all operations, those that the architectures, or this machine, can have; GPUs are not required."""
    found: list[Recipe] = []
    missing: KernelError | None = None
    for operation in operations:
        if archs:
            suiting = [arch for arch in archs if operation.runs_on == "gpu" or arch == HOST]
            found += [recipe(operation.folder, arch) for arch in suiting]
            continue
        try:
            found += [recipe(operation.folder, arch) for arch in _archs_of(operation)]
        except KernelError as error:
            missing = error
    if missing is not None and not found:
        raise missing
    if missing is not None:
        _say(f"nothing is built for a GPU: {missing.message}, {missing.hint}")
    return found


def _archs_of(operation: Operation) -> list[str]:
    """The architectures of this machine that an operation is built for."""
    if operation.runs_on == "cpu":
        return [HOST]
    driver = ask_driver()
    if not driver.gpus:
        raise KernelError(
            "no_gpu", f"{driver.problem}, so name what to build for", "for example --arch sm_80,sm_90a"
        )
    return sorted({for_capability(gpu.capability) for gpu in driver.gpus})


def _build_all(recipes: list[Recipe], wishes: Wishes) -> int:
    """Build side by side, as far as ``jobs`` lets compilers run; returns how many failed."""
    processes, cache = Processes(wishes.jobs), Cache()

    def build_one(wanted: Recipe) -> Built | KernelError:
        try:
            compilers = compilers_for(wanted.arch)
            return build(
                wanted,
                compilers,
                cache,
                processes,
                say=_say,
                wait_seconds=wishes.wait_seconds,
                force=wishes.force,
            )
        except KernelError as error:
            return error

    failed = 0
    with ThreadPoolExecutor(max_workers=len(recipes)) as pool:
        try:
            for wanted, came in zip(recipes, pool.map(build_one, recipes), strict=True):
                if isinstance(came, KernelError):
                    failed += 1
                    _say_error(f"{wanted.label}: ", came)
                else:
                    _say_built(wanted, came)
        except BaseException:
            processes.stop()
            raise
    return failed


def _say_built(wanted: Recipe, built: Built) -> None:
    record = built.entry.record
    if built.compiled:
        compiler = record["compilers"][0]
        _say(
            f"{wanted.label}: built in {built.seconds:.1f} s with {compiler['path']} {compiler['version']} "
            f"(found by {compiler['origin']})"
        )
    else:
        _say(f"{wanted.label}: up to date, built {record['built']}")
    _say(f"  library: {built.entry.library}")
    if record["kernels"]:
        _say(f"  {describe_kernels(record['kernels'])}")


def describe_kernels(kernels: Sequence[dict[str, int]]) -> str:
    """How many, the most registers, and those that spill by name: registers decide how many threads run."""
    spilling = [kernel for kernel in kernels if kernel["spill_stores"] or kernel["spill_loads"]]
    text = f"kernels: {len(kernels)}, at most {max(kernel['registers'] for kernel in kernels)} registers"
    if not spilling:
        return f"{text}, no spills"
    named = ", ".join(f"{each['kernel']} {each['spill_stores']} bytes" for each in spilling)
    return f"{text}, spills: {named}"


def default_jobs() -> int:
    """As many compilers at once as there are processors for this process."""
    return len(os.sched_getaffinity(0))


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _say_error(where: str, error: KernelError) -> None:
    sys.stdout.flush()
    sys.stderr.write(f"{where}{error}\n")
