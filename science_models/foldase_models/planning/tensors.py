"""The parameters of a model one by one, in the order of its modules: what buckets and units are made of.

Shapes: c channels.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from foldase_models.layers.dims import EvoformerDims
from foldase_models.layers.structure_dims import StructureDims
from foldase_models.planning.forms import WIDE


@dataclass(frozen=True, slots=True)
class Tensor:
    """One parameter.

    Attributes:
        numel: elements.
        matrix: whether weight decay applies to it.
        rows: elements of its first dimension; 0 where only the sum is known.
        wide: whether it is float32 whatever the precision of the training is.
    """

    numel: int
    matrix: bool = True
    rows: int = 0
    wide: bool = False

    def share(self, ranks: int) -> int:
        """Elements that each rank has room for where whole rows are shared out."""
        rows = self.rows or self.numel
        return -(-rows // ranks) * (self.numel // rows)

    def item(self, usual: int) -> int:
        """Bytes of an element where most have ``usual``."""
        return WIDE if self.wide else usual


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


def size(tensors: Iterable[Tensor], item: int) -> int:
    """Bytes of all of them, ``item`` an element but for wide ones."""
    return sum(tensor.item(item) * tensor.numel for tensor in tensors)


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


def triangles(c: int, hidden: int, heads: int, inner: int) -> Tensors:
    """Of two ``layers.triangle.TriangleMultiplication`` and two ``TriangleAttention``."""
    multiplication = norm(c) + 4 * linear(c, hidden) + norm(hidden) + linear(hidden, c) + linear(c, c)
    return 2 * multiplication + 2 * (norm(c) + matrix(c, heads) + attention(c, inner))


def pair_stack(c: int, hidden: int, heads: int, inner: int, factor: int) -> Tensors:
    """Of ``layers.evoformer.PairStack``; ``inner`` channels of all heads together."""
    return triangles(c, hidden, heads, inner) + transition(c, factor)


def pair_stack_of(dims: EvoformerDims) -> Tensors:
    """The same, of these widths."""
    inner = dims.no_heads_pair * dims.c_hidden_pair_att
    return pair_stack(dims.c_z, dims.c_hidden_mul, dims.no_heads_pair, inner, dims.transition_n)


def evoformer_block(dims: EvoformerDims, *, global_columns: bool = False) -> Tensors:
    """Of ``layers.evoformer.EvoformerBlock``, or of a block of extra rows."""
    c, width, heads = dims.c_m, dims.c_hidden_msa_att, dims.no_heads_msa
    inner = width * heads
    row = norm(c) + norm(dims.c_z) + matrix(dims.c_z, heads) + attention(c, inner)
    column = norm(c) + attention(c, inner)
    if global_columns:
        column = norm(c) + matrix(c, inner) + 2 * matrix(c, width) + linear(c, inner) + linear(inner, c)
    outer = outer_product_mean(c, dims.c_hidden_opm, dims.c_z)
    return row + column + transition(c, dims.transition_n) + outer + pair_stack_of(dims)


def structure_module(dims: StructureDims) -> Unit:
    """Of ``layers.structure_module.StructureModule``, whose passes share their weights."""
    c, heads, resnet = dims.c_s, dims.no_heads_ipa, dims.c_resnet
    inner, points = heads * dims.c_ipa, 3 * heads
    attention = vector(heads) + linear(c, inner) + linear(c, 2 * inner)
    attention += linear(c, points * dims.no_qk_points)
    attention += linear(c, points * (dims.no_qk_points + dims.no_v_points)) + linear(dims.c_z, heads)
    attention += linear(heads * (dims.c_z + dims.c_ipa + 4 * dims.no_v_points), c)
    first = norm(c) + norm(dims.c_z) + linear(c, c)
    moved = dims.no_transition_layers * 3 * linear(c, c) + norm(c) + linear(c, 6)
    torsions = 2 * linear(c, resnet) + dims.no_resnet_blocks * 2 * linear(resnet, resnet)
    own = first + attention + norm(c) + moved + torsions + linear(resnet, 2 * dims.no_angles)
    return Unit("structure module", tuple(replace(one, wide=True) for one in own), repeats=True)
