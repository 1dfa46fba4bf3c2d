"""The parameters of a model one by one, in the order of its modules: what buckets and units are made of.

Shapes: c channels.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Tensor:
    """One parameter.

    Attributes:
        numel: elements.
        matrix: whether weight decay applies to it.
        rows: elements of its first dimension; 0 where only the sum is known.
    """

    numel: int
    matrix: bool = True
    rows: int = 0

    def share(self, ranks: int) -> int:
        """Elements that each rank has room for where whole rows are shared out."""
        rows = self.rows or self.numel
        return -(-rows // ranks) * (self.numel // rows)


Tensors = tuple[Tensor, ...]


@dataclass(frozen=True, slots=True)
class Unit:
    """A part of a model whose weights are needed together, such as one block.

    Attributes:
        name: for people.
        tensors: in the order of the modules.
        trained: whether they get gradients.
        repeats: whether it is one of a row of blocks, which stage 3 gathers one after the other.
    """

    name: str
    tensors: Tensors
    trained: bool = True
    repeats: bool = False

    @property
    def numel(self) -> int:
        """Elements of all tensors."""
        return sum(tensor.numel for tensor in self.tensors)


def lump(name: str, numel: int, *, trained: bool = True, repeats: bool = False) -> Unit:
    """A unit of which only the sum is known."""
    return Unit(name, (Tensor(numel),), trained, repeats)


def numel(tensors: Iterable[Tensor]) -> int:
    """Elements of all of them."""
    return sum(tensor.numel for tensor in tensors)


def matrix(width_in: int, width_out: int) -> Tensors:
    """Of a linear layer without bias."""
    return (Tensor(width_in * width_out, rows=width_out),)


def table(entries: int, c: int) -> Tensors:
    """Of an embedding."""
    return (Tensor(entries * c, rows=entries),)


def vector(length: int) -> Tensors:
    """Of a bias, or a norm without one."""
    return (Tensor(length, matrix=False, rows=length),)


def linear(width_in: int, width_out: int, *, bias: bool = True) -> Tensors:
    """Of a linear layer."""
    return matrix(width_in, width_out) + (vector(width_out) if bias else ())


def norm(c: int) -> Tensors:
    """Of a layer norm."""
    return vector(c) + vector(c)


def attention(c: int, inner: int) -> Tensors:
    """Of ``layers.attention.Attention``, gated, whose keys have ``c`` channels too."""
    return 3 * matrix(c, inner) + linear(inner, c) + linear(c, inner)


def transition(c: int, factor: int) -> Tensors:
    """Of ``layers.transition.Transition``."""
    return norm(c) + linear(c, factor * c) + linear(factor * c, c)


def outer_product_mean(c: int, hidden: int, channels: int) -> Tensors:
    """Of ``layers.outer_product.OuterProductMean``."""
    return norm(c) + 2 * linear(c, hidden) + linear(hidden * hidden, channels)


def pair_stack(c: int, hidden: int, heads: int, inner: int, factor: int) -> Tensors:
    """Of ``layers.evoformer.PairStack``; ``inner`` channels of all heads together."""
    multiplication = norm(c) + 4 * linear(c, hidden) + norm(hidden) + linear(hidden, c) + linear(c, c)
    triangle = norm(c) + matrix(c, heads) + attention(c, inner)
    return 2 * multiplication + 2 * triangle + transition(c, factor)
