"""Every bound of the language in one place. Each is far above what people write and far below what hurts."""

from __future__ import annotations

MAX_BYTES = 1 << 20
"""Of the text of one document, as UTF-8."""
MAX_DEPTH = 50
"""Of nested mappings and lists, in a document and in given inputs."""
MAX_NODES = 100_000
"""Of keys, values, mappings and lists in one document, or in the given inputs of a run."""
MAX_STEPS = 5_000
"""Of one workflow, before scattering."""
MAX_ITEMS = 10_000
"""Of one scattered step, and of any list that an expression makes."""
MAX_TEXT = 65_536
"""Characters of a text that an expression makes or that is given as an input."""
MAX_FAULTS = 100
"""Reported at once; a person does not read more."""
MAX_NAME = 64
"""Characters of the name of a step, an input or an output."""

MAX_EXPRESSION = 4_000
"""Characters of one expression."""
MAX_EXPRESSION_NODES = 500
MAX_EXPRESSION_DEPTH = 64

INT_MAX = 2**63 - 1
INT_MIN = -(2**63)
"""Whole numbers are 64 bits wide, as in the database and in arrays."""

MAX_SECONDS = 365 * 24 * 3600.0
MAX_QUANTITY_BYTES = 2**60
MAX_RETRIES = 20
MAX_RANKS = 1024
"""Processes of one step."""
