"""What this machine offers to the kernels, and what is missing. Standard library and torch only."""

from __future__ import annotations

import importlib.util
import platform
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module

from foldase_kernels.compiling.architectures import for_capability
from foldase_kernels.compiling.cache import Cache, Entry
from foldase_kernels.compiling.gpus import Driver, ask_driver
from foldase_kernels.compiling.recipes import recipe
from foldase_kernels.compiling.toolchain import Compiler, find_cxx, find_nvcc, nvcc_architectures
from foldase_kernels.errors import KernelError
from foldase_kernels.loader import find, load
from foldase_kernels.operations import OPERATIONS, Operation, source_folder, sources


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at. ``fine`` is None where its absence only limits what can be chosen."""

    topic: str
    fine: bool | None
    text: str


def examine() -> list[Finding]:
    """Look at torch, the processor, GPUs, compilers, Triton, sources, built libraries, and what is chosen."""
    driver = ask_driver()
    return [
        _torch(),
        _processor(),
        _gpu(driver),
        _nvcc(driver),
        _cxx(),
        _triton(),
        _sources(),
        _cache(),
        *_libraries(),
        *(_choice(operation, driver) for operation in OPERATIONS),
    ]


def _torch() -> Finding:
    try:
        import torch
    except ImportError as error:
        return Finding("torch", False, f"cannot be imported: {error}")
    built_for = f"for CUDA {torch.version.cuda}" if torch.version.cuda else "without CUDA"
    return Finding(
        "torch", True, f"{torch.__version__}, built {built_for}, {torch.get_num_threads()} threads"
    )


def _processor() -> Finding:
    import torch

    capability = torch.backends.cpu.get_cpu_capability()
    return Finding("processor", True, f"{platform.machine()}, vector instructions {capability}")


def _gpu(driver: Driver) -> Finding:
    import torch

    if not driver.gpus:
        return Finding("gpu", None, driver.problem)
    named = ", ".join(f"{gpu.name} (compute capability {_dotted(gpu.capability)})" for gpu in driver.gpus)
    text = f"{named}; driver {driver.version}"
    if torch.cuda.is_available():
        return Finding("gpu", True, text)
    why = (
        "it is built without CUDA" if torch.version.cuda is None else "the driver may be older than its CUDA"
    )
    return Finding("gpu", None, f"{text}; torch cannot use it: {why}")


def _nvcc(driver: Driver) -> Finding:
    try:
        nvcc = find_nvcc()
        known = nvcc_architectures(nvcc)
    except KernelError as error:
        fine = None if error.code == "no_nvcc" else False
        return Finding("nvcc", fine, f"{error.message}; {error.hint}" if fine is None else error.message)
    text = f"{_compiler(nvcc)}, makes code for {', '.join(known)}"
    for gpu in driver.gpus:
        try:
            if for_capability(gpu.capability).rstrip("a") not in known:
                return Finding("nvcc", None, f"{text}; too old for {gpu.name}, a newer toolkit is needed")
        except KernelError as error:
            return Finding("nvcc", None, f"{text}; {gpu.name}: {error.message}")
    return Finding("nvcc", True, text)


def _cxx() -> Finding:
    try:
        return Finding("c++", True, _compiler(find_cxx()))
    except KernelError as error:
        return Finding("c++", None if error.code == "no_cxx" else False, f"{error.message}; {error.hint}")


def _compiler(found: Compiler) -> str:
    return f"{found.version}, {found.path} (found by {found.origin})"


def _triton() -> Finding:
    if importlib.util.find_spec("triton") is None:
        return Finding("triton", None, "not installed")
    from importlib.metadata import version

    return Finding("triton", True, version("triton"))


def _sources() -> Finding:
    folder = source_folder()
    if folder is None:
        return Finding("sources", False, "the folder csrc is missing; the installation is not whole")
    return Finding("sources", True, str(folder))


def _cache() -> Finding:
    cache = Cache()
    trouble = cache.trouble()
    count = f"{len(cache.entries())} libraries"
    if trouble:
        return Finding("cache", None, f"{trouble}; {count} in it can be used, none can be built")
    return Finding("cache", True, f"{cache.folder}, can be written, {count}")


def _libraries() -> list[Finding]:
    return [_library(entry) for entry in Cache().entries()]


def _library(entry: Entry) -> Finding:
    topic = f"library {entry.operation} {entry.arch}"
    try:
        current = recipe(entry.operation, entry.arch).digest() == entry.record["sources"]
    except KernelError:
        current = False
    if not current:
        return Finding(topic, None, f"stale, of other sources or flags; can be deleted: {entry.folder}")
    try:
        load(entry)
    except KernelError as error:
        return Finding(topic, False, f"{error.message}; {error.hint}")
    return Finding(topic, True, f"built {entry.record.get('built')}: {entry.library}")


def _choice(operation: Operation, driver: Driver) -> Finding:
    """The backend that ``auto`` takes on this machine, as the operation itself answers, and why."""
    import torch

    on_gpu = operation.runs_on == "gpu" and torch.cuda.is_available()
    device = torch.device("cuda" if on_gpu else "cpu")
    choose: Callable[[torch.device], str] | None = getattr(
        import_module(f"foldase_kernels.{operation.folder}"), "choose_backend", None
    )
    topic = f"backend of {operation.name}"
    compiled = _why_no_cuda(operation, driver) if operation.runs_on == "gpu" else _why_no_cpp(operation)
    why = f"of {', '.join(operation.backends)}; {compiled}"
    if choose is None:
        return Finding(topic, True, f"auto chooses by tensor, {why}")
    return Finding(topic, True, f"{choose(device)} for tensors on {device.type}, {why}")


def _why_no_cuda(operation: Operation, driver: Driver) -> str:
    if not sources(operation):
        return "it has no compiled sources in this version"
    if not driver.gpus:
        return f"no cuda: {driver.problem}"
    try:
        entry = find(operation.folder, driver.gpus[0].capability)
        load(entry)
    except KernelError as error:
        return f"no cuda: {error.message}; {error.hint}"
    return f"the cuda library for {entry.arch} loads"


def _why_no_cpp(operation: Operation) -> str:
    try:
        load(find(operation.folder, None))
    except KernelError as error:
        return f"no cpp: {error.message}; {error.hint}"
    return "the library for this processor loads"


def _dotted(capability: tuple[int, int]) -> str:
    return f"{capability[0]}.{capability[1]}"
