"""What is known of the twenty residues: atoms at their ideal places, torsions, symmetries; no torch.

Lengths in A. From the tables of AlphaFold 2 (Jumper et al. 2021, supplement 1.8.4 and tables 2 and 3), whose
bond lengths and angles are those of Engh and Huber (2001), and radii of Bondi (1964).
"""

from __future__ import annotations

THREE_LETTERS = {
    "A": "ALA",
    "R": "ARG",
    "N": "ASN",
    "D": "ASP",
    "C": "CYS",
    "Q": "GLN",
    "E": "GLU",
    "G": "GLY",
    "H": "HIS",
    "I": "ILE",
    "L": "LEU",
    "K": "LYS",
    "M": "MET",
    "F": "PHE",
    "P": "PRO",
    "S": "SER",
    "T": "THR",
    "W": "TRP",
    "Y": "TYR",
    "V": "VAL",
}
"""One-letter code to three-letter name, in the order of residue types."""

ATOM37_NAMES = (
    "N CA C CB O CG CG1 CG2 OG OG1 SG CD CD1 CD2 ND1 ND2 OD1 OD2 SD CE CE1 CE2 CE3 NE NE1 NE2 OE1 OE2 CH2 "
    "NH1 NH2 OH CZ CZ2 CZ3 NZ OXT"
)
"""Every name that a heavy atom of a residue may have, in the order of the 37 places."""

CHI_PATHS = {
    "ARG": "N CA CB CG CD NE CZ",
    "ASN": "N CA CB CG OD1",
    "ASP": "N CA CB CG OD1",
    "CYS": "N CA CB SG",
    "GLN": "N CA CB CG CD OE1",
    "GLU": "N CA CB CG CD OE1",
    "HIS": "N CA CB CG ND1",
    "ILE": "N CA CB CG1 CD1",
    "LEU": "N CA CB CG CD1",
    "LYS": "N CA CB CG CD CE NZ",
    "MET": "N CA CB CG SD CE",
    "PHE": "N CA CB CG CD1",
    "PRO": "N CA CB CG CD",
    "SER": "N CA CB OG",
    "THR": "N CA CB OG1",
    "TRP": "N CA CB CG CD1",
    "TYR": "N CA CB CG CD1",
    "VAL": "N CA CB CG1",
}
"""The path of atoms out along the side chain; the k-th torsion is that of four in a row from the k-th on.

Arginine has a fifth, which is flat. Alanine and glycine have none."""

TURNED_BY_HALF = {"ASP": 2, "GLU": 3, "PHE": 2, "TYR": 2}
"""The torsion of a residue that half a turn leaves as it was, but for the names of two atoms."""

SWAPS = {"ASP": "OD1 OD2", "GLU": "OE1 OE2", "PHE": "CD1 CD2 CE1 CE2", "TYR": "CD1 CD2 CE1 CE2"}
"""Pairs of atoms, one after another, whose names such a half turn exchanges."""

RADII = {"C": 1.7, "N": 1.55, "O": 1.52, "S": 1.8}
"""Of van der Waals, by element, A."""

PEPTIDE_BOND = {"length": (1.329, 0.014), "length_before_proline": (1.341, 0.016)}
"""C to N of the next residue, A: mean and standard deviation."""

PEPTIDE_ANGLE_COSINES = {"CA-C-N": (-0.4473, 0.0311), "C-N-CA": (-0.5203, 0.0353)}
"""Cosines of the angles at C and at N of the bond between residues: mean and standard deviation."""

NEXT_ALPHA = 3.80209737096
"""From one C-alpha to the next across a bond in trans, A."""

IDEAL_ATOMS = {
    "ALA": """
        N   0 -0.525  1.363  0.000
        CA  0  0.000  0.000  0.000
        C   0  1.526  0.000  0.000
        O   3  0.627  1.062  0.000
        CB  0 -0.529 -0.774 -1.205
    """,
    "ARG": """
        N   0 -0.524  1.362  0.000
        CA  0  0.000  0.000  0.000
        C   0  1.525  0.000  0.000
        O   3  0.626  1.062  0.000
        CB  0 -0.524 -0.778 -1.209
        CG  4  0.616  1.390  0.000
        CD  5  0.564  1.414  0.000
        NE  6  0.539  1.357  0.000
        CZ  7  0.758  1.093  0.000
        NH1 7  0.206  2.301  0.000
        NH2 7  2.078  0.978  0.000
    """,
    "ASN": """
        N   0 -0.536  1.357  0.000
        CA  0  0.000  0.000  0.000
        C   0  1.526  0.000  0.000
        O   3  0.625  1.062  0.000
        CB  0 -0.531 -0.787 -1.200
        CG  4  0.584  1.399  0.000
        OD1 5  0.633  1.059  0.000
        ND2 5  0.593 -1.188  0.001
    """,
    "ASP": """
        N   0 -0.525  1.362  0.000
        CA  0  0.000  0.000  0.000
        C   0  1.527  0.000  0.000
        O   3  0.626  1.062  0.000
        CB  0 -0.526 -0.778 -1.208
        CG  4  0.593  1.398  0.000
        OD1 5  0.610  1.091  0.000
        OD2 5  0.592 -1.101 -0.003
    """,
    "CYS": """
        N   0 -0.522  1.362  0.000
        CA  0  0.000  0.000  0.000
        C   0  1.524  0.000  0.000
        O   3  0.625  1.062  0.000
        CB  0 -0.519 -0.773 -1.212
        SG  4  0.728  1.653  0.000
    """,
    "GLN": """
        N   0 -0.526  1.361  0.000
        CA  0  0.000  0.000  0.000
        C   0  1.526  0.000  0.000
        O   3  0.626  1.062  0.000
        CB  0 -0.525 -0.779 -1.207
        CG  4  0.615  1.393  0.000
        CD  5  0.587  1.399  0.000
        OE1 6  0.634  1.060  0.000
        NE2 6  0.593 -1.189 -0.001
    """,
    "GLU": """
        N   0 -0.528  1.361  0.000
        CA  0  0.000  0.000  0.000
        C   0  1.526  0.000  0.000
        O   3  0.626  1.062  0.000
        CB  0 -0.526 -0.781 -1.207
        CG  4  0.615  1.392  0.000
        CD  5  0.600  1.397  0.000
        OE1 6  0.607  1.095  0.000
        OE2 6  0.589 -1.104 -0.001
    """,
    "GLY": """
        N   0 -0.572  1.337  0.000
        CA  0  0.000  0.000  0.000
        C   0  1.517  0.000  0.000
        O   3  0.626  1.062  0.000
    """,
    "HIS": """
        N   0 -0.527  1.360  0.000
        CA  0  0.000  0.000  0.000
        C   0  1.525  0.000  0.000
        O   3  0.625  1.063  0.000
        CB  0 -0.525 -0.778 -1.208
        CG  4  0.600  1.370  0.000
        ND1 5  0.744  1.160  0.000
        CD2 5  0.889 -1.021  0.003
        CE1 5  2.030  0.851  0.002
        NE2 5  2.145 -0.466  0.004
    """,
    "ILE": """
        N   0 -0.493  1.373  0.000
        CA  0  0.000  0.000  0.000
        C   0  1.527  0.000  0.000
        O   3  0.627  1.062  0.000
        CB  0 -0.536 -0.793 -1.213
        CG1 4  0.534  1.437  0.000
        CG2 4  0.540 -0.785 -1.199
        CD1 5  0.619  1.391  0.000
    """,
    "LEU": """
        N   0 -0.520  1.363  0.000
        CA  0  0.000  0.000  0.000
        C   0  1.525  0.000  0.000
        O   3  0.625  1.063  0.000
        CB  0 -0.522 -0.773 -1.214
        CG  4  0.678  1.371  0.000
        CD1 5  0.530  1.430  0.000
        CD2 5  0.535 -0.774  1.200
    """,
    "LYS": """
        N   0 -0.526  1.362  0.000
        CA  0  0.000  0.000  0.000
        C   0  1.526  0.000  0.000
        O   3  0.626  1.062  0.000
        CB  0 -0.524 -0.778 -1.208
        CG  4  0.619  1.390  0.000
        CD  5  0.559  1.417  0.000
        CE  6  0.560  1.416  0.000
        NZ  7  0.554  1.387  0.000
    """,
    "MET": """
        N   0 -0.521  1.364  0.000
        CA  0  0.000  0.000  0.000
        C   0  1.525  0.000  0.000
        O   3  0.625  1.062  0.000
        CB  0 -0.523 -0.776 -1.210
        CG  4  0.613  1.391  0.000
        SD  5  0.703  1.695  0.000
        CE  6  0.320  1.786  0.000
    """,
    "PHE": """
        N   0 -0.518  1.363  0.000
        CA  0  0.000  0.000  0.000
        C   0  1.524  0.000  0.000
        O   3  0.626  1.062  0.000
        CB  0 -0.525 -0.776 -1.212
        CG  4  0.607  1.377  0.000
        CD1 5  0.709  1.195  0.000
        CD2 5  0.706 -1.196  0.000
        CE1 5  2.102  1.198  0.000
        CE2 5  2.098 -1.201  0.000
        CZ  5  2.794 -0.003 -0.001
    """,
    "PRO": """
        N   0 -0.566  1.351  0.000
        CA  0  0.000  0.000  0.000
        C   0  1.527  0.000  0.000
        O   3  0.621  1.066  0.000
        CB  0 -0.546 -0.611 -1.293
        CG  4  0.382  1.445  0.000
        CD  5  0.477  1.424  0.000
    """,
    "SER": """
        N   0 -0.529  1.360  0.000
        CA  0  0.000  0.000  0.000
        C   0  1.525  0.000  0.000
        O   3  0.626  1.062  0.000
        CB  0 -0.518 -0.777 -1.211
        OG  4  0.503  1.325  0.000
    """,
    "THR": """
        N   0 -0.517  1.364  0.000
        CA  0  0.000  0.000  0.000
        C   0  1.526  0.000  0.000
        O   3  0.626  1.062  0.000
        CB  0 -0.516 -0.793 -1.215
        OG1 4  0.472  1.353  0.000
        CG2 4  0.550 -0.718 -1.228
    """,
    "TRP": """
        N   0 -0.521  1.363  0.000
        CA  0  0.000  0.000  0.000
        C   0  1.525  0.000  0.000
        O   3  0.627  1.062  0.000
        CB  0 -0.523 -0.776 -1.212
        CG  4  0.609  1.370  0.000
        CD1 5  0.824  1.091  0.000
        CD2 5  0.854 -1.148 -0.005
        NE1 5  2.140  0.690 -0.004
        CE2 5  2.186 -0.678 -0.007
        CE3 5  0.622 -2.530 -0.007
        CZ2 5  3.283 -1.543 -0.011
        CZ3 5  1.715 -3.389 -0.011
        CH2 5  3.028 -2.890 -0.013
    """,
    "TYR": """
        N   0 -0.522  1.362  0.000
        CA  0  0.000  0.000  0.000
        C   0  1.524  0.000  0.000
        O   3  0.627  1.062  0.000
        CB  0 -0.522 -0.776 -1.213
        CG  4  0.607  1.382  0.000
        CD1 5  0.716  1.195  0.000
        CD2 5  0.713 -1.194 -0.001
        CE1 5  2.107  1.200 -0.002
        CE2 5  2.104 -1.201 -0.003
        CZ  5  2.791 -0.001 -0.003
        OH  5  4.168 -0.002 -0.005
    """,
    "VAL": """
        N   0 -0.494  1.373  0.000
        CA  0  0.000  0.000  0.000
        C   0  1.527  0.000  0.000
        O   3  0.627  1.062  0.000
        CB  0 -0.533 -0.795 -1.213
        CG1 4  0.540  1.429  0.000
        CG2 4  0.533 -0.776  1.203
    """,
}
"""For each residue its heavy atoms in the order of the 14 places: name, rigid group, x, y, z in A.

Groups: 0 backbone, 3 that of psi (the carbonyl oxygen), 4 to 7 those of chi 1 to 4; those of omega (1) and
phi (2) hold hydrogens only. Coordinates are those of the group: its origin is the last atom of the axis of
rotation, x goes along the axis, and the atom that defines the torsion lies in the xy plane with positive y.
"""
