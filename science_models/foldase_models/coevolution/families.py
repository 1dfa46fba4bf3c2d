"""Simulated protein families with a known structure and known contacts.

A family is a random compact chain whose contacts carry couplings of a Potts model; its sequences are drawn
by Gibbs sampling from many independent ancestors. All families of one ``energy_seed`` share the energies of
letter pairs, as physics is shared by real families; everything else (fold, strengths, fields, sequences)
is a family's own. How many ancestors are independent decides whether coevolution can be seen at all: a few
ancestors with many descendants give correlations of descent that drown those of contact.

Shapes: F families, S sequences, N residues, Q letters, C chains of sampling, D contacts of a residue.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from foldase_models.coevolution.chains import contact_map, random_chain

BATCH = 32
"""Families sampled together; the result does not depend on it."""


@dataclass(frozen=True, slots=True)
class FamilyConfig:
    """The recipe. Defaults are those of the demonstration task.

    Attributes:
        length: residues of a family.
        alphabet: letters, 2 to 20.
        ancestors: sequences sampled independently from random starts.
        descendants: sequences grown from each ancestor.
        ancestor_sweeps: Gibbs sweeps to an ancestor.
        descendant_sweeps: further sweeps to each of its descendants.
        coupling: scale of the couplings of contacts.
        coupling_spread: each contact's own factor is drawn evenly from this range.
        field: standard deviation of the fields of single letters.
        contact_cutoff: contacts are pairs nearer than this, A.
        min_separation: ... and at least this far apart in the chain.
        attraction: weight of a contact while the chain grows; 2 gives about 2 contacts a residue.
        energy_seed: seed of the letter energies that all families share.
    """

    length: int = 28
    alphabet: int = 8
    ancestors: int = 96
    descendants: int = 2
    ancestor_sweeps: int = 8
    descendant_sweeps: int = 2
    coupling: float = 0.8
    coupling_spread: tuple[float, float] = (0.6, 1.4)
    field: float = 0.4
    contact_cutoff: float = 7.0
    min_separation: int = 4
    attraction: float = 2.0
    energy_seed: int = 0

    def __post_init__(self) -> None:
        if self.length < 2:
            raise ValueError(f"length must be at least 2, got {self.length}")
        if not 2 <= self.alphabet <= 20:
            raise ValueError(f"alphabet must be 2 to 20, got {self.alphabet}")
        for name in ("ancestors", "descendants", "min_separation"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if min(self.ancestor_sweeps, self.descendant_sweeps) < 0:
            raise ValueError("sweeps must not be negative")

    @property
    def sequences(self) -> int:
        """Sequences of a family."""
        return self.ancestors * self.descendants


@dataclass(frozen=True, slots=True)
class Family:
    """One family.

    Attributes:
        letters: uint8 (S, N), letter indices; descendants of one ancestor lie together.
        coords: float32 (N, 3), C-alpha trace, A.
        contacts: uint8 (N, N), symmetric, 1 = contact.
        seed: the seed it was made with.
        index: its number under that seed.
    """

    letters: NDArray[np.uint8]
    coords: NDArray[np.float32]
    contacts: NDArray[np.uint8]
    seed: int
    index: int


def shared_energy(alphabet: int, energy_seed: int) -> NDArray[np.float64]:
    """The energies of letter pairs that all families share: symmetric, mean 0, variance 1; float64 (Q, Q)."""
    rng = np.random.default_rng(np.random.SeedSequence([energy_seed, alphabet]))
    raw = rng.normal(size=(alphabet, alphabet))
    symmetric = raw + raw.T
    centred: NDArray[np.float64] = symmetric - symmetric.mean()
    unit: NDArray[np.float64] = centred / centred.std()
    return unit


def simulate_families(
    config: FamilyConfig, count: int, seed: int, *, report: Callable[[int], None] | None = None
) -> list[Family]:
    """Make ``count`` families; see :func:`iterate_families`.

    Args:
        config: the recipe.
        count: families to make.
        seed: families of different seeds share neither fold nor sequences.
        report: called with the number of families made so far; may raise to stop.

    Returns:
        The families in order; the first n are the same for any larger ``count``.
    """
    families: list[Family] = []
    for family in iterate_families(config, count, seed):
        families.append(family)
        if report is not None:
            report(len(families))
    return families


def iterate_families(config: FamilyConfig, count: int, seed: int) -> Iterator[Family]:
    """Make families one after the other, in constant memory.

    Family ``index`` depends on the recipe, the seed and the index only.

    Raises:
        ValueError: ``count`` or ``seed`` is negative, or the energies have no variance (bad recipe).
    """
    if count < 0 or seed < 0:
        raise ValueError(f"count and seed must not be negative, got {count} and {seed}")
    energy = shared_energy(config.alphabet, config.energy_seed)
    for start in range(0, count, BATCH):
        drafts = [_Draft.make(config, seed, index) for index in range(start, min(start + BATCH, count))]
        letters = _sample(config, energy, drafts)
        for draft, sampled in zip(drafts, letters, strict=True):
            yield Family(sampled, draft.coords, draft.contacts, seed, draft.index)


@dataclass(slots=True)
class _Draft:
    """A family before its sequences: fold, couplings (as neighbour lists), fields and random numbers."""

    index: int
    coords: NDArray[np.float32]
    contacts: NDArray[np.uint8]
    strength: NDArray[np.float64]
    fields: NDArray[np.float64]
    rng: np.random.Generator

    @classmethod
    def make(cls, config: FamilyConfig, seed: int, index: int) -> _Draft:
        rng = np.random.default_rng(np.random.SeedSequence([seed, index]))
        coords = random_chain(
            config.length, rng, attraction=config.attraction, contact_cutoff=config.contact_cutoff
        )
        contacts = contact_map(coords, cutoff=config.contact_cutoff, min_separation=config.min_separation)
        factor = np.triu(rng.uniform(*config.coupling_spread, size=contacts.shape), 1)
        strength = config.coupling * contacts * (factor + factor.T)
        fields = config.field * rng.normal(size=(config.length, config.alphabet))
        return cls(index, coords, contacts, strength, fields, rng)


def _sample(
    config: FamilyConfig, energy: NDArray[np.float64], drafts: list[_Draft]
) -> list[NDArray[np.uint8]]:
    """Gibbs sampling of all drafts at once; each draws from its own generator."""
    N, Q, C = config.length, config.alphabet, config.ancestors
    neighbours, strength = _neighbour_lists(drafts)
    fields = np.stack([draft.fields for draft in drafts])
    state = np.stack([draft.rng.integers(0, Q, size=(N, C)) for draft in drafts])
    for _ in range(config.ancestor_sweeps):
        draws = np.stack([draft.rng.random((N, C)) for draft in drafts])
        gibbs_sweep(state, energy, neighbours, strength, fields, draws)
    state = np.repeat(state, config.descendants, axis=2)
    for _ in range(config.descendant_sweeps):
        draws = np.stack([draft.rng.random((N, C * config.descendants)) for draft in drafts])
        gibbs_sweep(state, energy, neighbours, strength, fields, draws)
    return [np.ascontiguousarray(one.T, dtype=np.uint8) for one in state]


def _neighbour_lists(drafts: list[_Draft]) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Neighbours (F, N, D) and strengths (F, N, D), padded with residue 0 at strength 0."""
    degree = max(1, *(int(draft.contacts.sum(axis=1).max()) for draft in drafts))
    shape = (len(drafts), drafts[0].contacts.shape[0], degree)
    neighbours, strength = np.zeros(shape, dtype=np.intp), np.zeros(shape)
    for f, draft in enumerate(drafts):
        for i, row in enumerate(draft.contacts):
            found = np.flatnonzero(row)
            neighbours[f, i, : len(found)] = found
            strength[f, i, : len(found)] = draft.strength[i, found]
    return neighbours, strength


def gibbs_sweep(
    state: NDArray[np.int64],
    energy: NDArray[np.float64],
    neighbours: NDArray[np.intp],
    strength: NDArray[np.float64],
    fields: NDArray[np.float64],
    draws: NDArray[np.float64],
) -> None:
    """Redraw every residue of every chain once, in chain order, given its neighbours.

    It keeps P(s) ~ exp(sum over i of fields[i, s_i] + sum over contacts of strength_ij energy[s_i, s_j]).

    Args:
        state: (F, N, C), letters; changed in place.
        energy: (Q, Q), symmetric.
        neighbours: (F, N, D), contacts of each residue, padded.
        strength: (F, N, D), 0 where padded.
        fields: (F, N, Q).
        draws: (F, N, C), uniform from 0 to 1.
    """
    families = np.arange(len(state))
    for i in range(state.shape[1]):
        logits = np.broadcast_to(fields[:, i, None, :], (*state[:, i].shape, len(energy))).copy()
        for d in range(neighbours.shape[2]):
            weight = strength[:, i, d]
            if weight.any():
                logits += weight[:, None, None] * energy[state[families, neighbours[:, i, d]]]
        cumulative = np.cumsum(np.exp(logits), axis=-1)
        target = draws[:, i] * cumulative[..., -1]
        state[:, i] = (cumulative[..., :-1] < target[..., None]).sum(axis=-1)
