"""Where the compilers are: nvcc of the system or of PyPI's wheels, and a C++ compiler."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from foldase_kernels.errors import KernelError

ANSWER_SECONDS = 20
USUAL_CUDA = Path("/usr/local/cuda")
CXX_NAMES = ("g++", "c++", "clang++")


@dataclass(frozen=True, slots=True)
class Compiler:
    """A compiler that answers.

    Attributes:
        path: of the program.
        origin: how it was found: a variable's name, ``PATH``, ``wheel`` or a usual folder.
        version: one line, part of the identity of what it compiles.
        link_flags: what its linking step needs beyond its own defaults.
    """

    path: Path
    origin: str
    version: str
    link_flags: tuple[str, ...] = ()


def find_nvcc() -> Compiler:
    """The CUDA compiler: of CUDA_HOME or CUDA_PATH, on PATH, of a wheel, or in the usual folder.

    Raises:
        KernelError: ``no_nvcc``, or ``broken_compiler`` where the first one found does not answer.
    """
    for path, origin in _nvcc_candidates():
        if os.access(path, os.X_OK) and path.is_file():
            return Compiler(path, origin, _nvcc_version(path), _nvcc_link_flags(path))
    raise KernelError(
        "no_nvcc",
        f"nvcc is not in CUDA_HOME, CUDA_PATH, PATH, the installed wheels or {USUAL_CUDA}",
        "install a CUDA toolkit 12.4 or newer, or its compiler by `pip install 'foldase[cuda-build]'`",
    )


def find_cxx() -> Compiler:
    """The C++ compiler: the variable CXX, else g++, c++ or clang++ on PATH.

    Raises:
        KernelError: ``no_cxx``, or ``broken_compiler`` where the one found does not answer.
    """
    wanted = os.environ.get("CXX")
    for name in (wanted,) if wanted else CXX_NAMES:
        found = shutil.which(name)
        if found is not None:
            lines = _answer(Path(found), "--version").splitlines()
            return Compiler(
                Path(found), "CXX" if wanted else "PATH", lines[0].strip() if lines else "no version given"
            )
    looked = f"CXX={wanted}, which is not on PATH" if wanted else f"none of {', '.join(CXX_NAMES)} on PATH"
    raise KernelError("no_cxx", f"no C++ compiler: {looked}", "install g++ (Debian, Ubuntu: apt install g++)")


def nvcc_architectures(nvcc: Compiler) -> tuple[str, ...]:
    """The architectures that this nvcc makes machine code for, as ``sm_80``; letter forms are not listed."""
    return tuple(
        sorted(
            re.findall(r"^sm_\d+$", _answer(nvcc.path, "--list-gpu-code"), re.MULTILINE),
            key=lambda arch: int(arch[3:]),
        )
    )


def _nvcc_candidates() -> Iterator[tuple[Path, str]]:
    for variable in ("CUDA_HOME", "CUDA_PATH"):
        if os.environ.get(variable):
            yield Path(os.environ[variable], "bin", "nvcc"), variable
    found = shutil.which("nvcc")
    if found is not None:
        yield Path(found), "PATH"
    for root in _wheel_folders():
        yield root / "bin" / "nvcc", "wheel"
    yield USUAL_CUDA / "bin" / "nvcc", str(USUAL_CUDA)


def _wheel_folders() -> list[Path]:
    """Toolkit folders that wheels share, ``site-packages/nvidia/cu13``; the newest first."""
    try:
        nvidia = importlib.util.find_spec("nvidia")
    except (ImportError, ValueError):
        return []
    places = (nvidia.submodule_search_locations if nvidia is not None else None) or []
    folders = [folder for place in places for folder in Path(place).glob("cu[0-9]*") if folder.is_dir()]
    return sorted(folders, key=lambda folder: folder.name, reverse=True)


def _nvcc_version(path: Path) -> str:
    answer = _answer(path, "--version")
    found = re.search(r"\bV(\d+(?:\.\d+)+)", answer)
    if found is None:
        raise KernelError("broken_compiler", f"{path} --version names no version: {answer.strip()!r}")
    return found[1]


def _nvcc_link_flags(path: Path) -> tuple[str, ...]:
    # In the wheels the static runtime lies in lib, while nvcc looks in lib64 only.
    root = path.resolve().parent.parent
    if (root / "lib64").exists() or not (root / "lib" / "libcudart_static.a").exists():
        return ()
    return (f"-L{root / 'lib'}",)


def _answer(path: Path, argument: str) -> str:
    try:
        done = subprocess.run(
            [str(path), argument], capture_output=True, text=True, timeout=ANSWER_SECONDS, check=True
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise KernelError("broken_compiler", f"{path} {argument} does not answer: {error}") from error
    return done.stdout
