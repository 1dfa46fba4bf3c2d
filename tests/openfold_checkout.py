"""OpenFold as a peer, from a checkout that ``FOLDASE_OPENFOLD`` names; none of its code is ours.

What it needs and we do not have is stood in for: packages by what little of them it uses, and its compiled
softmax by torch's.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import os
import sys
import types
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

VARIABLE = "FOLDASE_OPENFOLD"
NEEDED = f"{VARIABLE} names no checkout of OpenFold"


class Settings(dict):
    """A dictionary whose entries are attributes too, as of ``ml_collections``."""

    def __init__(self, values=(), **more):
        super().__init__()
        for key, value in {**dict(values), **more}.items():
            self[key] = Settings(value) if isinstance(value, dict) else value

    def __getattr__(self, name):
        try:
            return self[name]
        except KeyError as error:
            raise AttributeError(name) from error


def _map_structure(function, value):
    if isinstance(value, dict):
        return {key: _map_structure(function, entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_map_structure(function, entry) for entry in value)
    return function(value)


def _softmax_in_place(scores, _rows, _columns):
    scores.copy_(torch.softmax(scores, -1))


def _softmax_gradient_in_place(shares, grad, values, *_sizes):
    """Over shares the gradient of scores, from that of the output."""
    of_shares = grad @ values.mT
    shares.mul_(of_shares - (of_shares * shares).sum(-1, keepdim=True))


_STAND_INS = {
    "ml_collections": {"ConfigDict": Settings, "FieldReference": lambda value, **_: value},
    "tree": {"map_structure": _map_structure},
    "attn_core_inplace_cuda": {"forward_": _softmax_in_place, "backward_": _softmax_gradient_in_place},
    # Only for writing structures, which no test asks of it.
    "modelcif": {},
    **{
        f"modelcif.{part}": {}
        for part in ("alignment", "dumper", "model", "protocol", "qa_metric", "reference")
    },
}


@cache
def openfold():
    """Its modules, by short names; skips the test where there is no checkout."""
    checkout = os.environ.get(VARIABLE)
    if not checkout or not Path(checkout, "openfold", "model").is_dir():
        pytest.skip(NEEDED)
    packages = {name.partition(".")[0] for name in _STAND_INS}
    lacking = {name for name in packages if importlib.util.find_spec(name) is None}
    for name, contents in _STAND_INS.items():
        if name.partition(".")[0] in lacking:
            module = types.ModuleType(name)
            module.__spec__ = importlib.machinery.ModuleSpec(name, None)
            vars(module).update(contents)
            sys.modules[name] = module
    sys.path.insert(0, checkout)
    from openfold.data import data_transforms
    from openfold.model.model import AlphaFold
    from openfold.utils import feats, import_weights, loss

    return types.SimpleNamespace(
        AlphaFold=AlphaFold,
        data_transforms=data_transforms,
        feats=feats,
        import_weights=import_weights,
        loss=loss,
    )


def settings_of(config):
    """OpenFold's settings for one of our configurations."""
    c_m, c_z, c_s = config.evoformer.c_m, config.evoformer.c_z, config.structure.c_s
    numerics = {"inf": 1e9, "eps": 1e-8}
    shared = {"opm_first": False, "fuse_projection_weights": False, "tune_chunk_size": False}
    stack = {**shared, **numerics, "clear_cache_between_blocks": False}
    template = config.template
    model = {
        "_mask_trans": False,
        "input_embedder": {
            "tf_dim": 22,
            "msa_dim": 49,
            "c_z": c_z,
            "c_m": c_m,
            "relpos_k": config.max_offset,
        },
        "recycling_embedder": {
            "c_z": c_z,
            "c_m": c_m,
            "min_bin": config.recycle_first,
            "max_bin": config.recycle_last,
            "no_bins": config.recycle_bins,
            "inf": 1e8,
        },
        "template": {"enabled": template is not None},
        "extra_msa": {
            "enabled": True,
            "extra_msa_embedder": {"c_in": 25, "c_out": config.extra_msa.c_m},
            "extra_msa_stack": {
                **stack,
                **block_settings(config.extra_msa),
                "no_blocks": config.extra_msa_blocks,
                "ckpt": False,
            },
        },
        "evoformer_stack": {
            **stack,
            **block_settings(config.evoformer),
            "no_blocks": config.evoformer_blocks,
            "c_s": c_s,
            "blocks_per_ckpt": None,
            "no_column_attention": False,
        },
        "structure_module": {
            **{name: getattr(config.structure, name) for name in config.structure.__slots__},
            "inf": 1e5,
        },
        "heads": head_settings(config),
        "recycle_early_stop_tolerance": -1.0,
    }
    if template is not None:
        model["template"] |= template_settings(config)
    switches = ("use_deepspeed_evo_attention", "use_lma", "use_flash", "offload_inference", "is_multimer")
    globals_ = {
        **dict.fromkeys(switches, False),
        "seqemb_mode_enabled": False,
        "chunk_size": None,
        "eps": 1e-8,
    }
    return Settings({"globals": globals_, "model": model})


def head_settings(config):
    """Of all heads."""
    c_m, c_z, c_s = config.evoformer.c_m, config.evoformer.c_z, config.structure.c_s
    return {
        "lddt": {"no_bins": 50, "c_in": c_s, "c_hidden": config.plddt_width},
        "distogram": {"c_z": c_z, "no_bins": 64},
        "tm": {"c_z": c_z, "no_bins": 64, "max_bin": 31, "enabled": config.tm},
        "masked_msa": {"c_m": c_m, "c_out": 23},
        "experimentally_resolved": {"c_s": c_s, "c_out": 37},
    }


def block_settings(dims):
    """Widths of one block."""
    names = [name for name in dims.__slots__ if name not in ("opm_first", "opm_centred")]
    return {name: getattr(dims, name) for name in names}


def template_settings(config):
    """Of the template stack."""
    dims, c_t = config.template, config.template.c_z
    attention = {"c_hidden": config.template_attention_width, "no_heads": config.template_attention_heads}
    return {
        "distogram": {"min_bin": 3.25, "max_bin": 50.75, "no_bins": 39},
        "template_single_embedder": {"c_in": 57, "c_out": config.evoformer.c_m},
        "template_pair_embedder": {"c_in": 88, "c_out": c_t},
        "template_pair_stack": {
            "c_t": c_t,
            "c_hidden_tri_att": dims.c_hidden_pair_att,
            "c_hidden_tri_mul": dims.c_hidden_mul,
            "no_blocks": config.template_blocks,
            "no_heads": dims.no_heads_pair,
            "pair_transition_n": dims.transition_n,
            "dropout_rate": 0.25,
            "tri_mul_first": False,
            "fuse_projection_weights": False,
            "blocks_per_ckpt": None,
            "tune_chunk_size": False,
            "inf": 1e9,
        },
        "template_pointwise_attention": {"c_t": c_t, "c_z": config.evoformer.c_z, "inf": 1e5, **attention},
        "inf": 1e5,
        "eps": 1e-8,
        "embed_angles": True,
        "use_unit_vector": False,
        "average_templates": False,
        "offload_templates": False,
    }


def batch_of(passes, atoms, *, padding):
    """OpenFold's batch of our inputs, passes along the last axis.

    Args:
        passes: :class:`ModelInputs` of each pass, with equal numbers of rows.
        atoms: positions ``[T, N, 37, 3]`` and mask ``[T, N, 37]`` of the templates, or None.
        padding: whether there is a masked template where there is none, as its own pipeline has it.
    """
    batches = [_batch_of_pass(inputs, atoms) for inputs in passes]
    if padding and passes[0].templates is None:
        batches = [batch | _empty_template(inputs) for batch, inputs in zip(batches, passes, strict=True)]
    return {name: torch.stack([batch[name] for batch in batches], -1) for name in batches[0]}


def _empty_template(inputs):
    residues = len(inputs.aatype)
    shapes = {
        "mask": (1,),
        "pseudo_beta": (1, residues, 3),
        "pseudo_beta_mask": (1, residues),
        "torsion_angles_sin_cos": (1, residues, 7, 2),
        "alt_torsion_angles_sin_cos": (1, residues, 7, 2),
        "torsion_angles_mask": (1, residues, 7),
        "all_atom_positions": (1, residues, 37, 3),
        "all_atom_mask": (1, residues, 37),
    }
    empty = {f"template_{name}": torch.zeros(shape) for name, shape in shapes.items()}
    return empty | {"template_aatype": torch.zeros(1, residues, dtype=torch.long)}


def _batch_of_pass(inputs, atoms):
    from foldase_models.layers import residues

    def ones(mask, like):
        return torch.ones(like.shape) if mask is None else mask.float()

    kinds = inputs.aatype.numpy()
    batch = {
        "aatype": inputs.aatype,
        "residue_index": inputs.residue_index,
        "target_feat": inputs.target_feat,
        "msa_feat": inputs.msa_feat,
        "seq_mask": ones(inputs.seq_mask, inputs.aatype),
        "msa_mask": ones(inputs.msa_mask, inputs.msa_feat[..., 0]),
        "extra_msa": inputs.extra_msa.long(),
        "extra_has_deletion": inputs.extra_has_deletion,
        "extra_deletion_value": inputs.extra_deletion_value,
        "extra_msa_mask": ones(inputs.extra_msa_mask, inputs.extra_msa),
        "atom37_atom_exists": torch.from_numpy(residues.ATOM37_MASK[kinds].astype(np.float32)),
        "residx_atom37_to_atom14": torch.from_numpy(residues.ATOM37_TO_ATOM14[kinds]),
    }
    templates = inputs.templates
    if templates is not None:
        batch |= {
            "template_aatype": templates.aatype,
            "template_mask": templates.mask.float(),
            "template_pseudo_beta": templates.pseudo_beta,
            "template_pseudo_beta_mask": templates.pseudo_beta_mask.float(),
            "template_torsion_angles_sin_cos": templates.torsions,
            "template_alt_torsion_angles_sin_cos": templates.other_torsions,
            "template_torsion_angles_mask": templates.torsion_mask.float(),
            "template_all_atom_positions": torch.from_numpy(atoms[0]),
            "template_all_atom_mask": torch.from_numpy(atoms[1]).float(),
        }
    return batch
