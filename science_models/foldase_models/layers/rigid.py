"""Rigid motions: a rotation, then a translation (Jumper et al. 2021, supplement 1.8, algorithms 21 and 23).

Shapes: ``...`` any batch of motions, 3 coordinates in A (or in the unit of the caller's translations).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

NORM_FLOOR = 1e-8
"""Added to squared lengths before the root, so that points on one spot give no division by 0."""


@dataclass(frozen=True, slots=True)
class Rigid:
    """Motions ``x -> rotation x + translation``, of any float dtype.

    Products are sums of products of elements, never matrix units: a GPU that rounds those to TF32 would bend
    the frames.

    Attributes:
        rotation: ``[..., 3, 3]``.
        translation: ``[..., 3]``.
    """

    rotation: torch.Tensor
    translation: torch.Tensor

    @staticmethod
    def identity(shape: Sequence[int], *, like: torch.Tensor) -> Rigid:
        """Motions of that shape that leave everything in place, of the dtype and device of ``like``."""
        rotation = torch.eye(3, dtype=like.dtype, device=like.device).expand(*shape, 3, 3)
        return Rigid(rotation, like.new_zeros(*shape, 3))

    @staticmethod
    def from_three_points(negative_x: torch.Tensor, origin: torch.Tensor, xy: torch.Tensor) -> Rigid:
        """Frames by points ``[..., 3]``: one on the negative x axis, the origin, one with z = 0 and y > 0."""
        x = _unit(origin - negative_x)
        return _frame(x, xy - origin, origin)

    @staticmethod
    def from_backbone(n: torch.Tensor, alpha: torch.Tensor, c: torch.Tensor) -> Rigid:
        """Frames of residues, points ``[..., 3]``: origin at C-alpha, x to C, N with y > 0 (algorithm 21)."""
        return _frame(_unit(c - alpha), n - alpha, alpha)

    @staticmethod
    def from_tensor_4x4(matrices: torch.Tensor) -> Rigid:
        """From homogeneous matrices ``[..., 4, 4]``."""
        return Rigid(matrices[..., :3, :3], matrices[..., :3, 3])

    @staticmethod
    def from_tensor_7(values: torch.Tensor) -> Rigid:
        """From quaternions of any length but 0, real part first, and translations ``[..., 7]``."""
        return Rigid(_quaternion_to_matrix(values[..., :4]), values[..., 4:])

    @staticmethod
    def cat(motions: Sequence[Rigid], dim: int) -> Rigid:
        """Along a dimension of the batch."""
        behind = 0 if dim >= 0 else 1
        rotation = torch.cat([motion.rotation for motion in motions], dim - 2 * behind)
        return Rigid(rotation, torch.cat([motion.translation for motion in motions], dim - behind))

    @property
    def shape(self) -> torch.Size:
        """Of the batch."""
        return self.translation.shape[:-1]

    def compose(self, other: Rigid) -> Rigid:
        """First ``other``, then this."""
        product = (self.rotation.unsqueeze(-1) * other.rotation.unsqueeze(-3)).sum(-2)
        return Rigid(product, self.apply(other.translation))

    def apply(self, points: torch.Tensor) -> torch.Tensor:
        """Where points ``[..., 3]`` go."""
        return _turn(self.rotation, points) + self.translation

    def apply_inverse(self, points: torch.Tensor) -> torch.Tensor:
        """Where points ``[..., 3]`` came from."""
        return _turn(self.rotation.mT, points - self.translation)

    def inverse(self) -> Rigid:
        """The motions back."""
        back = self.rotation.mT
        return Rigid(back, -_turn(back, self.translation))

    def scale_translation(self, factor: float) -> Rigid:
        """Translations in another unit."""
        return Rigid(self.rotation, self.translation * factor)

    def stop_rotation_gradient(self) -> Rigid:
        """The same motions, whose rotations pass no gradient on (algorithm 20, line 12)."""
        return Rigid(self.rotation.detach(), self.translation)

    def compose_update(self, update: torch.Tensor) -> Rigid:
        """First a small motion given by 6 numbers, then this (algorithm 23).

        Args:
            update: ``[..., 6]``: three imaginary parts of a quaternion whose real part is 1, a translation.
        """
        real = torch.ones_like(update[..., :1])
        turn = _quaternion_to_matrix(torch.cat([real, update[..., :3]], -1))
        return self.compose(Rigid(turn, update[..., 3:]))

    def to_tensor_4x4(self) -> torch.Tensor:
        """As homogeneous matrices ``[..., 4, 4]``."""
        upper = torch.cat([self.rotation, self.translation.unsqueeze(-1)], -1)
        last = upper.new_tensor([0.0, 0.0, 0.0, 1.0]).expand(*self.shape, 1, 4)
        return torch.cat([upper, last], -2)

    def to_tensor_7(self) -> torch.Tensor:
        """As unit quaternions, real part first and not negative, and translations ``[..., 7]``."""
        return torch.cat([_matrix_to_quaternion(self.rotation), self.translation], -1)

    def __getitem__(self, index: Any) -> Rigid:
        """Some of the batch; ``index`` as of a tensor of :attr:`shape`."""
        own = index if isinstance(index, tuple) else (index,)
        every = slice(None)
        return Rigid(self.rotation[(*own, every, every)], self.translation[(*own, every)])

    def unsqueeze(self, dim: int) -> Rigid:
        """With a new dimension of the batch."""
        behind = 0 if dim >= 0 else 1
        return Rigid(self.rotation.unsqueeze(dim - 2 * behind), self.translation.unsqueeze(dim - behind))

    def to(self, dtype: torch.dtype) -> Rigid:
        """In another dtype."""
        return Rigid(self.rotation.to(dtype), self.translation.to(dtype))

    def detach(self) -> Rigid:
        """Without gradients."""
        return Rigid(self.rotation.detach(), self.translation.detach())


def _turn(rotation: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    return (rotation * points.unsqueeze(-2)).sum(-1)


def _unit(vectors: torch.Tensor) -> torch.Tensor:
    return vectors / (vectors.square().sum(-1, keepdim=True) + NORM_FLOOR).sqrt()


def _frame(x: torch.Tensor, near_y: torch.Tensor, origin: torch.Tensor) -> Rigid:
    y = _unit(near_y - x * (x * near_y).sum(-1, keepdim=True))
    return Rigid(torch.stack([x, y, torch.linalg.cross(x, y)], -1), origin)


def _quaternion_to_matrix(quaternions: torch.Tensor) -> torch.Tensor:
    w, x, y, z = (quaternions / quaternions.square().sum(-1, keepdim=True).sqrt()).unbind(-1)
    entries = [
        w * w + x * x - y * y - z * z,
        2 * (x * y - w * z),
        2 * (x * z + w * y),
        2 * (x * y + w * z),
        w * w - x * x + y * y - z * z,
        2 * (y * z - w * x),
        2 * (x * z - w * y),
        2 * (y * z + w * x),
        w * w - x * x - y * y + z * z,
    ]
    return torch.stack(entries, -1).reshape(*w.shape, 3, 3)


def _matrix_to_quaternion(rotation: torch.Tensor) -> torch.Tensor:
    """Unit quaternions ``[..., 4]``: the outer product of one with itself is linear in the matrix.

    Of that product's rows, all along the quaternion, the longest is the one that rounding hurts least.
    """
    (a, b, c), (d, e, f), (g, h, i) = (row.unbind(-1) for row in rotation.unbind(-2))
    rows = [
        torch.stack([1 + a + e + i, h - f, c - g, d - b], -1),
        torch.stack([h - f, 1 + a - e - i, b + d, c + g], -1),
        torch.stack([c - g, b + d, 1 - a + e - i, f + h], -1),
        torch.stack([d - b, c + g, f + h, 1 - a - e + i], -1),
    ]
    outer = torch.stack(rows, -2)
    longest = outer.diagonal(dim1=-2, dim2=-1).argmax(-1)
    row = outer.gather(-2, longest[..., None, None].expand(*longest.shape, 1, 4)).squeeze(-2)
    unit = row / row.square().sum(-1, keepdim=True).sqrt()
    return torch.where(unit[..., :1] < 0, -unit, unit)
