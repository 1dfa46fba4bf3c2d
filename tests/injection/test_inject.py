"""Our modules in Hugging Face's ESMFold and ESM-2: same results, same parameters, and a way back."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from transformers import EsmConfig, EsmForMaskedLM, EsmForProteinFolding
from transformers.models.esm.modeling_esmfold import EsmFoldTriangleAttention

import foldase_models
from foldase_models.errors import ModelError
from foldase_models.injection import modules as ours
from foldase_models.injection.policies import POLICIES

pytestmark = pytest.mark.xdist_group("transformers")

CLOSE = 1e-5
"""float32 against float32, of the largest value."""
POSITIONS = 1e-3
"""A; a whole model of random weights amplifies rounding."""
EXACT = 1e-9
HALF = 5e-3
LENGTHS = (11, 8)

OF_ONE_BLOCK = {
    "triangle attention": 2,
    "triangle multiplication": 2,
    "transition": 2,
    "sequence attention": 1,
}


def build():
    torch.manual_seed(0)
    structure = {"sequence_dim": 24, "pairwise_dim": 12, "ipa_dim": 8, "resnet_dim": 16, "num_heads_ipa": 3}
    trunk = {
        "num_blocks": 2,
        "sequence_state_dim": 32,
        "pairwise_state_dim": 16,
        "sequence_head_width": 8,
        "pairwise_head_width": 8,
        "position_bins": 8,
        "max_recycles": 2,
        "chunk_size": None,
        "structure_module": structure | {"num_blocks": 2},
    }
    config = EsmConfig(
        vocab_size=33,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        mask_token_id=32,
        pad_token_id=1,
        position_embedding_type="rotary",
        token_dropout=True,
        attention_probs_dropout_prob=0.0,
        hidden_dropout_prob=0.0,
        is_folding_model=True,
        esmfold_config={"trunk": trunk, "fp16_esm": False, "lddt_head_hid_dim": 16},
    )
    model = EsmForProteinFolding(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # fresh ones are zero where branches end
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


@pytest.fixture(scope="module")
def pristine():
    return build()


@pytest.fixture
def model(pristine):
    return copy.deepcopy(pristine)


def sequences():
    generator = torch.Generator().manual_seed(3)
    residues = torch.randint(0, 20, (len(LENGTHS), max(LENGTHS)), generator=generator)
    mask = torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]
    return residues, mask.long()


def relative(found, wanted):
    return float((found - wanted).abs().max() / wanted.abs().max())


@pytest.mark.parametrize("chunk", [None, pytest.param(4, marks=pytest.mark.verify)])
@torch.no_grad()
def test_a_whole_model_predicts_the_same(model, chunk):
    residues, mask = sequences()
    model.trunk.set_chunk_size(chunk)
    wanted = model(residues, attention_mask=mask)
    report = foldase_models.inject(model)
    found = model(residues, attention_mask=mask)
    assert report.kinds == {kind: 2 * count for kind, count in OF_ONE_BLOCK.items()} | {
        "invariant point attention": 1,
        "language attention": 2,
    }
    assert report.relative_error < CLOSE
    real = mask.bool()
    pairs = real[:, None] & real[:, :, None]
    for name, places in {
        "s_s": real,
        "lm_logits": real,
        "plddt": real,
        "s_z": pairs,
        "distogram_logits": pairs,
        "ptm_logits": pairs,
    }.items():
        assert relative(found[name][places], wanted[name][places]) < CLOSE, name
    assert (found.positions - wanted.positions)[:, real].abs().max() < POSITIONS
    alone = model(residues[:1], num_recycles=0)
    report.revert()
    assert abs(float(alone.ptm - model(residues[:1], num_recycles=0).ptm)) < CLOSE


@torch.no_grad()
def test_parameters_are_shared_and_keys_stay(model):
    before = dict(model.named_parameters())
    keys, buffers = list(model.state_dict()), dict(model.named_buffers())
    foldase_models.inject(model)
    after = dict(model.named_parameters())
    assert list(after) == list(before)
    assert all(after[name] is before[name] for name in before)
    assert list(model.state_dict()) == keys
    assert dict(model.named_buffers()).keys() == buffers.keys()
    assert isinstance(model.trunk.blocks[1].tri_att_end, ours.InjectedTriangleAttention)
    assert isinstance(model.trunk.structure_module.ipa, ours.InjectedPointAttention)


@torch.no_grad()
def test_reverting_restores_the_very_modules(model):
    residues, mask = sequences()
    before = dict(model.named_modules())
    wanted = model(residues, attention_mask=mask)
    report = foldase_models.inject(model)
    model.train()
    report.revert()
    report.revert()
    after = dict(model.named_modules())
    assert list(after) == list(before)
    assert all(after[name] is before[name] for name in before)
    assert all(module.training for module in after.values())
    found = model.eval()(residues, attention_mask=mask)
    assert torch.equal(found.positions, wanted.positions)
    assert torch.equal(found.s_z, wanted.s_z)


def other_activation(model):
    model.trunk.blocks[1].mlp_pair.mlp[2] = nn.GELU()


def other_scale(model):
    model.trunk.blocks[1].tri_att_end.mha.c_hidden *= 2


def other_direction(model):
    model.trunk.blocks[1].tri_mul_in._combine_projections = model.trunk.blocks[
        1
    ].tri_mul_out._combine_projections


def other_rescaling(model):
    model.trunk.blocks[1].seq_attention.rescale_factor *= 1.01


def other_infinity(model):
    model.trunk.structure_module.ipa.config.inf = 0.0


def other_scaling_of_the_language_model(model):
    model.esm.encoder.layer[1].attention.self.scaling = 0.5


@pytest.mark.parametrize(
    ("tamper", "place"),
    [
        (other_activation, "trunk.blocks.1.mlp_pair"),
        (other_scale, "trunk.blocks.1.tri_att_end"),
        (other_direction, "trunk.blocks.1.tri_mul_in"),
        (other_rescaling, "trunk.blocks.1.seq_attention"),
        (other_infinity, "trunk.structure_module.ipa"),
        (other_scaling_of_the_language_model, "esm.encoder.layer.1.attention.self"),
    ],
)
def test_a_module_that_computes_something_else_is_refused(model, tamper, place):
    tamper(model)
    before = dict(model.named_modules())
    model.train()
    with pytest.raises(ModelError) as caught:
        foldase_models.inject(model)
    assert (caught.value.code, caught.value.location) == ("injection_mismatch", place)
    after = dict(model.named_modules())
    assert list(after) == list(before)
    assert all(after[name] is before[name] for name in before)
    assert all(module.training for module in after.values())


def test_fresh_weights_hide_no_difference():
    """Branches of a fresh module end in zeros, which random weights in the check stand in for."""
    holder = nn.Sequential(EsmFoldTriangleAttention(8, 8, 2))
    nn.init.zeros_(holder[0].mha.linear_o.weight)
    holder[0].mha.c_hidden = 9
    with pytest.raises(ModelError, match="computes something else"):
        foldase_models.inject(holder)
    holder[0].mha.c_hidden = 8
    assert foldase_models.inject(holder).kinds == {"triangle attention": 1}


class Root(nn.Module):
    def forward(self, x):
        return x.sqrt()


class RootTransition(nn.Module):
    """With weights of zero as good as a transition with ReLU; with others no numbers at all."""

    def __init__(self):
        super().__init__()
        self.mlp = nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 16), Root(), nn.Linear(16, 8))
        nn.init.zeros_(self.mlp[1].weight)
        nn.init.zeros_(self.mlp[1].bias)

    def forward(self, x):
        return x + self.mlp(x)


def test_results_that_are_no_numbers_agree_with_nothing():
    holder = nn.Sequential(RootTransition())
    with pytest.raises(ModelError, match="results differ by nan"):
        foldase_models.inject(holder)


def test_a_module_that_cannot_be_called_is_refused(model):
    model.trunk.blocks[0].tri_att_start.forward = lambda: None
    with pytest.raises(ModelError, match="cannot be called"):
        foldase_models.inject(model)


@torch.no_grad()
def test_hooks_stay(model):
    residues, _ = sequences()
    layer, calls = model.trunk.blocks[1].tri_att_end, []
    layer.register_forward_hook(
        lambda module, args, kwargs, out: calls.append((type(module).__name__, sorted(kwargs))),
        with_kwargs=True,
    )
    foldase_models.inject(model, kinds=["triangle attention"])
    calls.clear()
    model(residues, num_recycles=0)
    assert calls == [("InjectedTriangleAttention", ["chunk_size", "mask"])]


def test_one_injection_at_a_time(model):
    report = foldase_models.inject(model)
    with pytest.raises(ModelError) as caught:
        foldase_models.inject(model)
    assert caught.value.code == "nothing_to_inject"
    report.revert()
    assert foldase_models.inject(model).kinds == report.kinds


def test_some_kinds_only(model):
    report = foldase_models.inject(model, kinds=["transition", "attention"])
    # Attention inside triangle attention is one of its own when that one is left.
    assert report.kinds == {"transition": 4, "attention": 4}
    with pytest.raises(ModelError, match="triangle attention") as caught:
        foldase_models.inject(model, kinds=["triangles"])
    assert caught.value.code == "unknown_kind"


@torch.no_grad()
def test_attention_alone_in_chunks(model):
    residues, mask = sequences()
    model.trunk.set_chunk_size(3)
    wanted = model(residues, attention_mask=mask).s_z
    foldase_models.inject(model, kinds=["attention"])
    assert relative(model(residues, attention_mask=mask).s_z, wanted) < CLOSE


def test_gradients_are_the_same(model):
    """In training; the trunk only, since the language model takes part in no gradient."""
    residues, mask = sequences()
    real = mask.bool()
    pairs = real[:, None] & real[:, :, None]
    model.train()
    gradients = []
    for injected in (False, True):
        if injected:
            foldase_models.inject(model)
        model.zero_grad()
        out = model(residues, attention_mask=mask, num_recycles=0)
        (out.s_z[pairs].square().mean() + out.s_s[real].square().mean()).backward()
        gradients.append({name: p.grad for name, p in model.trunk.blocks.named_parameters()})
    for name, wanted in gradients[0].items():
        limit = 10 * CLOSE * max(1.0, float(wanted.abs().max()))
        assert (gradients[1][name] - wanted).abs().max() <= limit, name


def test_modules_are_found_by_their_parts_whatever_their_class(model):
    for module in model.modules():
        module.__class__ = type("Renamed", (type(module),), {})
    assert len(foldase_models.inject(model).replacements) == 2 * sum(OF_ONE_BLOCK.values()) + 3


def test_a_language_model_in_half_precision(model):
    """As the published checkpoint keeps it."""
    model.esm.half()
    report = foldase_models.inject(model)
    of_language = [one for one in report.replacements if one.kind == "language attention"]
    assert 0 < max(one.relative_error for one in of_language) < HALF
    assert all(one.relative_error < CLOSE for one in report.replacements if one not in of_language)


def test_float64_is_exact(model):
    """But for the language model, whose rotation is float32 whatever the model is."""
    kinds = set(POLICIES) - {"language attention"}
    assert foldase_models.inject(model.double(), kinds=kinds).relative_error < EXACT


def test_what_is_written_in_place(model):
    """The option of triangle multiplication that overwrites its argument; their trunk never sets it."""
    layer = model.trunk.blocks[0].tri_mul_out
    z = torch.randn(1, 9, 9, 16)
    with torch.no_grad():
        update = layer(z)
        foldase_models.inject(model)
        layer = model.trunk.blocks[0].tri_mul_out
        for add, wanted in ((False, update), (True, z + update)):
            held = z.clone()
            assert layer(held, inplace_safe=True, _add_with_inplace=add) is held
            assert relative(held, wanted) < CLOSE


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@torch.no_grad()
def test_the_language_model_alone(implementation):
    torch.manual_seed(0)
    config = EsmConfig(
        vocab_size=33,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=48,
        mask_token_id=32,
        pad_token_id=1,
        position_embedding_type="rotary",
        attn_implementation=implementation,
    )
    model = EsmForMaskedLM(config).eval()
    tokens = torch.randint(4, 24, (2, 9))
    mask = torch.tensor([[1] * 9, [1] * 6 + [0] * 3])
    wanted = model(tokens, attention_mask=mask).logits
    report = foldase_models.inject(model)
    assert report.kinds == {"language attention": 2}
    assert relative(model(tokens, attention_mask=mask).logits, wanted) < CLOSE
    # Dropout of attention weights is theirs to make, while training.
    with torch.enable_grad():
        model.train()(tokens, attention_mask=mask).logits.sum().backward()
    assert all(p.grad is not None for p in model.esm.encoder.parameters())


def test_a_model_of_other_parts_has_nothing_to_inject():
    with pytest.raises(ModelError) as caught:
        foldase_models.inject(nn.Sequential(nn.Linear(3, 3), nn.ReLU()))
    assert caught.value.code == "nothing_to_inject"
