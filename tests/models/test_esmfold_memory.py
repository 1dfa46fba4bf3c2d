"""What the folding trunk of the published widths holds at once, in U = bytes of the pair representation."""

from __future__ import annotations

import pytest
import torch
from counted_memory import peak_of

from foldase_models.folding.esm2.config import Esm2Config
from foldase_models.folding.esmfold.blocks import TrunkBlock
from foldase_models.folding.esmfold.config import EsmFoldConfig, TrunkDims
from foldase_models.folding.esmfold.folder import EsmFoldFolder
from foldase_models.folding.esmfold.heads import (
    PAIR_BINS,
    contact_probability,
    distance_shares,
    pair_confidence,
)
from foldase_models.folding.esmfold.model import EsmFold
from foldase_models.folding.esmfold.trunk import FoldingTrunk
from foldase_models.folding.options import ForwardOptions
from foldase_models.folding.prediction import FoldInput
from foldase_models.layers.row_groups import working_set
from foldase_models.layers.structure_dims import StructureDims

BLOCK = 1.5
"""U, beyond the arguments of one block."""
TRUNK = 2.6
"""U, with the pair representation itself: two passes and the structure module."""
HEADS = 0.25
"""U, beyond what they say."""
CLOSE = 1e-5
FULL = TrunkDims(no_blocks=1)


def representations(length):
    generator = torch.Generator().manual_seed(0)
    s = torch.randn(1, length, FULL.c_s, generator=generator)
    return s, torch.randn(1, length, length, FULL.c_z, generator=generator)


def with_weights(module):
    """Fresh blocks add nothing: their last layers are zero."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=parameter.shape[-1] ** -0.5)
    return module.eval()


@pytest.mark.verify
@torch.no_grad()
def test_a_block_in_place():
    block = TrunkBlock(FULL).eval()
    s, z = representations(512)
    assert peak_of(lambda: block(s, z, inplace=True)) <= BLOCK * z.nbytes


@pytest.mark.verify
@torch.no_grad()
def test_passes_of_a_trunk_with_the_structure_module():
    trunk = FoldingTrunk(FULL, StructureDims()).eval()
    s, z = representations(256)
    aatype, index = torch.zeros(1, 256, dtype=torch.long), torch.arange(256)[None]
    peak = peak_of(lambda: trunk(s, aatype, index, None, passes=2, options=ForwardOptions()))
    assert peak <= TRUNK * z.nbytes


@torch.no_grad()
def test_heads_never_hold_all_logits():
    _, z = representations(64)
    head, mask = torch.nn.Linear(FULL.c_z, PAIR_BINS), torch.ones(1, 64, dtype=torch.bool)
    with working_set(2**16):
        assert peak_of(lambda: pair_confidence(z, head, mask)) <= HEADS * z.nbytes
        assert peak_of(lambda: contact_probability(z, head)) <= HEADS * z.nbytes
        kept = torch.arange(64)
        made = distance_shares(z, head, kept).nbytes
        assert peak_of(lambda: distance_shares(z, head, kept)) <= made + HEADS * z.nbytes


@pytest.mark.verify
@torch.no_grad()
@pytest.mark.parametrize("group_bytes", [2**14, 2**18])
def test_a_block_of_full_width_is_the_same_in_groups_of_rows(group_bytes):
    block = with_weights(TrunkBlock(FULL))
    s, z = representations(128)
    with working_set(2**30):
        wanted = block(s, z)
    with working_set(group_bytes):
        found = block(s, z)
    for one, other in zip(found, wanted, strict=True):
        assert (one - other).norm() <= CLOSE * other.norm()


@pytest.mark.verify
def test_distances_that_are_asked_for_leave_the_peak_where_it_was():
    language = Esm2Config(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, position_embedding_type="rotary"
    )
    config = EsmFoldConfig(language=language, trunk=FULL)
    folder = EsmFoldFolder(EsmFold(config), "digest", ForwardOptions())
    record = FoldInput(name="one", chains=("MKVLA" * 32,))
    peaks = [
        peak_of(lambda extras=extras: folder.fold(record, seed=0, recycles=0, extras=extras))
        for extras in ((), ("distogram", "frames"))
    ]
    assert peaks[0] == peaks[1]
