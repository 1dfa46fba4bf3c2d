"""The ``predictions`` tree: contact maps, traces and confidences.

Groups ``/<target>`` hold ``contact_probability`` float32 (N, N) and, where there are any, ``truth`` uint8
(N, N), ``coords`` float32 (N, 3) in A, ``confidence`` float32 (N,) 0 to 100, ``distance`` float32 (N, N)
expected distance in A and ``coupling_score`` float32 (N, N), the raw scores behind the probabilities. Group
attributes: ``length``, ``scores`` (name to number), ``sequence`` where it is known. Root attributes:
``targets`` (in order), ``method``, ``contact_cutoff`` in A, ``min_separation``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foldase_workflows.contracts import BadInput, Location
from foldase_workflows.formats.zarr_tree import TreeReader, TreeWriter

KIND = "predictions"


@dataclass(frozen=True, slots=True)
class Prediction:
    """What is predicted of one target; shapes and types as in the module's docstring."""

    target: str
    contact_probability: NDArray[np.float32]
    truth: NDArray[np.uint8] | None = None
    coords: NDArray[np.float32] | None = None
    confidence: NDArray[np.float32] | None = None
    distance: NDArray[np.float32] | None = None
    coupling_score: NDArray[np.float32] | None = None
    sequence: str | None = None
    scores: Mapping[str, float] = field(default_factory=dict)

    @property
    def length(self) -> int:
        """Residues."""
        return len(self.contact_probability)


_OPTIONAL: dict[str, tuple[type[np.generic], str]] = {
    "truth": (np.uint8, "NN"),
    "coords": (np.float32, "N3"),
    "confidence": (np.float32, "N"),
    "distance": (np.float32, "NN"),
    "coupling_score": (np.float32, "NN"),
}


class PredictionsWriter:
    """Writes predictions one by one; :meth:`complete` ends the tree."""

    def __init__(self, path: Path) -> None:
        self._tree = TreeWriter(path, KIND)
        self._targets: list[str] = []

    def add(self, prediction: Prediction) -> None:
        """Write one target.

        Raises:
            ValueError: arrays that do not fit together or are not finite.
        """
        name, length = prediction.target, prediction.length
        attributes: dict[str, Any] = {"length": length, "scores": dict(prediction.scores)}
        if prediction.sequence is not None:
            attributes["sequence"] = prediction.sequence
        self._tree.group(name, attributes)
        self._write(name, "contact_probability", prediction.contact_probability, np.float32, "NN", length)
        for leaf, (dtype, axes) in _OPTIONAL.items():
            values = getattr(prediction, leaf)
            if values is not None:
                self._write(name, leaf, values, dtype, axes, length)
        self._targets.append(name)

    def complete(
        self,
        *,
        method: str,
        contact_cutoff: float,
        min_separation: int,
        attributes: Mapping[str, Any] | None = None,
    ) -> None:
        """Write the root attributes; ``method`` names what predicted, for people."""
        self._tree.complete(
            {
                **(attributes or {}),
                "targets": self._targets,
                "method": method,
                "contact_cutoff": contact_cutoff,
                "min_separation": min_separation,
            }
        )

    def _write(
        self, target: str, leaf: str, values: NDArray[Any], dtype: type[np.generic], axes: str, length: int
    ) -> None:
        expected = _shape(axes, length)
        if values.shape != expected or not np.isfinite(values).all():
            raise ValueError(f"{target}/{leaf}: want finite values of shape {expected}, got {values.shape}")
        self._tree.array(f"{target}/{leaf}", np.asarray(values, dtype=dtype))


class PredictionSet:
    """A predictions tree opened for reading.

    Attributes:
        targets: in the order they were written.
        method: what predicted, for people.
        contact_cutoff: A.
        min_separation: |i - j| of the nearest pairs that can be contacts.
        attributes: all root attributes.
    """

    def __init__(self, path: Path) -> None:
        """Open a tree.

        Raises:
            BadInput: not a predictions tree, or one without targets.
            Damaged: see :class:`TreeReader`.
        """
        self._tree = TreeReader(path, KIND)
        self.attributes = self._tree.attributes
        self.targets = [str(target) for target in self._tree.attribute("targets", list)]
        self.method = self._tree.attribute("method", str)
        self.contact_cutoff = self._tree.attribute("contact_cutoff", float)
        self.min_separation = self._tree.attribute("min_separation", int)
        if not self.targets:
            raise BadInput("the tree holds no targets", code="empty", location=Location(file=path.name))

    def __len__(self) -> int:
        return len(self.targets)

    def __iter__(self) -> Iterator[Prediction]:
        return (self.read(target) for target in self.targets)

    def read(self, target: str) -> Prediction:
        """Read and check one target.

        Raises:
            BadInput: arrays of another shape or type than promised, or values that are not finite.
            Damaged: a part is missing or was changed.
        """
        attributes = self._tree.group_attributes(target)
        probability = self._tree.array(f"{target}/contact_probability", np.float32, (None, None))
        length = len(probability)
        arrays: dict[str, NDArray[Any]] = {}
        for leaf, (dtype, axes) in _OPTIONAL.items():
            if self._tree.has_array(f"{target}/{leaf}"):
                arrays[leaf] = self._tree.array(f"{target}/{leaf}", dtype, _shape(axes, length))
        for leaf, values in {"contact_probability": probability, **arrays}.items():
            if not np.isfinite(values).all():
                raise BadInput(
                    "some values are not finite",
                    code="bad_array",
                    location=Location(record=f"{target}/{leaf}"),
                )
        sequence = attributes.get("sequence")
        scores = {str(name): float(value) for name, value in attributes.get("scores", {}).items()}
        return Prediction(target, probability, sequence=sequence, scores=scores, **arrays)


def _shape(axes: str, length: int) -> tuple[int, ...]:
    return tuple(length if axis == "N" else int(axis) for axis in axes)
