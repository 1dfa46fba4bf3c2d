"""Building: what is compiled, when, where it lies, and what is left when it goes wrong."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from compiled_sources import (
    FOLDER,
    command_line,
    run_command,
    scaled_on_the_host,
    write_compiler,
    write_sources,
)

from foldase_kernels import loader
from foldase_kernels.compiling import architectures, locks
from foldase_kernels.compiling.architectures import HOST
from foldase_kernels.compiling.build import Built, build, compilers_for
from foldase_kernels.compiling.cache import VARIABLE, Cache, default_folder
from foldase_kernels.compiling.processes import Processes
from foldase_kernels.compiling.recipes import recipe
from foldase_kernels.compiling.resources import read_ptxas
from foldase_kernels.compiling.toolchain import find_cxx, find_nvcc
from foldase_kernels.errors import KernelError

PATIENCE_SECONDS = 60.0


@pytest.fixture
def csrc(tmp_path: Path) -> Path:
    return write_sources(tmp_path / "package")


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


def build_host(csrc: Path, cache: Cache, **options) -> Built:
    made = recipe(FOLDER, HOST, csrc)
    return build(made, compilers_for(HOST), cache, Processes(2), say=print, **options)


def visible(cache: Cache) -> list[str]:
    return sorted(path.name for path in cache.folder.glob("[!.]*"))


def left_half(cache: Cache) -> list[Path]:
    return list((cache.folder / ".unfinished").glob("*"))


def wait_for(path: Path) -> None:
    until = time.monotonic() + PATIENCE_SECONDS
    while not path.exists():
        assert time.monotonic() < until, f"{path} never came"
        time.sleep(0.02)


def test_a_host_build_compiles_loads_and_computes(csrc, cache):
    built = build_host(csrc, cache)
    assert built.compiled
    assert built.entry.folder.parent == cache.folder
    assert scaled_on_the_host(loader.load(built.entry)) == [2.5, 5.0, 7.5]
    assert left_half(cache) == []


def test_the_record_tells_how_it_was_made(csrc, cache):
    record = json.loads((build_host(csrc, cache).entry.folder / "build.json").read_text())
    assert record["operation"] == FOLDER
    assert record["arch"] == HOST
    assert record["compilers"][0]["version"] == find_cxx().version
    assert "-O3" in record["flags"]
    assert "-ffast-math" not in record["flags"]
    assert record["kernels"] == []


def test_a_second_build_compiles_nothing(csrc, cache):
    first = build_host(csrc, cache)
    second = build_host(csrc, cache)
    assert not second.compiled
    assert second.entry == first.entry
    assert build_host(csrc, cache, force=True).compiled


@pytest.mark.parametrize("changed", [f"{FOLDER}/scale.cu", "common/abi.h"])
def test_a_changed_source_or_header_makes_another_library(csrc, cache, changed):
    first = build_host(csrc, cache).entry
    with (csrc / changed).open("a") as file:
        file.write("// changed\n")
    second = build_host(csrc, cache)
    assert second.compiled
    assert visible(cache) == sorted([first.folder.name, second.entry.folder.name])


def test_the_sources_of_another_operation_change_nothing(csrc, cache, monkeypatch):
    (csrc / "transition").mkdir()
    monkeypatch.setattr(
        "foldase_kernels.compiling.recipes.OPERATIONS", [type("Op", (), {"folder": "transition"})]
    )
    build_host(csrc, cache)
    (csrc / "transition" / "other.cu").write_text("nothing that compiles")
    assert not build_host(csrc, cache).compiled


def test_flags_and_compiler_versions_are_part_of_the_identity(csrc):
    plain, flagged = recipe(FOLDER, HOST, csrc), recipe(FOLDER, HOST, csrc, ("-DTILE=64",))
    here = compilers_for(HOST)
    other = (type(here[0])(here[0].path, here[0].origin, "another version"),)
    assert len({plain.name(here), flagged.name(here), plain.name(other)}) == 3


def test_a_damaged_library_is_built_again(csrc, cache):
    entry = build_host(csrc, cache).entry
    entry.library.write_bytes(entry.library.read_bytes()[:1000])
    rebuilt = build_host(csrc, cache)
    assert rebuilt.compiled
    assert rebuilt.entry.intact()
    assert left_half(cache) == []


def test_the_compilers_errors_are_shown_in_full_with_the_command(csrc, cache):
    (csrc / FOLDER / "scale.cu").write_text("this is no C++;\nint also_wrong() { return nowhere; }\n")
    with pytest.raises(KernelError) as raised:
        build_host(csrc, cache)
    assert raised.value.code == "compiler_failed"
    assert "-DFOLDASE_HOST_BUILD" in raised.value.message
    assert "scale.cu:1" in raised.value.message
    assert "nowhere" in raised.value.message
    assert visible(cache) == []
    assert left_half(cache) == []


def test_a_missing_compiler_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("CXX", str(tmp_path / "no-compiler"))
    with pytest.raises(KernelError, match=r"no_cxx: .*no-compiler"):
        compilers_for(HOST)


def test_a_folder_without_sources_is_named(csrc):
    with pytest.raises(KernelError, match=r"no_sources: .*nothing"):
        recipe("nothing", HOST, csrc)


@pytest.mark.parametrize("name", ["sm_60", "sm90", "90a", "sm_90b", "gfx942"])
def test_an_unknown_architecture_is_refused(csrc, name):
    with pytest.raises(KernelError, match="unknown_arch"):
        recipe(FOLDER, name, csrc)


def test_which_code_runs_on_which_gpu():
    assert architectures.for_capability((9, 0)) == "sm_90a"
    assert architectures.for_capability((8, 6)) == "sm_86"
    assert architectures.for_capability((12, 0)) == "sm_120"
    assert architectures.runs_on("sm_80", (8, 9))
    assert not architectures.runs_on("sm_89", (8, 6))
    assert not architectures.runs_on("sm_80", (9, 0))
    assert architectures.runs_on("sm_90a", (9, 0))
    assert not architectures.runs_on("sm_100a", (10, 3))
    assert architectures.runs_on("sm_100f", (10, 3))
    with pytest.raises(KernelError, match="unsupported_gpu"):
        architectures.for_capability((7, 5))


@pytest.mark.parametrize("obstacle", ["a file", "no right"])
def test_a_cache_that_cannot_be_written_is_said(csrc, tmp_path, obstacle):
    folder = tmp_path / "taken"
    if obstacle == "a file":
        folder.write_text("")
    elif os.geteuid() == 0:
        folder = Path("/proc/foldase")  # where even root may make nothing
    else:
        folder.mkdir(mode=0o555)
    cache = Cache(folder / "kernels")
    assert str(folder) in cache.trouble()
    with pytest.raises(KernelError) as raised:
        build_host(csrc, cache)
    assert raised.value.code == "cache_unwritable"
    assert VARIABLE in raised.value.hint


def test_a_library_in_a_cache_that_is_only_read_is_up_to_date(csrc, cache, monkeypatch):
    build_host(csrc, cache)
    shutil.rmtree(cache.folder / ".locks")
    (cache.folder / ".locks").write_text("in the way of any lock")
    assert not build_host(csrc, cache).compiled
    with pytest.raises(KernelError, match="cache_unwritable"):
        build_host(csrc, cache, force=True)


def test_the_cache_is_where_the_variables_say(monkeypatch, tmp_path):
    monkeypatch.setenv(VARIABLE, str(tmp_path / "chosen"))
    assert default_folder() == tmp_path / "chosen"
    monkeypatch.delenv(VARIABLE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_folder() == tmp_path / "foldase" / "kernels"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert default_folder() == tmp_path / "home" / ".cache" / "foldase" / "kernels"


def test_a_user_without_a_home_is_told_what_to_set():
    program = (
        "import os, sys; os.environ.pop('HOME', None)\n"
        "import pwd; pwd.getpwuid = lambda uid: (_ for _ in ()).throw(KeyError(uid))\n"
        "from foldase_kernels.__main__ import main; sys.exit(main(['list']))"
    )
    unset = {name: text for name, text in os.environ.items() if name not in (VARIABLE, "XDG_CACHE_HOME")}
    done = subprocess.run([sys.executable, "-c", program], env=unset, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("no_home: ")
    assert VARIABLE in done.stderr


def test_of_two_processes_one_compiles_and_the_other_takes_it(csrc, cache, tmp_path):
    calls = tmp_path / "calls"
    slow = write_compiler(tmp_path / "slow-g++", f'echo called >> {calls}; sleep 1; exec g++ "$@"')
    environment = {**os.environ, "CXX": str(slow), VARIABLE: str(cache.folder)}
    line = command_line(csrc, ["build", "--arch", HOST])
    both = [
        subprocess.Popen(line, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        for _ in range(2)
    ]
    said = [process.communicate(timeout=PATIENCE_SECONDS)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    sources, link = 2, 1
    assert len(calls.read_text().splitlines()) == sources + link
    assert sorted("up to date" in text for text in said) == [False, True]
    waited = next(text for text in said if "up to date" in text)
    assert f"waiting for process {both[1 - said.index(waited)].pid}" in waited


def test_the_lock_of_a_killed_holder_is_free(tmp_path):
    lock, ready = tmp_path / "lock", tmp_path / "ready"
    program = (
        "import pathlib, sys, time\n"
        "from foldase_kernels.compiling import locks\n"
        "with locks.held(pathlib.Path(sys.argv[1]), 'testing', print):\n"
        "    pathlib.Path(sys.argv[2]).touch(); time.sleep(600)\n"
    )
    holder = subprocess.Popen([sys.executable, "-c", program, str(lock), str(ready)])
    try:
        wait_for(ready)
        said: list[str] = []
        with (
            pytest.raises(KernelError, match=f"lock_timeout: .*process {holder.pid} "),
            locks.held(lock, "testing", said.append, wait_seconds=0.3),
        ):
            pytest.fail("two hold one lock")
        assert f"waiting for process {holder.pid}" in said[0]
    finally:
        holder.kill()
        holder.wait()
    with locks.held(lock, "testing", said.append, wait_seconds=0.3):
        assert lock.exists()


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_build_that_is_ended_leaves_no_library_and_no_lock(csrc, cache, tmp_path, sent):
    started = tmp_path / "started"
    endless = write_compiler(
        tmp_path / "endless-g++", f"echo $$ > {started}.new; mv {started}.new {started}; exec sleep 600"
    )
    environment = {**os.environ, "CXX": str(endless), VARIABLE: str(cache.folder)}
    building = subprocess.Popen(
        command_line(csrc, ["build", "--arch", HOST, "--jobs", "1"]), env=environment, stderr=subprocess.PIPE
    )
    wait_for(started)
    compiler = int(started.read_text())
    building.send_signal(sent)
    building.communicate(timeout=PATIENCE_SECONDS)
    assert building.returncode != 0
    assert visible(cache) == []
    if sent == signal.SIGKILL:
        os.kill(compiler, signal.SIGKILL)  # nobody is left to do it
    else:
        assert left_half(cache) == []
        with pytest.raises(ProcessLookupError):
            os.kill(compiler, 0)
    slow_but_same = write_compiler(endless, 'exec g++ "$@"')
    done = run_command(csrc, "build", "--arch", HOST, CXX=str(slow_but_same), **{VARIABLE: str(cache.folder)})
    assert done.returncode == 0, done.stderr
    assert len(visible(cache)) == 1
    assert left_half(cache) == []


SAID_BY_PTXAS = """ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'first' for 'sm_80'
ptxas info    : Function properties for helper
    64 bytes stack frame, 60 bytes spill stores, 60 bytes spill loads
ptxas info    : Function properties for first
    8 bytes stack frame, 4 bytes spill stores, 12 bytes spill loads
ptxas info    : Used 168 registers, used 1 barriers, 8 bytes cumulative stack size, 1024 bytes smem
ptxas info    : Compile time = 2.427 ms
ptxas info    : Compiling entry function 'second' for 'sm_80'
ptxas info    : Function properties for second
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 8 registers, used 0 barriers, 380 bytes cmem[0]
"""


def test_registers_and_spills_are_read():
    first, second = read_ptxas(f"scale.cu(3): warning: something\n{SAID_BY_PTXAS}")
    assert (first.kernel, first.arch, first.registers, first.shared) == ("first", "sm_80", 168, 1024)
    assert (first.stack, first.spill_stores, first.spill_loads) == (8, 4, 12)
    assert (second.kernel, second.registers, second.spill_stores, second.shared) == ("second", 8, 0, 0)


def build_for_gpu(csrc: Path, cache: Cache, arch: str) -> Built:
    return build(recipe(FOLDER, arch, csrc), compilers_for(arch), cache, Processes(2), say=print)


def check_gpu_build(csrc: Path, cache: Cache, arch: str) -> None:
    built = build_for_gpu(csrc, cache, arch)
    [kernel] = built.entry.record["kernels"]
    assert "scale_kernel" in kernel["kernel"]
    assert kernel["arch"] == arch
    assert 0 < kernel["registers"] < 64
    assert kernel["spill_stores"] == 0
    loader.load(built.entry)  # also where there is no driver
    assert not build_for_gpu(csrc, cache, arch).compiled


def test_nvcc_builds_a_library_that_loads_without_a_gpu(csrc, cache):
    try:
        find_nvcc()
    except KernelError as error:
        pytest.skip(f"needs nvcc: {error.message}")
    check_gpu_build(csrc, cache, "sm_80")


@pytest.mark.verify
@pytest.mark.parametrize("arch", ["sm_80", "sm_90a", "sm_100"])
def test_nvcc_is_there_and_builds_for_every_target(csrc, cache, arch):
    check_gpu_build(csrc, cache, arch)


def test_an_architecture_that_nvcc_does_not_know_is_said(csrc, monkeypatch, tmp_path):
    old = tmp_path / "bin" / "nvcc"
    old.parent.mkdir()
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo "release 11.0, V11.0.1" || echo sm_80\n')
    old.chmod(0o755)
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    nvcc, _ = compilers_for("sm_80")
    assert (nvcc.origin, nvcc.version, nvcc.path) == ("CUDA_HOME", "11.0.1", old)
    with pytest.raises(KernelError, match=r"unsupported_arch: nvcc 11.0.1 .* no code for sm_90a"):
        compilers_for("sm_90a")


def test_the_compiler_of_the_wheels_is_found_with_its_libraries(monkeypatch, tmp_path):
    toolkit = tmp_path / "nvidia" / "cu13"
    (toolkit / "bin").mkdir(parents=True)
    (toolkit / "lib").mkdir()
    (toolkit / "lib" / "libcudart_static.a").write_text("")
    shutil.copy(write_compiler(tmp_path / "nvcc", ""), toolkit / "bin" / "nvcc")
    (toolkit / "bin" / "nvcc").write_text("#!/bin/sh\necho 'release 13.0, V13.0.88'\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path / "nowhere"))
    for variable in ("CUDA_HOME", "CUDA_PATH"):
        monkeypatch.delenv(variable, raising=False)
    nvcc = find_nvcc()
    assert (nvcc.origin, nvcc.path) == ("wheel", toolkit / "bin" / "nvcc")
    assert nvcc.link_flags == (f"-L{toolkit / 'lib'}",)
