"""ESMFold (Lin et al. 2023): a language model's states, a folding trunk, a structure module and their heads.

Shapes: B proteins, N residues, L layers of the language model, c_s and c_z channels of sequence (s) and pair
(z) representation. Lengths in A. Keys are those of Hugging Face's ``EsmForProteinFolding``.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from foldase_kernels.preferred import preferred_backend
from foldase_models.folding.esm2.config import VOCABULARY
from foldase_models.folding.esm2.model import Esm2Encoder
from foldase_models.folding.esmfold.config import MASK_TOKEN, TOKENS, EsmFoldConfig
from foldase_models.folding.esmfold.heads import PAIR_BINS, LddtHead, expected_lddt
from foldase_models.folding.esmfold.trunk import FoldingTrunk, Progress
from foldase_models.folding.options import ForwardOptions
from foldase_models.layers.primitives import Linear
from foldase_models.layers.residues import RESTYPES
from foldase_models.layers.row_groups import working_set
from foldase_models.layers.structure_module import StructureOutput


@dataclass(frozen=True, slots=True)
class EsmFoldOutput:
    """What one call predicts. What is said of pairs is read from ``z`` by the model's heads.

    Attributes:
        s: sequence representation ``[B, N, c_s]``.
        z: pair representation ``[B, N, N, c_z]``.
        structure: frames, torsions and atoms of every block of the structure module.
        lddt_logits: confidence of atoms ``[B, N, 37, 50]``.
        plddt: its mean ``[B, N, 37]``, 0 to 1.
        alpha: C-alpha after each pass ``[R, B, N, 3]``, A.
        converged: the passes ended before their number.
    """

    s: torch.Tensor
    z: torch.Tensor
    structure: StructureOutput
    lddt_logits: torch.Tensor
    plddt: torch.Tensor
    alpha: torch.Tensor
    converged: bool


class EsmFold(nn.Module):
    """See the module's text. Whoever needs ``distogram_head``, ``ptm_head`` or ``lm_head`` calls them."""

    af2_to_esm: torch.Tensor

    def __init__(self, config: EsmFoldConfig) -> None:
        super().__init__()
        self.config = config
        c_s, c_z = config.trunk.c_s, config.trunk.c_z
        language = config.language
        self.esm = Esm2Encoder(language)
        self.esm.requires_grad_(False)
        # From residue types, shifted by one for padding, to the language model's tokens.
        tokens = [language.pad_token_id, *(VOCABULARY.index(letter) for letter in RESTYPES + "X")]
        self.register_buffer("af2_to_esm", torch.tensor(tokens))
        self.esm_s_combine = nn.Parameter(torch.zeros(language.num_hidden_layers + 1))
        self.esm_s_mlp = nn.Sequential(
            nn.LayerNorm(language.hidden_size),
            Linear(language.hidden_size, c_s, init="relu"),
            nn.ReLU(),
            Linear(c_s, c_s),
        )
        self.embedding = nn.Embedding(TOKENS, c_s, padding_idx=0) if config.embed_aa else None
        self.trunk = FoldingTrunk(config.trunk, config.structure)
        self.distogram_head = nn.Linear(c_z, PAIR_BINS)
        self.ptm_head = nn.Linear(c_z, PAIR_BINS)
        self.lm_head = nn.Linear(c_s, TOKENS)
        self.lddt_head = LddtHead(config.structure.c_s, config.lddt_width)

    def forward(
        self,
        aatype: torch.Tensor,
        mask: torch.Tensor | None = None,
        residue_index: torch.Tensor | None = None,
        *,
        hidden: torch.Tensor | None = None,
        recycles: int | None = None,
        tolerance: float | None = None,
        options: ForwardOptions | None = None,
        progress: Progress | None = None,
    ) -> EsmFoldOutput:
        """Fold.

        Args:
            aatype: residue types, int64 ``[B, N]``.
            mask: boolean ``[B, N]``, True = real, padding at the end; None means all.
            residue_index: numbers along the chains, int64 ``[B, N]``; None means 0, 1, 2.
            hidden: residues whose type the model shall not see, boolean ``[B, N]``.
            recycles: passes before the last one; None means as trained.
            tolerance: end early, as in :class:`FoldingTrunk`; inference only.
            options: what may be done to save memory.
            progress: called with the share done and a few words.
        """
        options = options or ForwardOptions()
        passes = self.config.passes if recycles is None else recycles + 1
        if residue_index is None:
            residue_index = torch.arange(aatype.shape[1], device=aatype.device).expand_as(aatype)
        with working_set(options.group_bytes), preferred_backend(options.backend):
            out = self.trunk(
                self._first(aatype, mask, hidden, options),
                aatype,
                residue_index,
                mask,
                passes=passes,
                tolerance=tolerance,
                options=options,
                progress=progress,
            )
            lddt_logits = self.lddt_head(out.structure.single.to(self.lddt_head[0].weight.dtype))
        wide = lddt_logits.to(torch.promote_types(lddt_logits.dtype, torch.float32))
        plddt = expected_lddt(wide)
        return EsmFoldOutput(out.s, out.z, out.structure, lddt_logits, plddt, out.alpha, out.converged)

    def _first(
        self,
        aatype: torch.Tensor,
        mask: torch.Tensor | None,
        hidden: torch.Tensor | None,
        options: ForwardOptions,
    ) -> torch.Tensor:
        """What the trunk starts from, ``[B, N, c_s]``."""
        tokens = self.af2_to_esm[aatype + 1]
        seen = aatype
        if hidden is not None:
            tokens = tokens.masked_fill(hidden, self.config.language.mask_token_id)
            seen = aatype.masked_fill(hidden, MASK_TOKEN)
        states = self._language_states(tokens, mask, options)
        s: torch.Tensor = self.esm_s_mlp(states.to(self.esm_s_combine.dtype))
        return s if self.embedding is None else s + self.embedding(seen)

    def _language_states(
        self, tokens: torch.Tensor, mask: torch.Tensor | None, options: ForwardOptions
    ) -> torch.Tensor:
        """The language model's states, combined over its layers, ``[B, N, D]``; it is never trained here."""
        language, batch = self.config.language, tokens.shape[0]
        if mask is not None:
            tokens = tokens.masked_fill(~mask, language.pad_token_id)
        first = tokens.new_full((batch, 1), language.cls_token_id)
        behind = tokens.new_full((batch, 1), language.pad_token_id)
        tokens = torch.cat([first, tokens, behind], 1)
        found = tokens != language.pad_token_id
        end = found.sum(-1, keepdim=True)
        tokens = tokens.scatter(1, end, language.eos_token_id)
        real = None if mask is None else found.scatter(1, end, True)
        shares = self.esm_s_combine.softmax(0)
        if torch.is_grad_enabled() and shares.requires_grad:
            with torch.no_grad():
                states = self.esm(tokens, real, keep_all=True, options=options).all
            assert states is not None
            layers = zip(shares, states, strict=True)
            combined = torch.stack([share * state.to(shares.dtype) for share, state in layers]).sum(0)
        else:
            combined = self.esm(tokens, real, layer_weights=shares, options=options).combined
        assert combined is not None
        return combined[:, 1:-1]
