"""The workflow language: text to a checked, typed graph of steps.

The way of a document: ``load_workflow`` (syntax, shape) -> ``check`` (operators, types, order) ->
``bind_inputs`` -> ``plan``; the scheduler then asks the ``CheckedWorkflow`` step by step.
"""

from foldase_workflows.spec.bind import bind_inputs, read_argument
from foldase_workflows.spec.checked import CheckedWorkflow
from foldase_workflows.spec.checking import check, from_json
from foldase_workflows.spec.evaluation import evaluate
from foldase_workflows.spec.expressions.evaluator import Scope
from foldase_workflows.spec.files import read_document
from foldase_workflows.spec.library import CatalogEntry, catalog, catalog_entry, catalog_folder
from foldase_workflows.spec.load import load_experiment, load_workflow
from foldase_workflows.spec.models import ExperimentDocument, WorkflowDocument
from foldase_workflows.spec.planning import CacheProbe, Plan, PlannedStep, check_resources, plan, this_machine
from foldase_workflows.spec.schema import experiment_json_schema, workflow_json_schema
from foldase_workflows.spec.steps import CheckedStep, Item, Request, Retry

__all__ = [
    "CacheProbe",
    "CatalogEntry",
    "CheckedStep",
    "CheckedWorkflow",
    "ExperimentDocument",
    "Item",
    "Plan",
    "PlannedStep",
    "Request",
    "Retry",
    "Scope",
    "WorkflowDocument",
    "bind_inputs",
    "catalog",
    "catalog_entry",
    "catalog_folder",
    "check",
    "check_resources",
    "evaluate",
    "experiment_json_schema",
    "from_json",
    "load_experiment",
    "load_workflow",
    "plan",
    "read_argument",
    "read_document",
    "this_machine",
    "workflow_json_schema",
]
