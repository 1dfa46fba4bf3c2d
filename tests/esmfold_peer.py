"""Hugging Face's ESMFold with small random weights, and how to make it run in float64."""

from __future__ import annotations

from contextlib import contextmanager
from unittest import mock

import numpy as np
import torch
from transformers import EsmConfig, EsmForProteinFolding
from transformers.models.esm import modeling_esm
from transformers.models.esm.openfold_utils import residue_constants, rigid_utils

from foldase_models.layers import residues

STRUCTURE = {
    "sequence_dim": 12,
    "pairwise_dim": 10,
    "ipa_dim": 4,
    "resnet_dim": 8,
    "num_heads_ipa": 3,
    "num_qk_points": 2,
    "num_v_points": 3,
    "num_blocks": 2,
}
TRUNK = {
    "num_blocks": 2,
    "sequence_state_dim": 16,
    "pairwise_state_dim": 12,
    "sequence_head_width": 8,
    "pairwise_head_width": 4,
    "position_bins": 4,
    "max_recycles": 2,
    "chunk_size": None,
    "structure_module": STRUCTURE,
}


def small_config(**changes):
    """A configuration whose model folds in a moment; ``changes`` are of the trunk."""
    return EsmConfig(
        vocab_size=33,
        mask_token_id=32,
        pad_token_id=1,
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=32,
        position_embedding_type="rotary",
        emb_layer_norm_before=False,
        token_dropout=True,
        layer_norm_eps=1e-5,
        is_folding_model=True,
        esmfold_config={"fp16_esm": False, "lddt_head_hid_dim": 8, "trunk": {**TRUNK, **changes}},
    )


def randomise(model, seed=0, spread=1.0):
    """Every parameter drawn anew, since fresh models start many branches at zero; in evaluation mode."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            fan = parameter.shape[-1] if parameter.ndim > 1 else 4
            drawn = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            middle = 1.0 if "norm" in name.lower() and name.endswith("weight") else 0.0
            parameter.copy_(middle + drawn * spread * fan**-0.5)
    return model.eval()


def peer_model(seed=0, **changes):
    """The peer, in float32."""
    return randomise(EsmForProteinFolding(small_config(**changes)), seed)


class _Torch:
    """torch, where float32 means float64."""

    float32 = torch.float64

    def __getattr__(self, name):
        return getattr(torch, name)


def _rotary(q, k, cos, sin, unsqueeze_dim=1):
    """Rotations of the peer's language model, without its way through float32."""
    cos, sin = cos.unsqueeze(unsqueeze_dim), sin.unsqueeze(unsqueeze_dim)
    return tuple(x * cos + modeling_esm.rotate_half(x) * sin for x in (q, k))


@contextmanager
def peer_in_float64():
    """The peer rounds to float32: rotations and translations, their tables, the language model's queries and
    keys. Here it does not. What is left: limits of bins, which are float32 in it."""
    tables = {
        "restype_rigid_group_default_frame": residues.GROUP_FRAMES,
        "restype_atom14_rigid_group_positions": residues.ATOM14_POSITIONS,
        "restype_atom14_mask": residues.ATOM14_MASK.astype(np.float64),
    }
    with (
        mock.patch.object(rigid_utils, "torch", _Torch()),
        mock.patch.multiple(residue_constants, **tables),
        mock.patch.object(modeling_esm, "apply_rotary_pos_emb", _rotary),
    ):
        yield
