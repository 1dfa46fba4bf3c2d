"""Triangle multiplication on a GPU: what :mod:`kernels_gpu_rows` needs to check and time it."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from kernels_gpu_rows import DTYPES, SEED, Case, Rows
from kernels_gpu_shapes import BF16_BYTES
from torch.nn.functional import layer_norm, linear

from foldase_kernels.triangle_multiplication import TriangleMultiplicationParameters, triangle_multiplication


@dataclass(frozen=True)
class Triangles(Rows):
    """One call on ``[length, length, channels]`` with ``hidden`` channels in the products over k."""

    outgoing: bool = True

    @property
    def flop(self) -> int:
        """Of products, forward: those over k, four projections, the output layer and its gate."""
        pairs, wide = self.length**2, self.channels
        return 2 * pairs * (self.hidden * self.length + 5 * self.hidden * wide + wide * wide)

    @property
    def moved(self) -> int:
        """Bytes of what must be read and written at least, forward."""
        return BF16_BYTES * 2 * self.length**2 * self.channels

    def tensors(self, device: torch.device, dtype: torch.dtype) -> list[torch.Tensor]:
        """Z and all parameters, the same numbers everywhere, scaled to results near 1."""
        generator = torch.Generator(device).manual_seed(SEED + self.length)

        def normal(*sizes: int) -> torch.Tensor:
            drawn = torch.randn(*sizes, generator=generator, device=device)
            return (drawn * sizes[-1] ** -0.5 if len(sizes) == 2 else drawn).to(dtype)

        wide, hidden = self.channels, self.hidden
        projections = [part for _ in range(4) for part in (normal(hidden, wide), normal(hidden))]
        after = [normal(wide, hidden), normal(wide), normal(wide, wide), normal(wide)]
        norms = [normal(wide), normal(wide)], [normal(hidden), normal(hidden)]
        return [normal(self.length, self.length, wide), *norms[0], *projections, *norms[1], *after]

    def run(self, backend: str, tensors: Sequence[torch.Tensor], mask: torch.Tensor) -> torch.Tensor:
        """A backend's answer; ``"plain"`` is what torch makes of it in the dtype of the tensors."""
        z, *parameters = tensors
        named = TriangleMultiplicationParameters(*parameters)
        if backend == "plain":
            return _plain(z, named, mask, self.outgoing)
        return triangle_multiplication(
            z, named, mask=mask, outgoing=self.outgoing, residual=True, backend=backend
        )


def _plain(
    z: torch.Tensor, p: TriangleMultiplicationParameters, mask: torch.Tensor, outgoing: bool
) -> torch.Tensor:
    n = layer_norm(z, z.shape[-1:], p.norm_in_weight, p.norm_in_bias, 1e-5)
    shown = mask[..., None]
    a = torch.sigmoid(linear(n, p.a_g_weight, p.a_g_bias)) * linear(n, p.a_p_weight, p.a_p_bias) * shown
    b = torch.sigmoid(linear(n, p.b_g_weight, p.b_g_bias)) * linear(n, p.b_p_weight, p.b_p_bias) * shown
    x = torch.einsum("ikc,jkc->ijc" if outgoing else "kic,kjc->ijc", a, b)
    x = layer_norm(x, x.shape[-1:], p.norm_out_weight, p.norm_out_bias, 1e-5)
    return z + torch.sigmoid(linear(n, p.g_weight, p.g_bias)) * linear(x, p.z_weight, p.z_bias)


_ODD = tuple(
    Triangles(f"triangles {length} of {channels}", length, channels, hidden, outgoing=outgoing)
    for length, channels, hidden, outgoing in (
        (1, 8, 8, True),
        (15, 24, 33, True),
        (17, 128, 128, False),
        (65, 64, 32, False),
        (129, 128, 128, True),
    )
)
CASES = tuple(Case(*pair) for pair in itertools.product(_ODD, DTYPES))
FEW_CASES = (
    Case(Triangles("triangles", 7, 6, 5), torch.float32),
    Case(Triangles("incoming triangles", 5, 8, 9, outgoing=False), torch.float32),
)
SHAPES = tuple(
    Triangles(f"triangle multiplication {length}", length, 128, 128) for length in (256, 512, 1024, 2048)
)
REHEARSAL = tuple(case.rows for case in FEW_CASES)
