"""Parameters, memory and time of the contact model, from its configuration.

Shapes: B proteins, S rows of the Evoformer, E rows of the outer product, N residues, c channels.
"""

from __future__ import annotations

from dataclasses import dataclass

from foldase_models.folding.contacts.config import PAIR_FEATURES, ContactModelConfig
from foldase_models.planning import tensors
from foldase_models.planning.tensors import Tensors, Unit, linear, matrix, norm, table, vector

SMALL_SCORES = 8 * 2**20
"""Bytes of scores that attention on the CPU holds at once at most (``foldase_kernels.attention.cpu``)."""
FLOAT = 4
"""Bytes of a float32."""
PROCESS_BYTES = 450 * 2**20
"""Resident memory of a Python process with torch and zarr loaded; measured."""
FLOPS_PER_CORE = 1.6e10
"""What one core sustains on these small matrices, element-wise work included; measured at N = 28."""
SECONDS_PER_PASS = 0.004
"""Overhead of the many small operations of one pass and block, whatever their size; measured."""
SPREAD = (0.6, 2.0)
"""Low and high as multiples of the estimate: cores differ, and machines are shared."""


@dataclass(frozen=True, slots=True)
class ContactEstimate:
    """``seconds`` is (low, high) wall time, ``memory_bytes`` the peak of resident memory."""

    parameters: int
    seconds: tuple[float, float]
    memory_bytes: int


def units(config: ContactModelConfig) -> tuple[Unit, ...]:
    """Parameters of the whole model, exactly: what embeds, the blocks, what is read off them."""
    c, letters = config.width, len(config.letters)
    offsets = table(2 * config.max_offset + 1, c)
    if config.inputs == "couplings":
        first = offsets + linear(PAIR_FEATURES, c) + linear(c, c)
    else:
        outer = tensors.outer_product_mean(c, config.outer_width, c)
        first = table(letters, c) + 3 * linear(letters, c) + offsets + table(letters, c) + outer
    heads = norm(c) + table(config.distance_bins, c) + norm(c)
    heads += linear(c, 1) + linear(c, config.distance_bins)
    heads += vector(1) + norm(c) + linear(c, c) + linear(4, c)
    heads += linear(2 * c + 4, c) + linear(c, c) + linear(c, 2)
    blocks = tuple(Unit(f"block {number}", _block(config), repeats=True) for number in range(config.blocks))
    return (Unit("embedding", first), *blocks, Unit("heads", heads))


def _block(config: ContactModelConfig) -> Tensors:
    """One block: an Evoformer's, or convolutions and a pair stack for couplings."""
    c, heads, inner = config.width, config.heads, config.heads * config.head_width
    pairs = tensors.pair_stack(c, c, heads, inner, config.transition_n)
    if config.inputs == "couplings":
        return config.convolutions * (norm(c) + 2 * linear(9 * c, c)) + pairs
    row = norm(c) + norm(c) + matrix(c, heads) + tensors.attention(c, inner)
    column = norm(c) + tensors.attention(c, inner)
    outer = tensors.outer_product_mean(c, config.outer_width, c)
    return row + column + tensors.transition(c, config.transition_n) + outer + pairs


def block_parameters(config: ContactModelConfig) -> int:
    """Parameters of one block."""
    return tensors.numel(_block(config))


def parameter_count(config: ContactModelConfig) -> int:
    """Parameters of the whole model, exactly."""
    return sum(unit.numel for unit in units(config))


def forward_flops(config: ContactModelConfig, residues: int, extra: int) -> float:
    """Floating point operations of one pass over one protein, matrix products only."""
    c, inner, N, S = config.width, config.heads * config.head_width, residues, min(config.sequences, extra)
    per_position = 2 * 5 * c * inner
    msa = S * N * (2 * per_position + 4 * config.transition_n * c * c)
    msa += 4 * inner * S * N * (N + S)
    pair = N * N * (2 * per_position + 24 * c * c + 4 * config.transition_n * c * c)
    pair += N**3 * (8 * inner + 4 * c)
    if config.inputs == "couplings":
        return config.blocks * (pair + config.convolutions * N * N * 36 * c * c)
    outer = 2 * N * N * config.outer_width**2 * c
    covariance = 2 * N * N * config.outer_width**2
    return config.blocks * (msa + pair + outer + covariance * S) + outer + covariance * extra


def activation_bytes(config: ContactModelConfig, residues: int, proteins: int) -> int:
    """Bytes of tensors alive at the peak of a prediction, weights and inputs apart; fitted at a few sizes.

    Attention holds all scores of a call only below a limit, so long chains cost less than they look.
    """
    c, N, B = config.width, residues, proteins
    S = 0 if config.inputs == "couplings" else config.sequences
    calls = [B * config.heads * count for count in (S * N * N, N * S * S, N**3, N**3)]
    held = [count for count in calls if FLOAT * count <= SMALL_SCORES]
    block = max(held, default=2 * SMALL_SCORES // FLOAT) + B * (6 * S * N * c + 9 * N * N * c)
    heads = B * N * N * (14 * config.distance_bins + 6 * c)
    return FLOAT * max(block, heads)


def estimate_prediction(
    config: ContactModelConfig, *, proteins: int, residues: int, rows: int, cpus: float
) -> ContactEstimate:
    """Predicting ``proteins`` alignments one after the other."""
    parameters = parameter_count(config)
    passes = 1.0 + config.recycles
    flops = passes * forward_flops(config, residues, rows)
    seconds = proteins * (flops / (FLOPS_PER_CORE * _speed(cpus)) + passes * config.blocks * SECONDS_PER_PASS)
    memory = PROCESS_BYTES + activation_bytes(config, residues, 1)
    return ContactEstimate(parameters, _range(seconds), memory + FLOAT * parameters)


def _speed(cpus: float) -> float:
    """What several cores are worth: small matrices share them badly."""
    return max(1.0, float(min(cpus, 8.0) ** 0.75))


def _range(seconds: float) -> tuple[float, float]:
    return SPREAD[0] * seconds, SPREAD[1] * seconds
