"""The language: operators, the catalog, schemas, checks and plans."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from foldase_web.deps import ServicesDep
from foldase_web.schemas.runs import PlanRequest
from foldase_web.schemas.workflows import (
    CheckAnswer,
    CheckRequest,
    Operators,
    Plan,
    Workflow,
    Workflows,
)
from foldase_web.services import documents
from foldase_workflows.spec import experiment_json_schema, workflow_json_schema

router = APIRouter(tags=["workflows"])


@router.get("/operators", operation_id="list_operators")
def list_operators(services: ServicesDep) -> Operators:
    """All operators of this installation with their ports."""
    items = [operator.signature.to_json() for operator in services.registry]
    return Operators.model_validate({"items": items})


@router.get("/workflows", operation_id="list_workflows")
def list_workflows(services: ServicesDep) -> Workflows:
    """The catalog of ready workflows."""
    return Workflows.model_validate({"items": documents.list_workflows(services.registry)})


@router.get("/workflows/{name}", operation_id="get_workflow")
def get_workflow(name: str, services: ServicesDep) -> Workflow:
    """One workflow of the catalog, with its text."""
    return Workflow.model_validate(documents.describe_workflow(services.registry, name))


@router.get("/schema/workflow-1.json", operation_id="get_workflow_schema")
def get_workflow_schema(services: ServicesDep) -> dict[str, Any]:
    """JSON Schema of workflow documents, with the inputs of each operator."""
    return workflow_json_schema(services.registry)


@router.get("/schema/experiment-1.json", operation_id="get_experiment_schema")
def get_experiment_schema() -> dict[str, Any]:
    """JSON Schema of experiment documents."""
    return experiment_json_schema()


@router.post("/check", operation_id="check_document")
def check_document(request: CheckRequest, services: ServicesDep) -> CheckAnswer:
    """All faults of a workflow document with their places, or what it describes; 200 either way."""
    return CheckAnswer.model_validate(documents.check_text(services, request.source, request.file))


@router.post("/plan", operation_id="plan_run")
def plan_run(request: PlanRequest, services: ServicesDep) -> Plan:
    """What a run with these inputs would do, take and find in the cache."""
    return Plan.model_validate(documents.plan_run(services, request).to_json())
