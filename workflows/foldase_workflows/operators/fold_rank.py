"""Ranks structures of the same records: seeds, samples and models beside each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from foldase_workflows.contracts import (
    Artifact,
    BadInput,
    Estimate,
    Hardware,
    Location,
    Operator,
    Ports,
    StepContext,
)
from foldase_workflows.contracts.ports import File, Json, Predictions, Structures, Table, Tree
from foldase_workflows.operators import _folding_outputs as out

if TYPE_CHECKING:
    from foldase_workflows.formats.predicted import PredictedStructure
    from foldase_workflows.formats.zarr_folds import FoldEntry, FoldSet

COLUMNS = (
    "record",
    "rank",
    "name",
    "target",
    "confidence",
    "plddt",
    "ptm",
    "iptm",
    "model",
    "seed",
    "sample",
)


class RankInputs(Ports):
    """Structures to rank."""

    folds: list[Tree] = Field(min_length=1, description="From fold.predict, of one model or of several")
    keep: Annotated[int, Field(ge=1, le=100, description="Structures of each record that are handed on")] = 5
    pdb: Annotated[bool, Field(description="Write PDB files beside mmCIF")] = True


class RankOutputs(Ports):
    """The order, and the best structures."""

    ranking: Annotated[Table, Field(description="Order and scores of every structure, as JSON")]
    table: Annotated[File, Field(description="The same as tab-separated text")]
    structures: Annotated[
        Structures, Field(description="The best of each record under its name, then others")
    ]
    predictions: Annotated[Predictions, Field(description="Contacts, traces and confidence, for the page")]
    best: Annotated[Json, Field(description="Mean scores of the best structures")]


@dataclass(slots=True)
class _Candidate:
    """One structure of a record, and the tree it lies in."""

    tree: FoldSet
    entry: FoldEntry
    structure: PredictedStructure
    name: str
    target: str | None = None

    def scores(self) -> dict[str, float]:
        return out.scores_of(self.structure)

    def told(self, rank: int) -> dict[str, Any]:
        how = self.structure.provenance
        return {
            "rank": rank,
            "name": self.name,
            "target": self.target,
            "model": how.model,
            "weights": how.weights,
            "seed": how.seed,
            "sample": how.sample,
            **{name: round(value, 6) for name, value in self.scores().items()},
        }


class RankFolds(Operator[RankInputs, RankOutputs]):
    """Orders the structures of each record by confidence and hands on the best."""

    name = "fold.rank"
    version = 1
    help = "Rank predicted structures by their confidence"
    Inputs = RankInputs
    Outputs = RankOutputs

    def run(self, inputs: RankInputs, context: StepContext) -> RankOutputs:
        """Read, order, write.

        Raises:
            BadInput: a folder that is no tree of fold.predict.
            Damaged: a part of it is missing or was changed.
        """
        from foldase_workflows.formats.predicted_json import write_ranking
        from foldase_workflows.formats.zarr_predictions import PredictionsWriter

        records = _candidates(inputs.folds)
        structures, tree = context.new_tree("structures"), context.new_tree("predictions")
        writer = PredictionsWriter(tree)
        ranked: list[dict[str, Any]] = []
        orders = [_order(candidates) for candidates in records.values()]
        _name_targets(records, inputs.keep)
        for done, ((title, _), candidates) in enumerate(records.items(), 1):
            context.check_cancelled()
            for candidate in candidates[: inputs.keep]:
                assert candidate.target is not None
                structure = candidate.tree.read(candidate.entry)
                out.write_structure(structures, candidate.target, structure, context, pdb=inputs.pdb)
                writer.add(out.shown(candidate.target, structure, candidate.scores()))
            ranked.append(_record(title, orders[done - 1], candidates))
            context.progress(done / len(records), f"{done} of {len(records)} records")
        writer.complete(
            method=", ".join(sorted({one["model"] for record in ranked for one in record["models"]})),
            contact_cutoff=out.CONTACT_CUTOFF,
            min_separation=out.MIN_SEPARATION,
        )
        ranking, table = context.new_file("ranking.json"), context.new_file("ranking.tsv")
        write_ranking(ranking, out.RULE, ranked)
        table.write_text(_table(ranked), encoding="utf-8")
        best = _best(ranked)
        context.metrics(best)
        return RankOutputs(ranking=ranking, table=table, structures=structures, predictions=tree, best=best)

    def estimate(self, known: Mapping[str, Any], hardware: Hardware) -> Estimate | None:
        """From the size of the trees: each is read once and about half of it is written."""
        folds = known.get("folds")
        given = [one for one in folds if isinstance(one, Artifact)] if isinstance(folds, list) else []
        size = sum(one.size for one in given)
        if not size:
            return None
        return Estimate(
            seconds=(1.0, 5.0 + size / 2e6),
            memory_bytes=300_000_000 + 6 * size,
            disk_bytes=4 * size,
            basis="size of the predictions",
        )


def _candidates(folders: Sequence[Path]) -> dict[tuple[str, tuple[str, ...]], list[_Candidate]]:
    """All structures by the name and the chains of their record, in the order of the trees."""
    from foldase_workflows.formats.zarr_folds import FoldSet

    records: dict[tuple[str, tuple[str, ...]], list[_Candidate]] = {}
    for folder in folders:
        tree = FoldSet(folder)
        for entry in tree.entries:
            structure = tree.read(entry, maps=False)
            how = structure.provenance
            name = f"{how.model}_{how.weights[:8]}_s{how.seed}_{how.sample}"
            candidates = records.setdefault((entry.title, structure.chains), [])
            if name in {other.name for other in candidates}:
                raise BadInput(
                    f"the structure {name} of {entry.title!r} is given twice",
                    code="given_twice",
                    location=Location(path="with.folds", record=entry.title),
                    hint="give each set of predictions once",
                )
            candidates.append(_Candidate(tree, entry, structure, name))
    return records


def _name_targets(records: Mapping[tuple[str, tuple[str, ...]], list[_Candidate]], keep: int) -> None:
    """Name what is handed on: the best after its record, others after their rank, no two alike."""
    from foldase_workflows.formats.predicted import file_name

    keys: list[str] = []
    for title, _ in records:
        keys.append(file_name(title, keys))
    taken = {key.lower() for key in keys}
    for key, candidates in zip(keys, records.values(), strict=True):
        for rank, candidate in enumerate(candidates[:keep], 1):
            target = key if rank == 1 else f"{key}_rank_{rank}"
            while rank > 1 and target.lower() in taken:  # a record of that name
                target += "_"
            taken.add(target.lower())
            candidate.target = target


def _order(candidates: list[_Candidate]) -> str:
    """Sort, best first, equal ones as they came; by what all of them have.

    A confidence of ipTM and pTM cannot stand beside one of pLDDT, so where a model tells no ipTM the record
    is ranked by pLDDT.
    """
    interface = [one.structure.iptm is not None and one.structure.ptm is not None for one in candidates]
    if all(interface) or not any(interface):
        candidates.sort(key=lambda one: -out.confidence_of(one.structure))
        return "0.8 ipTM + 0.2 pTM" if all(interface) else "pLDDT"
    candidates.sort(key=lambda one: -one.structure.mean_plddt)
    return "pLDDT"


def _record(title: str, by: str, candidates: Sequence[_Candidate]) -> dict[str, Any]:
    """One record of the ranking; ``plddts`` and ``iptm+ptm`` are AlphaFold's own names."""
    models = [candidate.told(rank) for rank, candidate in enumerate(candidates, 1)]
    record: dict[str, Any] = {
        "record": title,
        "by": by,
        "order": [one["name"] for one in models],
        "plddts": {one["name"]: one["plddt"] for one in models},
        "models": models,
    }
    if by != "pLDDT":
        record["iptm+ptm"] = {one["name"]: one["confidence"] for one in models}
    return record


def _table(ranked: Sequence[Mapping[str, Any]]) -> str:
    lines = ["\t".join(COLUMNS)]
    for record in ranked:
        for one in record["models"]:
            cells = {**one, "record": record["record"]}
            lines.append("\t".join(_cell(cells.get(column)) for column in COLUMNS))
    return "\n".join(lines) + "\n"


def _cell(value: object) -> str:
    text = "" if value is None else f"{value:.4f}" if isinstance(value, float) else str(value)
    return text.replace("\t", " ")


def _best(ranked: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Means of the best structures' scores, over the records that have them."""
    best = [record["models"][0] for record in ranked]
    means = {}
    for name in ("confidence", "plddt", "ptm", "iptm"):
        values = [one[name] for one in best if name in one]
        if values:
            means[name] = sum(values) / len(values)
    return means


OPERATOR = RankFolds()
