"""What arguments of an AdamW step must be."""

from __future__ import annotations

import itertools

import torch

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
    _check_apart({name: vector for name, (vector, _) in expected.items() if vector is not None})


def check_vector(vector: torch.Tensor) -> None:
    """Refuse what no sum of squares is computed of.

    Raises:
        ValueError: not a contiguous vector of float32 or bfloat16.
    """
    _check("vector", vector, (STATE, LOW), vector)


def _check(name: str, vector: torch.Tensor, dtypes: tuple[torch.dtype, ...], weights: torch.Tensor) -> None:
    if vector.dtype not in dtypes:
        wanted = " or ".join(str(dtype) for dtype in dict.fromkeys(dtypes))
        raise ValueError(f"{name} is {vector.dtype}; expected {wanted}")
    if vector.dim() != 1 or not vector.is_contiguous():
        raise ValueError(
            f"{name} has shape {tuple(vector.shape)} and strides {vector.stride()}; "
            "expected a contiguous vector"
        )
    if vector.numel() != weights.numel():
        raise ValueError(f"{name} has {vector.numel()} elements, weights have {weights.numel()}")
    if vector.device != weights.device:
        raise ValueError(f"{name} is on {vector.device}, weights are on {weights.device}")
    if vector.data_ptr() % vector.element_size():
        raise ValueError(f"{name} lies at an address that is no multiple of its elements' size")


def _check_apart(vectors: dict[str, torch.Tensor]) -> None:
    """No two vectors share memory, except that the new weights may replace the gradient they came from."""
    spans = sorted(
        (vector.data_ptr(), vector.data_ptr() + vector.numel() * vector.element_size(), name)
        for name, vector in vectors.items()
        if vector.numel()
    )
    for (begin, end, name), (following, last, other) in itertools.pairwise(spans):
        replaced = {name, other} == {"gradient", "out"} and (begin, end) == (following, last)
        if following < end and not replaced:
            raise ValueError(f"{name} and {other} share memory")
