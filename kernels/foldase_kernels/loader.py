"""Find and load built kernels. Nothing is compiled here, and nothing happens when this is imported."""

from __future__ import annotations

import ctypes
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from foldase_kernels.compiling.architectures import HOST, runs_on, suits
from foldase_kernels.compiling.cache import Cache, Entry
from foldase_kernels.compiling.recipes import recipe
from foldase_kernels.errors import BUILD_HINT, DOCTOR_HINT, KernelError

if TYPE_CHECKING:
    import torch

ABI = 2
"""What ``foldase_kernels_abi()`` of every library returns; raised with any change of an argument."""

FOREIGN_HINT = (
    f"{BUILD_HINT} anew; if that does not help, the folder csrc belongs to another version of the package: "
    "install it anew"
)

_loaded: dict[Path, ctypes.CDLL] = {}
_of_gpus: dict[tuple[str, tuple[int, int]], ctypes.CDLL] = {}
_of_host: dict[str, ctypes.CDLL] = {}
_guard = threading.Lock()


def find(
    folder: str,
    capability: tuple[int, int] | None,
    *,
    csrc: Path | None = None,
    cache: Cache | None = None,
    extra_flags: tuple[str, ...] = (),
) -> Entry:
    """The library of an operation that was built from the sources of this installation.

    Args:
        folder: of the operation, in ``csrc``.
        capability: compute capability of the GPU; None asks for the host build.
        csrc: the sources, if not those of this installation.
        cache: where to look, if not in the user's cache.
        extra_flags: those it was built with.

    Raises:
        KernelError: ``no_library``, ``stale_library`` where only libraries of other sources lie, or
            ``no_sources``.
    """
    cache = cache if cache is not None else Cache()
    target = HOST if capability is None else f"compute capability {capability[0]}.{capability[1]}"
    fitting = [entry for entry in cache.entries() if entry.operation == folder and _fits(entry, capability)]
    current = [
        entry
        for entry in fitting
        if entry.record["sources"] == recipe(folder, entry.arch, csrc, extra_flags).digest()
    ]
    if current:
        return max(current, key=lambda entry: _preference(entry, capability))
    if fitting:
        raise KernelError(
            "stale_library",
            f"the libraries of {folder} for {target} in {cache.folder} were built from other sources",
            f"{BUILD_HINT} anew",
        )
    raise KernelError(
        "no_library",
        f"no library of {folder} for {target} lies in {cache.folder}",
        f"{BUILD_HINT}, {DOCTOR_HINT}",
    )


def load(entry: Entry, abi: int = ABI) -> ctypes.CDLL:
    """Load a library once per process, after comparing it with its record.

    Raises:
        KernelError: ``corrupted_library``, ``unloadable_library`` or ``wrong_abi``.
    """
    with _guard:
        if entry.folder not in _loaded:
            _loaded[entry.folder] = _open(entry, abi)
        return _loaded[entry.folder]


def load_for(folder: str, device: torch.device) -> ctypes.CDLL:
    """The library of an operation for the GPU of a device; looked for until it was found once.

    Raises:
        KernelError: ``no_gpu`` for other devices or without a GPU, else as :func:`find` and :func:`load`.
    """
    if device.type != "cuda":
        raise KernelError("no_gpu", f"compiled kernels run on a GPU, the tensors are on {device}")
    import torch

    if not torch.cuda.is_available():
        raise KernelError("no_gpu", "compiled kernels run on a GPU, torch sees none")
    capability = torch.cuda.get_device_capability(device)
    if (folder, capability) not in _of_gpus:
        _of_gpus[folder, capability] = load(find(folder, capability))
    return _of_gpus[folder, capability]


def load_for_host(folder: str) -> ctypes.CDLL:
    """The library of an operation for the processor; looked for until it was found once.

    Raises:
        KernelError: as :func:`find` and :func:`load`.
    """
    if folder not in _of_host:
        _of_host[folder] = load(find(folder, None))
    return _of_host[folder]


def not_available(backend: str, error: KernelError) -> ValueError:
    """What a caller gets who asked for a backend by name: the reason, and where help is."""
    advice = "" if DOCTOR_HINT in str(error) else f"; {DOCTOR_HINT}"
    return ValueError(f"backend {backend!r} is not available: {error}{advice}")


def _fits(entry: Entry, capability: tuple[int, int] | None) -> bool:
    if capability is None or entry.arch == HOST:
        return capability is None and entry.arch == HOST
    return runs_on(entry.arch, capability)


def _preference(entry: Entry, capability: tuple[int, int] | None) -> tuple[int, bool, str]:
    built = str(entry.record.get("built", ""))
    return (0, False, built) if capability is None else (*suits(entry.arch), built)


def _open(entry: Entry, abi: int) -> ctypes.CDLL:
    entry.check()
    try:
        library = ctypes.CDLL(str(entry.library))
    except OSError as error:
        raise KernelError("unloadable_library", f"{entry.library}: {error}", f"{BUILD_HINT} anew") from error
    try:
        question = library.foldase_kernels_abi
    except AttributeError:
        raise KernelError(
            "wrong_abi", f"{entry.library} does not export foldase_kernels_abi", FOREIGN_HINT
        ) from None
    question.restype, question.argtypes = ctypes.c_int, ()
    found = question()
    if found != abi:
        raise KernelError(
            "wrong_abi",
            f"{entry.library} speaks version {found} of the interface, this package version {abi}",
            FOREIGN_HINT,
        )
    return library
