"""Names of the heavy atoms of the twenty residues, in the order that folding models use.

The same tables as ``foldase_models.layers.residues``, which formats may not import; a test compares them.
Source: AlphaFold's residue constants (Jumper et al. 2021, supplementary table 2 of the released code).
"""

from __future__ import annotations

RESTYPES = "ARNDCQEGHILKMFPSTWYV"
"""One-letter names of the twenty residues; the unknown one, X, has index 20."""

_ATOMS = (
    "N CA C CB O CG CG1 CG2 OG OG1 SG CD CD1 CD2 ND1 ND2 OD1 OD2 SD CE CE1 CE2 CE3 NE NE1 NE2 OE1 OE2 CH2 "
    "NH1 NH2 OH CZ CZ2 CZ3 NZ OXT"
)

ATOM37 = tuple(_ATOMS.split())
"""Every heavy atom that a residue can have: the second axis of atom37 arrays."""

ATOM37_INDEX = {name: index for index, name in enumerate(ATOM37)}

_SIDE_CHAINS = {
    "A": "CB",
    "R": "CB CG CD NE CZ NH1 NH2",
    "N": "CB CG OD1 ND2",
    "D": "CB CG OD1 OD2",
    "C": "CB SG",
    "Q": "CB CG CD OE1 NE2",
    "E": "CB CG CD OE1 OE2",
    "G": "",
    "H": "CB CG ND1 CD2 CE1 NE2",
    "I": "CB CG1 CG2 CD1",
    "L": "CB CG CD1 CD2",
    "K": "CB CG CD CE NZ",
    "M": "CB CG SD CE",
    "F": "CB CG CD1 CD2 CE1 CE2 CZ",
    "P": "CB CG CD",
    "S": "CB OG",
    "T": "CB OG1 CG2",
    "W": "CB CG CD1 CD2 NE1 CE2 CE3 CZ2 CZ3 CH2",
    "Y": "CB CG CD1 CD2 CE1 CE2 CZ OH",
    "V": "CB CG1 CG2",
}

RESIDUE_ATOMS = {
    letter: ("N", "CA", "C", "O", *side_chain.split()) for letter, side_chain in _SIDE_CHAINS.items()
}
"""The heavy atoms of each residue inside a chain, 4 to 14."""

UNKNOWN_ATOMS = ("N", "CA", "C", "O", "CB")
"""What is read of a residue whose parent is not known: the rest has no agreed names."""

_THREE = "ALA ARG ASN ASP CYS GLN GLU GLY HIS ILE LEU LYS MET PHE PRO SER THR TRP TYR VAL"

THREE_LETTERS = dict(zip(RESTYPES, _THREE.split(), strict=True))
"""Three-letter names by one-letter name."""
