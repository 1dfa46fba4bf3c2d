"""What AlphaFold 2 holds and does in inference, after ``foldase_models/folding/alphafold``.

Shapes: S rows of the alignment that the Evoformer sees, E extra rows, T templates, N residues.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from foldase_models.folding.alphafold.config import AlphaFoldConfig
from foldase_models.planning import pair_layers, parameters, structure
from foldase_models.planning.forms import WIDE, Forms
from foldase_models.planning.ledger import Ledger
from foldase_models.planning.pair_layers import by_rows

TARGET_FEATURES, MSA_FEATURES, EXTRA_FEATURES = 22, 49, 25
TEMPLATE_PAIR_FEATURES, TEMPLATE_ANGLE_FEATURES = 88, 57
ERROR_BINS, DISTANCE_BINS, PLDDT_BINS, LETTERS, ATOMS = 64, 64, 50, 23, 37


@dataclass(frozen=True, slots=True)
class AlphaFoldCost:
    """Of one configuration and alignment depth; ``depth`` rows, ``templates`` structures."""

    config: AlphaFoldConfig
    depth: int
    templates: int

    @property
    def clusters(self) -> int:
        """Rows drawn for the Evoformer, templates apart."""
        return min(max(self.depth, 1), self.config.features.clusters)

    @property
    def rows(self) -> int:
        """Rows that the Evoformer sees."""
        return self.clusters + self.shown_templates

    @property
    def extra(self) -> int:
        """Rows of the extra stack, one at least."""
        return max(1, min(self.depth - self.clusters, self.config.features.extra))

    @property
    def shown_templates(self) -> int:
        """Templates that the model takes of those given."""
        return 0 if self.config.template is None else min(self.templates, self.config.features.templates)

    def parameters(self) -> int:
        """Exactly."""
        config, linear = self.config, parameters.linear
        evoformer, c_s = config.evoformer, config.structure.c_s
        c_m, c_z, c_e = evoformer.c_m, evoformer.c_z, config.extra_msa.c_m
        embedders = (
            2 * linear(TARGET_FEATURES, c_z) + linear(TARGET_FEATURES, c_m) + linear(MSA_FEATURES, c_m)
        )
        embedders += linear(2 * config.max_offset + 1, c_z) + linear(EXTRA_FEATURES, c_e)
        recycling = linear(config.recycle_bins, c_z) + 2 * c_m + 2 * c_z
        stacks = config.extra_msa_blocks * parameters.evoformer_block(config.extra_msa, global_columns=True)
        stacks += config.evoformer_blocks * parameters.evoformer_block(evoformer) + linear(c_m, c_s)
        plddt = 2 * c_s + linear(c_s, config.plddt_width) + linear(config.plddt_width, config.plddt_width)
        heads = plddt + linear(config.plddt_width, PLDDT_BINS) + linear(c_z, DISTANCE_BINS)
        heads += linear(c_m, LETTERS) + linear(c_s, ATOMS) + (linear(c_z, ERROR_BINS) if config.tm else 0)
        total = embedders + recycling + stacks + heads + parameters.structure_module(config.structure)
        return total + self._template_parameters()

    def _template_parameters(self) -> int:
        config, linear = self.config, parameters.linear
        if config.template is None:
            return 0
        c_m, c_t = config.evoformer.c_m, config.template.c_z
        inner = config.template_attention_width * config.template_attention_heads
        total = linear(TEMPLATE_ANGLE_FEATURES, c_m) + linear(c_m, c_m) + linear(TEMPLATE_PAIR_FEATURES, c_t)
        total += config.template_blocks * parameters.pair_stack(config.template) + 2 * c_t
        return total + parameters.attention(config.evoformer.c_z, inner, source=c_t, gate=False)

    def block_parameters(self) -> int:
        """Of all blocks that may wait elsewhere."""
        extra = self.config.extra_msa_blocks * self._extra_block()
        return extra + self.config.evoformer_blocks * parameters.evoformer_block(self.config.evoformer)

    def _extra_block(self) -> int:
        return parameters.evoformer_block(self.config.extra_msa, global_columns=True)

    def waits_in(self, device: str) -> str:
        """Where weights of blocks wait, if they are to."""
        return "ram" if device == "gpu" else ""

    def inputs(self, N: int) -> int:
        """Bytes of the features of one pass, and of the alignment they are drawn from."""
        features = WIDE * N * (TARGET_FEATURES + self.clusters * MSA_FEATURES) + 9 * N * self.extra
        return features + 5 * N * self.depth + 16 * N + N * self.shown_templates * 200

    def replay(self, ledger: Ledger, forms: Forms, N: int, *, recycles: int) -> None:
        """``AlphaFold.forward`` and ``confidence``."""
        config = self.config
        forms = replace(forms, masked=False)
        pair = forms.item * N * N * config.evoformer.c_z
        ledger.make(pair + forms.item * N * config.evoformer.c_m + WIDE * 3 * N)
        self._one_pass(ledger, forms, N)
        ledger.make(WIDE * 3 * N * recycles)
        ledger.make(self._output(forms, N))
        self._confidence(ledger, forms, N)

    def _output(self, forms: Forms, N: int) -> int:
        return forms.item * N * (
            self.rows * self.config.evoformer.c_m + self.config.structure.c_s
        ) + structure.output_bytes(self.config.structure, N)

    def _one_pass(self, ledger: Ledger, forms: Forms, N: int) -> None:
        config, item = self.config, forms.item
        c_m = config.evoformer.c_m
        with ledger.frame():
            self._embed(ledger, forms, N)
            ledger.make(item * N * c_m)
            if self.shown_templates:
                self._see_templates(ledger, forms, N)
            self._see_extra_rows(ledger, forms, N)
            clusters = ledger.make(item * self.clusters * N * c_m)
            ledger.flash(item * N * c_m)
            masked = bool(self.shown_templates)
            if masked:
                ledger.make(item * self.shown_templates * N * c_m)
                ledger.make(item * self.rows * N * c_m + 2 * self.rows * N)
                ledger.drop(clusters)
            with ledger.frame("Evoformer"):
                if forms.waiting:
                    ledger.make(item * parameters.evoformer_block(config.evoformer))
                own = replace(forms, masked=False)
                pair_layers.evoformer_block(ledger, own, config.evoformer, self.rows, N, msa_masked=masked)
            ledger.make(item * N * config.structure.c_s)
            structure.structure_module(ledger, config.structure, forms, N)

    def _embed(self, ledger: Ledger, forms: Forms, N: int) -> None:
        c_z, item = self.config.evoformer.c_z, forms.item
        with ledger.frame("embedding of pairs"):
            ledger.make(3 * item * N * c_z)
            ledger.make(item * (2 * self.config.max_offset + self.config.recycle_bins + 2) * c_z)
            taken = forms.rows(N, item * N * c_z)
            ledger.make(3 * item * taken * N * c_z)
            ledger.flash(24 * taken * N)

    def _see_templates(self, ledger: Ledger, forms: Forms, N: int) -> None:
        config, item = self.config, forms.item
        dims = config.template
        assert dims is not None
        heads, inner = (
            config.template_attention_heads,
            (config.template_attention_width * config.template_attention_heads),
        )
        state = WIDE * (inner + 2 * heads)
        pair, row = item * dims.c_z, item * N * dims.c_z
        with ledger.frame("templates"):
            ledger.make(N * N * state)
            with ledger.frame():

                def embed(rows: int) -> None:
                    ledger.make(rows * N * (3 * pair + 8))

                by_rows(ledger, forms, rows=N, row_bytes=row, out_bytes=row, compute=embed)
                ledger.make(N * row)
                pair_layers.pair_stack(ledger, forms, dims, N)
                taken = forms.rows(N, N * state)
                ledger.make(taken * N * (3 * WIDE * inner + 2 * state + 8 * WIDE * heads))
            taken = forms.rows(N, item * N * config.evoformer.c_z)
            ledger.make(taken * N * (2 * WIDE * inner + 3 * item * config.evoformer.c_z))

    def _see_extra_rows(self, ledger: Ledger, forms: Forms, N: int) -> None:
        dims, item = self.config.extra_msa, forms.item
        letters = self.extra * N
        with ledger.frame("extra rows"):
            ledger.make(item * letters * dims.c_m)
            ledger.flash(8 * letters)
            if forms.waiting:
                ledger.make(item * self._extra_block())
            pair_layers.extra_msa_block(
                ledger, forms, dims, self.extra, N, msa_masked=self.depth <= self.clusters
            )

    def _confidence(self, ledger: Ledger, forms: Forms, N: int) -> None:
        pairs, c_z = N * N, self.config.evoformer.c_z
        with ledger.frame("heads"):
            taken = forms.rows(N, forms.item * N * c_z)
            if self.config.tm:
                with ledger.frame():
                    ledger.make(8 * pairs)
                    ledger.make(WIDE * taken * N * (3 * ERROR_BINS + 6))
                ledger.make(8 * pairs + 2 * pairs)
                ledger.flash(8 * pairs)
            ledger.make(4 * pairs)
            ledger.make(WIDE * taken * N * 3 * DISTANCE_BINS)

    def work(self, N: int, forms: Forms, *, recycles: int) -> dict[str, float]:
        """Floating point operations by part, all passes."""
        config = self.config
        total: dict[str, float] = {}

        def add(parts: dict[str, float], times: float) -> None:
            for part, work in parts.items():
                total[part] = total.get(part, 0.0) + (recycles + 1) * times * work

        add(parameters.evoformer_work(config.evoformer, self.rows, N, forms), config.evoformer_blocks)
        extra = parameters.evoformer_work(config.extra_msa, self.extra, N, forms)
        c_e, heads = config.extra_msa.c_m, config.extra_msa.no_heads_msa
        inner = config.extra_msa.c_hidden_msa_att * heads
        extra["attention along columns of the alignment"] = (
            4.0 * self.extra * N * c_e * (inner + inner / heads)
        )
        add(extra, config.extra_msa_blocks)
        if config.template is not None:
            times = config.template_blocks * self.shown_templates
            add(parameters.pair_stack_work(config.template, N, forms), times)
        add({"structure module": parameters.structure_work(config.structure, N)}, 1)
        return total
