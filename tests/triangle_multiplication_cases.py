"""Arguments of triangle multiplication, and the comparison of a backend with the reference in float64."""

from __future__ import annotations

import torch

from foldase_kernels.triangle_multiplication import (
    TriangleMultiplicationParameters,
    cpu_tiles,
    triangle_multiplication,
)

FORWARD_TOLERANCE = 1e-5
"""Relative to the largest value, float32 against float64."""
GRADIENT_TOLERANCE = 1e-4
HALF_TOLERANCE = 2e-2
EXACT = 1e-10
"""float64 against float64."""
NAMES = ("z", *TriangleMultiplicationParameters._fields)


def force_tiles(monkeypatch):
    monkeypatch.setattr(cpu_tiles, "SMALL", 0)
    monkeypatch.setattr(cpu_tiles, "PAIRS", 40)


def shapes(width, hidden):
    for name in TriangleMultiplicationParameters._fields:
        rows = width if name[:2] in ("z_", "g_") or name.startswith("norm_in") else hidden
        columns = hidden if name == "z_weight" else width
        yield name, (rows, columns) if name.endswith("_weight") and "norm" not in name else (rows,)


def make(size, width=6, hidden=5, *, leading=(), dtype=torch.float64, seed=0, biases=True):
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    values = {}
    for name, shape in shapes(width, hidden):
        values[name] = 0.3 * draw(*shape) if len(shape) == 1 else draw(*shape) / shape[1] ** 0.5
        if name in ("norm_in_weight", "norm_out_weight"):
            values[name] += 1
        values[name] = None if name.endswith("bias") and not biases else values[name].to(dtype)
    z = (2 * draw(*leading, size, size, width) + 1).to(dtype)
    return z, TriangleMultiplicationParameters(**values)


def draw_mask(kind, size, leading=()):
    generator = torch.Generator().manual_seed(size)
    if kind == "none":
        return None
    if kind == "nothing":
        return torch.zeros(size, size, dtype=torch.bool)
    mask = torch.rand(*leading, size, size, generator=generator) > 0.3
    mask[..., :1, :] = False
    return mask


def relative(found, wanted):
    difference = (found.double() - wanted.double()).abs().max()
    return (difference / wanted.double().abs().max().clamp(min=1e-30)).item()


def with_gradients(z, parameters, weight, **options):
    z = z.detach().requires_grad_()
    leaves = [None if tensor is None else tensor.detach().requires_grad_() for tensor in parameters]
    out = triangle_multiplication(z, TriangleMultiplicationParameters(*leaves), **options)
    given = {name: leaf for name, leaf in zip(NAMES, [z, *leaves], strict=True) if leaf is not None}
    grads = torch.autograd.grad(out, list(given.values()), weight.to(out.dtype))
    return out.detach(), dict(zip(given, grads, strict=True))


def compare(z, parameters, *, tolerance, gradient_tolerance, backend="cpu", **options):
    """A backend in the dtype of the arguments against the reference in float64 on the same values."""
    weight = torch.randn(z.shape, generator=torch.Generator().manual_seed(9), dtype=torch.float64).to(z.dtype)
    found, grads = with_gradients(z, parameters, weight, backend=backend, **options)
    exact = parameters.to(torch.float64)
    wanted, wanted_grads = with_gradients(z.double(), exact, weight, backend="reference", **options)
    assert found.dtype == z.dtype
    assert relative(found, wanted) <= tolerance
    top = max(float(grad.abs().max()) for grad in wanted_grads.values())
    for name, grad in wanted_grads.items():
        assert grads[name].shape == grad.shape
        assert grads[name].dtype == (z if name == "z" else getattr(parameters, name)).dtype
        # Where everything is masked, or all but cancels, a gradient is measured against the largest one.
        floor = max(float(grad.abs().max()), 1e-3 * top)
        error = float((grads[name].double() - grad).abs().max())
        assert error <= gradient_tolerance * floor, (name, error, floor)
