"""Small AlphaFolds with weights drawn at random, and records for them."""

from __future__ import annotations

import numpy as np
import torch

from foldase_models.folding.alphafold.config import reduced
from foldase_models.folding.alphafold.model import AlphaFold
from foldase_models.folding.prediction import Alignment, FoldInput, Template
from foldase_models.layers.residues import RESTYPES

SPREAD = 0.3
"""Of weights around their start; a fresh model has many branches at zero."""


def model_of(config=None, *, dtype=torch.float32, seed=0):
    """A model in evaluation mode, of reduced size where no configuration is given."""
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AlphaFold(reduced() if config is None else config).to(dtype).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            width = parameter.shape[-1] ** 0.5 if parameter.ndim > 1 else 1.0
            noise = torch.randn(parameter.shape, generator=generator, dtype=dtype)
            parameter.add_(noise * (SPREAD / width))
    return model


def sequence_of(length, rng):
    """Letters of all twenty residues."""
    return "".join(RESTYPES[kind] for kind in rng.integers(20, size=length))


def alignment_of(chain, rows, rng):
    """The chain, and rows that differ from it in a third of the columns, with gaps and deletions."""
    letters = [chain]
    for _ in range(rows - 1):
        changed = rng.random(len(chain)) < 0.3
        other = rng.choice(list(RESTYPES + "-X"), size=len(chain))
        letters.append("".join(b if c else a for a, b, c in zip(chain, other, changed, strict=True)))
    deletions = rng.poisson(0.2, size=(rows, len(chain))).astype(np.int32)
    deletions[0] = 0
    return Alignment(letters=tuple(letters), deletions=deletions)


def template_of(chain, rng, *, lacking=0.2):
    """A random walk of residues with all atoms near their C-alpha, some residues and some atoms unknown."""
    alpha = np.cumsum(rng.normal(size=(len(chain), 1, 3)) * 2.2, axis=0)
    absent = rng.random(len(chain)) < lacking
    mask = (rng.random((len(chain), 37)) > 0.1) & ~absent[:, None]
    letters = "".join("-" if gone else letter for letter, gone in zip(chain, absent, strict=True))
    positions = (alpha + rng.normal(size=(len(chain), 37, 3))).astype(np.float32)
    return Template(name="walk", sequence=letters, positions=positions, mask=mask)


def record_of(length=14, rows=20, templates=2, *, seed=0):
    """One chain with an alignment and templates."""
    rng = np.random.default_rng(seed)
    chain = sequence_of(length, rng)
    return FoldInput(
        name="P1",
        chains=(chain,),
        alignments=(alignment_of(chain, rows, rng),),
        templates=(tuple(template_of(chain, rng) for _ in range(templates)),),
    )


def synthetic_npz(config, *, seed=0):
    """Arrays with the names, shapes and stacking of AlphaFold's parameter files, of the sizes of a model.

    Written down here from the modules of AlphaFold (``modules.py``, ``folding.py``), not derived from the map
    under test.
    """
    rng = np.random.default_rng(seed)
    shapes = alphafold_shapes(config)
    return {
        f"alphafold/alphafold_iteration/{name}": rng.normal(size=shape).astype(np.float32)
        for name, shape in shapes.items()
    }


def alphafold_shapes(config):
    """Shapes by name, without the common beginning."""
    evo, extra, dims = config.evoformer, config.extra_msa, config.structure
    c_m, c_z, c_s = evo.c_m, evo.c_z, dims.c_s
    shapes = {}

    def linear(name, width_in, width_out):
        shapes[f"{name}//weights"], shapes[f"{name}//bias"] = (width_in, width_out), (width_out,)

    def norm(name, width):
        shapes[f"{name}//scale"] = shapes[f"{name}//offset"] = (width,)

    for name, sizes in (
        ("preprocess_1d", (22, c_m)),
        ("preprocess_msa", (49, c_m)),
        ("left_single", (22, c_z)),
        ("right_single", (22, c_z)),
        ("prev_pos_linear", (config.recycle_bins, c_z)),
        ("pair_activiations", (2 * config.max_offset + 1, c_z)),
        ("extra_msa_activations", (25, extra.c_m)),
        ("single_activations", (c_m, c_s)),
    ):
        linear(f"evoformer/{name}", *sizes)
    norm("evoformer/prev_msa_first_row_norm", c_m)
    norm("evoformer/prev_pair_norm", c_z)
    for stack, own, blocks in (
        ("extra_msa_stack", extra, config.extra_msa_blocks),
        ("evoformer_iteration", evo, config.evoformer_blocks),
    ):
        _stack(shapes, f"evoformer/{stack}", _msa_shapes(own, stack == "extra_msa_stack"), blocks)
        _stack(shapes, f"evoformer/{stack}", _pair_shapes(own), blocks)
    if config.template is not None:
        _template_shapes(shapes, config, linear, norm)
    _structure_shapes(dims, linear, norm)
    shapes["structure_module/fold_iteration/invariant_point_attention//trainable_point_weights"] = (
        dims.no_heads_ipa,
    )
    norm("predicted_lddt_head/input_layer_norm", c_s)
    linear("predicted_lddt_head/act_0", c_s, config.plddt_width)
    linear("predicted_lddt_head/act_1", config.plddt_width, config.plddt_width)
    linear("predicted_lddt_head/logits", config.plddt_width, 50)
    linear("distogram_head/half_logits", c_z, 64)
    linear("experimentally_resolved_head/logits", c_s, 37)
    linear("masked_msa_head/logits", c_m, 23)
    if config.tm:
        linear("predicted_aligned_error_head/logits", c_z, 64)
    return shapes


def _stack(shapes, prefix, block, count):
    shapes.update({f"{prefix}/{name}": (count, *shape) for name, shape in block.items()})


def _attention_shapes(name, c, heads, width, *, gated=True, shared=False, c_kv=None):
    keys = (c_kv or c, width) if shared else (c_kv or c, heads, width)
    shapes = {
        "query_w": (c, heads, width),
        "key_w": keys,
        "value_w": keys,
        "output_w": (heads, width, c),
        "output_b": (c,),
    }
    if gated:
        shapes |= {"gating_w": (c, heads, width), "gating_b": (heads, width)}
    return {f"{name}//{own}": shape for own, shape in shapes.items()}


def _layers(name, linears, norms=()):
    shapes = {}
    for own, (width_in, width_out) in linears.items():
        shapes[f"{name}/{own}//weights"], shapes[f"{name}/{own}//bias"] = (width_in, width_out), (width_out,)
    for own, width in dict(norms).items():
        shapes[f"{name}/{own}//scale"] = shapes[f"{name}/{own}//offset"] = (width,)
    return shapes


def _msa_shapes(dims, extra):
    c, c_z, heads, width, outer = (
        dims.c_m,
        dims.c_z,
        dims.no_heads_msa,
        dims.c_hidden_msa_att,
        dims.c_hidden_opm,
    )
    row = "msa_row_attention_with_pair_bias"
    column = "msa_column_global_attention" if extra else "msa_column_attention"
    wide = dims.transition_n * c
    return {
        **_layers(row, {}, {"query_norm": c, "feat_2d_norm": c_z}),
        f"{row}//feat_2d_weights": (c_z, heads),
        **_attention_shapes(f"{row}/attention", c, heads, width),
        **_layers(column, {}, {"query_norm": c}),
        **_attention_shapes(f"{column}/attention", c, heads, width, shared=extra),
        **_layers(
            "msa_transition",
            {"transition1": (c, wide), "transition2": (wide, c)},
            {"input_layer_norm": c},
        ),
        **_layers(
            "outer_product_mean",
            {"left_projection": (c, outer), "right_projection": (c, outer)},
            {"layer_norm_input": c},
        ),
        "outer_product_mean//output_w": (outer, outer, c_z),
        "outer_product_mean//output_b": (c_z,),
    }


def _pair_shapes(dims):
    c, hidden, heads, width = dims.c_z, dims.c_hidden_mul, dims.no_heads_pair, dims.c_hidden_pair_att
    shapes = {}
    for side in ("outgoing", "incoming"):
        shapes |= _layers(
            f"triangle_multiplication_{side}",
            {
                "left_projection": (c, hidden),
                "right_projection": (c, hidden),
                "left_gate": (c, hidden),
                "right_gate": (c, hidden),
                "output_projection": (hidden, c),
                "gating_linear": (c, c),
            },
            {"layer_norm_input": c, "center_layer_norm": hidden},
        )
    for node in ("starting", "ending"):
        name = f"triangle_attention_{node}_node"
        shapes |= _layers(name, {}, {"query_norm": c})
        shapes[f"{name}//feat_2d_weights"] = (c, heads)
        shapes |= _attention_shapes(f"{name}/attention", c, heads, width)
    wide = dims.transition_n * c
    return shapes | _layers(
        "pair_transition", {"transition1": (c, wide), "transition2": (wide, c)}, {"input_layer_norm": c}
    )


def _template_shapes(shapes, config, linear, norm):
    dims, c_m, c_z = config.template, config.evoformer.c_m, config.evoformer.c_z
    single = "evoformer/template_embedding/single_template_embedding"
    linear("evoformer/template_single_embedding", 57, c_m)
    linear("evoformer/template_projection", c_m, c_m)
    linear(f"{single}/embedding2d", 88, dims.c_z)
    norm(f"{single}/output_layer_norm", dims.c_z)
    stack = f"{single}/template_pair_stack/__layer_stack_no_state"
    _stack(shapes, stack, _pair_shapes(dims), config.template_blocks)
    heads, width = config.template_attention_heads, config.template_attention_width
    shapes |= _attention_shapes(
        "evoformer/template_embedding/attention", c_z, heads, width, gated=False, c_kv=dims.c_z
    )


def _structure_shapes(dims, linear, norm):
    c_s, c_z, heads, points = dims.c_s, dims.c_z, dims.no_heads_ipa, dims.no_qk_points
    both, width, hidden = points + dims.no_v_points, dims.c_ipa, dims.c_resnet
    top, fold = "structure_module", "structure_module/fold_iteration"
    ipa, side = f"{fold}/invariant_point_attention", f"{fold}/rigid_sidechain"
    norm(f"{top}/single_layer_norm", c_s)
    norm(f"{top}/pair_layer_norm", c_z)
    norm(f"{fold}/attention_layer_norm", c_s)
    norm(f"{fold}/transition_layer_norm", c_s)
    linear(f"{top}/initial_projection", c_s, c_s)
    linear(f"{ipa}/q_scalar", c_s, heads * width)
    linear(f"{ipa}/kv_scalar", c_s, 2 * heads * width)
    linear(f"{ipa}/q_point_local", c_s, 3 * heads * points)
    linear(f"{ipa}/kv_point_local", c_s, 3 * heads * both)
    linear(f"{ipa}/attention_2d", c_z, heads)
    linear(f"{ipa}/output_projection", heads * (c_z + width + 4 * dims.no_v_points), c_s)
    for ending in ("", "_1", "_2"):
        linear(f"{fold}/transition{ending}", c_s, c_s)
        if ending != "_2":
            linear(f"{side}/input_projection{ending}", c_s, hidden)
            linear(f"{side}/resblock1{ending}", hidden, hidden)
            linear(f"{side}/resblock2{ending}", hidden, hidden)
    linear(f"{fold}/affine_update", c_s, 6)
    linear(f"{side}/unnormalized_angles", hidden, 14)
