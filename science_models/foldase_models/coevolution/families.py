"""Simulated protein families with a known structure and known contacts.

A family is a random compact chain whose contacts carry couplings of a Potts model; its sequences are drawn
by Gibbs sampling from many independent ancestors. All families of one ``energy_seed`` share the energies of
letter pairs, as physics is shared by real families; everything else (fold, strengths, fields, sequences)
is a family's own. How many ancestors are independent decides whether coevolution can be seen at all: a few
ancestors with many descendants give correlations of descent that drown those of contact.

What brings families nearer to natural ones is off unless asked for: layered folds, lengths and energies of a
family's own, couplings without contact, trees of several generations, gaps.

Shapes: F families, S sequences, N residues, Q letters, C chains of sampling, D contacts of a residue.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from foldase_models.coevolution.chains import contact_map, random_chain
from foldase_models.coevolution.gaps import put_gaps
from foldase_models.coevolution.layered_folds import beta_points, layered_chain

BATCH = 32
"""Families sampled together where all are of one size; the result does not depend on it."""
_OWN, _GAPS = 1, 2
"""Streams of random numbers for what is off by default, so that it changes nothing else."""


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
        own_energies: every family draws energies of its own instead, so that letters mean nothing.
        fold: ``compact`` random chains with contacts of C-alpha atoms, or ``layered`` helices and strands
            with contacts of C-beta atoms.
        longest: lengths are drawn evenly from ``length`` to this; all the same where not given.
        variety: coupling, field and ancestors of each family are multiplied by factors of its own, drawn
            between exp(-variety) and exp(variety) evenly on the logarithmic scale.
        nearest_coupling: pairs this far apart in the chain or farther are coupled where they touch, though
            only those from ``min_separation`` on are told as contacts; the same where not given.
        stray: coupled pairs that do not touch, as a share of those that do.
        generations: times that every sequence is replaced by its descendants.
        redrawn: share of residues that a sweep to a descendant draws anew.
        uneven: spread of the fields of columns, as the standard deviation of the logarithm of a factor of
            each column's own: some columns are conserved, others are not.
        gaps: share of residues that are deleted; the gap is the letter after the alphabet's last.
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
    own_energies: bool = False
    fold: Literal["compact", "layered"] = "compact"
    longest: int | None = None
    variety: float = 0.0
    nearest_coupling: int | None = None
    stray: float = 0.0
    generations: int = 1
    redrawn: float = 1.0
    uneven: float = 0.0
    gaps: float = 0.0

    def __post_init__(self) -> None:
        if self.length < 2:
            raise ValueError(f"length must be at least 2, got {self.length}")
        if not 2 <= self.alphabet <= 20:
            raise ValueError(f"alphabet must be 2 to 20, got {self.alphabet}")
        for name in ("ancestors", "descendants", "min_separation", "generations"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if min(self.ancestor_sweeps, self.descendant_sweeps) < 0:
            raise ValueError("sweeps must not be negative")
        if self.longest is not None and self.longest < self.length:
            raise ValueError(f"longest must be at least the length {self.length}, got {self.longest}")
        if min(self.variety, self.stray, self.uneven) < 0:
            raise ValueError("variety, stray and uneven must not be negative")
        if not 0 <= self.redrawn <= 1 or not 0 <= self.gaps < 0.9:
            raise ValueError("redrawn must lie between 0 and 1, gaps between 0 and 0.9")
        if not 0 <= self.coupling_spread[0] <= self.coupling_spread[1]:
            raise ValueError(f"coupling_spread must rise from 0 or more, got {self.coupling_spread}")
        if self.fold not in ("compact", "layered"):
            raise ValueError(f"fold must be compact or layered, got {self.fold!r}")

    @property
    def sequences(self) -> int:
        """Sequences of a family, where ``variety`` is 0."""
        copies: int = self.descendants**self.generations
        return self.ancestors * copies

    @property
    def letters(self) -> int:
        """Letters that occur, the gap included."""
        return self.alphabet + (self.gaps > 0)

    @property
    def alike(self) -> bool:
        """Whether all families have one size and one set of energies."""
        return self.longest is None and self.variety == 0 and not self.own_energies


@dataclass(frozen=True, slots=True)
class Family:
    """One family.

    Attributes:
        letters: uint8 (S, N), letter indices, gaps included; descendants of one ancestor lie together.
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
    """The energies of letter pairs that all families of a seed share; see :func:`random_energy`."""
    return random_energy(alphabet, np.random.default_rng(np.random.SeedSequence([energy_seed, alphabet])))


def random_energy(alphabet: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Energies of letter pairs: symmetric, mean 0, variance 1; float64 (Q, Q)."""
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
    shared = shared_energy(config.alphabet, config.energy_seed)
    together = BATCH if config.alike else 1
    for start in range(0, count, together):
        drafts = [
            _Draft.make(config, shared, seed, index) for index in range(start, min(start + together, count))
        ]
        letters = _sample(drafts)
        for draft, sampled in zip(drafts, letters, strict=True):
            rng = np.random.default_rng(np.random.SeedSequence([seed, draft.index, _GAPS]))
            rows = put_gaps(sampled, config.alphabet, config.gaps, rng) if config.gaps > 0 else sampled
            yield Family(rows, draft.coords, draft.contacts, seed, draft.index)


@dataclass(slots=True)
class _Draft:
    """A family before its sequences: recipe, fold, couplings, fields, energies and random numbers."""

    index: int
    config: FamilyConfig
    coords: NDArray[np.float32]
    contacts: NDArray[np.uint8]
    strength: NDArray[np.float64]
    fields: NDArray[np.float64]
    energy: NDArray[np.float64]
    rng: np.random.Generator

    @classmethod
    def make(cls, config: FamilyConfig, shared: NDArray[np.float64], seed: int, index: int) -> _Draft:
        rng = np.random.default_rng(np.random.SeedSequence([seed, index]))
        own = np.random.default_rng(np.random.SeedSequence([seed, index, _OWN]))
        config = _own_config(config, own)
        energy = random_energy(config.alphabet, own) if config.own_energies else shared
        coords, places = _fold(config, rng)
        nearest = config.min_separation if config.nearest_coupling is None else config.nearest_coupling
        touching = contact_map(places, cutoff=config.contact_cutoff, min_separation=nearest)
        index_of = np.arange(config.length)
        apart = np.abs(index_of[:, None] - index_of[None])
        contacts: NDArray[np.uint8] = touching * (apart >= config.min_separation)
        coupled = touching + _stray_pairs(touching, apart >= config.min_separation, config.stray, own)
        factor = np.triu(rng.uniform(*config.coupling_spread, size=contacts.shape), 1)
        strength = config.coupling * coupled * (factor + factor.T)
        fields = config.field * rng.normal(size=(config.length, config.alphabet))
        fields *= np.exp(config.uneven * own.normal(size=(config.length, 1)))
        return cls(index, config, coords, contacts, strength, fields, energy, rng)


def _own_config(config: FamilyConfig, rng: np.random.Generator) -> FamilyConfig:
    """The recipe with this family's length, coupling, field and number of ancestors."""
    longest = config.length if config.longest is None else config.longest
    length = int(rng.integers(config.length, longest + 1))
    coupling, field, ancestors = np.exp(rng.uniform(-config.variety, config.variety, size=3))
    return replace(
        config,
        length=length,
        longest=None,
        coupling=float(config.coupling * coupling),
        field=float(config.field * field),
        ancestors=max(1, round(config.ancestors * ancestors)),
    )


def _fold(
    config: FamilyConfig, rng: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.float32] | NDArray[np.float64]]:
    """The trace, and the places whose distances make contacts."""
    if config.fold == "layered":
        coords = layered_chain(config.length, rng)
        return coords, beta_points(coords)
    coords = random_chain(
        config.length, rng, attraction=config.attraction, contact_cutoff=config.contact_cutoff
    )
    return coords, coords


def _stray_pairs(
    touching: NDArray[np.uint8], allowed: NDArray[np.bool_], share: float, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """Pairs that do not touch and are coupled all the same, (N, N), symmetric, 0 or 1."""
    stray = np.zeros_like(touching)
    i, j = np.nonzero(np.triu(allowed & (touching == 0)))
    wanted = min(round(share * int(np.triu(touching).sum())), len(i))
    if wanted:
        chosen = rng.choice(len(i), size=wanted, replace=False)
        stray[i[chosen], j[chosen]] = stray[j[chosen], i[chosen]] = 1
    return stray


def _sample(drafts: list[_Draft]) -> list[NDArray[np.uint8]]:
    """Gibbs sampling of all drafts at once, which are of one size; each draws from its own generator."""
    config, energy = drafts[0].config, drafts[0].energy
    neighbours, strength = _neighbour_lists(drafts)
    fields = np.stack([draft.fields for draft in drafts])
    shape = (config.length, config.ancestors)
    state = np.stack([draft.rng.integers(0, config.alphabet, size=shape) for draft in drafts])
    for _ in range(config.ancestor_sweeps):
        draws = np.stack([draft.rng.random(shape) for draft in drafts])
        gibbs_sweep(state, energy, neighbours, strength, fields, draws)
    for _ in range(config.generations):
        state = np.repeat(state, config.descendants, axis=2)
        for _ in range(config.descendant_sweeps):
            draws = np.stack([draft.rng.random(state.shape[1:]) for draft in drafts])
            before = state.copy() if config.redrawn < 1 else state
            gibbs_sweep(state, energy, neighbours, strength, fields, draws)
            if config.redrawn < 1:
                kept = np.stack([draft.rng.random(state.shape[1:]) for draft in drafts]) >= config.redrawn
                state = np.where(kept, before, state)
    return [np.ascontiguousarray(one.T, dtype=np.uint8) for one in state]


def _neighbour_lists(drafts: list[_Draft]) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Neighbours (F, N, D) and strengths (F, N, D), padded with residue 0 at strength 0."""
    degree = max(1, *(int((draft.strength > 0).sum(axis=1).max()) for draft in drafts))
    shape = (len(drafts), drafts[0].contacts.shape[0], degree)
    neighbours, strength = np.zeros(shape, dtype=np.intp), np.zeros(shape)
    for f, draft in enumerate(drafts):
        for i, row in enumerate(draft.strength):
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
