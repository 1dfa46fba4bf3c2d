"""Direct couplings by pseudolikelihood.

Source: Ekeberg et al., Phys. Rev. E 87:012707 (2013); Balakrishnan et al., Proteins 79:1061 (2011); the
symmetric form (one coupling a pair, all columns at once) as in Kamisetty et al., PNAS 110:15674 (2013). The
function minimised is

    - sum_s w_s sum_i log P(s_i | the other letters of s) + field_penalty |h|^2 + coupling_penalty |J|^2

with every pair counted once in |J|^2. It is convex, so a vanishing gradient means *the* answer. Letters enter
centred by their frequency, which changes what ``h`` means but none of the distributions, and makes the search
converge several times faster.

Shapes: S sequences, N columns, Q letters, P = N (N - 1) / 2 pairs; flat vectors hold N Q fields, then P Q^2
couplings, those of column i with all later columns as one (Q, (N - i - 1) Q) rectangle.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import embedding_bag

from foldase_models.coevolution.lbfgs import Minimum, minimise
from foldase_models.coevolution.statistics import check_alignment

BLOCK_BYTES = 128 * 2**20
"""Memory of the conditional probabilities of one block of sequences."""
FIELD_PENALTY = 0.01
COUPLING_PENALTY = 20.0
TOLERANCE = 3e-4
MAX_ITERATIONS = 500


@dataclass(frozen=True, slots=True)
class PseudolikelihoodFit:
    """A fitted model.

    Attributes:
        couplings: float32 (N, Q, N, Q), symmetric under the exchange of (i, a) and (j, b), 0 for i = j.
        gradient_norm: Euclidean norm of the gradient at the end.
        relative_gradient: the same over that of the model without couplings.
        objective: value at the end, nats.
        iterations: of L-BFGS.
        evaluations: of the function.
        converged: whether ``relative_gradient`` reached the tolerance.
    """

    couplings: NDArray[np.float32]
    gradient_norm: float
    relative_gradient: float
    objective: float
    iterations: int
    evaluations: int
    converged: bool


def fit_pseudolikelihood(
    letters: NDArray[np.uint8],
    alphabet: int,
    weights: NDArray[np.floating] | None = None,
    *,
    coupling_penalty: float = COUPLING_PENALTY,
    field_penalty: float = FIELD_PENALTY,
    tolerance: float = TOLERANCE,
    max_iterations: int = MAX_ITERATIONS,
    dtype: torch.dtype = torch.float32,
    report: Callable[[int, float, float], None] | None = None,
) -> PseudolikelihoodFit:
    """Fit a Potts model.

    Memory is about 18 vectors of P Q^2 numbers (L = 191, Q = 21: 0.6 GB) and 2 blocks, whatever S is; time is
    proportional to S N^2 Q.

    Args:
        letters: uint8 (S, N).
        alphabet: number of letters Q.
        weights: (S,), 1 each where not given.
        coupling_penalty: of each squared coupling, above 0.
        field_penalty: of each squared field, above 0.
        tolerance: of the gradient, relative to that of the model without couplings.
        max_iterations: after which the fit ends unconverged (``converged`` says so).
        dtype: float32, or float64 for tests.
        report: called after each iteration with its number, the value and the relative gradient; may raise
            to stop.

    Raises:
        ValueError: a penalty that is not positive, or letters or weights that do not fit.
    """
    if min(coupling_penalty, field_penalty) <= 0:
        raise ValueError("penalties must be positive")
    weight = check_alignment(letters, alphabet, weights)
    problem = _Problem(letters, alphabet, weight, coupling_penalty, field_penalty, dtype)
    with torch.no_grad():
        found = minimise(
            problem,
            problem.start(),
            problem.preconditioner(),
            tolerance=tolerance,
            max_iterations=max_iterations,
            report=report,
        )
        return _as_fit(problem, found)


def _as_fit(problem: _Problem, found: Minimum) -> PseudolikelihoodFit:
    couplings = problem.unpack(found.point).reshape(problem.N, problem.Q, problem.N, problem.Q)
    return PseudolikelihoodFit(
        couplings.to(torch.float32).numpy(),
        found.gradient_norm,
        found.relative_gradient,
        found.value,
        found.iterations,
        found.evaluations,
        found.converged,
    )


@dataclass(frozen=True, slots=True)
class _Block:
    """Some sequences: their letters as rows of the coupling matrix, and the same sorted by letter.

    ``columns`` int32 (B, N); ``members`` int32 (B N,): the sequences that hold a letter, letter by letter,
    ``starts`` int32 (N Q,) where each letter's begin; ``weights`` (B,).
    """

    columns: Tensor
    members: Tensor
    starts: Tensor
    weights: Tensor


class _Problem:
    """The function, its gradient and a preconditioner, on flat vectors."""

    def __init__(
        self,
        letters: NDArray[np.uint8],
        alphabet: int,
        weights: NDArray[np.float64],
        coupling_penalty: float,
        field_penalty: float,
        dtype: torch.dtype,
    ) -> None:
        S, self.N = letters.shape
        self.Q = alphabet
        self.width = self.N * alphabet
        self.dtype = dtype
        self.penalties = (field_penalty, coupling_penalty)
        self._matrix = torch.zeros((self.width, self.width), dtype=dtype)
        rows = max(1, BLOCK_BYTES // (self.width * self._matrix.element_size()))
        self.blocks = [
            self._block(letters[first : first + rows], weights[first : first + rows])
            for first in range(0, S, rows)
        ]
        count = torch.zeros(self.width, dtype=torch.float64)
        for block in self.blocks:
            spread = block.weights.double()[:, None].expand(-1, self.N)
            count.index_add_(0, block.columns.reshape(-1).long(), spread.reshape(-1))
        self.total = float(weights.sum())
        self.frequency = (count / self.total).to(dtype)

    def _block(self, letters: NDArray[np.uint8], weights: NDArray[np.float64]) -> _Block:
        columns = torch.from_numpy(letters.astype(np.int32) + np.arange(self.N, dtype=np.int32) * self.Q)
        flat = columns.reshape(-1)
        order = torch.argsort(flat, stable=True)
        counts = torch.bincount(flat, minlength=self.width)
        starts = torch.cumsum(counts, 0) - counts
        return _Block(
            columns,
            (order // self.N).to(torch.int32),
            starts.to(torch.int32),
            torch.from_numpy(weights).to(self.dtype),
        )

    def start(self) -> Tensor:
        """No couplings; fields of independent columns, zero-sum."""
        smoothed = (self.frequency * self.total + 1.0) / (self.total + self.Q)
        fields = smoothed.log().reshape(self.N, self.Q)
        fields -= fields.mean(dim=1, keepdim=True)
        pairs = self.N * (self.N - 1) // 2
        return torch.cat([fields.reshape(-1), torch.zeros(pairs * self.Q**2, dtype=self.dtype)])

    def preconditioner(self) -> Tensor:
        """One over the diagonal of the Hessian of the model without couplings."""
        spread = self.frequency * (1 - self.frequency)
        parts = [1.0 / (self.total * spread + 2 * self.penalties[0])]
        for own, later in self._rectangles():
            hessian = 2 * self.total * torch.outer(spread[own], spread[later]) + 2 * self.penalties[1]
            parts.append((1.0 / hessian).reshape(-1))
        return torch.cat(parts)

    def __call__(self, point: Tensor) -> tuple[float, Tensor]:
        """Value (float64 sums) and gradient."""
        field_penalty, coupling_penalty = self.penalties
        fields, packed = point[: self.width], point[self.width :]
        couplings = self.unpack(point)
        offset = fields - self.frequency @ couplings
        value = field_penalty * _square(fields) + coupling_penalty * _square(packed)
        field_gradient = torch.zeros_like(fields)
        slopes = torch.zeros_like(couplings)
        for block in self.blocks:
            loss, residual = self._residuals(block, couplings, offset)
            value += loss
            field_gradient += residual.sum(dim=0)
            slopes += embedding_bag(block.members, residual, block.starts, mode="sum")
        slopes.sub_(torch.outer(self.frequency, field_gradient))
        parts = [field_gradient.add(fields, alpha=2 * field_penalty)]
        for own, later in self._rectangles():
            parts.append((slopes[own, later] + slopes[later, own].T).reshape(-1))
        gradient = torch.cat(parts)
        gradient[self.width :].add_(packed, alpha=2 * coupling_penalty)
        return value, gradient

    def _residuals(self, block: _Block, couplings: Tensor, offset: Tensor) -> tuple[float, Tensor]:
        """Minus the weighted log-likelihood, and its derivative by the logits, (B, N Q)."""
        logits = embedding_bag(block.columns, couplings, mode="sum").add_(offset)
        logs = torch.log_softmax(logits.reshape(-1, self.N, self.Q), dim=-1).reshape(-1, self.width)
        own = block.columns.long()
        chosen = logs.gather(1, own).sum(dim=1, dtype=torch.float64)
        loss = -float(torch.dot(chosen, block.weights.double()))
        residual = logs.exp_()
        residual.scatter_add_(1, own, torch.full_like(own, -1, dtype=self.dtype))
        return loss, residual.mul_(block.weights[:, None])

    def unpack(self, point: Tensor) -> Tensor:
        """The symmetric coupling matrix (N Q, N Q) of a flat vector, in a buffer that is used again."""
        first = self.width
        for own, later in self._rectangles():
            rows, columns = self.Q, self.width - later.start
            rectangle = point[first : first + rows * columns].reshape(rows, columns)
            self._matrix[own, later] = rectangle
            self._matrix[later, own] = rectangle.T
            first += rows * columns
        return self._matrix

    def _rectangles(self) -> Iterator[tuple[slice, slice]]:
        """Rows of each column's letters, and those of all later columns."""
        for i in range(self.N - 1):
            yield slice(i * self.Q, (i + 1) * self.Q), slice((i + 1) * self.Q, self.width)


def _square(values: Tensor) -> float:
    """Sum of squares, float64 between parts: in float32 alone the value would lose its last digits."""
    parts = torch.tensor_split(values, tuple(range(1 << 16, len(values), 1 << 16)))
    return math.fsum(float(torch.dot(part, part)) for part in parts)
