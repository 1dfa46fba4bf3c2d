"""What a library is made of: its sources, its flags, and the identity that follows from them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from foldase_kernels.compiling.architectures import HOST, parse
from foldase_kernels.compiling.toolchain import Compiler
from foldase_kernels.errors import KernelError
from foldase_kernels.operations import OPERATIONS, SOURCE_SUFFIXES, source_folder

COMMON_FLAGS = ("-O3", "-std=c++17")
CUDA_FLAGS = ("-cudart=static", "-Xcompiler=-fPIC", "-Xptxas=-v")
HOST_FLAGS = ("-fPIC", "-pthread", "-fno-strict-aliasing", "-ffp-contract=off", "-DFOLDASE_HOST_BUILD")
SOURCES_DIGITS, COMPILER_DIGITS = 16, 8


@dataclass(frozen=True, slots=True)
class Recipe:
    """One library: an operation for an architecture.

    Attributes:
        folder: of the operation, in ``csrc``.
        arch: as ``sm_90a``, or ``host`` for the same sources compiled as C++ with FOLDASE_HOST_BUILD defined.
        csrc: the folder of all compiled sources; on the include path.
        extra_flags: given to every compiler call, part of the identity.
    """

    folder: str
    arch: str
    csrc: Path
    extra_flags: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """For people: ``attention sm_90a``."""
        return f"{self.folder} {self.arch}"

    @property
    def flags(self) -> tuple[str, ...]:
        """The flags of compiling and linking, without what depends on where things lie."""
        if self.arch == HOST:
            return (*COMMON_FLAGS, *HOST_FLAGS, *self.extra_flags)
        parse(self.arch)
        target = f"-gencode=arch=compute_{self.arch[3:]},code={self.arch}"
        return (*COMMON_FLAGS, *CUDA_FLAGS, target, *self.extra_flags)

    def sources(self) -> list[Path]:
        """The files that are compiled: ``*.cu``, and ``*.cpp`` in a host build."""
        suffixes = (".cu", ".cpp") if self.arch == HOST else (".cu",)
        return sorted(path for path in (self.csrc / self.folder).glob("*") if path.suffix in suffixes)

    def digest(self) -> str:
        """Identity of the sources and flags: every file that the operation may include counts."""
        total = hashlib.sha256("\0".join(self.flags).encode())
        for path in self._all_files():
            total.update(f"\0{path.relative_to(self.csrc)}\0".encode())
            total.update(hashlib.sha256(path.read_bytes()).digest())
        return total.hexdigest()[:SOURCES_DIGITS]

    def _all_files(self) -> list[Path]:
        others = {operation.folder for operation in OPERATIONS} - {self.folder}
        files = [path for path in self.csrc.rglob("*") if path.suffix in SOURCE_SUFFIXES]
        return sorted(path for path in files if path.relative_to(self.csrc).parts[0] not in others)

    def name(self, compilers: tuple[Compiler, ...]) -> str:
        """The name of the library's folder in a cache."""
        versions = "\0".join(compiler.version for compiler in compilers)
        tag = hashlib.sha256(versions.encode()).hexdigest()[:COMPILER_DIGITS]
        return f"{self.folder}-{self.arch}-{self.digest()}-{tag}"

    def compile_command(self, compilers: tuple[Compiler, ...], source: Path, to: Path) -> list[str]:
        """The call that compiles one source to an object file."""
        language = ["-x", "c++"] if self.arch == HOST else []
        return [
            *self._driver(compilers),
            *self.flags,
            f"-I{self.csrc}",
            *language,
            "-c",
            str(source),
            "-o",
            str(to),
        ]

    def link_command(self, compilers: tuple[Compiler, ...], objects: list[Path], to: Path) -> list[str]:
        """The call that links the object files to a shared library."""
        flags = [*self._driver(compilers), *self.flags, "-shared"]
        return [*flags, *map(str, objects), *compilers[0].link_flags, "-o", str(to)]

    def _driver(self, compilers: tuple[Compiler, ...]) -> list[str]:
        if self.arch == HOST:
            return [str(compilers[0].path)]
        return [str(compilers[0].path), f"-ccbin={compilers[1].path}"]


def recipe(folder: str, arch: str, csrc: Path | None = None, extra_flags: tuple[str, ...] = ()) -> Recipe:
    """The recipe of an operation of this installation, or of another folder of sources.

    Raises:
        KernelError: ``no_sources``, or ``unknown_arch``.
    """
    where = csrc if csrc is not None else source_folder()
    if where is None:
        raise KernelError("no_sources", "the folder csrc is missing; the installation is not whole")
    made = Recipe(folder, arch, where.resolve(), extra_flags)
    if arch != HOST:
        parse(arch)
    if not made.sources():
        raise KernelError(
            "no_sources", f"{where / folder} holds nothing to compile for {arch}", "choose another backend"
        )
    return made
