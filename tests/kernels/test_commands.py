"""``python -m foldase_kernels`` and what it finds."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from foldase_kernels import doctor, operations
from foldase_kernels.__main__ import main
from foldase_kernels.attention import available_backends
from foldase_kernels.attention.triton import is_available


def test_list_names_every_operation_and_its_backends(capsys):
    assert main(["list"]) == 0
    said = capsys.readouterr().out
    for operation in operations.OPERATIONS:
        assert operation.name in said
        assert ", ".join(operation.backends) in said
    assert str(operations.source_folder()) in said


def test_the_listed_backends_are_those_that_run():
    listed = {operation.name: operation.backends for operation in operations.OPERATIONS}
    runs = ("reference", "cpu", "triton") if is_available() else ("reference", "cpu")
    assert available_backends() == runs
    assert listed["evoformer_attention"] == ("reference", "cpu", "triton")


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


def test_build_says_that_there_is_nothing_to_build(capsys, monkeypatch):
    assert main(["build"]) == 0
    assert "no operation of this version has compiled sources" in capsys.readouterr().out
    monkeypatch.setattr("foldase_kernels.__main__.sources", lambda operation: [Path("attention.cu")])
    assert main(["build"]) == 1
    assert "no build rule" in capsys.readouterr().out


def test_doctor_reports_every_topic(capsys):
    assert main(["doctor"]) == 0
    said = capsys.readouterr().out
    for topic in ("torch", "processor", "gpu", "nvcc", "g++", "triton", "sources"):
        assert f" {topic}: " in said


def test_a_compiler_that_does_not_answer_is_a_fault(tmp_path, monkeypatch, capsys):
    broken = tmp_path / "nvcc"
    broken.write_text("#!/bin/sh\nexit 3\n")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert main(["doctor"]) == 1
    assert "!! nvcc" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["list", "doctor", "build"])
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
        "main(['list']); main(['build'])\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
