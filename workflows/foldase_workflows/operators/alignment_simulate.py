"""Families with a known structure and known contacts, to learn from and to be scored on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from foldase_workflows.contracts import (
    BadInput,
    Estimate,
    Hardware,
    Location,
    Operator,
    Ports,
    StepContext,
)
from foldase_workflows.contracts.ports import Families

if TYPE_CHECKING:
    from foldase_models.coevolution import FamilyConfig

SECONDS_PER_DRAW = 5e-8
"""Of one letter of one residue of one sequence in one sweep; measured on two cores."""
SECONDS_PER_FAMILY = 0.02
"""Writing one family; measured on two cores."""


class SimulateInputs(Ports):
    """The recipe; defaults are those of the demonstration task."""

    families: Annotated[int, Field(ge=1, le=100_000, description="Families to make")]
    seed: Annotated[int, Field(ge=0, description="Families of different seeds share no fold")] = 0
    length: Annotated[int, Field(ge=8, le=512, description="Residues of a family")] = 28
    letters: Annotated[int, Field(ge=2, le=20, description="Letters of the alphabet")] = 8
    ancestors: Annotated[
        int,
        Field(ge=1, le=100_000, description="Sequences drawn independently of each other"),
    ] = 96
    descendants: Annotated[int, Field(ge=1, le=1000, description="Sequences grown from each ancestor")] = 2
    ancestor_sweeps: Annotated[int, Field(ge=0, le=1000, description="Gibbs sweeps to an ancestor")] = 8
    descendant_sweeps: Annotated[int, Field(ge=0, le=1000, description="Sweeps to a descendant")] = 2
    coupling: Annotated[float, Field(ge=0, le=10, description="Scale of the couplings of contacts")] = 0.8
    field: Annotated[float, Field(ge=0, le=10, description="Spread of the fields of letters")] = 0.4
    energy_seed: Annotated[
        int, Field(ge=0, description="Seed of the letter energies, which all families of one seed share")
    ] = 0
    own_energies: Annotated[
        bool, Field(description="Draw letter energies for every family instead, so that letters mean nothing")
    ] = False
    fold: Annotated[
        Literal["compact", "layered"],
        Field(description="Random compact chains, or helices and strands in layers, as in proteins"),
    ] = "compact"
    longest: Annotated[
        int | None, Field(ge=8, le=512, description="Draw lengths evenly from length to this")
    ] = None
    contact_cutoff: Annotated[
        float, Field(ge=4, le=20, description="Contacts are nearer, A: C-alpha, C-beta in layered folds")
    ] = 7.0
    min_separation: Annotated[
        int, Field(ge=1, le=100, description="|i - j| of the nearest pairs that are called contacts")
    ] = 4
    nearest_coupling: Annotated[
        int | None, Field(ge=1, le=100, description="|i - j| of the nearest pairs coupled; else the same")
    ] = None
    weakest: Annotated[
        float, Field(ge=0, le=10, description="Each contact multiplies the scale by a factor from this ...")
    ] = 0.6
    strongest: Annotated[float, Field(ge=0, le=10, description="... to this")] = 1.4
    variety: Annotated[
        float, Field(ge=0, le=3, description="Families' own coupling, field and depth: within exp(+-this)")
    ] = 0.0
    uneven: Annotated[
        float, Field(ge=0, le=3, description="How much some columns are more conserved than others")
    ] = 0.0
    stray: Annotated[
        float, Field(ge=0, le=10, description="Coupled pairs that do not touch, as a share of those that do")
    ] = 0.0
    generations: Annotated[
        int, Field(ge=1, le=10, description="Times that sequences are replaced by their descendants")
    ] = 1
    redrawn: Annotated[
        float, Field(ge=0, le=1, description="Share of residues that a sweep to a descendant draws anew")
    ] = 1.0
    gaps: Annotated[float, Field(ge=0, lt=0.9, description="Share of residues that are deleted")] = 0.0


class SimulateOutputs(Ports):
    """The families, and how many contacts they have."""

    families: Annotated[Families, Field(description="Alignments, traces and contact maps")]
    contacts_per_residue: Annotated[float, Field(description="Mean over the families")]


class SimulateAlignments(Operator[SimulateInputs, SimulateOutputs]):
    """Compact random chains, a Potts model on their contacts, Gibbs sampling from independent ancestors."""

    name = "alignment.simulate"
    version = 1
    help = "Simulate families whose structure and contacts are known"
    Inputs = SimulateInputs
    Outputs = SimulateOutputs

    def run(self, inputs: SimulateInputs, context: StepContext) -> SimulateOutputs:
        """Make and write the families one by one, in constant memory.

        Raises:
            BadInput: inputs that contradict each other.
        """
        from foldase_models.coevolution import iterate_families
        from foldase_workflows.formats.letters import GAP, LETTERS
        from foldase_workflows.formats.zarr_families import FamiliesWriter

        config = _config(inputs)
        tree = context.new_tree("families")
        writer = FamiliesWriter(tree)
        contacts = residues = 0
        digits = max(4, len(str(inputs.families - 1)))
        for family in iterate_families(config, inputs.families, inputs.seed):
            context.check_cancelled()
            writer.add(
                f"f{family.index:0{digits}d}",
                msa=family.letters,
                coords=family.coords,
                contacts=family.contacts,
                attributes={"seed": family.seed, "index": family.index},
            )
            contacts += int(family.contacts.sum()) // 2
            residues += len(family.coords)
            done = family.index + 1
            context.progress(done / inputs.families, f"{done} of {inputs.families} families")
        writer.complete(
            letters=LETTERS[: inputs.letters] + (LETTERS[GAP] if inputs.gaps > 0 else ""),
            contact_cutoff=config.contact_cutoff,
            min_separation=config.min_separation,
            attributes={"recipe": inputs.model_dump(mode="json"), "energy_seed": inputs.energy_seed},
        )
        mean = contacts / residues
        context.log(
            f"{inputs.families} families of {'about ' if config.variety else ''}{config.sequences} "
            f"sequences, {mean:.2f} contacts a residue"
        )
        return SimulateOutputs(families=tree, contacts_per_residue=mean)

    def estimate(self, known: Mapping[str, Any], hardware: Hardware) -> Estimate | None:
        """From the number of letters drawn."""
        if not isinstance(known.get("families"), int):
            return None
        given = {name: value for name, value in known.items() if isinstance(value, int | float)}
        recipe = SimulateInputs.model_construct(**{**_DEFAULTS, **given})
        sequences = recipe.ancestors * recipe.descendants**recipe.generations
        draws = recipe.ancestors * recipe.ancestor_sweeps
        draws += sum(
            recipe.ancestors * recipe.descendants**k * recipe.descendant_sweeps
            for k in range(1, recipe.generations + 1)
        )
        length = max(recipe.length, recipe.longest or 0)
        sampling = recipe.families * length * draws * recipe.letters * SECONDS_PER_DRAW
        seconds = sampling + recipe.families * SECONDS_PER_FAMILY
        batch = 32 * sequences * (length * 16 + recipe.letters * 24)
        size = recipe.families * length * (sequences + length + 12)
        return Estimate(
            seconds=(1 + 0.5 * seconds, 2 + 3 * seconds),
            memory_bytes=int(200e6 + batch),
            disk_bytes=size,
            basis="letters drawn, at a speed measured on two cores",
        )


def _config(inputs: SimulateInputs) -> FamilyConfig:
    """The recipe as the simulator wants it.

    Raises:
        BadInput: inputs that contradict each other.
    """
    from foldase_models.coevolution import FamilyConfig

    given = inputs.model_dump(exclude={"families", "seed", "letters", "weakest", "strongest"})
    spread = (inputs.weakest, inputs.strongest)
    try:
        return FamilyConfig(alphabet=inputs.letters, coupling_spread=spread, **given)
    except ValueError as error:
        raise BadInput(
            str(error),
            code="bad_recipe",
            location=Location(path="with"),
            hint="change the input that it names",
        ) from error


_DEFAULTS = {
    name: info.default for name, info in SimulateInputs.model_fields.items() if not info.is_required()
}

OPERATOR = SimulateAlignments()
