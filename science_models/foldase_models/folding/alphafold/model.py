"""AlphaFold 2 for single chains, with the key names of OpenFold (Jumper et al. 2021, algorithm 2).

Shapes: S clusters and E extra rows of the alignment, T templates, N residues, c_m, c_z and c_s channels.
Lengths in A. U, the bytes of the pair representation, counts memory.

One pass: pairs are embedded over those of the pass before; templates and extra rows inform them; only then
the clusters are embedded; the Evoformer and the structure module follow. So at most one alignment and one
pair representation exist at a time, and nothing is kept from a pass but first row, pairs and C-beta. There
is nothing for ``ForwardOptions.offload_pair`` to put away.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import nn

from foldase_kernels.preferred import preferred_backend
from foldase_models.folding.alphafold.config import AlphaFoldConfig
from foldase_models.folding.alphafold.embedders import (
    ExtraMSAEmbedder,
    InputEmbedder,
    RecyclingEmbedder,
    embed_pairs,
)
from foldase_models.folding.alphafold.heads import AuxiliaryHeads, Confidence, HeadLogits
from foldase_models.folding.alphafold.inputs import ModelInputs
from foldase_models.folding.alphafold.stacks import EvoformerStack, ExtraMSAStack
from foldase_models.folding.alphafold.templates import TemplateEmbedder
from foldase_models.folding.options import ForwardOptions
from foldase_models.layers.atoms import atom14_to_atom37, pseudo_beta
from foldase_models.layers.evoformer import AfterBlock
from foldase_models.layers.row_groups import rows_at_once, working_set
from foldase_models.layers.structure_module import StructureModule, StructureOutput

_ALPHA = 1
"""C-alpha in ``atom14``."""


@dataclass(frozen=True, slots=True)
class AlphaFoldOutput:
    """What the passes came to.

    Attributes:
        msa: representation of the clusters ``[..., S, N, c_m]``.
        pair: ``[..., N, N, c_z]``.
        single: ``[..., N, c_s]``.
        structure: of the structure module.
        logits: of all heads, where they were asked for.
        alpha: C-alpha after each pass ``[..., N, 3]``, A.
        converged: whether the passes ended early.
    """

    msa: torch.Tensor
    pair: torch.Tensor
    single: torch.Tensor
    structure: StructureOutput
    logits: HeadLogits | None = None
    alpha: list[torch.Tensor] = field(default_factory=list)
    converged: bool = False

    @property
    def recycles(self) -> int:
        """Passes before the last one."""
        return len(self.alpha) - 1


@dataclass(slots=True)
class _Before:
    """What a pass hands to the next: first row, pairs, C-beta."""

    row: torch.Tensor
    pair: torch.Tensor
    beta: torch.Tensor


class AlphaFold(nn.Module):
    """See the module's text. ``config`` is kept for saving.

    Keys: ``input_embedder``, ``recycling_embedder``, ``template_embedder`` (models with templates),
    ``extra_msa_embedder``, ``extra_msa_stack``, ``evoformer``, ``structure_module``, ``aux_heads``.
    """

    def __init__(self, config: AlphaFoldConfig) -> None:
        super().__init__()
        self.config = config
        c_m, c_z = config.evoformer.c_m, config.evoformer.c_z
        self.input_embedder = InputEmbedder(c_m, c_z, config.max_offset)
        self.recycling_embedder = RecyclingEmbedder(
            c_m, c_z, first=config.recycle_first, last=config.recycle_last, bins=config.recycle_bins
        )
        self.template_embedder = (
            None
            if config.template is None
            else TemplateEmbedder(
                config.template,
                no_blocks=config.template_blocks,
                c_m=c_m,
                c_z=c_z,
                c_hidden=config.template_attention_width,
                no_heads=config.template_attention_heads,
            )
        )
        self.extra_msa_embedder = ExtraMSAEmbedder(config.extra_msa.c_m)
        self.extra_msa_stack = ExtraMSAStack(config.extra_msa, config.extra_msa_blocks)
        self.evoformer = EvoformerStack(config.evoformer, config.evoformer_blocks, config.structure.c_s)
        self.structure_module = StructureModule(config.structure)
        self.aux_heads = AuxiliaryHeads(
            c_m=c_m, c_z=c_z, c_s=config.structure.c_s, plddt_hidden=config.plddt_width, tm=config.tm
        )

    def forward(
        self,
        passes: Sequence[ModelInputs],
        *,
        options: ForwardOptions,
        tolerance: float | None = None,
        logits: bool = False,
        progress: Callable[[float, str], None] | None = None,
    ) -> AlphaFoldOutput:
        """Predict; all passes but the last one without gradients.

        Training puts :func:`foldase_models.layers.working_set` of the same options around forward and
        backward pass.

        Args:
            passes: features of each pass; read one after the other, each once.
            options: what may be done to save memory.
            tolerance: end when C-alpha distances change by less from one pass to the next, A, root mean
                square; only without gradients.
            logits: also give those of all heads.
            progress: called with the share done and a few words; what it raises ends the work.
        """
        tell = progress or _tell_nobody
        gradients = torch.is_grad_enabled()
        before: _Before | None = None
        alpha: list[torch.Tensor] = []
        with working_set(options.group_bytes), preferred_backend(options.backend):
            for number in range(len(passes)):
                last = number == len(passes) - 1
                follow = _Follow(tell, number, len(passes), self.config)
                inputs = passes[number].to(self.device, self.dtype)
                with torch.set_grad_enabled(gradients and last):
                    out = self._one_pass(inputs, before, options, follow)
                before = None
                alpha.append(out.structure.positions[-1][..., _ALPHA, :].detach())
                if tolerance is not None and not gradients and number > 0:
                    change = distance_change(alpha[-2], alpha[-1], inputs.seq_mask)
                    tell(follow.end, f"distances changed by {change:.2f} A")
                    if change < tolerance:
                        return self._finished(out, logits, alpha, converged=not last)
                if not last:
                    before = self._handed_on(out, inputs.aatype)
                    del out
            return self._finished(out, logits, alpha, converged=False)

    @property
    def dtype(self) -> torch.dtype:
        """Of the representations."""
        return self.evoformer.linear.weight.dtype

    @property
    def device(self) -> torch.device:
        """Where the representations lie."""
        return self.input_embedder.linear_tf_m.weight.device

    def place(self, device: torch.device, options: ForwardOptions) -> None:
        """Move to a device, in the dtype of the options; what structure and heads compute stays float32.

        With ``offload_weights`` the blocks of both stacks stay where they are, in main memory.
        """
        self.to(getattr(torch, options.dtype))
        for part in (self.structure_module, self.aux_heads):
            part.to(torch.promote_types(self.dtype, torch.float32))
        stacks = (self.extra_msa_stack.blocks, self.evoformer.blocks)
        waiting = {id(own) for stack in stacks for own in stack.parameters()}
        for own in self.parameters():
            if not (options.offload_weights and id(own) in waiting):
                own.data = own.data.to(device)
        for module in self.modules():
            for name, buffer in module.named_buffers(recurse=False):
                setattr(module, name, buffer.to(device))

    def confidence(
        self,
        output: AlphaFoldOutput,
        *,
        options: ForwardOptions,
        mask: torch.Tensor | None = None,
        chains: torch.Tensor | None = None,
    ) -> Confidence:
        """How sure the model is of an output; ``mask`` and ``chains`` as in :class:`ModelInputs`."""
        with working_set(options.group_bytes), preferred_backend(options.backend):
            return self.aux_heads.confidence(output.pair, output.structure.single, mask=mask, chains=chains)

    def _one_pass(
        self, inputs: ModelInputs, before: _Before | None, options: ForwardOptions, follow: _Follow
    ) -> AlphaFoldOutput:
        inplace = options.inplace and not torch.is_grad_enabled()
        mask = inputs.seq_mask
        pair_mask = None if mask is None else mask[..., :, None] & mask[..., None, :]
        if before is None:
            before = self._nothing_before(inputs)
        z = embed_pairs(
            self.input_embedder,
            self.recycling_embedder,
            inputs.target_feat,
            inputs.residue_index,
            before.pair,
            before.beta,
            inplace=inplace,
        )
        row = self.recycling_embedder.layer_norm_m(before.row)
        del before
        if self.template_embedder is not None and inputs.templates is not None:
            z = self.template_embedder(z, inputs.templates, pair_mask, options=options)
        z = self._see_extra_rows(z, inputs, pair_mask, options, follow.extra)
        m, msa_mask = self._rows(inputs, row)
        m, z, single = self.evoformer(m, z, msa_mask, pair_mask, options=options, after=follow.evoformer)
        structure = self.structure_module(single, z, inputs.aatype, mask)
        clusters = m[..., : inputs.msa_feat.shape[-3], :, :]
        return AlphaFoldOutput(msa=clusters, pair=z, single=single, structure=structure)

    def _see_extra_rows(
        self,
        z: torch.Tensor,
        inputs: ModelInputs,
        pair_mask: torch.Tensor | None,
        options: ForwardOptions,
        after: AfterBlock,
    ) -> torch.Tensor:
        a = self.extra_msa_embedder(inputs.extra_msa, inputs.extra_has_deletion, inputs.extra_deletion_value)
        out: torch.Tensor = self.extra_msa_stack(
            a, z, inputs.extra_msa_mask, pair_mask, options=options, after=after
        )
        return out

    def _rows(self, inputs: ModelInputs, row: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The first alignment: clusters, then torsions of templates; and its mask."""
        m = self.input_embedder.alignment(inputs.target_feat, inputs.msa_feat)
        m[..., 0, :, :] += row
        templates, mask = inputs.templates, inputs.msa_mask
        if self.template_embedder is None or templates is None:
            return m, mask
        if mask is None:
            mask = torch.ones(m.shape[:-1], dtype=torch.bool, device=m.device)
        rows = self.template_embedder.template_single_embedder(templates)
        return torch.cat([m, rows], -3), torch.cat([mask, templates.rows_mask()], -2)

    def _nothing_before(self, inputs: ModelInputs) -> _Before:
        target, (*batch, residues) = inputs.target_feat, inputs.aatype.shape
        c_m, c_z = self.config.evoformer.c_m, self.config.evoformer.c_z
        return _Before(
            target.new_zeros(*batch, residues, c_m),
            target.new_zeros(*batch, residues, residues, c_z),
            target.new_zeros(*batch, residues, 3, dtype=torch.float32),
        )

    def _handed_on(self, out: AlphaFoldOutput, aatype: torch.Tensor) -> _Before:
        atom37 = atom14_to_atom37(out.structure.positions[-1].detach(), aatype)
        beta = pseudo_beta(atom37, aatype).float()
        return _Before(out.msa[..., 0, :, :].clone(), out.pair, beta)

    def _finished(
        self, out: AlphaFoldOutput, logits: bool, alpha: list[torch.Tensor], *, converged: bool
    ) -> AlphaFoldOutput:
        heads = self.aux_heads(out.msa, out.pair, out.single, out.structure.single) if logits else None
        return AlphaFoldOutput(out.msa, out.pair, out.single, out.structure, heads, alpha, converged)


def _tell_nobody(_share: float, _words: str) -> None:
    """Where nobody asked for progress."""


class _Follow:
    """Tells how far the work is: passes count alike, blocks of the Evoformer for most of a pass."""

    def __init__(
        self, tell: Callable[[float, str], None], number: int, count: int, config: AlphaFoldConfig
    ) -> None:
        self._tell, self._number, self._count = tell, number, count
        self._extra_blocks, self._blocks = config.extra_msa_blocks, config.evoformer_blocks
        self.end = (number + 1) / count

    def extra(self, done: int) -> None:
        self._say(done, "extra rows", done, self._extra_blocks)

    def evoformer(self, done: int) -> None:
        self._say(self._extra_blocks + done, "Evoformer", done, self._blocks)

    def _say(self, steps: int, part: str, done: int, of: int) -> None:
        share = (self._number + steps / (self._extra_blocks + self._blocks + 1)) / self._count
        self._tell(share, f"pass {self._number + 1} of {self._count}: {part}, block {done} of {of}")


@torch.no_grad()
def distance_change(first: torch.Tensor, second: torch.Tensor, mask: torch.Tensor | None = None) -> float:
    """Root mean square change of all distances between two sets of points ``[..., N, 3]``, A.

    Pairs are taken in groups of rows (the criterion of Gao et al. 2022, AF2Complex).
    """
    residues = first.shape[-2]
    total = weight = 0.0
    step = rows_at_once(residues, residues * 16)
    for start in range(0, residues, step):
        rows = slice(start, start + step)
        before, after = (
            (points[..., rows, None, :] - points[..., None, :, :]).double().norm(dim=-1)
            for points in (first, second)
        )
        change = (after - before).square()
        if mask is not None:
            counted = mask[..., rows, None] & mask[..., None, :]
            change, weight = change * counted, weight + float(counted.sum())
        else:
            weight += change.numel()
        total += float(change.sum())
    return float((total / max(weight, 1.0)) ** 0.5)
