"""Where each parameter of ours lies in AlphaFold's ``.npz`` files and in OpenFold's checkpoints; no torch.

An ``.npz`` of AlphaFold holds one array for all blocks of a stack (axis 0), weights as ``[in, out]``, and
those of attention with heads apart. Names: ``alphafold/alphafold_iteration/MODULE//ARRAY``, where ARRAY is
``weights``, ``bias``, ``scale``, ``offset`` or the name of one weight of attention. Source of the names: the
modules of AlphaFold 2.3 (``modules.py``, ``folding.py``, ``common_modules.py``).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from foldase_models.folding.alphafold.config import AlphaFoldConfig

PREFIX = "alphafold/alphafold_iteration/"
Layout = Literal["as is", "first axis in", "last axis out"]


@dataclass(frozen=True, slots=True)
class Source:
    """Where a parameter comes from.

    Attributes:
        array: name in the file.
        block: place along axis 0, or None where blocks are not stacked.
        layout: ``as is`` for vectors, whose axes are joined; ``first axis in`` for ``[in, ...]`` and
            ``last axis out`` for ``[..., out]``, both to be ``[out, in]``.
    """

    array: str
    block: int | None
    layout: Layout

    def read(self, stored: NDArray[np.generic]) -> NDArray[np.generic]:
        """The parameter from the array in the file."""
        own = stored if self.block is None else stored[self.block]
        if self.layout == "as is":
            return own.reshape(-1)
        if self.layout == "first axis in":
            return own.reshape(own.shape[0], -1).T
        return own.reshape(-1, own.shape[-1]).T


_Pair = tuple[str, str, Layout]
"""Key of ours behind a module, name behind theirs, layout."""

_LINEAR: tuple[_Pair, ...] = (
    (".weight", "//weights", "first axis in"),
    (".bias", "//bias", "as is"),
)
_NORM: tuple[_Pair, ...] = ((".weight", "//scale", "as is"), (".bias", "//offset", "as is"))
_UNGATED: tuple[_Pair, ...] = (
    (".linear_q.weight", "//query_w", "first axis in"),
    (".linear_k.weight", "//key_w", "first axis in"),
    (".linear_v.weight", "//value_w", "first axis in"),
    (".linear_o.weight", "//output_w", "last axis out"),
    (".linear_o.bias", "//output_b", "as is"),
)
_GATED: tuple[_Pair, ...] = (
    *_UNGATED,
    (".linear_g.weight", "//gating_w", "first axis in"),
    (".linear_g.bias", "//gating_b", "as is"),
)


def _under(ours: str, theirs: str, pairs: tuple[_Pair, ...]) -> Iterator[_Pair]:
    return ((ours + own, theirs + other, layout) for own, other, layout in pairs)


def _linears(of: dict[str, str], ours: str, theirs: str) -> Iterator[_Pair]:
    for own, other in of.items():
        yield from _under(ours + own, theirs + other, _LINEAR)


def _attention(ours: str, theirs: str, *, mha: str = ".mha", norm: str = ".layer_norm_m") -> Iterator[_Pair]:
    yield from _under(ours + norm, theirs + "/query_norm", _NORM)
    yield from _under(ours + mha, theirs + "/attention", _GATED)


def _multiplication(ours: str, theirs: str, *, outgoing: bool) -> Iterator[_Pair]:
    # AlphaFold's left and right are the published a and b for outgoing edges, and b and a for incoming ones.
    a, b = ("left", "right") if outgoing else ("right", "left")
    yield from _under(ours + ".layer_norm_in", theirs + "/layer_norm_input", _NORM)
    yield from _under(ours + ".layer_norm_out", theirs + "/center_layer_norm", _NORM)
    names = {
        ".linear_a_p": f"/{a}_projection",
        ".linear_a_g": f"/{a}_gate",
        ".linear_b_p": f"/{b}_projection",
        ".linear_b_g": f"/{b}_gate",
        ".linear_z": "/output_projection",
        ".linear_g": "/gating_linear",
    }
    yield from _linears(names, ours, theirs)


def _transition(ours: str, theirs: str) -> Iterator[_Pair]:
    yield from _under(ours + ".layer_norm", theirs + "/input_layer_norm", _NORM)
    yield from _linears({".linear_1": "/transition1", ".linear_2": "/transition2"}, ours, theirs)


def _pairs(ours: str) -> Iterator[_Pair]:
    """The parts of a block that see pairs only; theirs have no module around them."""
    for own, theirs, outgoing in (
        (".tri_mul_out", "/triangle_multiplication_outgoing", True),
        (".tri_mul_in", "/triangle_multiplication_incoming", False),
    ):
        yield from _multiplication(ours + own, theirs, outgoing=outgoing)
    for own, theirs in (
        (".tri_att_start", "/triangle_attention_starting_node"),
        (".tri_att_end", "/triangle_attention_ending_node"),
    ):
        yield from _attention(ours + own, theirs, norm=".layer_norm")
        yield ours + own + ".linear.weight", theirs + "//feat_2d_weights", "first axis in"
    yield from _transition(ours + ".pair_transition", "/pair_transition")


def _block(*, extra: bool) -> Iterator[_Pair]:
    row = "/msa_row_attention_with_pair_bias"
    yield from _attention(".msa_att_row", row)
    yield from _under(".msa_att_row.layer_norm_z", row + "/feat_2d_norm", _NORM)
    yield ".msa_att_row.linear_z.weight", row + "//feat_2d_weights", "first axis in"
    if extra:
        yield from _attention(".msa_att_col", "/msa_column_global_attention", mha=".global_attention")
    else:
        yield from _attention(".msa_att_col._msa_att", "/msa_column_attention")
    yield from _transition(".msa_transition", "/msa_transition")
    outer = "/outer_product_mean"
    yield from _under(".outer_product_mean.layer_norm", outer + "/layer_norm_input", _NORM)
    names = {".linear_1": "/left_projection", ".linear_2": "/right_projection"}
    yield from _linears(names, ".outer_product_mean", outer)
    yield ".outer_product_mean.linear_out.weight", outer + "//output_w", "last axis out"
    yield ".outer_product_mean.linear_out.bias", outer + "//output_b", "as is"
    yield from _pairs(".pair_stack")


def _embedders() -> Iterator[_Pair]:
    evoformer = "evoformer"
    names = {
        "input_embedder.linear_tf_m": "/preprocess_1d",
        "input_embedder.linear_msa_m": "/preprocess_msa",
        "input_embedder.linear_tf_z_i": "/left_single",
        "input_embedder.linear_tf_z_j": "/right_single",
        "input_embedder.linear_relpos": "/pair_activiations",  # as AlphaFold writes it
        "recycling_embedder.linear": "/prev_pos_linear",
        "extra_msa_embedder.linear": "/extra_msa_activations",
        "evoformer.linear": "/single_activations",
    }
    yield from _linears(names, "", evoformer)
    yield from _under("recycling_embedder.layer_norm_m", evoformer + "/prev_msa_first_row_norm", _NORM)
    yield from _under("recycling_embedder.layer_norm_z", evoformer + "/prev_pair_norm", _NORM)


def _templates() -> Iterator[_Pair]:
    ours, theirs = "template_embedder.", "evoformer/"
    names = {
        "template_single_embedder.linear_1": "template_single_embedding",
        "template_single_embedder.linear_2": "template_projection",
        "template_pair_embedder.linear": "template_embedding/single_template_embedding/embedding2d",
    }
    yield from _linears(names, ours, theirs)
    yield from _under(
        ours + "template_pair_stack.layer_norm",
        theirs + "template_embedding/single_template_embedding/output_layer_norm",
        _NORM,
    )
    yield from _under(ours + "template_pointwise_att.mha", theirs + "template_embedding/attention", _UNGATED)


def _structure() -> Iterator[_Pair]:
    ours, theirs = "structure_module", "structure_module"
    fold, ipa = theirs + "/fold_iteration", theirs + "/fold_iteration/invariant_point_attention"
    for own, other in (
        (".layer_norm_s", theirs + "/single_layer_norm"),
        (".layer_norm_z", theirs + "/pair_layer_norm"),
        (".layer_norm_ipa", fold + "/attention_layer_norm"),
        (".transition.layer_norm", fold + "/transition_layer_norm"),
    ):
        yield from _under(ours + own, other, _NORM)
    names = {
        ".linear_in": theirs + "/initial_projection",
        ".ipa.linear_q": ipa + "/q_scalar",
        ".ipa.linear_kv": ipa + "/kv_scalar",
        ".ipa.linear_q_points": ipa + "/q_point_local",
        ".ipa.linear_kv_points": ipa + "/kv_point_local",
        ".ipa.linear_b": ipa + "/attention_2d",
        ".ipa.linear_out": ipa + "/output_projection",
        ".transition.layers.0.linear_1": fold + "/transition",
        ".transition.layers.0.linear_2": fold + "/transition_1",
        ".transition.layers.0.linear_3": fold + "/transition_2",
        ".bb_update.linear": fold + "/affine_update",
        ".angle_resnet.linear_in": fold + "/rigid_sidechain/input_projection",
        ".angle_resnet.linear_initial": fold + "/rigid_sidechain/input_projection_1",
        ".angle_resnet.layers.0.linear_1": fold + "/rigid_sidechain/resblock1",
        ".angle_resnet.layers.0.linear_2": fold + "/rigid_sidechain/resblock2",
        ".angle_resnet.layers.1.linear_1": fold + "/rigid_sidechain/resblock1_1",
        ".angle_resnet.layers.1.linear_2": fold + "/rigid_sidechain/resblock2_1",
        ".angle_resnet.linear_out": fold + "/rigid_sidechain/unnormalized_angles",
    }
    yield from _linears(names, ours, "")
    yield ours + ".ipa.head_weights", ipa + "//trainable_point_weights", "as is"


def _heads(*, tm: bool) -> Iterator[_Pair]:
    lddt = "predicted_lddt_head"
    yield from _under("aux_heads.plddt.layer_norm", lddt + "/input_layer_norm", _NORM)
    names = {
        "plddt.linear_1": lddt + "/act_0",
        "plddt.linear_2": lddt + "/act_1",
        "plddt.linear_3": lddt + "/logits",
        "distogram.linear": "distogram_head/half_logits",
        "experimentally_resolved.linear": "experimentally_resolved_head/logits",
        "masked_msa.linear": "masked_msa_head/logits",
    }
    if tm:
        names["tm.linear"] = "predicted_aligned_error_head/logits"
    yield from _linears(names, "aux_heads.", "")


def alphafold_sources(config: AlphaFoldConfig) -> dict[str, Source]:
    """Where each parameter of the model, by its key, comes from in an ``.npz`` of AlphaFold."""
    single = [*_embedders(), *_structure(), *_heads(tm=config.tm)]
    stacks = [
        ("extra_msa_stack", "evoformer/extra_msa_stack", config.extra_msa_blocks, [*_block(extra=True)]),
        ("evoformer", "evoformer/evoformer_iteration", config.evoformer_blocks, [*_block(extra=False)]),
    ]
    if config.template is not None:
        single += _templates()
        stack = "evoformer/template_embedding/single_template_embedding/template_pair_stack"
        ours = "template_embedder.template_pair_stack"
        stacks.append((ours, stack + "/__layer_stack_no_state", config.template_blocks, [*_pairs("")]))
    sources = {ours: Source(PREFIX + theirs, None, layout) for ours, theirs, layout in single}
    for ours, theirs, blocks, pairs in stacks:
        for own, other, layout in pairs:
            for block in range(blocks):
                key = f"{ours}.blocks.{block}{own}"
                sources[key] = Source(PREFIX + theirs + other, block, layout)
    return sources


_OPENFOLD_NOW = (
    (".ipa.linear_q_points.linear.", ".ipa.linear_q_points."),
    (".ipa.linear_kv_points.linear.", ".ipa.linear_kv_points."),
)
"""Keys of OpenFold 2 that differ from ours, which are those of OpenFold 1 and of ESMFold here."""
_OPENFOLD_BEFORE = (
    ("template_angle_embedder.", "template_single_embedder."),
    (".core.msa_transition.", ".msa_transition."),
    (".core.outer_product_mean.", ".outer_product_mean."),
    (".core.pair_transition.", ".pair_stack.pair_transition."),
    (".core.tri_", ".pair_stack.tri_"),
)
"""Keys of OpenFold 1 that differ."""
_WRAPPERS = ("module.", "model.")


def from_openfold(key: str) -> str:
    """Our key for one of OpenFold, of its first or second major version, with or without a wrapper."""
    for wrapper in _WRAPPERS:
        key = key.removeprefix(wrapper)
    for theirs, ours in (*_OPENFOLD_NOW, *_OPENFOLD_BEFORE):
        key = key.replace(theirs, ours)
    first = key.partition(".")[0]
    if first.startswith("template_") and first != "template_embedder":
        key = "template_embedder." + key
    return key
