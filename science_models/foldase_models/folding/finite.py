"""What is not a number must never pass for a prediction."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from foldase_models.errors import ModelError


def check_finite(name: str, said: Mapping[str, torch.Tensor | None]) -> None:
    """Refuse an answer with values that are not finite.

    Args:
        name: of the record.
        said: parts of the answer, of any shape, by their names for people; None where the model tells none.

    Raises:
        ModelError: ``not_finite``, naming the parts.
    """
    broken = [
        what for what, values in said.items() if values is not None and not bool(values.isfinite().all())
    ]
    if broken:
        raise ModelError(
            f"{', '.join(broken)} came out as no finite numbers",
            code="not_finite",
            location=name,
            hint="fold in float32; if that does not help, the weights are broken",
        )
