"""Compile an operation's sources to a library in the cache, unless it lies there already."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from foldase_kernels.compiling import locks
from foldase_kernels.compiling.architectures import HOST
from foldase_kernels.compiling.cache import LIBRARY, Cache, Entry
from foldase_kernels.compiling.processes import Processes
from foldase_kernels.compiling.recipes import Recipe
from foldase_kernels.compiling.resources import read_ptxas
from foldase_kernels.compiling.toolchain import Compiler, find_cxx, find_nvcc, nvcc_architectures
from foldase_kernels.errors import KernelError


@dataclass(frozen=True, slots=True)
class Built:
    """What a build came to: the library, and whether this call compiled it."""

    entry: Entry
    compiled: bool
    seconds: float


def compilers_for(arch: str) -> tuple[Compiler, ...]:
    """The compilers of an architecture: the C++ compiler for ``host``, else nvcc and the C++ compiler.

    Raises:
        KernelError: one is missing or broken, or nvcc does not know the architecture (``unsupported_arch``).
    """
    cxx = find_cxx()
    if arch == HOST:
        return (cxx,)
    nvcc = find_nvcc()
    known = nvcc_architectures(nvcc)
    if arch.rstrip("af") not in known:
        raise KernelError(
            "unsupported_arch",
            f"nvcc {nvcc.version} ({nvcc.path}) makes no code for {arch}; it knows {', '.join(known)}",
            "a newer CUDA toolkit may",
        )
    return nvcc, cxx


def build(
    recipe: Recipe,
    compilers: tuple[Compiler, ...],
    cache: Cache,
    processes: Processes,
    *,
    say: Callable[[str], None],
    wait_seconds: float = locks.WAIT_SECONDS,
    force: bool = False,
) -> Built:
    """Make the library of a recipe, or find it made.

    Several processes may ask at once: one compiles, the others wait for it and take what it made. A build
    that fails or is killed leaves no library; what it left half is swept by the next one.

    Args:
        recipe: what to make.
        compilers: from :func:`compilers_for`.
        cache: where to keep it.
        processes: runs the compilers.
        say: gets lines for people while others are waited for.
        wait_seconds: how long to wait for another process that makes the same.
        force: compile also where an intact library lies.

    Raises:
        KernelError: with ``code`` saying why.
    """
    began = time.perf_counter()
    name = recipe.name(compilers)
    present = cache.entry(name)
    if present is not None and not force and present.intact():
        return Built(present, False, time.perf_counter() - began)
    try:
        lock = cache.lock_file(name)
        with locks.held(lock, f"compiling {recipe.label}", say, wait_seconds, processes.stopped):
            present = cache.entry(name)
            if present is None or force or not present.intact():
                entry = _compile(recipe, name, compilers, cache, processes)
                return Built(entry, True, time.perf_counter() - began)
            return Built(present, False, time.perf_counter() - began)
    except OSError as error:
        raise KernelError(
            "cache_unwritable", f"{cache.folder}: {error}", "is the disk full, is the folder yours?"
        ) from error


def _compile(
    recipe: Recipe, name: str, compilers: tuple[Compiler, ...], cache: Cache, processes: Processes
) -> Entry:
    began = time.perf_counter()
    with cache.unfinished(name) as folder:
        made, scratch = folder / "made", folder / "scratch"
        made.mkdir()
        scratch.mkdir()
        said = _run_compilers(recipe, compilers, made / LIBRARY, scratch, processes)
        shutil.rmtree(scratch)
        record = {
            "operation": recipe.folder,
            "arch": recipe.arch,
            "sources": recipe.digest(),
            "flags": list(recipe.flags),
            "compilers": [
                {"path": str(each.path), "origin": each.origin, "version": each.version} for each in compilers
            ],
            "built": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "seconds": round(time.perf_counter() - began, 3),
            "kernels": [asdict(kernel) for kernel in read_ptxas(said)],
        }
        return cache.publish(name, made, record)


def _run_compilers(
    recipe: Recipe, compilers: tuple[Compiler, ...], library: Path, scratch: Path, processes: Processes
) -> str:
    """Compile every source at once, as far as ``processes`` lets, and link; returns what was said."""
    sources = recipe.sources()
    objects = [scratch / f"{source.name}.o" for source in sources]

    def compile_one(source: Path, to: Path) -> str:
        return processes.run(recipe.compile_command(compilers, source, to), scratch)

    with ThreadPoolExecutor(max_workers=len(sources)) as pool:
        try:
            said = list(pool.map(compile_one, sources, objects))
        except (KeyboardInterrupt, SystemExit):
            processes.stop()
            raise
    processes.run(recipe.link_command(compilers, objects, library), scratch)
    return "".join(said)
