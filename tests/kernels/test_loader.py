"""Loading: the library that fits, and words for every way in which there is none."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from compiled_sources import FOLDER, scaled_on_the_host, write_sources

from foldase_kernels import loader
from foldase_kernels.compiling.architectures import HOST
from foldase_kernels.compiling.build import build, compilers_for
from foldase_kernels.compiling.cache import Cache, Entry
from foldase_kernels.compiling.processes import Processes
from foldase_kernels.compiling.recipes import recipe
from foldase_kernels.errors import KernelError

HOPPER, ADA, AMPERE = (9, 0), (8, 9), (8, 0)


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> tuple[Path, Cache]:
    """Sources, and a cache with their host build."""
    folder = tmp_path_factory.mktemp("built")
    csrc, cache = write_sources(folder / "package"), Cache(folder / "cache")
    build(recipe(FOLDER, HOST, csrc), compilers_for(HOST), cache, Processes(1), say=print)
    return csrc, cache


def put(cache: Cache, csrc: Path, arch: str, built: str = "2026-01-01T00:00:00Z", **changed: str) -> Entry:
    """A library of that architecture with a record like a build's; it is found, never loaded."""
    record = {
        "operation": FOLDER,
        "arch": arch,
        "sources": recipe(FOLDER, arch, csrc).digest(),
        "built": built,
    }
    made = cache.folder / ".made"
    made.mkdir(parents=True)
    (made / "library.so").write_bytes(b"machine code")
    return cache.publish(f"{FOLDER}-{arch}-{built[:4]}", made, {**record, **changed})


def compile_library(folder: Path, source: str) -> Entry:
    """A host build of one source, with whatever it exports."""
    csrc = folder / "package" / "csrc"
    (csrc / FOLDER).mkdir(parents=True)
    (csrc / FOLDER / "only.cpp").write_text(source)
    made = recipe(FOLDER, HOST, csrc)
    return build(made, compilers_for(HOST), Cache(folder / "cache"), Processes(1), say=print).entry


def test_the_host_build_is_found_loaded_once_and_called(built):
    csrc, cache = built
    entry = loader.find(FOLDER, None, csrc=csrc, cache=cache)
    library = loader.load(entry)
    assert loader.load(entry) is library
    assert scaled_on_the_host(library) == [2.5, 5.0, 7.5]


def test_importing_and_loading_compile_nothing_and_importing_needs_no_torch():
    program = "import sys, foldase_kernels.loader; assert 'torch' not in sys.modules"
    subprocess.run(
        [sys.executable, "-c", program], check=True, env={"PATH": "", "PYTHONPATH": ":".join(sys.path)}
    )


def test_the_nearest_architecture_is_taken(built, tmp_path):
    csrc, cache = built[0], Cache(tmp_path)
    put(cache, csrc, "sm_80")
    wanted = put(cache, csrc, "sm_86")
    assert loader.find(FOLDER, ADA, csrc=csrc, cache=cache) == wanted
    assert loader.find(FOLDER, AMPERE, csrc=csrc, cache=cache).arch == "sm_80"
    with pytest.raises(KernelError, match="no_library"):
        loader.find(FOLDER, HOPPER, csrc=csrc, cache=cache)
    put(cache, csrc, "sm_90")
    wanted = put(cache, csrc, "sm_90a")
    assert loader.find(FOLDER, HOPPER, csrc=csrc, cache=cache) == wanted


def test_of_two_builds_the_newer_is_taken(built, tmp_path):
    csrc, cache = built[0], Cache(tmp_path)
    put(cache, csrc, "sm_80", "2026-01-01T00:00:00Z")
    newer = put(cache, csrc, "sm_80", "2027-01-01T00:00:00Z")
    assert loader.find(FOLDER, AMPERE, csrc=csrc, cache=cache) == newer


def test_an_empty_cache_says_how_to_build(built, tmp_path):
    with pytest.raises(KernelError) as raised:
        loader.find(FOLDER, HOPPER, csrc=built[0], cache=Cache(tmp_path / "none"))
    assert raised.value.code == "no_library"
    assert "compute capability 9.0" in raised.value.message
    assert "python -m foldase_kernels build" in raised.value.hint
    assert "python -m foldase_kernels doctor" in raised.value.hint


def test_a_library_of_other_sources_is_never_taken(built, tmp_path):
    cache = Cache(tmp_path)
    put(cache, built[0], "sm_90a", sources="0123456789abcdef")
    with pytest.raises(KernelError, match=r"stale_library: .* built from other sources"):
        loader.find(FOLDER, HOPPER, csrc=built[0], cache=cache)


@pytest.mark.parametrize("damage", ["cut", "changed", "gone"])
def test_a_corrupted_library_is_not_loaded(tmp_path, damage):
    entry = compile_library(tmp_path, 'extern "C" int foldase_kernels_abi() { return 1; }')
    content = entry.library.read_bytes()
    if damage == "gone":
        entry.library.unlink()
    else:
        entry.library.write_bytes(content[:600] if damage == "cut" else content[:-1] + b"?")
    with pytest.raises(KernelError, match="corrupted_library") as raised:
        loader.load(entry)
    assert "python -m foldase_kernels build" in raised.value.hint


def test_a_record_that_cannot_be_read_counts_as_no_library(built, tmp_path):
    cache = Cache(tmp_path)
    entry = put(cache, built[0], "sm_90a")
    for text in ("", "[]", "{", json.dumps({"operation": FOLDER})):
        (entry.folder / "build.json").write_text(text)
        assert cache.entries() == []


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ('extern "C" int foldase_kernels_abi() { return 7; }', "version 7 of the interface"),
        ('extern "C" int something_else() { return 1; }', "does not export foldase_kernels_abi"),
    ],
)
def test_another_interface_is_refused(tmp_path, source, words):
    with pytest.raises(KernelError, match=words) as raised:
        loader.load(compile_library(tmp_path, source))
    assert raised.value.code == "wrong_abi"


def test_what_the_system_cannot_load_is_said(tmp_path):
    source = 'int nowhere(); extern "C" int foldase_kernels_abi() { return nowhere(); }'
    with pytest.raises(KernelError, match=r"unloadable_library: .*nowhere"):
        loader.load(compile_library(tmp_path, source))
