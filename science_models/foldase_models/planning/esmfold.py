"""What ESMFold holds and does in inference, after ``foldase_models/folding/esmfold`` and ``esm2``.

Shapes: N residues of one protein, linkers between chains included, L = N + 2 tokens and D channels of the
language model, c_s and c_z channels of sequence and pair representation.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from foldase_models.folding.esm2.config import Esm2Config
from foldase_models.folding.esmfold.config import TOKENS, EsmFoldConfig, TrunkDims
from foldase_models.layers.dims import EvoformerDims
from foldase_models.planning import pair_layers, parameters, structure
from foldase_models.planning.cpu_kernels import Attention
from foldase_models.planning.forms import WIDE, Forms
from foldase_models.planning.ledger import Ledger
from foldase_models.planning.pair_layers import KERNELS, by_rows

RECYCLE_BINS, PAIR_BINS, LDDT_BINS, PLACES = 15, 64, 50, 37
FEWEST_POSITIONS = 256


@dataclass(frozen=True, slots=True)
class EsmFoldCost:
    """Of one configuration; ``masked`` where a mask of residues is given."""

    config: EsmFoldConfig
    masked: bool = False

    def parameters(self) -> int:
        """Exactly."""
        config, trunk, linear = self.config, self.config.trunk, parameters.linear
        D, c_s, c_z = config.language.hidden_size, trunk.c_s, trunk.c_z
        first = config.language.num_hidden_layers + 1 + 2 * D + linear(D, c_s) + linear(c_s, c_s)
        first += TOKENS * c_s if config.embed_aa else 0
        around = (2 * trunk.position_bins + 2) * c_z + 2 * c_s + 2 * c_z + RECYCLE_BINS * c_z
        around += linear(c_s, config.structure.c_s) + linear(c_z, config.structure.c_z)
        lddt = 2 * config.structure.c_s + linear(config.structure.c_s, config.lddt_width)
        lddt += linear(config.lddt_width, config.lddt_width) + linear(config.lddt_width, PLACES * LDDT_BINS)
        heads = lddt + 2 * linear(c_z, PAIR_BINS) + linear(c_s, TOKENS)
        blocks = self.block_parameters()
        rest = language_rest(config.language) + parameters.structure_module(config.structure)
        return blocks + rest + first + around + heads

    def block_parameters(self) -> int:
        """Of all layers and blocks that may wait elsewhere."""
        language, trunk = self.config.language, self.config.trunk
        return language.num_hidden_layers * language_layer(language) + trunk.no_blocks * trunk_block(trunk)

    def waits_in(self, device: str) -> str:
        """Where weights of blocks wait, if they are to."""
        return "disk"

    def inputs(self, N: int) -> int:
        """Bytes of residue types and numbers, and what tells linkers apart."""
        return 40 * N

    def replay(self, ledger: Ledger, forms: Forms, N: int, *, recycles: int) -> None:
        """``EsmFold.forward``, then the heads of pairs."""
        config, item = self.config, forms.item
        trunk, forms = config.trunk, replace(forms, masked=self.masked)
        _language(ledger, forms, config.language, N + 2, trunk.c_s)
        ledger.make(item * N * trunk.c_s)
        _trunk(ledger, forms, config, N, recycles=recycles, masked=self.masked)
        ledger.make(item * N * trunk.c_s + item * N * N * trunk.c_z)
        ledger.make(structure.output_bytes(config.structure, N) + WIDE * 3 * N * (recycles + 1))
        _heads(ledger, forms, config, N)

    def work(self, N: int, forms: Forms, *, recycles: int) -> dict[str, float]:
        """Floating point operations by part, all passes."""
        config, trunk = self.config, self.config.trunk
        language, L = config.language, N + 2
        inner, c_s = trunk.c_s, trunk.c_s
        of_sequence = parameters.self_attention_work(1, N, c_s, inner) + 16.0 * N * c_s * c_s
        to_pairs = 2.0 * N * N * trunk.c_z * (trunk.c_z // 2) + 2.0 * N * N * trunk.c_z * trunk.sequence_heads
        passes = (recycles + 1) * trunk.no_blocks
        of_pairs = parameters.pair_stack_work(pair_dims(trunk), N, forms)
        work = {part: passes * count for part, count in of_pairs.items()}
        work["sequence"] = passes * (of_sequence + to_pairs)
        work["structure module"] = (recycles + 1) * parameters.structure_work(config.structure, N)
        attention = 4.0 * L * L * language.hidden_size
        work["language model"] = language.num_hidden_layers * (2.0 * language_layer(language) * L + attention)
        return work


def pair_dims(trunk: TrunkDims) -> EvoformerDims:
    """The widths of the pair stack within a block of the trunk."""
    return EvoformerDims(
        c_z=trunk.c_z,
        c_hidden_mul=trunk.c_z,
        c_hidden_pair_att=trunk.pair_head_width,
        no_heads_pair=trunk.pair_heads,
    )


def trunk_block(trunk: TrunkDims) -> int:
    """Parameters of a block."""
    c_s, c_z, linear = trunk.c_s, trunk.c_z, parameters.linear
    to_pair = 2 * c_s + linear(c_s, c_z) + linear(c_z, c_z)
    to_sequence = 2 * c_z + linear(c_z, trunk.sequence_heads, bias=False)
    attention = linear(c_s, 3 * c_s, bias=False) + 2 * linear(c_s, c_s)
    pairs = parameters.pair_stack(pair_dims(trunk))
    return 2 * c_s + to_pair + to_sequence + attention + pairs + parameters.transition(c_s, 4)


def language_layer(language: Esm2Config) -> int:
    """Parameters of a layer of the language model."""
    D, inner, linear = language.hidden_size, language.intermediate_size, parameters.linear
    return 4 * linear(D, D) + 4 * D + linear(D, inner) + linear(inner, D)


def language_rest(language: Esm2Config) -> int:
    """Parameters of the language model outside of its layers."""
    D = language.hidden_size
    absolute = language.position_embedding_type == "absolute"
    tables = language.vocab_size + (language.max_position_embeddings if absolute else 0)
    norms = 2 * D * (2 if language.emb_layer_norm_before else 1)
    return tables * D + norms + language.num_hidden_layers * language.num_attention_heads + 1


def _language(ledger: Ledger, forms: Forms, language: Esm2Config, L: int, c_s: int) -> None:
    """The encoder, its states combined on the way, and the network behind it."""
    state = forms.item * L * language.hidden_size
    with ledger.frame("language model"):
        ledger.make(2 * state)
        with ledger.frame():
            _language_layer(ledger, forms, language, L)
        ledger.make(state)
        ledger.flash(2 * state)
        ledger.flash(state, 3 * forms.item * L * c_s)


def _language_layer(ledger: Ledger, forms: Forms, language: Esm2Config, L: int) -> None:
    item, D = forms.item, language.hidden_size
    state = item * L * D
    with ledger.frame():
        if forms.waiting:
            ledger.make(item * language_layer(language))
        ledger.make(state)
        if language.position_embedding_type == "rotary":
            ledger.flash(3 * state, 2 * WIDE * L * D)
        ledger.make(3 * state)
        heads = language.num_attention_heads
        call = Attention(
            rows=1, heads=heads, queries=L, keys=L, width=D // heads, gate=False, mask=False, bias="none"
        )
        KERNELS[forms.kernels].attention(ledger, forms, call)
    ledger.flash(3 * state)
    positions = min(L, max(FEWEST_POSITIONS, forms.group_bytes // (D * item)))
    ledger.make(state)
    ledger.flash(item * positions * (2 * D + 2 * language.intermediate_size))


def _trunk(
    ledger: Ledger, forms: Forms, config: EsmFoldConfig, N: int, *, recycles: int, masked: bool
) -> None:
    """All passes: the last of them, with the structure of the one before."""
    trunk, item = config.trunk, forms.item
    pair, residue = item * N * N * trunk.c_z, item * N * trunk.c_s
    with ledger.frame():
        ledger.make(2 * residue + pair)
        if recycles:
            ledger.make(structure.output_bytes(config.structure, N))
        with ledger.frame("embedding of pairs"):
            taken = forms.rows(N, item * N * trunk.c_z)
            ledger.make(3 * item * taken * N * trunk.c_z)
            ledger.flash(24 * taken * N)
        with ledger.frame("trunk"):
            ledger.make(residue)
            if forms.waiting:
                ledger.make(item * trunk_block(trunk))
            block(ledger, forms, trunk, N, masked=masked)
        of_structure = config.structure.c_z
        with ledger.frame("structure module"):

            def project(rows: int) -> None:
                ledger.make(item * rows * N * of_structure)

            row = item * N * trunk.c_z
            by_rows(ledger, forms, rows=N, row_bytes=row, out_bytes=item * N * of_structure, compute=project)
            ledger.make(item * N * N * of_structure + item * N * config.structure.c_s)
            structure.structure_module(ledger, config.structure, forms, N)


def block(ledger: Ledger, forms: Forms, trunk: TrunkDims, N: int, *, masked: bool) -> None:
    """``TrunkBlock`` in place."""
    item, c_s, c_z = forms.item, trunk.c_s, trunk.c_z
    residue = item * N * c_s
    with ledger.frame("sequence"):
        ledger.make(residue)
        _sequence_attention(ledger, forms, trunk, N, masked)
        ledger.make(residue)
        kernels = KERNELS[forms.kernels]
        ledger.make(residue)
        kernels.transition(ledger, forms, positions=N, width=c_s, hidden=4 * c_s)
    with ledger.frame():
        ledger.make(residue)
        with ledger.frame("pairs from the sequence"):
            taken = forms.rows(N, item * N * c_z)
            ledger.flash(residue, item * N * c_z)
            ledger.make(3 * item * N * c_z)
            ledger.make(item * taken * (2 * N * c_z + c_z * (c_z // 2)))
        if masked:
            ledger.make(N * N)
        pair_layers.pair_stack(ledger, forms, pair_dims(trunk), N)


def _sequence_attention(ledger: Ledger, forms: Forms, trunk: TrunkDims, N: int, masked: bool) -> None:
    heads, residue = trunk.sequence_heads, forms.item * N * trunk.c_s
    with ledger.frame():
        bias = pair_layers.pair_bias(ledger, forms, residues=N, width=trunk.c_z, heads=heads)
        with ledger.frame():
            ledger.make(4 * residue)
            call = Attention(
                rows=1,
                heads=heads,
                queries=N,
                keys=N,
                width=trunk.sequence_head_width,
                mask=masked,
                bias=bias,
            )
            KERNELS[forms.kernels].attention(ledger, forms, call)
        ledger.flash(5 * residue)


def _heads(ledger: Ledger, forms: Forms, config: EsmFoldConfig, N: int) -> None:
    """Confidence of atoms and of pairs, contacts."""
    pairs, c_z = N * N, config.trunk.c_z
    taken = forms.rows(N, N * max(c_z, PAIR_BINS) * WIDE)
    with ledger.frame("heads"):
        ledger.make(2 * WIDE * N * PLACES * LDDT_BINS)
        ledger.make(2 * WIDE * pairs)
        ledger.make(WIDE * taken * N * (2 * c_z + PAIR_BINS))
