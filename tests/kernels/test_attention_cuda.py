"""The cuda backend from the public function to the C interface: its kernels run in their host build."""

from __future__ import annotations

import ctypes
import logging
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch
from attention_on_host import LSE_TOLERANCE, TOLERANCES, build, load, sources
from host_machine import HostMachine

from foldase_kernels import evoformer_attention, loader
from foldase_kernels.attention import backends, cuda, triton
from foldase_kernels.attention.arguments import AttentionArguments
from foldase_kernels.attention.cuda_biases import as_terms
from foldase_kernels.compiling.cache import VARIABLE
from foldase_kernels.errors import KernelError, LaunchError

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
HOPPER = (9, 0)
GPU = torch.device("cuda", 0)


@pytest.fixture(scope="session")
def library(tmp_path_factory):
    return load(build(sources(), tmp_path_factory.mktemp("host") / "attention.so", "-O1"))


@pytest.fixture
def host(library, monkeypatch):
    """The backend on the processor; threads run in an order of their own."""
    library.foldase_emulation_seed(ctypes.c_uint64(2))
    monkeypatch.setattr(cuda, "machine", HostMachine(library))


def draw(*shape, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed + sum(shape))
    return torch.randn(shape, generator=generator).to(dtype)


def heads(*leading, queries=5, keys=9, width=8, dtype=torch.float32):
    """q, k, v of 3 rows and 2 heads."""
    positions = (queries, keys, keys)
    return [draw(*leading, 3, size, 2, width, dtype=dtype, seed=seed) for seed, size in enumerate(positions)]


def compare(q, k, v, biases=(), **options):
    """Forward as the reference in float64 computes it."""
    found, lse = evoformer_attention(q, k, v, biases, return_lse=True, backend="cuda", **options)
    wide = {**options, "gate": None if options.get("gate") is None else options["gate"].double()}
    wanted, wanted_lse = evoformer_attention(
        q.double(), k.double(), v.double(), biases, return_lse=True, backend="reference", **wide
    )
    assert (found.dtype, lse.dtype) == (q.dtype, torch.float32)
    assert found.is_contiguous()
    assert lse.is_contiguous()
    tolerance = TOLERANCES[q.dtype] * float(wanted.abs().max())
    torch.testing.assert_close(found.double(), wanted, rtol=0, atol=tolerance)
    torch.testing.assert_close(lse.double(), wanted_lse, rtol=LSE_TOLERANCE, atol=LSE_TOLERANCE)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_everything_at_once(host, dtype):
    q, k, v = heads(2, dtype=dtype)
    mask = draw(2, 3, 1, 1, 9) > -1.0
    mask[0, 1] = False
    biases = [draw(1, 2, 5, 9, dtype=torch.bfloat16), draw(2, 3, 1, 1, 9, dtype=dtype), draw(2, 1, 1)]
    slopes = torch.tensor([0.5, 0.25], dtype=torch.float64)
    compare(q, k, v, biases, mask=mask, gate=draw(*q.shape, dtype=dtype), causal=True, alibi_slopes=slopes)


def test_the_ending_node_of_a_triangle_is_read_through_its_strides(host):
    pair = draw(3, 3, 2, 24).transpose(0, 1)
    q, k, v = pair.split(8, -1)
    bias = draw(3, 3, 2).permute(2, 1, 0)
    compare(q, k, v, [bias], gate=draw(3, 3, 2, 8).transpose(0, 1), scale=0.7)


def test_expanded_biases_and_masks_are_read_where_they_lie(host):
    q, k, v = heads()
    shared = draw(1, 2, 1, 9).expand(3, 2, 5, 9)
    sliced = draw(3, 1, 5, 20)[..., 1::2][..., :9]
    compare(q, k, v, [shared, sliced], mask=(draw(1, 1, 1, 9) > -1.0).expand(3, 1, 5, 9))


def test_leading_dimensions_that_no_stride_joins(host):
    q, k, v = heads(2, 2, queries=3, keys=4)
    compare(q.transpose(0, 1), k, v, [draw(2, 1, 1, 2, 3, 4), draw(2, 3, 1, 1, 4)])


def test_more_biases_than_the_kernels_read_are_summed_where_it_costs_least(host):
    q, k, v = heads()
    shapes = [(1, 2, 5, 9), (3, 1, 1, 9), (3, 2, 5, 9), (2, 1, 1), (5, 1), (9,)]
    biases = [draw(*shape, seed=seed) for seed, shape in enumerate(shapes)]
    biases[1] = biases[1].bfloat16()
    compare(q, k, v, biases)
    assert [term.members for term in as_terms(biases)] == [(0,), (2,), (3, 4), (1, 5)]


def test_a_bias_in_a_dtype_that_the_kernels_do_not_read(host):
    compare(*heads(), [draw(1, 2, 5, 9).double()])


def test_one_call_is_one_operator_to_the_compiler(host):
    q, k, v = heads()
    compiled = torch.compile(evoformer_attention, fullgraph=True, backend="aot_eager")
    found = compiled(q, k, v, backend="cuda")
    assert torch.equal(found, evoformer_attention(q, k, v, backend="cuda"))


class Library:
    """Notes what it is called with, and answers as it is told."""

    def __init__(self, status=0, message=b""):
        self.status, self.message, self.calls = status, message, []

    def foldase_attention_forward(self, arguments, stream, message, capacity):
        given = AttentionArguments.from_buffer_copy(arguments._obj)
        self.calls.append((given, stream.value))
        message.value = self.message
        return self.status


class Machine(HostMachine):
    """A device whose current stream depends on whether it is the current device."""

    current = None

    @contextmanager
    def guard(self, device):
        self.current = device
        yield
        self.current = None

    def stream(self, device):
        return 7000 + (device == self.current)


def test_a_launch_is_on_the_current_stream_of_the_tensors_device(monkeypatch):
    recorder = Library()
    monkeypatch.setattr(cuda, "machine", Machine(recorder))
    q, k, v = heads(dtype=torch.float16)
    bias = draw(2, 5, 9)
    evoformer_attention(q, k, v, [bias], mask=torch.ones(9, dtype=torch.bool), scale=0.5, backend="cuda")
    [(given, stream)] = recorder.calls
    assert stream == 7001
    assert (given.rows, given.heads, given.queries, given.keys, given.width) == (3, 2, 5, 9, 8)
    assert (given.dtype, given.bias_count, given.causal, given.scale) == (2, 1, 0, 0.5)
    assert (given.q.data, given.q.row, given.q.position, given.q.head) == (q.data_ptr(), 80, 16, 8)
    seen = given.biases[0]
    assert (seen.data, seen.row, seen.head, seen.query, seen.key) == (bias.data_ptr(), 0, 45, 9, 1)
    assert (given.mask.row, given.mask.head, given.mask.query, given.mask.key) == (0, 0, 0, 1)
    assert given.gate.data is None


def test_on_a_gpu_stream_and_guard_are_those_of_torch(monkeypatch):
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: SimpleNamespace(cuda_stream=42))
    monkeypatch.setattr(torch.cuda, "device", lambda device: f"guard of {device}")
    assert cuda.Gpu().stream(GPU) == 42
    assert cuda.Gpu().guard(GPU) == "guard of cuda:0"


@pytest.mark.parametrize(
    ("status", "code", "hint"),
    [(1, "refused_arguments", "foldase_kernels build"), (2, "launch_failed", "foldase_kernels doctor")],
)
def test_what_the_library_says_is_the_error(status, code, hint, monkeypatch):
    monkeypatch.setattr(cuda, "machine", HostMachine(Library(status, b"no kernel image")))
    with pytest.raises(LaunchError, match="attention forward: no kernel image") as raised:
        evoformer_attention(*heads(), backend="cuda")
    assert raised.value.code == code
    assert hint in raised.value.hint


def test_a_library_of_other_structs_is_to_be_built_again(host, monkeypatch):
    monkeypatch.setattr("foldase_kernels.attention.arguments.ctypes.sizeof", lambda struct: 8)
    with pytest.raises(LaunchError, match=r"the arguments have 8 bytes.*foldase_kernels build"):
        evoformer_attention(*heads(), backend="cuda")


def refused(words, dtype=torch.float32):
    with pytest.raises(ValueError, match=words):
        evoformer_attention(*heads(dtype=dtype), backend="cuda")


def test_float64_is_refused(host):
    refused("q is torch.float64; backend 'cuda' takes float32, bfloat16 and float16", torch.float64)


def test_tensors_on_the_processor_are_refused_and_the_doctor_named():
    refused(r"'cuda' is not available: no_gpu: .* the tensors are on cpu; .*foldase_kernels doctor")


def test_without_a_gpu_there_is_no_cuda(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match=r"no_gpu: .* torch sees none; .*foldase_kernels doctor"):
        cuda.check_runs_here(GPU, torch.float32)
    assert "cuda" not in backends.available_backends()


@pytest.fixture
def hopper(monkeypatch, tmp_path):
    """As if torch saw one GPU; with no library and nothing asked so far."""
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: HOPPER)
    monkeypatch.setattr(loader, "_of_gpus", {})
    monkeypatch.setattr(backends, "_no_cuda", {})
    monkeypatch.setattr(backends, "_reported", set())


def test_without_a_library_there_is_no_cuda(hopper):
    words = r"no_library: .*compute capability 9\.0.*foldase_kernels build.*foldase_kernels doctor"
    with pytest.raises(ValueError, match=words):
        backends.check_backend("cuda", GPU)
    assert "cuda" not in backends.available_backends()


def test_a_library_of_another_interface_is_to_be_built_again(hopper, monkeypatch):
    error = KernelError("wrong_abi", "speaks version 1 of the interface", loader.FOREIGN_HINT)

    def foreign(entry):
        raise error

    monkeypatch.setattr(loader, "find", lambda folder, capability: None)
    monkeypatch.setattr(loader, "load", foreign)
    with pytest.raises(ValueError, match=r"speaks version 1.*foldase_kernels build` compiles it anew"):
        backends.check_backend("cuda", GPU)


def test_a_library_is_looked_for_until_it_is_found(hopper, monkeypatch):
    with pytest.raises(KernelError, match="no_library"):
        loader.load_for("attention", GPU)
    searches = []
    monkeypatch.setattr(loader, "find", lambda folder, capability: searches.append(folder))
    monkeypatch.setattr(loader, "load", lambda entry: "the library")
    assert [loader.load_for("attention", GPU) for _ in range(3)] == ["the library"] * 3
    assert searches == ["attention"]


@pytest.mark.parametrize(
    ("dtype", "library", "with_triton", "chosen"),
    [
        (torch.bfloat16, True, True, "cuda"),
        (torch.bfloat16, False, True, "triton"),
        (torch.bfloat16, False, False, "reference"),
        (torch.float64, True, True, "reference"),
    ],
)
def test_auto_takes_the_best_there_is_and_says_why(
    dtype, library, with_triton, chosen, hopper, monkeypatch, caplog
):
    monkeypatch.setattr(triton, "is_available", lambda: with_triton)
    if library:
        monkeypatch.setattr(cuda, "machine", HostMachine(None))
    with caplog.at_level(logging.INFO, logger="foldase_kernels"):
        assert [backends.choose_backend(GPU, dtype) for _ in range(2)] == [chosen] * 2
    [said] = [record.getMessage() for record in caplog.records]
    assert said.startswith(f"evoformer_attention on cuda uses backend {chosen!r}")
    reason = "no_library" if not library else "q is torch.float64"
    assert (reason in said) == (chosen != "cuda")


def test_auto_does_not_change_its_mind_while_a_process_runs(hopper, monkeypatch):
    first = backends.choose_backend(GPU)
    monkeypatch.setattr(cuda, "machine", HostMachine(None))
    assert backends.choose_backend(GPU) == first != "cuda"
