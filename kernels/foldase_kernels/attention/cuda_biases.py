"""Any number of biases in any floating dtype, for kernels that read a few in three dtypes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from foldase_kernels.attention.arguments import DTYPE_CODES, MAX_BIASES


@dataclass(frozen=True, slots=True)
class Term:
    """What a kernel reads as one bias: a bias where it lies, or a float32 sum of several.

    Attributes:
        values: added to the scores.
        members: numbers of the biases that it stands for.
    """

    values: torch.Tensor
    members: tuple[int, ...]

    def plus(self, other: Term) -> Term:
        """The sum of both, broadcast."""
        return Term(self.values.float() + other.values.float(), (*self.members, *other.members))


def as_terms(biases: Sequence[torch.Tensor]) -> list[Term]:
    """At most :data:`MAX_BIASES` terms whose sum is that of all biases.

    Up to :data:`MAX_BIASES` biases are read where they lie. Of more, those two are summed whose sum has the
    fewest elements, until few enough are left; a bias in another dtype is read through a float32 copy.
    """
    terms = [
        Term(bias if bias.dtype in DTYPE_CODES else bias.float(), (number,))
        for number, bias in enumerate(biases)
    ]
    while len(terms) > MAX_BIASES:
        first, second = min(itertools.combinations(terms, 2), key=_elements_of_sum)
        terms = [term for term in terms if term is not first and term is not second]
        terms.append(first.plus(second))
    return terms


def _elements_of_sum(pair: tuple[Term, Term]) -> int:
    shapes = [reversed(term.values.shape) for term in pair]
    return math.prod(max(sizes) for sizes in itertools.zip_longest(*shapes, fillvalue=1))


def split_gradients(
    terms: Sequence[Term],
    of_terms: Sequence[torch.Tensor | None],
    biases: Sequence[torch.Tensor],
    wanted: Sequence[bool],
) -> list[torch.Tensor | None]:
    """Gradients of the biases, each in its own shape and dtype, from those of the terms."""
    found: list[torch.Tensor | None] = [None] * len(biases)
    for term, grad in zip(terms, of_terms, strict=True):
        for number in term.members:
            if wanted[number]:
                assert grad is not None
                # A member's gradient must not be the memory of another's.
                own = grad if len(term.members) == 1 else grad.sum_to_size(biases[number].shape).clone()
                found[number] = own.to(biases[number].dtype)
    return found
