"""The public AdamW step: checks and choice of a backend.

Loshchilov and Hutter 2019 (arXiv:1711.05101), algorithm 2, with g the gradient times ``scale``::

    m = betas[0] m + (1 - betas[0]) g          v = betas[1] v + (1 - betas[1]) g^2
    w = w - rate (weight_decay w + (m / (1 - betas[0]^step)) / (sqrt(v / (1 - betas[1]^step)) + epsilon))
    average = average_decay average + (1 - average_decay) w          out = w, rounded
"""

from __future__ import annotations

import torch

from foldase_kernels.adam.backends import backend_for
from foldase_kernels.adam.checks import STATE, check_summed, check_vectors
from foldase_kernels.adam.problem import Problem, constants


def adamw_(
    weights: torch.Tensor,
    exp_avg: torch.Tensor,
    exp_avg_sq: torch.Tensor,
    gradient: torch.Tensor,
    *,
    step: int,
    rate: float,
    betas: tuple[float, float],
    epsilon: float,
    weight_decay: float,
    scale: float = 1.0,
    average: torch.Tensor | None = None,
    average_decay: float | None = None,
    out: torch.Tensor | None = None,
    backend: str = "auto",
) -> None:
    """One AdamW step of flat vectors, in place, by the formulas above.

    The corrections of bias are computed in double precision. Rounding to bfloat16 is to nearest, ties to
    even; what is not a number stays so, also in the moments and the weights it meets. ``cpp`` reads and
    writes every element once, 28 bytes a parameter with both bfloat16 vectors and without an average, on as
    many threads as ``torch.get_num_threads()``; neither their number nor the processor's vector instructions
    change a bit of its results. ``torch`` takes up to 32 MiB of scratch on a CPU and 64 MiB elsewhere.

    Args:
        weights: ``[n]``, float32, contiguous like all others; any n, any alignment of whole elements.
        exp_avg: first moment, ``[n]``, float32.
        exp_avg_sq: second moment, ``[n]``, float32.
        gradient: ``[n]``, float32 or bfloat16; ``torch`` multiplies one of float32 with ``scale`` in place.
        step: number of this one, from 1.
        rate: learning rate.
        betas: decay of the moments.
        epsilon: added to the root of the corrected second moment.
        weight_decay: decoupled; times ``rate``.
        scale: what the gradient is multiplied with first, such as the factor of clipping.
        average: exponential average of the weights, ``[n]``, float32; with ``average_decay``.
        average_decay: share of the average that is kept.
        out: ``[n]``, bfloat16, gets the new weights; may be the memory of a bfloat16 gradient, which is
            gone then.
        backend: ``"auto"`` or a name from :func:`available_backends`. ``auto`` takes ``cpp`` on a CPU where
            ``python -m foldase_kernels build`` has been run, else ``torch``; it logs once what it chose.

    Raises:
        ValueError: an argument does not fit (it is named), two vectors share memory, or the backend does not
            exist here.
    """
    if (average is None) != (average_decay is None):
        raise ValueError("average and average_decay go together; one of them is missing")
    known = constants(step, rate, betas, epsilon, weight_decay, scale, average_decay)
    state_dtypes = (STATE, torch.float64) if backend == "reference" else (STATE,)
    others = {"exp_avg": exp_avg, "exp_avg_sq": exp_avg_sq, "average": average}
    check_vectors(weights, others, gradient, out, state_dtypes=state_dtypes)
    problem = Problem(weights, exp_avg, exp_avg_sq, gradient, average, out, known)
    backend_for(backend, weights.device).step(problem)


def square_sum(vector: torch.Tensor, *, backend: str = "auto") -> float:
    """The sum of the squares of a vector's elements in float64; not finite where one of them is not.

    Args:
        vector: ``[n]``, float32 or bfloat16, contiguous.
        backend: as for :func:`adamw_`; ``cpp`` gives the same bits with any number of threads.

    Raises:
        ValueError: the vector is of another kind, or the backend does not exist here.
    """
    check_summed(vector)
    return backend_for(backend, vector.device).square_sum(vector)
