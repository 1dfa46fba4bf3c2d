"""The tables of residues against those of another project, and against one another."""

from __future__ import annotations

import numpy as np
import pytest
from transformers.models.esm.openfold_utils import residue_constants as theirs

from foldase_models.errors import ModelError
from foldase_models.layers import residues as ours

pytestmark = pytest.mark.xdist_group("transformers")

ROUNDED = 1e-6
"""Their arrays are float32."""


def test_names_and_their_order():
    assert list(ours.RESTYPES) == theirs.restypes
    assert theirs.restype_1to3 == ours.ONE_TO_THREE
    assert list(ours.RESIDUE_NAMES) == theirs.resnames
    assert list(ours.ATOM37) == theirs.atom_types
    assert [list(names) for names in ours.ATOM14] == [
        theirs.restype_name_to_atom14_names[name] for name in ours.RESIDUE_NAMES
    ]


@pytest.mark.parametrize(
    ("array", "name"),
    [
        (ours.ATOM14_MASK, "restype_atom14_mask"),
        (ours.ATOM37_MASK, "restype_atom37_mask"),
        (ours.ATOM14_GROUP, "restype_atom14_to_rigid_group"),
        (ours.ATOM37_GROUP, "restype_atom37_to_rigid_group"),
        (ours.ATOM14_POSITIONS, "restype_atom14_rigid_group_positions"),
        (ours.ATOM37_POSITIONS, "restype_atom37_rigid_group_positions"),
        (ours.GROUP_FRAMES, "restype_rigid_group_default_frame"),
        (ours.ATOM14_AMBIGUOUS, "restype_atom14_ambiguous_atoms"),
        (ours.ATOM14_SWAPPED, "restype_atom14_ambiguous_atoms_swap_idx"),
        (ours.CHI_PI_PERIODIC, "chi_pi_periodic"),
    ],
)
def test_arrays_by_type(array, name):
    wanted = np.array(getattr(theirs, name), dtype=np.float64)
    assert array.shape == wanted.shape
    if name == "restype_rigid_group_default_frame":
        # They leave the frames of the unknown type at zero; ours are motions, if never used.
        wanted[ours.UNKNOWN] = np.eye(4)
        for kind in range(ours.TYPES):
            for group in range(4, 8):
                if not ours.GROUP_MASK[kind, group]:
                    wanted[kind, group] = np.eye(4)
    assert np.abs(array - wanted).max() <= ROUNDED


def test_torsions_of_side_chains():
    assert ours.CHI_MASK[:20].tolist() == [[bool(v) for v in row] for row in theirs.chi_angles_mask]
    assert not ours.CHI_MASK[ours.UNKNOWN].any()
    for kind, name in enumerate(ours.RESIDUE_NAMES[:20]):
        for chi, atoms in enumerate(theirs.chi_angles_atoms[name]):
            assert [ours.ATOM37[place] for place in ours.CHI_ATOMS[kind, chi]] == atoms


def test_bonds_and_radii():
    assert (ours.BOND_C_N[0], ours.BOND_C_N_PROLINE[0]) == theirs.between_res_bond_length_c_n
    assert (ours.BOND_C_N[1], ours.BOND_C_N_PROLINE[1]) == theirs.between_res_bond_length_stddev_c_n
    assert theirs.between_res_cos_angles_c_n_ca == ours.COS_C_N_CA
    assert theirs.between_res_cos_angles_ca_c_n == ours.COS_CA_C_N
    assert theirs.van_der_waals_radius == ours.VAN_DER_WAALS
    assert theirs.ca_ca == ours.CA_CA


def test_there_and_back_between_the_two_places_of_an_atom():
    for kind in range(ours.TYPES):
        for place in np.flatnonzero(ours.ATOM14_MASK[kind]):
            wide = ours.ATOM14_TO_ATOM37[kind, place]
            assert ours.ATOM37[wide] == ours.ATOM14[kind][place]
            assert ours.ATOM37_TO_ATOM14[kind, wide] == place
    assert ours.ATOM37_MASK.sum() == ours.ATOM14_MASK.sum() == sum(map(len, theirs.residue_atoms.values()))


def test_bonded_atoms_of_one_group_lie_a_bond_apart():
    """CA to C, and CB to CA, in the ideal places."""
    for kind, name in enumerate(ours.RESIDUE_NAMES[:20]):
        places = {atom: ours.ATOM14_POSITIONS[kind, i] for i, atom in enumerate(ours.ATOM14[kind]) if atom}
        assert np.linalg.norm(places["C"] - places["CA"]) == pytest.approx(1.52, abs=0.02)
        if name != "GLY":
            assert np.linalg.norm(places["CB"] - places["CA"]) == pytest.approx(1.53, abs=0.03)


def test_sequences_as_types_and_back():
    assert ours.encode("ARNX").tolist() == [0, 1, 2, ours.UNKNOWN]
    assert ours.decode(ours.encode("MKVX")) == "MKVX"


@pytest.mark.parametrize("letter", ["B", "u", "-", "1"])
def test_a_letter_that_is_no_residue_is_named_with_its_place(letter):
    with pytest.raises(ModelError) as caught:
        ours.encode("MK" + letter, location="record 1")
    assert caught.value.code == "unknown_residue"
    assert "residue 3" in caught.value.message
    assert caught.value.location == "record 1"
