"""Cases of the outer product mean and how a backend is compared with the definition."""

from __future__ import annotations

import torch

from foldase_kernels.outer_product_mean import cpu, cpu_few, cpu_tiles, outer_product_mean

FORWARD_TOLERANCE = 1e-5
"""Relative to the largest value, float32 against float64."""
GRADIENT_TOLERANCE = 1e-4
HALF_TOLERANCE = 2e-2
EXACT = 1e-10
"""float64 against float64."""

SIZES = (1, 15, 17, 33)


FORMS = ("direct", "tiled", "few")


def force(form, monkeypatch, *, tile=3000):
    """One form of the CPU path; several tiles of rows, columns and sequences at tiny sizes."""
    if form == "direct":
        return
    monkeypatch.setattr(cpu, "SMALL_PRODUCTS", -1)
    monkeypatch.setattr(cpu_tiles, "TILE", tile)
    monkeypatch.setattr(cpu_few, "is_cheaper", lambda a, channels, backward: form == "few")


def draw(*shape, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)


def make(leading, sequences, residues, hidden, channels, *, bias=True):
    shape = (*leading, sequences, residues, hidden)
    projection = draw(channels, hidden * hidden, seed=3)
    return [draw(*shape, seed=1), draw(*shape, seed=2), projection, draw(channels, seed=4) if bias else None]


def make_weights(kind, shape):
    """With zeros among them, and one column that nothing covers."""
    if kind is None:
        return None
    real = draw(*shape, seed=5) > -0.4
    real[..., 0] = False
    return real if kind == "mask" else real * draw(*shape, seed=6).abs()


def run_with_gradients(tensors, **options):
    leaves = [None if t is None else t.detach().requires_grad_() for t in tensors]
    out = outer_product_mean(*leaves, **options)
    loss = (out * draw(*out.shape, seed=99, dtype=out.dtype)).sum()
    return [out.detach(), *torch.autograd.grad(loss, [leaf for leaf in leaves if leaf is not None])]


def compare(
    tensors,
    *,
    tolerance,
    gradient_tolerance,
    dtype=torch.float64,
    weights=None,
    backend="cpu",
    **options,
):
    """A backend in ``dtype`` against the reference in float64."""
    rounded = [None if t is None else t.to(dtype) for t in tensors]
    found = run_with_gradients(rounded, backend=backend, weights=weights, **options)
    exact = [None if t is None else t.double() for t in rounded]
    wanted = run_with_gradients(exact, backend="reference", weights=weights, **options)
    for number, (ours, theirs) in enumerate(zip(found, wanted, strict=True)):
        assert ours.dtype == dtype
        assert ours.shape == theirs.shape
        bound = gradient_tolerance if number else tolerance
        assert (ours.double() - theirs).abs().max() <= bound * theirs.abs().max().clamp(min=1e-30), number
