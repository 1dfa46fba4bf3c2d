"""The C++ AdamW at every level of vector instructions, and how it is built, found and chosen."""

from __future__ import annotations

import ctypes
import shutil
import struct
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from adam_on_host import CHECKS, CONSTANTS, VECTORS, build, check_all, draw, levels_here
from attention_on_host import SANITIZERS, run_sanitized, sources
from compiled_sources import run_command
from hypothesis import given, settings
from hypothesis import strategies as st

from foldase_kernels import loader
from foldase_kernels.adam import adamw_, available_backends, backends, choose_backend, square_sum
from foldase_kernels.adam.cpp import LEVEL_VARIABLE, LEVELS, AdamStep, launch_step
from foldase_kernels.adam.problem import constants
from foldase_kernels.compiling.build import build as build_library
from foldase_kernels.compiling.build import compilers_for
from foldase_kernels.compiling.cache import VARIABLE, Cache
from foldase_kernels.compiling.processes import Processes
from foldase_kernels.compiling.recipes import recipe
from foldase_kernels.errors import LaunchError

TRAJECTORY_TOLERANCE = 4e-6
"""Of weights after twenty steps, relative to 1 or the weight: sixty roundings by half a unit of float32."""
SMALLEST = 2.0**-149
"""The smallest denormal of float32."""


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    """A cache with the library of this checkout's sources."""
    folder = tmp_path_factory.mktemp("adam")
    build_library(recipe("adam", "host"), compilers_for("host"), Cache(folder), Processes(2), say=print)
    return folder


@pytest.fixture(scope="module")
def library(cache) -> ctypes.CDLL:
    return loader.load(loader.find("adam", None, cache=Cache(cache)))


@pytest.fixture(scope="module")
def levels(library) -> list[str]:
    return levels_here(library)


@pytest.fixture
def forgotten(monkeypatch):
    """What was found out about libraries so far is forgotten, before and after."""
    monkeypatch.setattr(loader, "_of_host", {})
    monkeypatch.setattr(backends, "_why_no_cpp", [])


def bits(vector: torch.Tensor) -> torch.Tensor:
    return vector.view(torch.int16 if vector.dtype == torch.bfloat16 else torch.int32)


def stepped(library, problem, level):
    launch_step(library, problem, LEVELS[level])
    return problem


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_every_level_of_instructions(library, levels, check):
    assert "plain" in levels
    for level in levels:
        check(library, level)


@given(st.integers(0, 200), st.integers(0, 9), st.booleans(), st.booleans(), st.integers(0, 2**20))
@settings(max_examples=25, deadline=None)
def test_levels_differ_in_no_bit(library, levels, count, offset, low, with_out, seed):
    dtype = torch.bfloat16 if low else torch.float32
    results = [
        stepped(library, draw(count, gradient_dtype=dtype, seed=seed, offset=offset, out=with_out), level)
        for level in levels
    ]
    for other in results[1:]:
        for name in VECTORS:
            assert torch.equal(bits(getattr(other, name)), bits(getattr(results[0], name)))
        assert not with_out or torch.equal(bits(other.out), bits(results[0].out))


def test_what_is_no_number_stays_so(library, levels):
    signalling = struct.unpack("<f", struct.pack("<I", 0x7F800001))[0]
    for level in levels:
        problem = draw(40, known=CONSTANTS)
        problem.weights[3], problem.weights[35] = signalling, -float("nan")
        problem.gradient[8], problem.gradient[37] = float("nan"), float("-inf")
        stepped(library, problem, level)
        lost = torch.zeros(40, dtype=torch.bool)
        lost[[3, 8, 35, 37]] = True
        for name in ("weights", "average", "out"):
            assert torch.equal(getattr(problem, name).isnan(), lost)
        assert problem.exp_avg_sq[8].isnan()
        assert problem.exp_avg[37] == -float("inf")


def test_denormals_are_not_flushed(library, levels):
    for level in levels:
        problem = draw(33, gradient_dtype=torch.float32, known=constants(1, 0, (0.5, 0.5), 1e-8, 0, 1, None))
        problem.gradient.copy_(SMALLEST * 2 * torch.arange(33))
        problem.exp_avg.zero_()
        problem.weights.copy_(problem.gradient)
        stepped(library, problem, level)
        assert torch.equal(problem.exp_avg, SMALLEST * torch.arange(33))
        assert torch.equal(problem.weights, problem.gradient)


def test_twenty_steps_are_those_of_torchs_fused_optimizer(library, levels):
    problem = draw(1003, gradient_dtype=torch.float32)
    start = problem.weights.clone()
    for level in levels:
        problem.weights.copy_(start)
        problem.exp_avg.zero_()
        problem.exp_avg_sq.zero_()
        weights = torch.nn.Parameter(start.clone())
        optimizer = torch.optim.AdamW([weights], 1e-3, (0.9, 0.99), weight_decay=0.1, fused=True)
        for number in range(1, 21):
            problem.gradient.copy_(torch.sin(number * start))
            weights.grad = problem.gradient.clone()
            optimizer.step()
            known = constants(number, 1e-3, (0.9, 0.99), 1e-8, 0.1, 1.0, None)
            stepped(library, replace(problem, constants=known), level)
        apart = (problem.weights - weights.detach()).abs() / start.abs().clamp(min=1.0)
        assert float(apart.max()) <= TRAJECTORY_TOLERANCE


def test_the_library_refuses_what_it_does_not_know(library):
    problem = draw(4)
    with pytest.raises(LaunchError, match="not the instructions that were asked for"):
        launch_step(library, problem, 99)
    assert library.foldase_adam_step(ctypes.byref(AdamStep(size=8))) == 1
    wrong = AdamStep(size=ctypes.sizeof(AdamStep), gradient_dtype=7)
    assert library.foldase_adam_step(ctypes.byref(wrong)) == 2


def test_a_built_library_is_what_auto_takes(cache, forgotten, monkeypatch):
    monkeypatch.setenv(VARIABLE, str(cache))
    assert choose_backend(torch.device("cpu")) == "cpp"
    assert available_backends() == ("reference", "torch", "cpp")
    problem, by_name = draw(65), draw(65)
    for each, backend in ((problem, "auto"), (by_name, "cpp")):
        adamw_(
            each.weights,
            each.exp_avg,
            each.exp_avg_sq,
            each.gradient,
            step=3,
            rate=3e-3,
            betas=(0.9, 0.99),
            epsilon=1e-8,
            weight_decay=0.1,
            scale=0.3,
            average=each.average,
            average_decay=0.97,
            out=each.out,
            backend=backend,
        )
    direct = draw(65)
    launch_step(loader.load_for_host("adam"), direct, LEVELS["best"])
    for name in (*VECTORS, "out"):
        assert torch.equal(getattr(problem, name), getattr(direct, name))
        assert torch.equal(getattr(by_name, name), getattr(direct, name))
    expected = float(direct.weights.double().square().sum())
    assert square_sum(direct.weights, backend="cpp") == pytest.approx(expected, rel=1e-14)


def test_the_level_can_be_named(cache, forgotten, monkeypatch):
    monkeypatch.setenv(VARIABLE, str(cache))
    monkeypatch.setenv(LEVEL_VARIABLE, "plain")
    assert square_sum(torch.ones(9), backend="cpp") == 9.0
    monkeypatch.setenv(LEVEL_VARIABLE, "mmx")
    with pytest.raises(ValueError, match="FOLDASE_ADAM_INSTRUCTIONS is 'mmx'; expected one of best, plain"):
        square_sum(torch.ones(9), backend="cpp")


def test_without_a_library_nothing_is_compiled_and_torch_steps(tmp_path, forgotten, monkeypatch):
    monkeypatch.setenv(VARIABLE, str(tmp_path / "none"))
    assert choose_backend(torch.device("cpu")) == "torch"
    assert available_backends() == ("reference", "torch")
    with pytest.raises(ValueError, match=r"backend 'cpp' is not available: no_library.*doctor` says"):
        square_sum(torch.ones(9), backend="cpp")
    assert not (tmp_path / "none").exists()


def test_the_build_command_needs_no_gpu_for_it(tmp_path, monkeypatch):
    """In a copy of the sources, without a compiler, which is said."""
    monkeypatch.setenv(VARIABLE, str(tmp_path / "cache"))
    csrc = tmp_path / "package" / "csrc"
    shutil.copytree(sources(), csrc)
    monkeypatch.setenv("CXX", str(tmp_path / "missing"))
    done = run_command(csrc, "build")
    assert "nothing is built for a GPU" in done.stdout
    assert "adam host: no_cxx" in done.stderr
    named = run_command(csrc, "build", "adam", "--arch", "sm_90a")
    assert "holds nothing to compile for sm_90a" in named.stderr


BUGS = {
    "ties to odd": ("lanes_plain.h", "0x7FFFu + ((bits >> 16) & 1u)", "0x8000u"),
    "a tail left out": ("adam.cpp", "plain::step_elements(step, loops.step(", "(void)(loops.step("),
    "the average before the step": (
        "loops.h",
        "Lanes::subtract(weight, average)",
        "Lanes::subtract(mean, average)",
    ),
    "a fused product": (
        "loops.h",
        "Lanes::add(Lanes::multiply(Lanes::root(square), root_factor), epsilon)",
        "root_factor",
    ),
    "a unit left out": ("adam.cpp", "std::atomic<int64_t> next{0};", "std::atomic<int64_t> next{count > 1};"),
    "the last sums forgotten": ("loops.h", "at + lane < count; ++lane", "at + lane + 1 < count; ++lane"),
}


def planted(folder: Path, bug: str) -> Path:
    """A copy of the sources with one bug."""
    shutil.copytree(sources(), folder)
    name, was, becomes = BUGS[bug]
    path = folder / "adam" / name
    text = path.read_text()
    assert text.count(was) == 1, "the source has changed: write this bug anew"
    path.write_text(text.replace(was, becomes))
    return folder


@pytest.mark.parametrize(
    "bug", [pytest.param(bug, marks=() if bug == "a tail left out" else pytest.mark.verify) for bug in BUGS]
)
def test_planted_bugs_are_found(bug, tmp_path):
    with_bug = build(planted(tmp_path / "csrc", bug), tmp_path / "bug.so", "-O1", "-Wno-error")
    with pytest.raises(AssertionError):
        check_all(str(with_bug))


@pytest.mark.verify
def test_under_the_address_and_undefined_behaviour_sanitizers(tmp_path):
    run_sanitized({"adam_on_host": build(sources(), tmp_path / "checked.so", *SANITIZERS)})
