"""Joining attention over parts of the keys by the log-sum-exp of each part."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from foldase_kernels.attention.reference import score_dtype


def merge_attention(
    outs: Sequence[torch.Tensor], lses: Sequence[torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Join partial results over disjoint sets of keys, as ring and sequence-parallel attention need it.

    Each part weighs ``exp(lse_part - lse)``, with ``lse`` the log-sum-exp over parts (Dao et al. 2022,
    FlashAttention, section 3.1). Gates must be applied after merging. Differentiable.

    Args:
        outs: ungated outputs ``[..., rows, queries, heads, width]``, one per part.
        lses: their float32 log-sum-exps ``[..., rows, heads, queries]``.

    Returns:
        The output over all keys, in the dtype of the first part, and its log-sum-exp.

    Raises:
        ValueError: no part, another number of outputs than of log-sum-exps, or shapes that differ.
    """
    if not outs or len(outs) != len(lses):
        raise ValueError(f"got {len(outs)} outputs and {len(lses)} log-sum-exps; expected as many")
    for number, (out, lse) in enumerate(zip(outs, lses, strict=True)):
        wanted = (*out.shape[:-3], out.shape[-2], out.shape[-3])
        if out.shape != outs[0].shape or lse.shape != wanted:
            raise ValueError(
                f"part {number}: output {list(out.shape)} and log-sum-exp {list(lse.shape)}; expected "
                f"{list(outs[0].shape)} and {list(wanted)}"
            )
    wide = score_dtype(outs[0].dtype)
    stacked = torch.stack([lse.to(wide) for lse in lses])
    top = stacked.detach().amax(0)
    top = torch.where(top == -torch.inf, 0.0, top)
    weights = torch.exp(stacked - top)
    total = weights.sum(0)
    empty = total == 0
    total = torch.where(empty, 1.0, total)
    shares = (weights / total).transpose(-1, -2).unsqueeze(-1)
    merged = sum(out.to(wide) * share for out, share in zip(outs, shares, strict=True))
    assert isinstance(merged, torch.Tensor)
    lse = torch.where(empty, -torch.inf, torch.log(total) + top)
    return merged.to(outs[0].dtype), lse
