"""Structures that are finished, kept where attempts that follow find them."""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from foldase_models.folding.prediction import FoldPrediction

_FORMAT = 1
_ARRAYS = (
    "chain_index",
    "residue_index",
    "positions",
    "atom_mask",
    "plddt",
    "pae",
    "contact_probability",
    "recycle_alpha",
    "distogram",
    "frames",
)


@dataclass(frozen=True, slots=True)
class Kept:
    """A finished structure: what the model answered, and how it was made."""

    prediction: FoldPrediction
    made: Mapping[str, Any]


class FinishedFolds:
    """A folder of finished structures by the digest of all that decides them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def key(self, content: Mapping[str, Any]) -> str:
        """The name of what is decided by ``content``: sequence, alignments, weights, seed and so on."""
        text = json.dumps({"format": _FORMAT, **content}, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    def has(self, key: str) -> bool:
        """Whether it is there."""
        return self._path(key).exists()

    def keep(self, key: str, prediction: FoldPrediction, made: Mapping[str, Any]) -> None:
        """Write a structure; it is there whole or not at all."""
        import numpy as np

        arrays = {name: getattr(prediction, name) for name in _ARRAYS}
        about = {
            "sequence": prediction.sequence,
            "ptm": prediction.ptm,
            "iptm": prediction.iptm,
            "recycles": prediction.recycles,
            "converged": prediction.converged,
            "numbers": dict(prediction.numbers),
            "made": dict(made),
        }
        path = self._path(key)
        partial = path.with_suffix(f".{os.getpid()}.partial")
        with partial.open("wb") as file:
            np.savez(
                file,
                about=np.frombuffer(json.dumps(about).encode(), dtype=np.uint8),
                **{name: values for name, values in arrays.items() if values is not None},
            )
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)

    def read(self, key: str) -> Kept | None:
        """A structure, or None where there is none or its file is damaged (which is then removed)."""
        import numpy as np

        from foldase_models.folding.prediction import FoldPrediction

        path = self._path(key)
        try:
            with np.load(path, allow_pickle=False) as stored:
                about = json.loads(stored["about"].tobytes())
                arrays = {name: stored.get(name) for name in _ARRAYS}
                made = about.pop("made")
                return Kept(FoldPrediction(**arrays, **about), made)
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError, OSError, EOFError, zipfile.BadZipFile):
            path.unlink(missing_ok=True)
            return None

    def _path(self, key: str) -> Path:
        return self._folder / f"{key}.npz"
