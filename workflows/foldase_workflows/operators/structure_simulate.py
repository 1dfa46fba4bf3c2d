"""Ideal structures, built exactly from torsions: something to learn and to compare when there is no data."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from foldase_workflows.contracts import Operator, Ports, StepContext
from foldase_workflows.contracts.ports import Structures


class SimulateInputs(Ports):
    """How many structures, and how large."""

    structures: Annotated[int, Field(ge=1, le=10_000, description="How many")] = 4
    helices: Annotated[int, Field(ge=1, le=8, description="Helices of each")] = 3
    helix_length: Annotated[int, Field(ge=4, le=60, description="Residues of a helix")] = 16
    loop_length: Annotated[int, Field(ge=2, le=10, description="Residues between two helices")] = 4
    seed: Annotated[
        int, Field(ge=0, le=2**31, description="Of letters and loops; the same seed builds the same")
    ] = 0


class SimulateOutputs(Ports):
    """The structures."""

    structures: Annotated[Structures, Field(description="One PDB file each, all heavy atoms")]


class SimulateStructures(Operator[SimulateInputs, SimulateOutputs]):
    """Bundles of ideal helices; bonds and angles are exact, side chains stand in one rotamer each."""

    name = "structure.simulate"
    version = 1
    help = "Build ideal helix bundles"
    Inputs = SimulateInputs
    Outputs = SimulateOutputs

    def run(self, inputs: SimulateInputs, context: StepContext) -> SimulateOutputs:
        """Build one after the other."""
        import numpy as np

        from foldase_models.folding.ideal_structures import helix_bundle
        from foldase_workflows.formats.predicted import PredictedStructure, Provenance
        from foldase_workflows.formats.predicted_pdb import write_pdb

        folder = context.new_tree("structures")
        for number in range(inputs.structures):
            context.check_cancelled()
            seed = int(np.random.default_rng([inputs.seed, number]).integers(2**31))
            built = helix_bundle(inputs.helices, inputs.helix_length, seed=seed, loop=inputs.loop_length)
            name = f"bundle-{number + 1:04d}"
            structure = PredictedStructure(
                name=name,
                chains=(built.sequence,),
                positions=built.positions,
                atom_mask=built.mask,
                plddt=np.full(len(built.sequence), 100.0, dtype=np.float32),
                provenance=Provenance(model="ideal", weights="", seed=inputs.seed),
            )
            write_pdb(folder / f"{name}.pdb", structure)
            context.progress((number + 1) / inputs.structures, f"{number + 1} of {inputs.structures} built")
        return SimulateOutputs(structures=folder)


OPERATOR = SimulateStructures()
