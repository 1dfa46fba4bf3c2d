"""From chains, alignments and templates to the features of each pass. Arrays in, arrays out; numpy only.

Shapes: S rows of the alignment, C clusters, E extra rows, T templates, N residues of all chains.

Each pass draws clusters, masked letters and extra rows of its own, from a seed and its number alone: the same
seed gives the same bits, whichever passes are made.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from foldase_models.errors import ModelError
from foldase_models.folding.alphafold.alignments import (
    LETTERS,
    Rows,
    choose_clusters,
    delete_blocks,
    join_chains,
    mask_letters,
    nearest_clusters,
    profile_of,
    rows_of_chain,
    summarise_clusters,
)
from foldase_models.folding.alphafold.config import FeatureSizes
from foldase_models.folding.alphafold.template_features import TemplateFeatures, template_features
from foldase_models.folding.prediction import FoldInput
from foldase_models.layers.residues import TYPES, encode

CHAIN_GAP = 200
"""Residues left out between chains in the index that the model sees, far beyond what it tells apart."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordFeatures:
    """What all passes of one record share.

    Attributes:
        name: of the record.
        aatype: residue types int64 ``[N]``.
        residue_index: as the model sees it, int64 ``[N]``.
        chain_index: int64 ``[N]``, from 0.
        rows: the whole alignment.
        profile: of it, ``[N, 22]``.
        templates: where there are any.
    """

    name: str
    aatype: NDArray[np.int64]
    residue_index: NDArray[np.int64]
    chain_index: NDArray[np.int64]
    rows: Rows
    profile: NDArray[np.float32]
    templates: TemplateFeatures | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PassFeatures:
    """What one pass is shown.

    Attributes:
        aatype: int64 ``[N]``.
        residue_index: int64 ``[N]``.
        target_feat: float32 ``[N, 22]``.
        msa_feat: float32 ``[C, N, 49]``.
        extra_msa: letters uint8 ``[E, N]``, one row at least.
        extra_has_deletion: float32 ``[E, N]``.
        extra_deletion_value: float32 ``[E, N]``.
        extra_msa_mask: boolean ``[E, N]`` where the one row is no row of the alignment, else None.
        true_msa: letters of the clusters before any was masked, uint8 ``[C, N]``; for training.
        masked: which letters are to be told, boolean ``[C, N]``; for training.
        templates: where there are any.
        chains: int64 ``[N]``, or None for one chain.
    """

    aatype: NDArray[np.int64]
    residue_index: NDArray[np.int64]
    target_feat: NDArray[np.float32]
    msa_feat: NDArray[np.float32]
    extra_msa: NDArray[np.uint8]
    extra_has_deletion: NDArray[np.float32]
    extra_deletion_value: NDArray[np.float32]
    extra_msa_mask: NDArray[np.bool_] | None
    true_msa: NDArray[np.uint8]
    masked: NDArray[np.bool_]
    templates: TemplateFeatures | None
    chains: NDArray[np.int64] | None


def record_features(record: FoldInput, sizes: FeatureSizes) -> RecordFeatures:
    """Read a record once.

    Raises:
        ModelError: ``empty_sequence``; ``unknown_residue`` for a letter that is no residue; as
            :func:`rows_of_chain` and :func:`template_features`; each names the record.
    """
    if not record.chains or not all(record.chains):
        raise ModelError("a chain has no residues", code="empty_sequence", location=record.name)
    for what, entries in (("alignments", record.alignments), ("templates", record.templates)):
        if entries and len(entries) != len(record.chains):
            raise ModelError(
                f"{len(entries)} entries of {what} for {len(record.chains)} chains",
                code="alignment_mismatch",
                location=record.name,
            )
    alignments = record.alignments or (None,) * len(record.chains)
    places = [_place(record, number) for number in range(len(record.chains))]
    lengths = [len(chain) for chain in record.chains]
    rows = join_chains(
        [
            rows_of_chain(chain, alignment, location=place)
            for chain, alignment, place in zip(record.chains, alignments, places, strict=True)
        ]
    )
    chain_index = np.repeat(np.arange(len(lengths)), lengths).astype(np.int64)
    return RecordFeatures(
        name=record.name,
        aatype=np.concatenate(
            [encode(chain, location=place) for chain, place in zip(record.chains, places, strict=True)]
        ),
        residue_index=np.arange(sum(lengths), dtype=np.int64) + CHAIN_GAP * chain_index,
        chain_index=chain_index,
        rows=rows,
        profile=profile_of(rows),
        templates=template_features(record.chains, record.templates, sizes.templates, location=record.name),
    )


def crop(record: RecordFeatures, start: int, length: int) -> RecordFeatures:
    """A stretch of residues of a record, for training."""
    own = slice(start, start + length)
    templates = record.templates
    if templates is not None:
        templates = TemplateFeatures(
            **{name: getattr(templates, name)[:, own] for name in TemplateFeatures.__slots__}
        )
    return replace(
        record,
        aatype=record.aatype[own],
        residue_index=record.residue_index[own],
        chain_index=record.chain_index[own],
        rows=Rows(record.rows.letters[:, own], record.rows.deletions[:, own]),
        profile=record.profile[own],
        templates=templates,
    )


def pass_features(
    record: RecordFeatures, sizes: FeatureSizes, *, seed: int, number: int, training: bool = False
) -> PassFeatures:
    """Draw what one pass is shown.

    Args:
        record: see :func:`record_features`.
        sizes: how much of it.
        seed: of all that is drawn, 0 or above.
        number: of the pass, from 0.
        training: leave out blocks of neighbouring rows first.
    """
    rng = np.random.default_rng([seed, number])
    rows = delete_blocks(record.rows, rng) if training else record.rows
    clusters, others = choose_clusters(rows, sizes.clusters, rng)
    # Masked first: neither clusters nor their profiles may tell what a masked letter was.
    letters, masked = mask_letters(clusters.letters, record.profile, sizes, rng)
    shown = Rows(letters, clusters.deletions)
    nearest = nearest_clusters(letters, others.letters)
    profiles, means = summarise_clusters(shown, others, nearest)
    extra = others.take(rng.permutation(len(others))[: sizes.extra])
    none = len(extra) == 0
    if none:
        extra = Rows(np.zeros((1, len(record.aatype)), np.uint8), np.zeros((1, len(record.aatype)), np.int32))
    return PassFeatures(
        aatype=record.aatype,
        residue_index=record.residue_index,
        target_feat=_target_feat(record.aatype),
        msa_feat=_msa_feat(shown, profiles, means),
        extra_msa=extra.letters,
        extra_has_deletion=_has_deletion(extra.deletions),
        extra_deletion_value=_deletion_value(extra.deletions),
        extra_msa_mask=np.zeros(extra.letters.shape, np.bool_) if none else None,
        true_msa=clusters.letters,
        masked=masked,
        templates=record.templates,
        chains=record.chain_index if record.chain_index[-1] > record.chain_index[0] else None,
    )


def _place(record: FoldInput, number: int) -> str:
    return record.name if len(record.chains) == 1 else f"{record.name}, chain {number + 1}"


def _target_feat(aatype: NDArray[np.int64]) -> NDArray[np.float32]:
    features = np.zeros((len(aatype), 1 + TYPES), dtype=np.float32)
    features[np.arange(len(aatype)), 1 + aatype] = 1.0
    return features


def _has_deletion(deletions: NDArray[np.int32]) -> NDArray[np.float32]:
    return (deletions > 0).astype(np.float32)


def _deletion_value(deletions: NDArray[np.int32] | NDArray[np.float32]) -> NDArray[np.float32]:
    return (np.arctan(deletions / 3.0) * (2.0 / np.pi)).astype(np.float32)


def _msa_feat(
    clusters: Rows, profiles: NDArray[np.float32], means: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Letters, two features of deletions, profiles, mean deletions."""
    features = np.zeros((*clusters.letters.shape, 2 * LETTERS + 3), dtype=np.float32)
    np.put_along_axis(features, clusters.letters[..., None].astype(np.intp), 1.0, -1)
    features[..., LETTERS] = _has_deletion(clusters.deletions)
    features[..., LETTERS + 1] = _deletion_value(clusters.deletions)
    features[..., LETTERS + 2 : -1] = profiles
    features[..., -1] = _deletion_value(means)
    return features
