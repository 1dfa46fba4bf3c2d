"""A small ESMFold whose memory is planned and counted."""

from __future__ import annotations

import json

import torch
from counted_memory import LiveBytes
from safetensors.torch import save_file

from foldase_models.folding.esm2.config import Esm2Config
from foldase_models.folding.esmfold.config import EsmFoldConfig, TrunkDims
from foldase_models.folding.esmfold.heads import contact_probability, pair_confidence
from foldase_models.folding.esmfold.model import EsmFold
from foldase_models.layers import working_set
from foldase_models.layers.structure_dims import StructureDims

NARROW = EsmFoldConfig(
    language=Esm2Config(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        position_embedding_type="rotary",
    ),
    trunk=TrunkDims(c_s=64, c_z=32, sequence_head_width=16, pair_head_width=8, no_blocks=2),
    structure=StructureDims(c_s=32, c_z=24, c_resnet=16, no_heads_ipa=4, no_blocks=3),
    lddt_width=16,
)


@torch.no_grad()
def predict(model, residues, options, recycles):
    """As a folder does it: structure, errors of pairs, contacts."""
    torch.manual_seed(0)
    out = model(torch.randint(0, 20, (1, residues)), recycles=recycles, options=options)
    with working_set(options.group_bytes):
        errors = pair_confidence(out.z, model.ptm_head, torch.ones(1, residues, dtype=torch.bool))
        return out, errors, contact_probability(out.z, model.distogram_head)


def counted(model, residues, options, recycles):
    counter = LiveBytes()
    with counter:
        predict(model, residues, options, recycles)
    return counter.peak


def checkpoint(config, folder):
    """A folder as Hugging Face's library would save it."""
    model = EsmFold(config)
    language, trunk = config.language, config.trunk
    own = {name: getattr(language, name) for name in type(language).__slots__}
    structure = {
        "sequence_dim": config.structure.c_s,
        "pairwise_dim": config.structure.c_z,
        "resnet_dim": config.structure.c_resnet,
        "num_heads_ipa": config.structure.no_heads_ipa,
        "num_blocks": config.structure.no_blocks,
    }
    values = {
        "num_blocks": trunk.no_blocks,
        "sequence_state_dim": trunk.c_s,
        "pairwise_state_dim": trunk.c_z,
        "sequence_head_width": trunk.sequence_head_width,
        "pairwise_head_width": trunk.pair_head_width,
        "structure_module": structure,
    }
    folding = {"lddt_head_hid_dim": config.lddt_width, "trunk": values}
    (folder / "config.json").write_text(
        json.dumps({**own, "is_folding_model": True, "esmfold_config": folding})
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.1)
    save_file(model.state_dict(), folder / "model.safetensors")
    return model.eval()
