"""The C interface of the compiled attention kernels: its structs, and how tensors fill them.

Mirrors ``csrc/attention/arguments.h``. Tensors are passed by address and strides, so nothing is copied:
views, transposed rows and broadcast biases are read where they lie.
"""

from __future__ import annotations

import ctypes
import itertools
import math
from collections.abc import Iterator, Sequence

import torch

from foldase_kernels.errors import BUILD_HINT, LaunchError

MAX_BIASES = 4
MESSAGE_BYTES = 1024
REFUSED = 1
"""The status of an entry point to which the arguments make no sense; others are failures to start."""
DTYPE_CODES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}


class TensorView(ctypes.Structure):
    """A tensor ``[batch, row, position, head, channel]``: address and strides in elements."""

    _fields_ = [
        ("data", ctypes.c_void_p),
        ("batch", ctypes.c_int64),
        ("row", ctypes.c_int64),
        ("position", ctypes.c_int64),
        ("head", ctypes.c_int64),
        ("channel", ctypes.c_int64),
    ]


class TermView(ctypes.Structure):
    """A bias or mask over ``[batch, row, head, query, key]``; strides are 0 where it broadcasts."""

    _fields_ = [
        ("data", ctypes.c_void_p),
        ("batch", ctypes.c_int64),
        ("row", ctypes.c_int64),
        ("head", ctypes.c_int64),
        ("query", ctypes.c_int64),
        ("key", ctypes.c_int64),
        ("dtype", ctypes.c_int32),
        ("added", ctypes.c_int32),
    ]


class AttentionArguments(ctypes.Structure):
    """One launch of an attention kernel."""

    _fields_ = [
        ("size", ctypes.c_int64),
        ("batches", ctypes.c_int64),
        ("rows", ctypes.c_int64),
        ("heads", ctypes.c_int64),
        ("queries", ctypes.c_int64),
        ("keys", ctypes.c_int64),
        ("width", ctypes.c_int64),
        ("block_limit", ctypes.c_int64),
        ("q", TensorView),
        ("k", TensorView),
        ("v", TensorView),
        ("gate", TensorView),
        ("out", TensorView),
        ("biases", TermView * MAX_BIASES),
        ("mask", TermView),
        ("slopes", ctypes.c_void_p),
        ("lse", ctypes.c_void_p),
        ("dtype", ctypes.c_int32),
        ("bias_count", ctypes.c_int32),
        ("causal", ctypes.c_int32),
        ("scale", ctypes.c_float),
    ]


class AttentionBackwardArguments(ctypes.Structure):
    """One launch of the backward pass; gradients without an address are not computed."""

    _fields_ = [
        ("size", ctypes.c_int64),
        ("forward", AttentionArguments),
        ("grad_out", TensorView),
        ("grad_q", TensorView),
        ("grad_k", TensorView),
        ("grad_v", TensorView),
        ("grad_gate", TensorView),
        ("grad_biases", TermView * MAX_BIASES),
        ("grad_lse", ctypes.c_void_p),
        ("workspace", ctypes.c_void_p),
        ("workspace_bytes", ctypes.c_int64),
    ]


def _check(q: torch.Tensor, biases: Sequence[torch.Tensor]) -> None:
    if q.dtype not in DTYPE_CODES:
        raise ValueError(f"q is {q.dtype}; the compiled kernels take float32, bfloat16 and float16")
    if len(biases) > MAX_BIASES:
        raise ValueError(f"biases has {len(biases)} entries; the compiled kernels take at most {MAX_BIASES}")
    for number, bias in enumerate(biases):
        if bias.dtype not in DTYPE_CODES:
            raise ValueError(
                f"biases[{number}] is {bias.dtype}; the compiled kernels take float32, bfloat16 and float16"
            )


def _joined_stride(tensor: torch.Tensor, first: int, last: int) -> int | None:
    """The stride that walks through dimensions ``first`` to ``last`` as one; None where there is none."""
    pairs = [(tensor.stride(dim), tensor.shape[dim]) for dim in range(first, last) if tensor.shape[dim] > 1]
    for (outer, _), (inner, size) in itertools.pairwise(pairs):
        if outer != inner * size:
            return None
    return pairs[-1][0] if pairs else 0


def set_view(view: TensorView | TermView, tensor: torch.Tensor, index: tuple[int, ...], leading: int) -> None:
    """Describe what is left of a tensor at an index of its first leading dimensions."""
    part = tensor[index]
    batch = _joined_stride(tensor, len(index), leading)
    assert batch is not None
    row, *others = [_joined_stride(part, dim, dim + 1) for dim in range(part.dim() - 4, part.dim())]
    view.data, view.batch, view.row = part.data_ptr(), batch, row
    for declared, stride in zip(view._fields_[3:6], others, strict=True):
        setattr(view, declared[0], stride)


def fill_arguments(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    biases: Sequence[torch.Tensor],
    mask: torch.Tensor | None,
    scale: float,
    causal: bool,
    slopes: torch.Tensor | None,
    out: torch.Tensor,
    *,
    gate: torch.Tensor | None = None,
    lse: torch.Tensor | None = None,
) -> Iterator[AttentionArguments]:
    """The launches that compute one call; shapes as in the API, which has checked them.

    Leading dimensions are flattened into one where all strides allow it; over those that remain there is one
    launch an index. The tensors must outlive the launches.

    q, k, v, out and gate share one of the dtypes of :data:`DTYPE_CODES`. There are at most
    :data:`MAX_BIASES` biases. ``slopes`` is contiguous float32 ``[heads]``; ``out``, shaped like q, and
    ``lse``, contiguous float32 ``[..., rows, heads, queries]``, are written.

    Raises:
        ValueError: a dtype that the kernels do not take, or too many biases.
    """
    for _, arguments in indexed_arguments(
        q, k, v, biases, mask, scale, causal, slopes, out, gate=gate, lse=lse
    ):
        yield arguments


def indexed_arguments(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    biases: Sequence[torch.Tensor],
    mask: torch.Tensor | None,
    scale: float,
    causal: bool,
    slopes: torch.Tensor | None,
    out: torch.Tensor,
    *,
    gate: torch.Tensor | None = None,
    lse: torch.Tensor | None = None,
    others: Sequence[torch.Tensor] = (),
) -> Iterator[tuple[tuple[int, ...], AttentionArguments]]:
    """:func:`fill_arguments`, each launch with its index of the leading dimensions that are not flattened.

    ``others`` are tensors with all leading dimensions that have to be flattened along.
    """
    _check(q, biases)
    leading = q.dim() - 4
    full = (*q.shape[:-3], q.shape[-2], q.shape[-3], k.shape[-3])
    views = {"q": q, "k": k, "v": v, "out": out, **({} if gate is None else {"gate": gate})}
    terms = [bias.expand(full) for bias in biases]
    masks = [] if mask is None else [mask.expand(full)]
    everything = [*views.values(), *terms, *masks, *([] if lse is None else [lse]), *others]
    # The last leading dimension alone always has a stride.
    apart = next(
        first
        for first in range(leading + 1)
        if first + 1 >= leading
        or all(_joined_stride(each, first, leading) is not None for each in everything)
    )
    for index in itertools.product(*(range(size) for size in full[:apart])):
        arguments = _sizes(q, k, math.prod(full[apart:leading]))
        arguments.scale, arguments.causal, arguments.bias_count = scale, int(causal), len(terms)
        for name, tensor in views.items():
            set_view(getattr(arguments, name), tensor, index, leading)
        for number, bias in enumerate(terms):
            set_view(arguments.biases[number], bias, index, leading)
            arguments.biases[number].dtype = DTYPE_CODES[bias.dtype]
        for view in masks:
            set_view(arguments.mask, view, index, leading)
        arguments.slopes = None if slopes is None else slopes.data_ptr()
        arguments.lse = None if lse is None else lse[index].data_ptr()
        yield index, arguments


def _sizes(q: torch.Tensor, k: torch.Tensor, batches: int) -> AttentionArguments:
    """Arguments with sizes and dtype, everything else absent."""
    return AttentionArguments(
        size=ctypes.sizeof(AttentionArguments),
        batches=batches,
        rows=q.shape[-4],
        heads=q.shape[-2],
        queries=q.shape[-3],
        keys=k.shape[-3],
        width=q.shape[-1],
        dtype=DTYPE_CODES[q.dtype],
    )


def check_status(kernel: str, status: int, message: ctypes.Array[ctypes.c_char]) -> None:
    """Turn the answer of an entry point into an error.

    Raises:
        LaunchError: the status is not 0.
    """
    if status == 0:
        return
    said = f"{kernel}: {message.value.decode(errors='replace')}"
    if status == REFUSED:
        raise LaunchError("refused_arguments", said, f"{BUILD_HINT} anew")
    raise LaunchError("launch_failed", said)


def launch_forward(
    library: ctypes.CDLL,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    biases: Sequence[torch.Tensor],
    mask: torch.Tensor | None,
    scale: float,
    causal: bool,
    alibi_slopes: torch.Tensor | None,
    out: torch.Tensor,
    *,
    gate: torch.Tensor | None = None,
    lse: torch.Tensor | None = None,
    stream: int = 0,
    block_limit: int = 0,
) -> None:
    """Compute ``out``, and ``lse`` where it is given, with a compiled library; see :func:`fill_arguments`.

    Allocates nothing but the float32 copy of slopes that are not float32, and does not wait for the stream.

    Raises:
        ValueError: arguments that the kernels do not take.
        LaunchError: the library refused the arguments, or the launch failed.
    """
    slopes = None if alibi_slopes is None else alibi_slopes.to(torch.float32).contiguous()
    message = ctypes.create_string_buffer(MESSAGE_BYTES)
    for arguments in fill_arguments(q, k, v, biases, mask, scale, causal, slopes, out, gate=gate, lse=lse):
        arguments.block_limit = block_limit
        status = library.foldase_attention_forward(
            ctypes.byref(arguments), ctypes.c_void_p(stream), message, ctypes.c_int64(MESSAGE_BYTES)
        )
        check_status("attention forward", status, message)
