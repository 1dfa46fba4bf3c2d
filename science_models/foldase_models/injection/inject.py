"""Replacing modules of another library's model by ours, after a numeric check of each."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator

import numpy as np
import torch
from torch import nn

from foldase_models.errors import ModelError
from foldase_models.injection import modules
from foldase_models.injection.policies import POLICIES, Draw, Policy
from foldase_models.injection.report import InjectionReport, Replacement, replace_module
from foldase_models.layers.row_groups import working_set

TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 1e-2}
"""Largest difference of results, as a share of the largest result, by the dtype of the weights."""

_DRAWN = 65_521
"""Random numbers that fill a parameter over and over; a prime, so that no two rows are alike."""

_TILED = 512
"""Bytes of a representation in a group: even the small problem of a check is computed in groups and tiles."""

_OURS = tuple(
    kind for kind in vars(modules).values() if isinstance(kind, type) and kind.__name__.startswith("Injected")
)


def inject(
    model: nn.Module, *, kinds: Collection[str] | None = None, seed: int = 0, tolerance: float | None = None
) -> InjectionReport:
    """Let our kernels compute what modules of a model compute, in place.

    Modules are found by their parts, whatever their class: triangle attention and multiplication,
    transitions, attention and invariant point attention of an ESMFold in Hugging Face's shape, and the
    attention of its language model. Ours share the very parameters, so that keys, optimizers and training go
    on unchanged; hooks stay. Attention maps are no longer made. What padding gets may differ, and with it the
    pTM of a padded batch, in which that library counts padding; all else is equal but for rounding.

    Each module is compared with its replacement on random input, with its own weights and with random ones (a
    fresh model has zeros where that would hide a difference). Only when all agree is the model changed.

    Args:
        model: of any library; changed in place.
        kinds: what to replace, of :data:`foldase_models.injection.policies.POLICIES`; None means all.
        seed: of the random input.
        tolerance: in place of :data:`TOLERANCE`.

    Returns:
        What was replaced, how close it is, and how to revert it.

    Raises:
        ModelError: ``injection_mismatch`` naming the first module that computes something else; the model is
            as it was. ``nothing_to_inject`` where no module has the parts. ``unknown_kind``.
    """
    unknown = sorted(set(kinds or ()) - set(POLICIES))
    if unknown:
        raise ModelError(f"no kind {unknown[0]!r}", code="unknown_kind", hint=f"one of {', '.join(POLICIES)}")
    wanted = [policy for kind, policy in POLICIES.items() if kinds is None or kind in kinds]
    found = list(_matches(model, "", wanted))
    if not found:
        raise ModelError(
            "no module has the parts of one that can be replaced",
            code="nothing_to_inject",
            hint="a model takes one injection; revert the first one to make another",
        )
    replacements, made = [], {}
    for name, theirs, policy in found:
        draw = Draw(torch.Generator().manual_seed(seed), *_kind_of_weights(theirs))
        limit = TOLERANCE[draw.dtype] if tolerance is None else tolerance
        replacements.append(_checked(name, theirs, policy, draw, limit))
        made[name] = policy.make(theirs)
    originals = {name: theirs for name, theirs, _ in found}
    for name, ours in made.items():
        replace_module(model, name, ours)
    return InjectionReport(model, tuple(replacements), originals)


def _matches(module: nn.Module, name: str, policies: list[Policy]) -> Iterator[tuple[str, nn.Module, Policy]]:
    """Modules of a kind, outermost first: what lies inside one is replaced with it."""
    if isinstance(module, _OURS):
        return
    policy = next((policy for policy in policies if name and policy.fits(module)), None)
    if policy is not None:
        yield name, module, policy
        return
    for child_name, child in module.named_children():
        yield from _matches(child, f"{name}.{child_name}" if name else child_name, policies)


def _kind_of_weights(module: nn.Module) -> tuple[torch.dtype, torch.device]:
    first = next(module.parameters())
    return first.dtype, first.device


def _checked(name: str, theirs: nn.Module, policy: Policy, draw: Draw, limit: float) -> Replacement:
    """Both on the same input: with its own weights, then with random ones in the form for long sequences."""
    try:
        drawn = _with_random_weights(theirs, draw)
        with working_set(_TILED):
            of_drawn = _errors(drawn, policy, draw)
        errors = [_errors(theirs, policy, draw), of_drawn]
    except (ValueError, TypeError, RuntimeError, AttributeError, KeyError, IndexError) as error:
        raise ModelError(
            f"has the parts of a {policy.kind} and cannot be called like one: {error}",
            code="injection_mismatch",
            location=name,
            hint="leave this kind out, or report the library and its version",
        ) from error
    relative = float(np.max([error[1] for error in errors]))  # NaN where one of them is
    if not relative <= limit:
        raise ModelError(
            f"has the parts of a {policy.kind} and computes something else: results differ by {relative:.1e} "
            f"of the largest, {limit:.0e} is allowed",
            code="injection_mismatch",
            location=name,
            hint="leave this kind out; nothing was replaced",
        )
    return Replacement(name, policy.kind, errors[0][0], relative)


@torch.no_grad()
def _errors(theirs: nn.Module, policy: Policy, draw: Draw) -> tuple[float, float]:
    """Largest absolute difference, and that as a share of the largest result."""
    modes = {module: module.training for module in theirs.modules()}
    args, kwargs = policy.call(theirs, draw)
    try:
        ours = policy.make(theirs.eval())
        wanted = policy.compare(theirs(*args, **kwargs)).double()
        found = policy.compare(ours(*args, **kwargs)).double()
    finally:
        for module, mode in modes.items():
            module.training = mode
    if found.shape != wanted.shape:
        raise ValueError(f"{list(wanted.shape)} instead of {list(found.shape)}")
    difference = float((found - wanted).abs().max())
    largest = float(wanted.abs().max())
    return difference, difference / largest if largest else difference


@torch.no_grad()
def _with_random_weights(module: nn.Module, draw: Draw) -> nn.Module:
    """A copy whose matrices keep the variance of what they multiply, and whose other parameters vary."""
    drawn = copy.deepcopy(module)
    for parameter in drawn.parameters():
        scale = parameter.shape[-1] ** -0.5 if parameter.dim() > 1 else 0.3
        centre = 0.0 if parameter.dim() > 1 else 0.5
        values = draw.normal(min(parameter.numel(), _DRAWN)).repeat(-(-parameter.numel() // _DRAWN))
        parameter.copy_(centre + scale * values[: parameter.numel()].view(parameter.shape))
    return drawn
