"""Transition and outer product mean on a GPU: checks against float64, then times and memory.

Both are products of matrices, so their floors are those of products or of memory traffic, whichever is more.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from kernels_gpu_check import FLOAT32_FORWARD, FLOAT32_GRADIENT, HALF_FACTOR, REPEATS, SMALLEST_SHARE
from kernels_gpu_shapes import BF16_BYTES, BYTES_PER_SECOND, FLOP_PER_SECOND
from torch.nn.functional import layer_norm, linear, silu

from foldase_kernels.outer_product_mean import outer_product_mean
from foldase_kernels.transition import TransitionParameters, transition

SEED = 11
EPSILON = 1e-3
Run = Callable[[str, Sequence[torch.Tensor]], torch.Tensor]


@dataclass(frozen=True)
class Rows:
    """One call: a transition of ``length ** 2`` positions, or products of ``depth`` sequences.

    ``channels`` are those of x, or of a pair; ``hidden`` those of the hidden layer, or of a factor.
    """

    name: str
    length: int
    channels: int
    hidden: int
    depth: int = 0
    gated: bool = False

    @property
    def flop(self) -> int:
        """Of products, forward; the backward pass of a product takes two."""
        pairs = self.length**2
        if self.depth:
            return 2 * pairs * self.hidden**2 * (self.depth + self.channels)
        return 2 * pairs * self.channels * self.hidden * (3 if self.gated else 2)

    @property
    def moved(self) -> int:
        """Bytes of what must be read and written at least, forward."""
        pairs = self.length**2 * self.channels
        factors = 2 * self.depth * self.length * self.hidden
        return BF16_BYTES * (pairs + factors if self.depth else 2 * pairs)

    def floor_ms(self, mode: str) -> float:
        """The least milliseconds of ``"forward"``, or of ``"backward"`` alone."""
        times = 1 if mode == "forward" else 2
        return 1e3 * times * max(self.flop / FLOP_PER_SECOND, self.moved / BYTES_PER_SECOND)

    def tensors(self, device: torch.device, dtype: torch.dtype) -> list[torch.Tensor]:
        """What gets gradients, the same numbers everywhere, scaled to results near 1."""
        generator = torch.Generator(device).manual_seed(SEED + self.length)

        def normal(*sizes: int) -> torch.Tensor:
            drawn = torch.randn(*sizes, generator=generator, device=device)
            return (drawn * sizes[-1] ** -0.5 if len(sizes) == 2 else drawn).to(dtype)

        if self.depth:
            factors = [normal(self.depth, self.length, self.hidden) for _ in range(2)]
            return [*factors, normal(self.channels, self.hidden**2), normal(self.channels)]
        into = [normal(self.hidden, self.channels), normal(self.hidden)]
        back = [normal(self.channels, self.hidden), normal(self.channels)]
        norm = [normal(self.channels), normal(self.channels)]
        gate = [normal(self.hidden, self.channels)] if self.gated else []
        return [normal(self.length, self.length, self.channels), *norm, *into, *back, *gate]

    def shown(self, device: torch.device) -> torch.Tensor:
        """A mask with one row of which nothing is seen."""
        sizes = (self.depth or self.length, self.length)
        generator = torch.Generator(device).manual_seed(SEED)
        mask = torch.rand(*sizes, generator=generator, device=device) > 0.2
        mask[-1] = False
        return mask

    def run(self, backend: str, tensors: Sequence[torch.Tensor], mask: torch.Tensor) -> torch.Tensor:
        """A backend's answer; ``"plain"`` is what torch makes of it in the dtype of the tensors."""
        if self.depth:
            a, b, weight, bias = tensors
            if backend == "plain":
                return _plain_mean(a, b, weight, bias, mask)
            return outer_product_mean(a, b, weight, bias, weights=mask, epsilon=EPSILON, backend=backend)
        x, *parameters = tensors
        if backend == "plain":
            return _plain_transition(x, *parameters, mask=mask)
        activation = "swiglu" if self.gated else "relu"
        named = TransitionParameters(*parameters)
        return transition(x, named, activation=activation, mask=mask, residual=True, backend=backend)

    def solve(
        self, backend: str, device: torch.device, dtype: torch.dtype, to: torch.dtype
    ) -> list[torch.Tensor]:
        """The result and all gradients for numbers of ``dtype``, computed in ``to``."""
        leaves = [tensor.to(to).requires_grad_() for tensor in self.tensors(device, dtype)]
        out = self.run(backend, leaves, self.shown(device))
        weights = torch.randn(out.shape, generator=torch.Generator(device).manual_seed(1), device=device)
        return [out.detach(), *torch.autograd.grad(out, leaves, weights.to(dtype).to(to))]


def _plain_mean(
    a: torch.Tensor, b: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, mask: torch.Tensor
) -> torch.Tensor:
    real = mask.to(a.dtype)
    count = real.float().mT @ real.float() + EPSILON
    products = torch.einsum("sic,sjd->ijcd", a * real[..., None], b * real[..., None]).flatten(-2)
    return (linear(products, weight, bias).float() / count[..., None]).to(a.dtype)


def _plain_transition(
    x: torch.Tensor,
    norm_weight: torch.Tensor,
    norm_bias: torch.Tensor,
    weight_in: torch.Tensor,
    bias_in: torch.Tensor,
    weight_out: torch.Tensor,
    bias_out: torch.Tensor,
    weight_gate: torch.Tensor | None = None,
    *,
    mask: torch.Tensor,
) -> torch.Tensor:
    normed = layer_norm(x, x.shape[-1:], norm_weight, norm_bias, 1e-5)
    hidden = linear(normed, weight_in, bias_in)
    hidden = torch.relu(hidden) if weight_gate is None else silu(linear(normed, weight_gate)) * hidden
    return x + linear(hidden, weight_out, bias_out) * mask[..., None]


@dataclass(frozen=True)
class Case:
    """One check."""

    rows: Rows
    dtype: torch.dtype

    @property
    def name(self) -> str:
        """For file names and messages."""
        return f"{self.rows.name}-{str(self.dtype).removeprefix('torch.')}".replace(" ", "_")


_ODD = (
    *(Rows(f"transition {n} of {c}", n, c, 4 * c + 1) for n, c in ((1, 8), (17, 33), (65, 128), (33, 256))),
    *(Rows(f"gated {n} of {c}", n, c, 2 * c, gated=True) for n, c in ((15, 24), (63, 128))),
    *(Rows(f"products {n} of {d}", n, 128, 32, depth=d) for n, d in ((1, 1), (17, 5), (65, 130))),
    *(Rows(f"products of {c} channels", 19, 48, c, depth=33) for c in (1, 12, 64)),
)
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
CASES = tuple(Case(*pair) for pair in itertools.product(_ODD, DTYPES))
FEW_CASES = tuple(
    Case(Rows(*pair[0], **pair[1]), torch.float32)
    for pair in (
        (("transition", 7, 12, 20), {}),
        (("gated", 5, 8, 16), {"gated": True}),
        (("products", 9, 6, 4), {"depth": 5}),
    )
)


def complaints(case: Case, backend: str, device: torch.device) -> list[str]:
    """What is wrong with a backend's answer to a case; nothing when it is right."""
    exact = case.rows.solve("reference", device, case.dtype, torch.float64)
    found = case.rows.solve(backend, device, case.dtype, case.dtype)
    half = case.dtype != torch.float32
    plain = case.rows.solve("plain", device, case.dtype, case.dtype) if half else found
    least = SMALLEST_SHARE * max(float(truth.abs().max()) for truth in exact)
    wrong = []
    for number, (truth, answer, usual) in enumerate(zip(exact, found, plain, strict=True)):
        error = _error(answer, truth, least)
        allowed = FLOAT32_GRADIENT if number else FLOAT32_FORWARD
        if half:
            allowed = HALF_FACTOR * max(_error(usual, truth, least), torch.finfo(case.dtype).eps)
        if not error <= allowed:
            what = f"the gradient of input {number}" if number else "the result"
            wrong.append(
                f"{case.name}: {what} is off by {error:.2e} of its largest value, allowed {allowed:.2e}"
            )
    return wrong


def _error(found: torch.Tensor, truth: torch.Tensor, least: float) -> float:
    if not bool(torch.isfinite(found).all()):
        return float("inf")
    return float((found.double() - truth).abs().max() / truth.abs().max().clamp(min=max(least, 1e-30)))


def changes(case: Case, backend: str, device: torch.device, repeats: int = REPEATS) -> list[str]:
    """Which results differ in any bit between repeats of one call."""
    first = case.rows.solve(backend, device, case.dtype, case.dtype)
    different: set[int] = set()
    for _ in range(repeats):
        again = case.rows.solve(backend, device, case.dtype, case.dtype)
        pairs = enumerate(zip(first, again, strict=True))
        different |= {number for number, (one, two) in pairs if not torch.equal(one, two)}
    return [f"{case.name}: result {number} changes between runs" for number in sorted(different)]


LENGTHS = (256, 512, 1024, 2048)
SHAPES = (
    *(Rows(f"transition {length}", length, 128, 512) for length in LENGTHS),
    *(Rows(f"gated transition {length}", length, 128, 512, gated=True) for length in LENGTHS),
    *(Rows(f"outer product mean {length}", length, 128, 32, depth=512) for length in LENGTHS),
)
REHEARSAL = tuple(case.rows for case in FEW_CASES)
SYSTEMS = ("foldase triton", "foldase reference", "plain torch")
REHEARSED = ("foldase cpu", "foldase reference", "plain torch")
