"""Predicts contacts, distances, a C-alpha trace and its confidence with a trained contact model."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from foldase_models.folding.contacts.config import ContactModelConfig
from foldase_models.planning import estimate_prediction
from foldase_workflows.contracts import (
    BadInput,
    Estimate,
    Hardware,
    Location,
    Operator,
    Ports,
    Resources,
    StepContext,
)
from foldase_workflows.contracts.ports import Families, Json, Model, Msa, Predictions, Structures
from foldase_workflows.operators._machine import check_coupling_memory
from foldase_workflows.operators._models import model_errors, use_cores

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MAX_RESIDUES = 1500
"""Longest chain taken: pairs of a longer one need more memory than a step of this kind reserves."""


class PredictInputs(Ports):
    """A model, and families or one alignment."""

    model: Annotated[Model, Field(description="From contacts.train")]
    families: Annotated[Families | None, Field(description="Families; this or msa")] = None
    msa: Annotated[Msa | None, Field(description="One alignment in the model's letters")] = None
    shuffle_columns: Annotated[
        bool, Field(description="Permute every column on its own first: takes coevolution away")
    ] = False
    seed: Annotated[
        int, Field(ge=0, le=2**31, description="Of the shuffling and of the rows shown to the Evoformer")
    ] = 0


class PredictOutputs(Ports):
    """Maps and traces, and mean scores where the truth is known."""

    predictions: Annotated[Predictions, Field(description="Contact maps, distances, traces, confidence")]
    structures: Annotated[Structures, Field(description="One mmCIF file a target, confidence as pLDDT")]
    scores: Annotated[Json, Field(description="Means over the targets")]


@dataclass(frozen=True, slots=True)
class _Target:
    """One alignment to predict, with what is known of it."""

    name: str
    msa: NDArray[np.uint8]
    weights: NDArray[np.float32] | None
    sequence: str
    coords: NDArray[np.float32] | None = None
    contacts: NDArray[np.uint8] | None = None


class PredictContacts(Operator[PredictInputs, PredictOutputs]):
    """One pass of the model over each alignment."""

    name = "contacts.predict"
    version = 1
    help = "Predict contacts and a C-alpha trace with a trained model"
    family = "torch"
    resources = Resources(cpu=2.0, memory_bytes=2 * 2**30)
    Inputs = PredictInputs
    Outputs = PredictOutputs

    def run(self, inputs: PredictInputs, context: StepContext) -> PredictOutputs:
        """Predict every target and write maps and structures.

        Raises:
            BadInput: neither or both of ``families`` and ``msa``, a folder that is no contact model,
                letters that the model does not know, a chain too short or too long.
            MemoryError: the couplings that the model sees need more memory than is free.
        """
        use_cores(context)
        import numpy as np

        from foldase_models.folding.contacts.features import shuffle_columns
        from foldase_models.folding.contacts.predict import predict_contacts
        from foldase_models.folding.contacts.weights import load_model
        from foldase_models.recipes.contacts import pairs_for
        from foldase_workflows.formats.mmcif_traces import write_trace
        from foldase_workflows.formats.zarr_predictions import PredictionsWriter

        with model_errors("model"):
            model = load_model(inputs.model)
        targets, count = _targets(inputs, model.config)
        tree, structures = context.new_tree("predictions"), context.new_tree("structures")
        writer = PredictionsWriter(tree)
        totals: dict[str, float] = {}
        for number, target in enumerate(targets, 1):
            context.check_cancelled()
            msa = target.msa
            if inputs.shuffle_columns:
                msa = shuffle_columns(msa, np.random.default_rng([inputs.seed, number]))
            if model.config.inputs == "couplings":
                check_coupling_memory(msa.shape[1], len(model.config.letters))
            with model_errors():
                found = predict_contacts(
                    model,
                    msa,
                    target.weights,
                    seed=inputs.seed,
                    keep_query=inputs.msa is not None,
                    pairs=pairs_for(model.config, msa, target.weights),
                )
            scores = _scores(target, found, model.config.min_separation)
            for name, value in scores.items():
                totals[name] = totals.get(name, 0.0) + value / count
            writer.add(_prediction(target, found, scores))
            write_trace(
                structures / f"{target.name}.cif",
                identifier=target.name,
                sequence=target.sequence,
                alpha=found.coords,
                confidence=found.confidence,
                title=f"C-alpha trace predicted for {target.name}; its handedness is arbitrary",
            )
            context.progress(number / count, f"{number} of {count} predicted")
        self._complete(writer, inputs, model)
        context.metrics(totals)
        context.log(", ".join(f"{name} {value:.3f}" for name, value in totals.items()))
        return PredictOutputs(predictions=tree, structures=structures, scores=totals)

    def estimate(self, known: Mapping[str, Any], hardware: Hardware) -> Estimate | None:
        """For a model and chains as large as the demonstration's; others show when they are read."""
        expected = estimate_prediction(
            ContactModelConfig(letters="ARNDCQEG"),
            proteins=40,
            residues=28,
            rows=192,
            cpus=min(hardware.cpus, self.resources.cpu),
        )
        low, high = expected.seconds
        return Estimate(
            seconds=(low, high + 20.0),
            memory_bytes=max(expected.memory_bytes, self.resources.memory_bytes),
            disk_bytes=5_000_000,
            basis="40 families of 28 residues",
        )

    def _complete(self, writer: Any, inputs: PredictInputs, model: Any) -> None:
        config = model.config
        writer.complete(
            method="trained model, columns shuffled" if inputs.shuffle_columns else "trained model",
            contact_cutoff=config.contact_cutoff,
            min_separation=config.min_separation,
            attributes={
                "letters": config.letters,
                "shuffled": inputs.shuffle_columns,
                "handedness": "arbitrary: contacts and distances are the same for the mirror image",
            },
        )


def _targets(inputs: PredictInputs, config: ContactModelConfig) -> tuple[Iterator[_Target], int]:
    """What to predict, one by one, and how many there are."""
    if (inputs.msa is None) == (inputs.families is None):
        raise BadInput(
            "give one alignment or one set of families",
            code="one_of_two",
            location=Location(path="with.msa"),
            hint="set either `msa` or `families`",
        )
    if inputs.msa is not None:
        return iter([_one_alignment(inputs, config)]), 1
    from foldase_workflows.formats.zarr_families import FamilySet

    assert inputs.families is not None
    stored = FamilySet(inputs.families)

    def families() -> Iterator[_Target]:
        for family in stored:
            msa = _in_model_letters(family.msa, stored.letters, config, family.name)
            sequence = _consensus(msa, config.letters)
            yield _Target(family.name, msa, None, sequence, family.coords, family.contacts)

    return families(), len(stored)


def _one_alignment(inputs: PredictInputs, config: ContactModelConfig) -> _Target:
    from foldase_workflows.formats.zarr_msa import read_msa

    assert inputs.msa is not None
    stored = read_msa(inputs.msa)
    msa = _in_model_letters(stored.msa, stored.letters, config, stored.query)
    if msa.shape[1] > MAX_RESIDUES:
        raise BadInput(
            f"{msa.shape[1]} columns; this model takes at most {MAX_RESIDUES}",
            code="too_long",
            location=Location(record=stored.query),
            hint="cut the alignment to a domain",
        )
    name = re.sub(r"[^A-Za-z0-9_.-]+", "_", stored.query).lstrip(".-")[:100] or "query"
    return _Target(name, msa, stored.weights, stored.sequence)


def _in_model_letters(
    msa: NDArray[np.uint8], letters: str, config: ContactModelConfig, record: str
) -> NDArray[np.uint8]:
    """The alignment in indices of the model's alphabet.

    Raises:
        BadInput: a letter that occurs is none of the model's.
    """
    import numpy as np

    table = np.array([config.letters.find(letter) for letter in letters])
    translated = table[msa]
    if (translated < 0).any():
        row, column = np.argwhere(translated < 0)[0]
        raise BadInput(
            f"the model does not know the letter {letters[msa[row, column]]!r} "
            f"(row {row + 1}, column {column + 1}); it was trained on {config.letters}",
            code="wrong_alphabet",
            location=Location(record=record),
            hint="use a model trained on this alphabet, or contacts.couple, which needs no training",
        )
    return translated.astype(np.uint8)


def _consensus(msa: NDArray[np.uint8], letters: str) -> str:
    """The most frequent letter but the gap of every column: simulated families have no query."""
    import numpy as np

    counts = np.stack([(msa == index).sum(axis=0) for index in range(len(letters.rstrip("-")))])
    return "".join(letters[index] for index in counts.argmax(axis=0))


def _scores(target: _Target, found: Any, min_separation: int) -> dict[str, float]:
    from foldase_models.metrics import contact_precision, lddt, mirror_rmsd, pearson

    scores = {"confidence": float(found.confidence.mean())}
    if target.contacts is not None:
        precision = contact_precision(
            found.contact_probability, target.contacts, min_separation=min_separation
        )
        scores |= {f"precision_at_{cut}": value for cut, value in precision.items()}
    if target.coords is not None:
        local = lddt(found.coords, target.coords)
        scores["lddt"] = local.overall
        scores["rmsd"] = mirror_rmsd(found.coords, target.coords)
        scores["confidence_correlation"] = pearson(found.confidence, local.per_residue)
    return scores


def _prediction(target: _Target, found: Any, scores: Mapping[str, float]) -> Any:
    from foldase_workflows.formats.zarr_predictions import Prediction

    return Prediction(
        target=target.name,
        contact_probability=found.contact_probability,
        truth=target.contacts,
        coords=found.coords,
        confidence=found.confidence,
        distance=found.distance,
        sequence=target.sequence,
        scores=scores,
    )


OPERATOR = PredictContacts()
