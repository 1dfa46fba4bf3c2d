"""The CUDA attention backward, executed on the processor: every thread of every block, against float64.

With every change the kernels of the smallest width run in bfloat16 and float32; ``make verify`` runs all.
"""

from __future__ import annotations

import ctypes

import pytest
import torch
from attention_backward_on_host import (
    build_backward,
    check,
    draw_incoming,
    expected,
    load,
    one_backward,
    problem_of,
    run,
    telling_case,
)
from attention_on_host import draw_bias, draw_mask, make, sources

from foldase_kernels.attention.arguments import AttentionArguments, AttentionBackwardArguments
from foldase_kernels.attention.backward_arguments import (
    WantedGradients,
    fill_backward_arguments,
    launch_backward,
    workspace_bytes,
)

DTYPES = (torch.bfloat16, torch.float16, torch.float32)
ORDERS = (0, 1, 2, 3, 6, 7)
"""Seeds: ascending, descending, any lane, one warp at a time, and the random ones once more."""
verify = pytest.mark.verify


@pytest.fixture(scope="session")
def quick_library(tmp_path_factory):
    """Two dtypes, head width up to 32: compiled in seconds."""
    folder = tmp_path_factory.mktemp("backward")
    source, units = one_backward(folder / "csrc", ("bfloat16", "float32"))
    return load(build_backward(source, folder / "backward.so", "-O1", units=units))


@pytest.fixture(scope="session")
def library(tmp_path_factory):
    """The host build of the sources as they are."""
    return load(build_backward(sources(), tmp_path_factory.mktemp("backward") / "all.so", "-O2"))


def of_both(case):
    """Gradients of output and log-sum-exp: without the latter, those of a bias without keys are all 0."""
    return draw_incoming(case, with_lse=True)


def whole_case(size, dtype=torch.bfloat16, width=32):
    """Pair and key bias, mask with a row that sees nothing, gate."""
    case = make(rows=2, queries=size, heads=2, width=width, dtype=dtype, gate=True)
    case.biases = [draw_bias(case, 1, 2, size, size), draw_bias(case, 2, 1, 1, size, dtype=torch.bfloat16)]
    case.mask = draw_mask(2, 1, 1, size)
    case.mask[0] = False
    return case


@pytest.mark.parametrize(("size", "dtype"), [(1, torch.float32), (17, torch.bfloat16), (65, torch.float32)])
def test_odd_sizes(quick_library, size, dtype):
    case = whole_case(size, dtype)
    check(quick_library, case, of_both(case), order=size)


@verify
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", [1, 15, 17, 63, 65, 129])
def test_every_size(library, size, dtype):
    case = whole_case(size, dtype)
    check(library, case, of_both(case), order=size)


@verify
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("width", [1, 8, 20, 32, 40, 64, 128])
def test_every_head_width(library, width, dtype):
    case = make(rows=2, queries=19, keys=70, heads=1, width=width, dtype=dtype, gate=True)
    case.biases = [draw_bias(case, 19, 70)]
    check(library, case, order=width)
    check(library, case, order=width, block_limit=1)


BIASES = [
    (2, 1, 2, 17, 18),
    (1, 1, 2, 17, 18),
    (2, 3, 1, 1, 18),
    (2, 3, 2, 17, 18),
    (3, 1, 17, 18),
    (2, 1, 1),
    (17, 1),
    (1,),
]


@pytest.mark.parametrize(("shapes", "block_limit"), [(BIASES[:4], 1), (BIASES[4:], 0)])
def test_every_class_of_bias(quick_library, shapes, block_limit):
    case = make((2,), rows=3, queries=17, keys=18, dtype=torch.float32)
    dtypes = [torch.float32, torch.bfloat16, torch.float16, torch.float32]
    case.biases = [draw_bias(case, *shape, dtype=dtype) for shape, dtype in zip(shapes, dtypes, strict=True)]
    check(quick_library, case, of_both(case), order=2, block_limit=block_limit)


@verify
@pytest.mark.parametrize("block_limit", [0, 5])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", BIASES, ids=str)
def test_every_class_of_bias_in_every_dtype(library, shape, dtype, block_limit):
    sizes = {17: 66, 18: 70}
    case = make((2,), rows=3, queries=66, keys=70)
    case.biases = [draw_bias(case, *(sizes.get(size, size) for size in shape), dtype=dtype)]
    check(library, case, of_both(case), order=2, block_limit=block_limit)


@pytest.mark.parametrize("shape", [(2, 2, 17, 65), (17, 1)], ids=str)
def test_masks_of_queries(quick_library, shape):
    case = make(queries=17, keys=65)
    case.mask = draw_mask(*shape)
    case.mask[0] = False
    check(quick_library, case, order=2)


def test_a_bias_of_minus_infinity_masks_too(quick_library):
    case = make(queries=17, keys=65)
    case.biases = [draw_bias(case, 17, 65).masked_fill(draw_mask(17, 65), -torch.inf)]
    case.biases[0][3] = -torch.inf
    check(quick_library, case)


def test_without_any_key_all_gradients_are_0(quick_library):
    case = whole_case(17)
    case.mask[:] = False
    incoming = of_both(case)
    out, lse, _ = expected(case, incoming)
    for name, grad in run(quick_library, case, incoming, out, lse).items():
        assert not grad.any(), name


CAUSAL = [(65, 65), (17, 70), (70, 17), (1, 65), (130, 3), (3, 130)]


@pytest.mark.parametrize(("queries", "keys"), CAUSAL[1:3])
def test_causal_with_alibi(quick_library, queries, keys):
    case = make(rows=1, queries=queries, keys=keys)
    case.causal, case.slopes = True, torch.tensor([0.5, 0.0625])
    case.biases = [draw_bias(case, queries, keys), draw_bias(case, keys)]
    check(quick_library, case, order=3)


@verify
@pytest.mark.parametrize("width", [32, 64, 128])
@pytest.mark.parametrize(("queries", "keys"), CAUSAL)
def test_causal_when_the_last_query_stands_at_the_last_key(library, queries, keys, width):
    case = make(rows=1, queries=queries, keys=keys, width=width)
    case.causal = True
    case.biases = [draw_bias(case, queries, keys), draw_bias(case, keys)]
    check(library, case, order=3)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_strided_views_are_read_and_written_where_they_lie(quick_library, dtype):
    """Triangle attention around the ending node: rows and positions swapped, nothing copied."""
    case = make(rows=5, queries=9, gate=True, dtype=dtype)
    for name in ("q", "k", "v", "gate"):
        tensor = getattr(case, name)
        setattr(case, name, tensor.transpose(0, 1).contiguous().transpose(0, 1))
    case.biases = [draw_bias(case, 1, 2, 9, 9).transpose(-1, -2)]
    case.mask = draw_mask(5, 1, 1, 18)[..., ::2]
    incoming = draw_incoming(case)
    incoming.out = incoming.out.transpose(0, 1).contiguous().transpose(0, 1)
    out, lse, wanted = expected(case, incoming)
    backing = torch.full((9, 5, 3, 64), torch.nan, dtype=dtype)
    views = WantedGradients(None, backing[:, :, :2, 1::2].transpose(0, 1), None, None, [None])
    launch_backward(quick_library, problem_of(case), out.to(dtype), lse.float(), incoming.out, None, views)
    error = (views.k.double() - wanted[1]).abs().max() / wanted[1].abs().max()
    assert error <= 2e-2
    assert backing[:, :, 2].isnan().all(), "written beside the view"
    assert backing[:, :, :2, ::2].isnan().all(), "written beside the view"
    check(quick_library, case, incoming, order=2)


def test_a_gradient_of_the_output_without_memory_of_its_own(quick_library):
    case = make(queries=17)
    incoming = draw_incoming(case)
    incoming.out = torch.ones((), dtype=case.q.dtype).expand(case.q.shape)
    check(quick_library, case, incoming)


def test_only_what_is_wanted_is_computed(quick_library):
    case = whole_case(17)
    everything = ("q", "k", "v", "gate", "bias 0", "bias 1")
    for wanted in everything:
        skip = [name for name in everything if name != wanted]
        assert list(check(quick_library, case, skip=skip)) == [wanted]


def test_leading_dimensions_that_do_not_flatten_add_up_launch_by_launch(quick_library):
    case = make((2, 3), rows=1, queries=3)
    case.biases = [draw_bias(case, 2, 1, 1, 2, 3, 3), draw_bias(case, 1, 3, 1, 2, 3, 3)]
    check(quick_library, case)
    grads = WantedGradients(None, None, None, None, [torch.empty_like(bias) for bias in case.biases])
    lse = torch.zeros(2, 3, 1, 2, 3)
    launches = list(fill_backward_arguments(problem_of(case), case.q, lse, case.q, None, grads))
    assert [[view.added for view in each.grad_biases[:2]] for each in launches] == [[0, 1]] * 2


def test_the_same_call_gives_the_same_bits_in_every_order(quick_library):
    case = telling_case(17)
    incoming = of_both(case)
    out, lse, _ = expected(case, incoming)
    first = run(quick_library, case, incoming, out, lse, order=0)
    for order in ORDERS[1:4]:
        again = run(quick_library, case, incoming, out, lse, order)
        assert all(torch.equal(grad, again[name]) for name, grad in first.items())


@verify
@pytest.mark.parametrize("block_limit", [0, 1, 3])
@pytest.mark.parametrize("order", ORDERS)
def test_every_order_of_threads_and_blocks(library, order, block_limit):
    case = telling_case(keys=147)
    check(library, case, of_both(case), order, block_limit)


def questions(case):
    """The arguments of a call that wants everything, without a workspace."""
    owners = [getattr(case, name) for name in ("q", "k", "v", "gate")]
    lse = torch.zeros(*case.q.shape[:-3], case.q.shape[-2], case.q.shape[-3])
    grads = WantedGradients(*owners, case.biases)
    return next(iter(fill_backward_arguments(problem_of(case), case.q, lse, case.q, None, grads)))


def test_the_workspace_is_two_numbers_a_query_the_gated_gradient_and_bounded_partial_sums(quick_library):
    case = make(rows=3, queries=65, width=20)
    sums = 2 * 4 * 3 * 2 * 128
    assert workspace_bytes(quick_library, questions(case)) == sums
    case.gate = case.q
    sums += 3 * 2 * 65 * 24 * 2
    assert workspace_bytes(quick_library, questions(case)) == sums
    case.biases = [draw_bias(case, 1, 2, 65, 65)]
    assert workspace_bytes(quick_library, questions(case)) == sums + 3 * 8 * 64 * 64 * 4


def test_the_workspace_of_a_large_problem(quick_library):
    case = make(queries=2)
    case.biases = [draw_bias(case, 2, 2)]
    arguments = questions(case)
    own = arguments.forward
    own.rows, own.heads, own.queries, own.keys = 512, 8, 1024, 1024
    sums = 2 * 4 * 512 * 8 * 1024
    for strides in [(0, 1, 1, 1), (1, 0, 0, 1), (0, 0, 0, 1), (1, 1, 1, 1), (0, 0, 1, 1)]:
        view = arguments.grad_biases[0]
        view.row, view.head, view.query, view.key = strides
        assert sums <= workspace_bytes(quick_library, arguments) <= sums + 2**23


def refusal(library, arguments):
    message = ctypes.create_string_buffer(200)
    status = library.foldase_attention_backward(ctypes.byref(arguments), None, message, ctypes.c_int64(200))
    return status, message.value.decode()


def test_what_the_library_does_not_take_is_named(quick_library):
    arguments = questions(make(queries=3))
    assert refusal(quick_library, arguments) == (1, "the workspace has 0 bytes; expected 2048")
    arguments.workspace_bytes = 4096
    assert refusal(quick_library, arguments) == (1, "the workspace must lie at a multiple of 16")
    arguments.forward.lse = None
    assert refusal(quick_library, arguments) == (1, "lse and grad_out must not be null")
    arguments.forward.size = ctypes.sizeof(AttentionArguments) - 8
    status, message = refusal(quick_library, arguments)
    assert status == 1
    assert "build it again" in message
    assert workspace_bytes(quick_library, arguments) == -1
    status, message = refusal(quick_library, AttentionBackwardArguments(size=8))
    assert status == 1
    assert "the arguments have 8 bytes" in message
