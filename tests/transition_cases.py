"""Cases of the transition and how a backend is compared with the definition."""

from __future__ import annotations

import torch

from foldase_kernels.transition import TransitionParameters, cpu, cpu_tiles, transition

FORWARD_TOLERANCE = 1e-5
"""Relative to the largest value, float32 against float64."""
GRADIENT_TOLERANCE = 1e-4
HALF_TOLERANCE = 2e-2
EXACT = 1e-10
"""float64 against float64."""

SIZES = (1, 15, 17, 33)
ACTIVATIONS = ("relu", "swiglu")


def force_tiles(monkeypatch, *, tile=4000):
    """Several tiles at tiny sizes."""
    monkeypatch.setattr(cpu, "SMALL_HIDDEN", -1)
    monkeypatch.setattr(cpu_tiles, "TILE", tile)


def draw(*shape, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)


def make_parameters(channels, hidden, activation="relu", *, biases=True, dtype=torch.float64):
    shapes = {
        "norm_weight": (channels,),
        "norm_bias": (channels,),
        "weight_in": (hidden, channels),
        "bias_in": (hidden,),
        "weight_out": (channels, hidden),
        "bias_out": (channels,),
        "weight_gate": (hidden, channels),
        "bias_gate": (hidden,),
    }
    if activation == "relu":
        del shapes["weight_gate"], shapes["bias_gate"]
    drawn = {
        name: draw(*shape, seed=seed, dtype=dtype) for seed, (name, shape) in enumerate(shapes.items(), 1)
    }
    if not biases:
        drawn |= {name: None for name in drawn if "bias" in name}
    return TransitionParameters(**drawn)


def run_with_gradients(x, parameters, **options):
    """The result, then the gradients of x and of all parameters there are."""
    leaf = x.detach().requires_grad_()
    leaves = TransitionParameters(
        *(None if p is None else p.detach().clone().requires_grad_() for p in parameters)
    )
    out = transition(leaf, leaves, **options)
    weight = draw(*out.shape, seed=99, dtype=out.dtype)
    wanted = [leaf, *(p for p in leaves if p is not None)]
    return [out.detach(), *torch.autograd.grad((out * weight).sum(), wanted)]


def compare(x, parameters, *, tolerance, gradient_tolerance, dtype=torch.float64, backend="cpu", **options):
    """A backend in ``dtype`` against the reference in float64."""
    x, parameters = x.to(dtype), parameters.to(dtype)
    found = run_with_gradients(x, parameters, backend=backend, **options)
    wanted = run_with_gradients(x.double(), parameters.to(torch.float64), backend="reference", **options)
    scale = max(float(grad.abs().max()) for grad in wanted[1:])
    for number, (ours, theirs) in enumerate(zip(found, wanted, strict=True)):
        assert ours.dtype == dtype
        assert ours.shape == theirs.shape
        bound = gradient_tolerance if number else tolerance
        # A gradient that cancels to almost nothing is measured against the largest.
        floor = max(float(theirs.abs().max()), 1e-3 * scale if number else 1e-30)
        assert (ours.double() - theirs).abs().max() <= bound * floor, number
