"""The C interface of the compiled attention backward: filling its struct, and starting it.

Mirrors ``FoldaseAttentionBackward`` of ``csrc/attention/arguments.h``.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from foldase_kernels.attention.arguments import (
    DTYPE_CODES,
    MESSAGE_BYTES,
    AttentionBackwardArguments,
    check_status,
    indexed_arguments,
    set_view,
)
from foldase_kernels.attention.problem import Problem


@dataclass(frozen=True, slots=True)
class WantedGradients:
    """Memory for the gradients of one call, each with the shape of what it belongs to; None: not wanted.

    Those of q, k, v and the gate have the dtype of q; those of biases one of float32, bfloat16 and float16.
    """

    q: torch.Tensor | None
    k: torch.Tensor | None
    v: torch.Tensor | None
    gate: torch.Tensor | None
    biases: Sequence[torch.Tensor | None]

    def heads(self) -> dict[str, torch.Tensor]:
        """Those of q, k, v and the gate that are wanted, by the names of the struct."""
        every = {"grad_q": self.q, "grad_k": self.k, "grad_v": self.v, "grad_gate": self.gate}
        return {name: tensor for name, tensor in every.items() if tensor is not None}


def fill_backward_arguments(
    problem: Problem,
    out: torch.Tensor,
    lse: torch.Tensor,
    grad_out: torch.Tensor,
    grad_lse: torch.Tensor | None,
    grads: WantedGradients,
) -> Iterator[AttentionBackwardArguments]:
    """The launches of one call, without a workspace; they must run in this order.

    Args:
        problem: the call, with what the compiled forward takes; slopes are contiguous float32 ``[heads]``.
        out: what the forward returned, times the gate where there is one.
        lse: contiguous float32 ``[..., rows, heads, queries]``.
        grad_out: shape and dtype of out, any strides.
        grad_lse: contiguous float32 like lse.
        grads: written. A bias that broadcasts over leading dimensions which no single launch covers is
            added up launch by launch: its gradient has to be zeroed beforehand.

    Raises:
        ValueError: as :func:`foldase_kernels.attention.arguments.fill_arguments`.
    """
    full, leading = problem.full, problem.q.dim() - 4
    heads = grads.heads()
    totals = {number: total.expand(full) for number, total in enumerate(grads.biases) if total is not None}
    followers = [grad_out, *heads.values(), *totals.values()]
    for index, forward in indexed_arguments(
        problem.q,
        problem.k,
        problem.v,
        problem.biases,
        problem.mask,
        problem.scale,
        problem.causal,
        problem.slopes,
        out,
        gate=problem.gate,
        lse=lse,
        others=followers,
    ):
        arguments = AttentionBackwardArguments(size=ctypes.sizeof(AttentionBackwardArguments))
        arguments.forward = forward
        set_view(arguments.grad_out, grad_out, index, leading)
        for name, tensor in heads.items():
            set_view(getattr(arguments, name), tensor, index, leading)
        for number, total in totals.items():
            view = arguments.grad_biases[number]
            set_view(view, total, index, leading)
            view.dtype = DTYPE_CODES[total.dtype]
            view.added = int(_meets_again(total, index))
        arguments.grad_lse = None if grad_lse is None else grad_lse[index].data_ptr()
        yield arguments


def _meets_again(total: torch.Tensor, index: tuple[int, ...]) -> bool:
    """Whether several launches have a part of this gradient."""
    return any(total.stride(dim) == 0 and total.shape[dim] > 1 for dim in range(len(index)))


def launch_backward(
    library: ctypes.CDLL,
    problem: Problem,
    out: torch.Tensor,
    lse: torch.Tensor,
    grad_out: torch.Tensor,
    grad_lse: torch.Tensor | None,
    grads: WantedGradients,
    *,
    stream: int = 0,
    block_limit: int = 0,
) -> None:
    """Compute gradients with a compiled library; arguments as :func:`fill_backward_arguments`.

    Allocates the workspace, two float32 numbers a query, with a gate the bytes of q, and with gradients of
    biases at most 8 MiB; does not wait for the stream. Slopes may be of any dtype.

    Raises:
        ValueError: arguments that the kernels do not take.
        LaunchError: the library refused the arguments, or a launch failed.
    """
    slopes = None if problem.slopes is None else problem.slopes.to(torch.float32).contiguous()
    own = Problem(
        problem.q,
        problem.k,
        problem.v,
        problem.biases,
        problem.mask,
        problem.gate,
        slopes,
        problem.scale,
        problem.causal,
    )
    message = ctypes.create_string_buffer(MESSAGE_BYTES)
    workspace = torch.empty(0, dtype=torch.uint8, device=own.q.device)
    for arguments in fill_backward_arguments(own, out, lse, grad_out, grad_lse, grads):
        arguments.forward.block_limit = block_limit
        needed = workspace_bytes(library, arguments)
        if needed > workspace.numel():
            workspace = torch.empty(needed, dtype=torch.uint8, device=own.q.device)
        arguments.workspace, arguments.workspace_bytes = workspace.data_ptr(), workspace.numel()
        status = library.foldase_attention_backward(
            ctypes.byref(arguments), ctypes.c_void_p(stream), message, ctypes.c_int64(MESSAGE_BYTES)
        )
        check_status("attention backward", status, message)


def workspace_bytes(library: ctypes.CDLL, arguments: AttentionBackwardArguments) -> int:
    """The bytes of workspace that a launch needs, at an address that is a multiple of 16; -1 if refused."""
    question = library.foldase_attention_backward_workspace
    question.restype = ctypes.c_int64
    return int(question(ctypes.byref(arguments)))
