"""The identity of a result: what a step computes, never when, where or under which name.

The key is a SHA-256 over the canonical JSON of the components: operator and version, parameters with
defaults filled in, content digests of artifacts, and the versions of what computes. The components are
kept beside the key, so that a person can be told which of them changed.
"""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from foldase.store.jsontext import canonical
from foldase.store.records import Json
from foldase_workflows.contracts.artifacts import ARTIFACT_KEY, Artifact
from foldase_workflows.contracts.operator import Signature
from foldase_workflows.contracts.types import PortType

PACKAGES = ("foldase", "numpy", "torch")
"""Distributions whose version belongs to the environment of a result."""

SHOWN_BYTES = 1024
"""A longer value is kept as its digest: enough to see that it changed."""


@dataclass(frozen=True, slots=True)
class Identity:
    """A cache key (``sha256:<64 hex>``) and the components it was made from."""

    key: str
    components: Json


@lru_cache(maxsize=1)
def environment() -> dict[str, str]:
    """Versions of this installation that may change results; found without importing anything heavy."""
    versions = {"python": ".".join(platform.python_version_tuple()[:2])}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "absent"
    return versions


def identify(
    signature: Signature, inputs: Mapping[str, Any], *, versions: Mapping[str, str] | None = None
) -> Identity:
    """The identity of the result of an operator for complete inputs.

    The operator's ``frugality`` is left out: it decides how much memory the work takes, and of the result no
    more than the rounding. So is an input that it ``added``, where that has its default. Whole numbers given
    where a float is asked for count as floats, so that ``1`` and ``1.0`` are one value.

    Args:
        signature: of the operator.
        inputs: a value for every port, defaults filled in; artifacts as JSON references.
        versions: of the environment; this installation's where nothing is given.

    Raises:
        ValueError, TypeError: a value is no JSON.
    """
    parameters: Json = {}
    artifacts: Json = {}
    for name, value in inputs.items():
        port = signature.inputs.get(name)
        if name == signature.frugality or (name in signature.added and port and value == port.default):
            continue
        stripped, has_artifact = _content_of(_as_type(port.type, value) if port else value)
        text = canonical(stripped)
        if len(text) > SHOWN_BYTES:
            stripped = {"sha256": hashlib.sha256(text.encode()).hexdigest(), "bytes": len(text)}
        (artifacts if has_artifact else parameters)[name] = stripped
    components = {
        "operator": signature.name,
        "version": signature.version,
        "parameters": parameters,
        "inputs": artifacts,
        "environment": dict(environment() if versions is None else versions),
    }
    return Identity(f"sha256:{hashlib.sha256(canonical(components).encode()).hexdigest()}", components)


def flatten(components: Json) -> dict[str, Any]:
    """Components by dotted name: ``operator``, ``version``, ``parameters.seed``, ``inputs.msa`` ..."""
    flat: dict[str, Any] = {}
    for name, value in components.items():
        if isinstance(value, dict):
            flat.update({f"{name}.{inner}": held for inner, held in value.items()})
        else:
            flat[name] = value
    return flat


def _as_type(port: PortType, value: Any) -> Any:
    if port.item is not None and isinstance(value, list):
        return [_as_type(port.item, item) for item in value]
    if port.name == "float" and type(value) is int:
        return float(value)
    return value


def _content_of(value: Any) -> tuple[Any, bool]:
    """The value with every artifact reduced to type and digest, and whether there was one."""
    if isinstance(value, dict):
        if Artifact.is_json(value):
            inner = value[ARTIFACT_KEY]
            return {"type": inner["type"], "digest": inner["digest"]}, True
        parts = {name: _content_of(item) for name, item in value.items()}
        return {name: part for name, (part, _) in parts.items()}, any(has for _, has in parts.values())
    if isinstance(value, list):
        items = [_content_of(item) for item in value]
        return [item for item, _ in items], any(has for _, has in items)
    return value, False
