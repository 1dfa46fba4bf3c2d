"""What the floors agree on: errors, types, artifacts, operators and their registry."""

from foldase_workflows.contracts.artifacts import Artifact, artifacts_in
from foldase_workflows.contracts.context import StepContext
from foldase_workflows.contracts.errors import (
    BadInput,
    Cancelled,
    Conflict,
    Damaged,
    DocumentError,
    DocumentErrors,
    FoldaseError,
    Location,
    NotAllowed,
    NotFound,
    NotSignedIn,
    StorageFull,
    TooLarge,
    Unavailable,
    Unsatisfiable,
    UserError,
)
from foldase_workflows.contracts.failures import Cause
from foldase_workflows.contracts.gangs import RankContext
from foldase_workflows.contracts.operator import Estimate, Gpu, Hardware, Operator, Resources, Signature
from foldase_workflows.contracts.ports import Port, Ports
from foldase_workflows.contracts.registry import Registry, default_registry
from foldase_workflows.contracts.types import PortType, Storage, list_of, parse_type

__all__ = [
    "Artifact",
    "BadInput",
    "Cancelled",
    "Cause",
    "Conflict",
    "Damaged",
    "DocumentError",
    "DocumentErrors",
    "Estimate",
    "FoldaseError",
    "Gpu",
    "Hardware",
    "Location",
    "NotAllowed",
    "NotFound",
    "NotSignedIn",
    "Operator",
    "Port",
    "PortType",
    "Ports",
    "RankContext",
    "Registry",
    "Resources",
    "Signature",
    "StepContext",
    "Storage",
    "StorageFull",
    "TooLarge",
    "Unavailable",
    "Unsatisfiable",
    "UserError",
    "artifacts_in",
    "default_registry",
    "list_of",
    "parse_type",
]
