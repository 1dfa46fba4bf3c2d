"""What arguments of an AdamW step must be."""

from __future__ import annotations

import torch

from foldase_kernels.vectors import check_apart, check_vector

STATE, LOW = torch.float32, torch.bfloat16


def check_vectors(
    weights: torch.Tensor,
    others: dict[str, torch.Tensor | None],
    gradient: torch.Tensor,
    out: torch.Tensor | None,
    *,
    state_dtypes: tuple[torch.dtype, ...],
) -> None:
    """Refuse vectors that do not fit together.

    Args:
        weights: the first of them.
        others: moments and average by name, like weights.
        gradient: as long, of the dtype of the weights or bfloat16.
        out: as long, bfloat16.
        state_dtypes: that weights may have.

    Raises:
        ValueError: names the argument, what it is and what was expected.
    """
    if weights.dtype not in state_dtypes:
        raise ValueError(f"weights are {weights.dtype}; expected {' or '.join(map(str, state_dtypes))}")
    expected: dict[str, tuple[torch.Tensor | None, tuple[torch.dtype, ...]]]
    expected = {name: (vector, (weights.dtype,)) for name, vector in others.items()}
    expected["weights"] = (weights, (weights.dtype,))
    expected["gradient"] = (gradient, (weights.dtype, LOW))
    expected["out"] = (out, (LOW,))
    for name, (vector, dtypes) in expected.items():
        if vector is not None:
            _check(name, vector, dtypes, weights)
    present = {name: vector for name, (vector, _) in expected.items() if vector is not None}
    # The new weights may take the place of the gradient they came from.
    check_apart(present, replaced=frozenset({"gradient", "out"}))


def check_summed(vector: torch.Tensor) -> None:
    """Refuse what no sum of squares is computed of.

    Raises:
        ValueError: not a contiguous vector of float32 or bfloat16.
    """
    check_vector("vector", vector, (STATE, LOW))


def _check(name: str, vector: torch.Tensor, dtypes: tuple[torch.dtype, ...], weights: torch.Tensor) -> None:
    check_vector(name, vector, dtypes)
    if vector.numel() != weights.numel():
        raise ValueError(f"{name} has {vector.numel()} elements, weights have {weights.numel()}")
    if vector.device != weights.device:
        raise ValueError(f"{name} is on {vector.device}, weights are on {weights.device}")
