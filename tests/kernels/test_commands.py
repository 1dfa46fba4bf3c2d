"""``python -m foldase_kernels`` and what it finds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from compiled_sources import run_command, write_sources

from foldase_kernels import doctor, operations
from foldase_kernels.__main__ import main
from foldase_kernels.attention import available_backends, cuda, triton
from foldase_kernels.compiling.cache import VARIABLE


def test_list_names_every_operation_and_its_backends(capsys):
    assert main(["list"]) == 0
    said = capsys.readouterr().out
    for operation in operations.OPERATIONS:
        assert operation.name in said
        assert ", ".join(operation.backends) in said
    assert str(operations.source_folder()) in said


def test_the_listed_backends_are_those_that_run():
    listed = {operation.name: operation.backends for operation in operations.OPERATIONS}
    with_gpu = {"triton": triton.is_available(), "cuda": cuda.is_available()}
    runs = tuple(name for name in listed["evoformer_attention"] if with_gpu.get(name, True))
    assert available_backends() == runs
    assert listed["evoformer_attention"] == ("reference", "cpu", "triton", "cuda")


def test_sources_are_found_in_an_installed_package(tmp_path, monkeypatch):
    package = tmp_path / "foldase_kernels"
    inside = package / "csrc" / "attention"
    inside.mkdir(parents=True)
    (inside / "forward.cu").write_text("")
    (inside / "notes.md").write_text("")
    monkeypatch.setattr(operations, "__file__", str(package / "operations.py"))
    assert operations.source_folder() == package / "csrc"
    assert operations.sources(operations.OPERATIONS[0]) == [inside / "forward.cu"]


def test_missing_sources_are_said(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(operations, "__file__", str(tmp_path / "foldase_kernels" / "operations.py"))
    assert main(["list"]) == 1
    assert "sources: not found" in capsys.readouterr().out
    assert operations.sources(operations.OPERATIONS[0]) == []
    assert doctor._sources().fine is False


def test_build_says_when_there_is_nothing_to_build(tmp_path):
    csrc = tmp_path / "csrc"
    csrc.mkdir()
    done = run_command(csrc, "build")
    assert done.returncode == 0
    assert "no operation of this version has compiled sources" in done.stdout


@pytest.fixture
def csrc(tmp_path: Path) -> Path:
    return write_sources(tmp_path / "package")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.setenv(VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def command(csrc, cache, monkeypatch, capsys) -> Callable[..., Done]:
    """``python -m foldase_kernels`` with the sources of ``csrc``, in this process: it has torch already."""
    monkeypatch.setattr(operations, "__file__", str(csrc.parent / "operations.py"))

    def run(*arguments: str) -> Done:
        return Done(main(list(arguments)), *capsys.readouterr())

    return run


def test_build_tells_what_it_did_and_then_that_nothing_is_left_to_do(csrc, cache):
    first = run_command(csrc, "build", "--arch", "host")
    assert first.returncode == 0, first.stderr
    assert "attention host: built in" in first.stdout
    [library] = cache.glob("attention-host-*/library.so")
    assert f"library: {library}" in first.stdout
    second = run_command(csrc, "build", "attention", "--arch", "host", "--jobs", "2")
    assert "attention host: up to date" in second.stdout
    assert "1 of 1 libraries" in second.stdout


def test_build_shows_what_the_compiler_says(csrc, command):
    (csrc / "attention" / "scale.cu").write_text("this is no C++;\n")
    done = command("build", "--arch", "host")
    assert done.returncode == 1
    assert "attention host: compiler_failed" in done.stderr
    assert "scale.cu:1" in done.stderr
    assert "0 of 1 libraries" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["build", "--arch", "sm_3"], "unknown_arch"),
        (["build", "folding", "--arch", "host"], "unknown_operation: 'folding' is none of attention"),
        (["build", "--jobs", "0"], "0 is below 1"),
    ],
)
def test_build_refuses_what_it_does_not_know(csrc, cache, arguments, words):
    done = run_command(csrc, *arguments)
    assert done.returncode != 0
    assert words in done.stderr
    assert "Traceback" not in done.stderr


DRIVER = """
#include <cstring>
extern "C" int cuInit(unsigned) { return STATUS; }
extern "C" int cuDriverGetVersion(int* version) { *version = 13000; return 0; }
extern "C" int cuDeviceGetCount(int* count) { *count = 1; return 0; }
extern "C" int cuDeviceGet(int* device, int ordinal) { *device = ordinal; return 0; }
extern "C" int cuDeviceGetName(char* name, int room, int) { std::strncpy(name, "Test H200", room); return 0; }
extern "C" int cuDeviceGetAttribute(int* value, int attribute, int) {
  *value = attribute == 75 ? 9 : 0;
  return 0;
}
"""


def driver_library(folder: Path, status: int) -> str:
    """A driver that shows one GPU, or fails with a status; returns the folder to find it in."""
    folder.mkdir()
    (folder / "driver.cpp").write_text(DRIVER)
    library = str(folder / "libcuda.so.1")
    subprocess.run(
        ["g++", "-shared", "-fPIC", f"-DSTATUS={status}", "-o", library, str(folder / "driver.cpp")],
        check=True,
    )
    return str(folder)


def test_build_without_a_gpu_asks_for_the_architecture(csrc, cache, tmp_path):
    blind = driver_library(tmp_path / "blind", status=100)
    done = run_command(csrc, "build", LD_LIBRARY_PATH=blind)
    assert done.returncode == 1
    assert "no_gpu: the NVIDIA driver shows no GPU (cuInit gives error 100)" in done.stderr
    assert "--arch sm_80,sm_90a" in done.stderr


def test_build_takes_the_architecture_of_the_gpu(csrc, cache, tmp_path):
    seeing = driver_library(tmp_path / "seeing", status=0)
    old = tmp_path / "toolkit" / "bin" / "nvcc"
    old.parent.mkdir(parents=True)
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo "release 11.0, V11.0.1" || echo sm_80\n')
    old.chmod(0o755)
    done = run_command(csrc, "build", LD_LIBRARY_PATH=seeing, CUDA_HOME=str(tmp_path / "toolkit"))
    assert done.returncode == 1
    assert "attention sm_90a: unsupported_arch: nvcc 11.0.1" in done.stderr
    examined = run_command(csrc, "doctor", LD_LIBRARY_PATH=seeing, CUDA_HOME=str(tmp_path / "toolkit"))
    assert "Test H200 (compute capability 9.0); driver" in examined.stdout
    assert "too old for Test H200" in examined.stdout
    assert "no cuda: no library of attention for compute capability 9.0" in examined.stdout


def test_list_and_doctor_show_built_libraries(csrc, cache, command):
    command("build", "--arch", "host")
    [library] = cache.glob("attention-host-*/library.so")
    assert "library: host, built 20" in command("list").stdout
    assert "ok library attention host: built 20" in command("doctor").stdout
    with (csrc / "common" / "abi.h").open("a") as file:
        file.write("// changed\n")
    stale = command("doctor")
    assert stale.returncode == 0
    assert (
        f"-- library attention host: stale, of other sources or flags; can be deleted: {library.parent}"
        in (stale.stdout)
    )


def test_a_corrupted_library_is_a_fault(csrc, cache):
    run_command(csrc, "build", "--arch", "host")
    [library] = cache.glob("attention-host-*/library.so")
    library.write_bytes(library.read_bytes()[:100])
    done = run_command(csrc, "doctor")
    assert done.returncode == 1
    assert "!! library attention host:" in done.stdout
    assert "python -m foldase_kernels build" in done.stdout


def test_doctor_reports_every_topic(capsys, cache):
    assert main(["doctor"]) == 0
    said = capsys.readouterr().out
    for topic in ("torch", "processor", "gpu", "nvcc", "c++", "triton", "sources", "cache"):
        assert f" {topic}: " in said
    for operation in operations.OPERATIONS:
        assert f"ok backend of {operation.name}: " in said
    assert not cache.exists()


def test_doctor_speaks_to_programs(capsys, cache):
    assert main(["doctor", "--json"]) == 0
    findings = json.loads(capsys.readouterr().out)["findings"]
    assert {"topic": "cache", "fine": True, "text": f"{cache}, can be written, 0 libraries"} in findings


def test_a_cache_that_cannot_be_written_limits_but_is_no_fault(capsys, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(VARIABLE, str(tmp_path / "file"))
    assert main(["doctor"]) == 0
    assert "-- cache: " in capsys.readouterr().out


def test_a_compiler_that_does_not_answer_is_a_fault(tmp_path, monkeypatch, capsys, cache):
    broken = tmp_path / "nvcc"
    broken.write_text("#!/bin/sh\nexit 3\n")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    for variable in ("CUDA_HOME", "CUDA_PATH"):
        monkeypatch.delenv(variable, raising=False)
    assert main(["doctor"]) == 1
    assert "!! nvcc" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["list", pytest.param("doctor", marks=pytest.mark.verify)])
def test_runs_as_a_module(command):
    done = subprocess.run(
        [sys.executable, "-m", "foldase_kernels", command], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_the_list_does_without_torch():
    code = (
        "import sys, foldase_kernels\n"
        "from foldase_kernels.__main__ import main\n"
        "main(['list']); main(['build', '--arch', 'nonsense'])\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_a_reader_that_has_had_enough_sees_no_traceback():
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "foldase_kernels", "list"]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, timeout=120)
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, "")
