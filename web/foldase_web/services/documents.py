"""Workflows from their text: the catalog, checks, inputs and plans."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from foldase.store import Store, identify
from foldase_web.context import Services
from foldase_web.schemas.runs import Submitted
from foldase_web.services.weights import with_weights
from foldase_workflows.contracts.artifacts import ARTIFACT_KEY, Artifact, artifacts_in
from foldase_workflows.contracts.errors import DocumentError, DocumentErrors, Location, NotFound, TooLarge
from foldase_workflows.contracts.operator import Gpu, Hardware, Resources
from foldase_workflows.contracts.registry import Registry
from foldase_workflows.contracts.types import Storage, parse_type
from foldase_workflows.spec import (
    CatalogEntry,
    CheckedWorkflow,
    Plan,
    bind_inputs,
    catalog,
    catalog_entry,
    check,
    load_workflow,
    plan,
)

logger = logging.getLogger("foldase.web")

TEXT_NAME = "workflow.yaml"
"""What a text without a file name is called in errors."""
_MAX_NAME = 200


def list_workflows(registry: Registry) -> list[dict[str, Any]]:
    """The catalog; a workflow that needs operators which are not installed is left out."""
    found = []
    for entry in catalog():
        try:
            checked = check(entry.load(), registry)
        except DocumentErrors as faults:
            logger.warning("the catalog's %s cannot run here: %s", entry.name, faults)
            continue
        found.append({**_head(entry), "digest": checked.digest})
    return found


def describe_workflow(registry: Registry, name: str) -> dict[str, Any]:
    """One workflow of the catalog with its text.

    Raises:
        NotFound: ``unknown_workflow``.
        DocumentErrors: it needs operators that are not installed.
    """
    entry = catalog_entry(name)
    checked = check(entry.load(), registry)
    return {**checked.describe(), **_head(entry), "source": entry.source, "digest": checked.digest}


def check_text(services: Services, text: str, file: str | None) -> dict[str, Any]:
    """All faults of a document, or what it describes; never raises for a bad document.

    Raises:
        TooLarge: the text is over the limit.
    """
    check_length(text, services.settings.document_limit_bytes)
    try:
        checked = check(load_workflow(text, file=file or TEXT_NAME), services.registry)
    except DocumentErrors as faults:
        return {"ok": False, "errors": [fault.to_json() for fault in faults.errors], "workflow": None}
    return {"ok": True, "errors": [], "workflow": {**checked.describe(), "digest": checked.digest}}


def check_length(text: str, limit_bytes: int) -> None:
    """Refuse a text over the limit.

    Raises:
        TooLarge: ``body_too_large``.
    """
    size = len(text.encode("utf-8", "replace"))
    if size > limit_bytes:
        mib = 1024**2
        message = f"the limit for a document is {limit_bytes / mib:.4g} MiB, this has {size / mib:.4g} MiB"
        raise TooLarge(message, code="body_too_large", hint="give data as files, not in the document")


def resolve(
    services: Services, request: Submitted, *, to_run: bool = True
) -> tuple[str, CheckedWorkflow, dict[str, Any]]:
    """The text, the checked workflow and the bound inputs of a request.

    Weights that are being read for the first time keep their name, unless the inputs are ``to_run`` with.

    Raises:
        DocumentErrors: the document or its inputs are wrong; all faults with their places.
        NotFound: ``unknown_workflow``, the catalog has none of that name.
        TooLarge: the text is over the limit.
        Unavailable: ``weights_not_ready``.
    """
    if request.source is not None:
        text, file = request.source, request.file or TEXT_NAME
        check_length(text, services.settings.document_limit_bytes)
    else:
        assert request.workflow is not None
        try:
            entry = catalog_entry(request.workflow)
        except NotFound as error:
            # The address of the request exists; what is unknown is in its body.
            place = Location(path="workflow")
            raise DocumentError(error.message, code=error.code, location=place, hint=error.hint) from None
        text, file = entry.source, entry.path.name
    checked = check(load_workflow(text, file=file), services.registry)
    bound = bind_inputs(checked, known_artifacts(services, request.inputs))
    return text, checked, with_weights(services.weights, checked.input_types, bound, wait=to_run)


def plan_run(services: Services, request: Submitted) -> Plan:
    """What a run would do, with expected cache hits; raises like :func:`resolve`.

    Raises:
        DocumentErrors: ``unsatisfiable_resources``, where the cluster is known.
        BadInput: an expression fails with these inputs.
    """
    _, checked, inputs = resolve(services, request, to_run=False)
    registry, store = services.registry, services.store

    def probe(uses: str, complete: Mapping[str, Any]) -> Mapping[str, Any] | None:
        key = identify(registry.signature(uses), complete).key
        outputs = store.queries.cached_outputs(key)
        if outputs is None or not all(store.blobs.complete(found) for found in artifacts_in(outputs)):
            return None
        return outputs

    cluster = whole_cluster(store)
    return plan(checked, inputs, registry, largest_node(store), cache_probe=probe, cluster=cluster)


def largest_node(store: Store) -> Hardware | None:
    """The node a single step must fit on; None while no cluster has reported one."""
    found = store.cluster.read().hardware
    if found is None:
        return None
    gpus = tuple(Gpu(gpu["name"], int(gpu["memory_bytes"])) for gpu in found.get("gpus", ()))
    return Hardware(float(found["cpus"]), int(found["memory_bytes"]), gpus)


def whole_cluster(store: Store) -> Resources | None:
    """What all living nodes offer together; None while none is known."""
    nodes = [node for node in store.cluster.read().nodes if node["alive"]]
    if not nodes:
        return None
    return Resources(
        cpu=float(sum(node["cpus"] for node in nodes)),
        memory_bytes=int(sum(node["memory_bytes"] for node in nodes)),
        gpu=float(sum(len(node["gpus"]) for node in nodes)),
    )


def known_artifacts(services: Services, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """The same inputs, with every reference replaced by what the store knows of it.

    A client names bytes by their digest; size and kind are never taken from it.

    Raises:
        DocumentErrors: ``unknown_artifact`` or ``missing_file``, with the path of the input.
    """
    faults: list[DocumentError] = []
    known = {name: _known(services, value, f"inputs.{name}", faults) for name, value in inputs.items()}
    if faults:
        raise DocumentErrors(faults)
    return known


def _known(services: Services, value: Any, path: str, faults: list[DocumentError]) -> Any:
    if Artifact.is_json(value):
        try:
            return _stored(services, value[ARTIFACT_KEY], path).to_json()
        except DocumentError as fault:
            faults.append(fault)
            return value
    if isinstance(value, dict):
        return {name: _known(services, item, f"{path}.{name}", faults) for name, item in value.items()}
    if isinstance(value, list):
        return [_known(services, item, f"{path}.{index}", faults) for index, item in enumerate(value)]
    return value


def _stored(services: Services, given: object, path: str) -> Artifact:
    """The artifact that a reference names, or the fault."""
    store, location = services.store, Location(path=path)
    digest = given.get("digest") if isinstance(given, dict) else None
    if not isinstance(given, dict) or not isinstance(digest, str):
        raise DocumentError("the reference to a file has no digest", code="type", location=location)
    try:
        stored = store.queries.artifact(digest)
    except NotFound:
        # Weights are known by name, and a run made again gives back what became of the name.
        weights = services.weights.by_digest(digest)
        if weights is not None:
            return weights
        raise DocumentError(
            f"nothing is stored under {digest[:80]}",
            code="unknown_artifact",
            location=location,
            hint="upload the file first",
        ) from None
    if not store.blobs.complete(stored):
        raise DocumentError(
            f"the file {stored.name} is lost", code="missing_file", location=location, hint="upload it again"
        )
    kind, name = given.get("type", stored.type), given.get("name", stored.name)
    if not isinstance(kind, str) or not isinstance(name, str) or not _can_pass(stored.type, kind):
        message = f"the file {stored.name} is stored as {stored.type} and cannot be given as {str(kind)[:40]}"
        raise DocumentError(
            message, code="type", location=location, hint="give back what the upload answered"
        )
    return Artifact(stored.digest, kind, stored.size, name, parse_type(kind).media_type)


def _can_pass(stored: str, given: str) -> bool:
    """Bytes uploaded under one file type may be used as another; a tree is what it was made as."""
    if stored == given:
        return True
    try:
        kinds = parse_type(stored), parse_type(given)
    except ValueError:
        return False
    return all(kind.storage is Storage.FILE and kind.item is None for kind in kinds)


def _head(entry: CatalogEntry) -> dict[str, Any]:
    return {"name": entry.name, "title": entry.title or entry.name, "description": entry.description}
