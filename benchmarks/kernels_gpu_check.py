"""Whether a backend is right: all arguments at odd sizes against float64, and repeats bit for bit."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import torch

from foldase_kernels import evoformer_attention

FLOAT32_FORWARD, FLOAT32_GRADIENT = 1e-5, 1e-4
"""Largest error relative to the largest value of the float64 result."""

HALF_FACTOR = 2.0
"""A half-precision result may be this much worse than plain products in its dtype with a float32 softmax."""

SMALLEST_SHARE = 1e-3
"""Of the largest of all results: errors of smaller ones are measured against it."""
REPEATS = 100
ROWS, HEADS = 3, 2


@dataclass(frozen=True)
class Case:
    """One call: pair, key and row biases, a gate, and a mask that leaves one row without keys."""

    queries: int
    keys: int
    width: int
    dtype: torch.dtype
    causal: bool

    @property
    def name(self) -> str:
        """For file names and messages."""
        kind = "causal" if self.causal else "plain"
        return f"{self.queries}x{self.keys}-{self.width}-{str(self.dtype).removeprefix('torch.')}-{kind}"


DTYPES = (torch.float32, torch.bfloat16, torch.float16)
CASES = tuple(
    Case(length, length, width, dtype, length % 2 == 1 and width == 32)
    for length, width, dtype in itertools.product((1, 15, 17, 63, 65, 129, 256), (8, 32, 48, 128), DTYPES)
) + tuple(Case(17, 65, 32, dtype, False) for dtype in DTYPES)
FEW_CASES = (CASES[0], Case(17, 17, 32, torch.float32, True), Case(5, 9, 8, torch.bfloat16, False))


class Problem:
    """The tensors of a case, the same on every machine."""

    def __init__(self, case: Case, device: torch.device) -> None:
        generator = torch.Generator().manual_seed(case.queries * 1000 + case.width)

        def normal(*sizes: int) -> torch.Tensor:
            return torch.randn(*sizes, generator=generator).to(device, case.dtype)

        queries, keys = (ROWS, case.queries, HEADS, case.width), (ROWS, case.keys, HEADS, case.width)
        self.case = case
        self.tensors = (
            *(normal(*queries), normal(*keys), normal(*keys)),
            normal(HEADS, case.queries, case.keys),
            normal(ROWS, 1, 1, case.keys),
            normal(ROWS, HEADS, case.queries, case.keys),
            normal(*queries),
        )
        self.dout = normal(*queries)
        self.mask = (torch.rand(ROWS, 1, 1, case.keys, generator=generator) > 0.2).to(device)
        self.mask[-1] = False

    def solve(self, backend: str, dtype: torch.dtype | None = None) -> list[torch.Tensor]:
        """The result and the gradients of q, k, v, the three biases and the gate."""
        q, k, v, pair, key, row, gate = leaves = self._leaves(dtype)
        out = evoformer_attention(
            q, k, v, (pair, key, row), mask=self.mask, gate=gate, causal=self.case.causal, backend=backend
        )
        return [out.detach(), *torch.autograd.grad(out, leaves, self.dout.to(out.dtype))]

    def solve_plainly(self) -> list[torch.Tensor]:
        """The yardstick: products in the dtype of the inputs, the softmax in float32."""
        q, k, v, pair, key, row, gate = leaves = self._leaves(None)
        scores = torch.einsum("rqhc,rkhc->rhqk", q * q.shape[-1] ** -0.5, k) + pair + key + row
        allowed = self.mask.expand(scores.shape)
        if self.case.causal:
            allowed = allowed.tril(self.case.keys - self.case.queries)
        chances = scores.float().masked_fill(~allowed, -1e30).softmax(-1) * allowed
        out = torch.einsum("rhqk,rkhc->rqhc", chances.to(v.dtype), v) * torch.sigmoid(gate)
        return [out.detach(), *torch.autograd.grad(out, leaves, self.dout)]

    def _leaves(self, dtype: torch.dtype | None) -> list[torch.Tensor]:
        return [tensor.detach().to(dtype or tensor.dtype).requires_grad_() for tensor in self.tensors]


NAMES = ("out", "dq", "dk", "dv", "dpair", "dkey", "drow", "dgate")


def complaints(case: Case, backend: str, device: torch.device) -> list[str]:
    """What is wrong with a backend's answer to a case; nothing when it is right."""
    problem = Problem(case, device)
    exact, found = problem.solve("reference", torch.float64), problem.solve(backend)
    plain = problem.solve_plainly() if case.dtype != torch.float32 else found
    # A query with one key has gradients of 0: what is left of them is rounding of the others.
    least = SMALLEST_SHARE * max(float(truth.abs().max()) for truth in exact)
    wrong = []
    for name, truth, answer, usual in zip(NAMES, exact, found, plain, strict=True):
        error = _error(answer, truth, least)
        if case.dtype == torch.float32:
            allowed = FLOAT32_FORWARD if name == "out" else FLOAT32_GRADIENT
        else:
            allowed = HALF_FACTOR * max(_error(usual, truth, least), torch.finfo(case.dtype).eps)
        if not error <= allowed:
            wrong.append(
                f"{case.name}: {name} is off by {error:.2e} of its largest value, allowed {allowed:.2e}"
            )
    return wrong


def _error(found: torch.Tensor, truth: torch.Tensor, least: float) -> float:
    if not bool(torch.isfinite(found).all()):
        return float("inf")
    return float((found.double() - truth).abs().max() / truth.abs().max().clamp(min=least))


def changes(case: Case, backend: str, device: torch.device, repeats: int = REPEATS) -> list[str]:
    """Which results differ in any bit between repeats of one call."""
    problem = Problem(case, device)
    first = problem.solve(backend)
    different: set[str] = set()
    for _ in range(repeats):
        again = problem.solve(backend)
        different |= {
            name for name, one, two in zip(NAMES, first, again, strict=True) if not torch.equal(one, two)
        }
    return [f"{case.name}: {name} changes between runs" for name in sorted(different)]


@dataclass(frozen=True)
class OddCall:
    """A call that the sweep over sizes does not make: what gets gradients, and how to call with it."""

    name: str
    leaves: tuple[torch.Tensor, ...]
    run: Callable[..., torch.Tensor | tuple[torch.Tensor, torch.Tensor]]


def odd_calls(device: torch.device) -> list[OddCall]:
    """Transposed views, cross attention with ALiBi, six biases, leading dimensions, the log-sum-exp alone."""
    generator = torch.Generator().manual_seed(11)

    def normal(*sizes: int) -> torch.Tensor:
        return torch.randn(*sizes, generator=generator).to(device)

    slopes, mask = normal(2).abs(), normal(37, 1, 1, 37) > -1.0
    pair, square = normal(37, 37, 2, 64), normal(37, 37, 2)

    def ending(pair, square, **chosen):
        q, k, v, gate = pair.transpose(0, 1).split(16, -1)
        return evoformer_attention(q, k, v, (square.permute(2, 1, 0),), gate=gate, mask=mask, **chosen)

    def distant(q, k, v, **chosen):
        return evoformer_attention(q, k, v, causal=True, alibi_slopes=slopes, return_lse=True, **chosen)

    def biased(q, k, v, *biases, **chosen):
        return evoformer_attention(q, k, v, biases, **chosen)

    def measured(q, k, v, bias, **chosen):
        return evoformer_attention(q, k, v, (bias,), return_lse=True, **chosen)[1]

    heads = normal(3, 41, 2, 24), normal(3, 70, 2, 24), normal(3, 70, 2, 24)
    six = [(2, 41, 70), (3, 1, 1, 70), (41, 1), (70,), (3, 2, 41, 70), (2, 1, 1)]
    batched = [normal(2, 3, 9, 2, 32) for _ in range(3)]
    return [
        OddCall("ending node", (pair, square), ending),
        OddCall("cross with ALiBi", heads, distant),
        OddCall("six biases", (*heads, *(normal(*shape) for shape in six)), biased),
        OddCall("leading dimensions", (*batched, normal(2, 1, 2, 9, 9), normal(9, 9)), biased),
        OddCall("log-sum-exp", (*heads, normal(2, 41, 70)), measured),
    ]


def odd_complaints(backend: str, device: torch.device) -> list[str]:
    """What is wrong with results and gradients of the odd calls, in float32."""
    wrong = []
    for call in odd_calls(device):
        exact, found = _results(call, "reference", torch.float64), _results(call, backend, torch.float32)
        least = SMALLEST_SHARE * max(float(truth.abs().max()) for truth in exact)
        for number, (answer, truth) in enumerate(zip(found, exact, strict=True)):
            error = _error(answer, truth, least)
            if not error <= FLOAT32_GRADIENT:
                wrong.append(f"{call.name}: result {number} is off by {error:.2e} of its largest value")
    return wrong


def _results(call: OddCall, backend: str, dtype: torch.dtype) -> list[torch.Tensor]:
    leaves = [leaf.detach().to(dtype).requires_grad_() for leaf in call.leaves]
    given = call.run(*leaves, backend=backend)
    results = given if isinstance(given, tuple) else (given,)
    # Of a causal query before the first key the log-sum-exp is -inf.
    results = tuple(result.masked_fill(result == -torch.inf, 0.0) for result in results)
    grads = torch.autograd.grad(sum((result.double().sin()).sum() for result in results), leaves)
    return [*(result.detach() for result in results), *grads]


def graph_complaints(case: Case, backend: str, device: torch.device) -> list[str]:
    """Results that differ when forward and backward are replayed from a CUDA graph."""
    problem = Problem(case, device)
    wanted = problem.solve(backend)
    side = torch.cuda.Stream(device)
    side.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(side):
        problem.solve(backend)
    torch.cuda.current_stream(device).wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = problem.solve(backend)
    graph.replay()
    torch.cuda.synchronize(device)
    return [
        f"{case.name}: {name} of a replayed graph differs"
        for name, one, other in zip(NAMES, wanted, found, strict=True)
        if not torch.equal(one, other)
    ]
