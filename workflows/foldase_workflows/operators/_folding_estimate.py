"""What folding will take, from the sizes of its inputs alone: before a file is opened, without torch."""

from __future__ import annotations

from foldase_workflows.contracts import Estimate, Hardware

LONGEST_GUESS = 2048
"""Residues that are reckoned with where the sequences take more bytes; the plan of the run knows better."""
PAIR_CHANNELS = 128
PAIR_COPIES = 6
"""Pair representations alive at once in a frugal forward pass, about."""
PROCESS_BYTES = 500 * 2**20
FLOPS_PER_CORE = 2e10
"""What one core sustains on large matrices, about."""
BLOCKS, PASSES = 48, 4
"""Of the published models."""
WEIGHTS_PER_SECOND = 5e8
"""Bytes of weights read and checked in a second, about."""


def estimate_folding(
    weights_bytes: int, sequences_bytes: int, structures: int, hardware: Hardware
) -> Estimate:
    """For one record as long as the file of sequences, with a trunk of published size.

    Args:
        weights_bytes: of the whole checkpoint.
        sequences_bytes: of the FASTA file.
        structures: seeds times samples.
        hardware: what the largest node offers.
    """
    residues = max(1, min(sequences_bytes, LONGEST_GUESS))
    pair = 4 * PAIR_CHANNELS * residues**2
    flops = BLOCKS * PASSES * (1536 * residues**3 + 2.5e5 * residues**2)
    seconds = structures * flops / (FLOPS_PER_CORE * max(hardware.cpus, 1.0))
    loading = weights_bytes / WEIGHTS_PER_SECOND
    # Published checkpoints are large: with small ones, made for trials, the trunk is small too.
    scale = min(1.0, weights_bytes / 1e9)
    needed = weights_bytes + int(scale * PAIR_COPIES * pair)
    on_gpu = bool(hardware.gpus)
    return Estimate(
        seconds=(loading + 1.0, 20.0 + 3 * loading + 2 * scale * seconds),
        memory_bytes=PROCESS_BYTES + (weights_bytes if on_gpu else needed),
        gpu_memory_bytes=needed if on_gpu else 0,
        disk_bytes=int(structures * (10 * residues**2 + 10_000 * residues)),
        basis=f"one record of {residues:,} residues; the plan of the run is exact",
    )
