"""The cuda backend from the public function to the C interface: its kernels run in their host build."""

from __future__ import annotations

import ctypes
import importlib
import logging
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from attention_backward_on_host import TOLERANCES as GRADIENT_TOLERANCES
from attention_backward_on_host import UNITS, build_backward, one_backward
from attention_on_host import LSE_TOLERANCE, TOLERANCES, load, sources
from host_machine import HostMachine

from foldase_kernels import evoformer_attention, loader
from foldase_kernels.attention import backends, cuda, triton
from foldase_kernels.attention.arguments import AttentionArguments
from foldase_kernels.attention.cuda_biases import as_terms
from foldase_kernels.compiling.cache import VARIABLE
from foldase_kernels.errors import KernelError, LaunchError

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
GRADIENT_TOLERANCES = {**GRADIENT_TOLERANCES, torch.float64: GRADIENT_TOLERANCES[torch.float32]}
HOPPER = (9, 0)
GPU = torch.device("cuda", 0)


def one_float32_instance(folder):
    """A copy of the sources with one kernel of each kind, and its units: quick to compile."""
    folder, units = one_backward(folder, ("float32",))
    path = folder / "attention" / "forward.cu"
    text = path.read_text()
    for was, becomes in (
        ("launch_forward<T, 64>", "launch_forward<T, 32>"),
        ("launch_forward<T, 128>", "launch_forward<T, 32>"),
        ("launch_forward_width<foldase::BFloat16>", "launch_forward_width<float>"),
        ("launch_forward_width<foldase::Float16>", "launch_forward_width<float>"),
    ):
        assert text.count(was) == 1
        text = text.replace(was, becomes)
    path.write_text(text)
    return folder, ("forward", *units)


@pytest.fixture(scope="session")
def library(tmp_path_factory):
    """float32 up to width 32."""
    made = tmp_path_factory.mktemp("float32")
    folder, units = one_float32_instance(made / "csrc")
    return load(build_backward(folder, made / "attention.so", "-O1", units=units))


@pytest.fixture(scope="session")
def whole_library(tmp_path_factory):
    """Every dtype and width."""
    target = tmp_path_factory.mktemp("whole") / "attention.so"
    return load(build_backward(sources(), target, "-O1", units=("forward", *UNITS)))


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


def solve(leaves, biases, backend, *, uses=("out", "lse"), **options):
    """Output, log-sum-exp, and the gradients of q, k, v, the gate and the biases."""
    q, k, v, gate = leaves
    out, lse = evoformer_attention(q, k, v, biases, gate=gate, return_lse=True, backend=backend, **options)
    live = lse.masked_fill(lse == -torch.inf, 0.0)
    sums = {
        "out": (out.double() * draw(*out.shape, dtype=torch.float64)).sum(),
        "lse": live.double().cos().sum(),
    }
    wanted = [leaf for leaf in (*leaves, *biases) if leaf is not None and leaf.requires_grad]
    loss = sum(sums[name] for name in uses)
    return out.detach(), lse.detach(), torch.autograd.grad(loss, wanted, materialize_grads=True)


def wide(tensor):
    return None if tensor is None else tensor.detach().double().requires_grad_(tensor.requires_grad)


def compare(q, k, v, biases=(), *, gate=None, trained=True, **options):
    """Forward and backward as the reference in float64, in the shapes and dtypes of the inputs."""
    leaves = [None if tensor is None else tensor.detach().requires_grad_() for tensor in (q, k, v, gate)]
    biases = [bias.detach().requires_grad_(trained) for bias in biases]
    out, lse, grads = solve(leaves, biases, "cuda", **options)
    exact, exact_lse, exact_grads = solve(
        [wide(leaf) for leaf in leaves], [wide(bias) for bias in biases], "reference", **options
    )
    assert (out.dtype, lse.dtype) == (q.dtype, torch.float32)
    assert out.is_contiguous()
    assert lse.is_contiguous()
    assert relative(out, exact) <= TOLERANCES[q.dtype]
    torch.testing.assert_close(lse.double(), exact_lse, rtol=LSE_TOLERANCE, atol=LSE_TOLERANCE)
    owners = [leaf for leaf in (*leaves, *biases) if leaf is not None and leaf.requires_grad]
    for owner, grad, truth in zip(owners, grads, exact_grads, strict=True):
        assert (grad.shape, grad.dtype) == (owner.shape, owner.dtype)
        coarsest = max((q.dtype, owner.dtype), key=lambda dtype: GRADIENT_TOLERANCES[dtype])
        assert relative(grad, truth) <= GRADIENT_TOLERANCES[coarsest]


def relative(found, truth):
    return float((found.double() - truth).abs().max() / truth.abs().max().clamp(min=1e-30))


def everything(dtype):
    """Biases of several dtypes and shapes, a row without keys, causal, ALiBi, a gate."""
    q, k, v = heads(2, dtype=dtype)
    mask = draw(2, 3, 1, 1, 9) > -1.0
    mask[0, 1] = False
    biases = [draw(1, 2, 5, 9, dtype=torch.bfloat16), draw(2, 3, 1, 1, 9, dtype=dtype), draw(2, 1, 1)]
    slopes = torch.tensor([0.5, 0.25], dtype=torch.float64)
    compare(q, k, v, biases, mask=mask, gate=draw(*q.shape, dtype=dtype), causal=True, alibi_slopes=slopes)


def test_everything_at_once(host):
    everything(torch.float32)


@pytest.mark.verify
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_everything_at_once_in_every_dtype(dtype, whole_library, monkeypatch):
    monkeypatch.setattr(cuda, "machine", HostMachine(whole_library))
    everything(dtype)
    compare(*heads(width=72, dtype=dtype), [draw(2, 5, 9, dtype=dtype)])


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
    """Several launches add to one gradient: in float32, so that half precision rounds once."""
    q, k, v = heads(2, 2, queries=3, keys=4)
    biases = [draw(2, 1, 1, 2, 3, 4, dtype=torch.bfloat16), draw(2, 3, 1, 1, 4), draw(3, 4)]
    compare(q.transpose(0, 1), k, v, biases, gate=draw(*q.shape).transpose(0, 1))


def test_more_biases_than_the_kernels_read_are_summed_where_it_costs_least(host):
    q, k, v = heads()
    shapes = [(1, 2, 5, 9), (3, 1, 1, 9), (3, 2, 5, 9), (2, 1, 1), (5, 1), (9,)]
    biases = [draw(*shape, seed=seed) for seed, shape in enumerate(shapes)]
    biases[1] = biases[1].bfloat16()
    compare(q, k, v, biases)
    assert [term.members for term in as_terms(biases)] == [(0,), (2,), (3, 4), (1, 5)]


def test_a_bias_in_a_dtype_that_the_kernels_do_not_read(host):
    compare(*heads(), [draw(1, 2, 5, 9).double()])


@pytest.mark.parametrize("uses", [("out",), ("lse",)])
def test_gradients_of_one_result_alone(host, uses):
    compare(*heads(), [draw(1, 2, 5, 9)], uses=uses)


def test_biases_that_are_not_trained(host):
    compare(*heads(), [draw(1, 2, 5, 9), draw(3, 1, 1, 9)], trained=False)


def test_the_same_call_gives_the_same_bits(host, library):
    leaves = [tensor.requires_grad_() for tensor in (*heads(), draw(3, 5, 2, 8))]
    biases = [draw(1, 2, 5, 9).requires_grad_(), draw(3, 1, 1, 9).requires_grad_()]
    first = solve(leaves, biases, "cuda")
    library.foldase_emulation_seed(ctypes.c_uint64(3))
    again = solve(leaves, biases, "cuda")
    for one, other in zip((*first[:2], *first[2]), (*again[:2], *again[2]), strict=True):
        assert torch.equal(one, other)


@pytest.mark.verify
def test_one_call_is_one_operator_to_the_compiler(host):
    q, k, v = (tensor.requires_grad_() for tensor in heads())
    compiled = torch.compile(evoformer_attention, fullgraph=True, backend="aot_eager")
    found, plain = compiled(q, k, v, backend="cuda"), evoformer_attention(q, k, v, backend="cuda")
    assert torch.equal(found, plain)
    assert torch.equal(torch.autograd.grad(found.sum(), q)[0], torch.autograd.grad(plain.sum(), q)[0])


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


@pytest.mark.verify
def test_the_checks_for_a_gpu_pass_on_the_host_build(whole_library, monkeypatch):
    """What `benchmarks/gpu.sh check` will ask of the cuda backend, as far as it goes without a GPU."""
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[2] / "benchmarks"))
    checks = importlib.import_module("kernels_gpu_check")
    monkeypatch.setattr(cuda, "machine", HostMachine(whole_library))
    cpu = torch.device("cpu")
    assert checks.odd_complaints("cuda", cpu) == []
    for case in checks.FEW_CASES:
        assert checks.complaints(case, "cuda", cpu) == []
    assert checks.changes(checks.FEW_CASES[1], "cuda", cpu, repeats=2) == []
